//! A repository by its name, and what a hub says is in it.

use super::Fault;
use super::digest::{Digest, is_hex};
use crate::{Error, Result};
use serde::Deserialize;

/// The revision of a repository that is meant where none is given.
const DEFAULT_REVISION: &str = "main";

/// A repository of a hub, at one of its branches, tags or commits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    /// `OWNER/NAME`.
    pub id: String,
    /// A branch, a tag or a commit.
    pub revision: String,
}

impl Repository {
    /// Reads `OWNER/NAME` or `OWNER/NAME@REVISION`; anything else is a [`Fault::Unsuitable`].
    pub fn parse(text: &str) -> Result<Self> {
        let (id, revision) = text.split_once('@').unwrap_or((text, DEFAULT_REVISION));
        let halves = id.split_once('/');
        let named = halves.is_some_and(|(owner, name)| is_segment(owner) && is_segment(name));
        let revised = revision.split('/').all(is_segment) && revision.len() <= 200;
        if named && revised {
            return Ok(Self { id: id.to_owned(), revision: revision.to_owned() });
        }
        Err(Error::Hub(Fault::Unsuitable(format!("{text:?} is not OWNER/NAME or OWNER/NAME@REVISION"))))
    }

    /// The part behind the owner.
    pub fn name(&self) -> &str {
        self.id.split_once('/').map_or(self.id.as_str(), |(_, name)| name)
    }
}

/// A part of a name as hubs allow it: never something that leads elsewhere in an address or a folder.
fn is_segment(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    (1..=100).contains(&text.len()) && text.chars().all(plain) && !text.starts_with(['.', '-']) && !text.contains("..")
}

/// What is in a repository at one commit.
#[derive(Debug, Clone)]
pub(super) struct Listing {
    /// `OWNER/NAME`.
    pub(super) id: String,
    /// The commit that the revision was when it was asked for: everything is fetched by it.
    pub(super) commit: String,
    /// What the repository says its licence is.
    pub(super) licence: Option<String>,
    /// All files.
    pub(super) files: Vec<RemoteFile>,
}

/// A file in a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RemoteFile {
    /// Its path, with slashes; leads to a place below the repository's folder.
    pub(super) path: String,
    /// Bytes.
    pub(super) size: u64,
    pub(super) digest: Digest,
}

/// The hub's answer, as far as it is of use here.
#[derive(Deserialize)]
struct Answer {
    sha: String,
    siblings: Vec<Sibling>,
    #[serde(default)]
    tags: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<LargeFile>,
}

#[derive(Deserialize)]
struct LargeFile {
    sha256: String,
    size: u64,
}

impl Listing {
    /// Reads the answer of a hub to the question for a revision with `blobs=true`.
    ///
    /// A path that leads out of the repository's folder does not occur by accident: such a listing is refused whole.
    pub(super) fn parse(json: &[u8], repository: &Repository) -> Result<Self> {
        let broken = |what: String| Error::Hub(Fault::Broken(format!("the listing of {} {what}", repository.id)));
        let answer: Answer = serde_json::from_slice(json).map_err(|e| {
            let begins: String = String::from_utf8_lossy(json).chars().take(40).collect();
            broken(format!("is not what a hub sends ({e}; it begins with {begins:?}); is HF_ENDPOINT right?"))
        })?;
        if !is_hex(&answer.sha, 40) {
            return Err(broken(format!("names no commit but {:?}", answer.sha)));
        }
        let licence = answer.tags.iter().find_map(|tag| tag.strip_prefix("license:")).map(str::to_owned);
        let files = answer.siblings.into_iter().map(|file| file.checked().map_err(broken)).collect::<Result<_>>()?;
        Ok(Self { id: repository.id.clone(), commit: answer.sha, licence, files })
    }
}

impl Sibling {
    fn checked(self) -> Result<RemoteFile, String> {
        let path = self.rfilename;
        if !is_inside(&path) {
            return Err(format!(
                "names the file {path:?}, which could lead out of the model's folder: nothing is fetched"
            ));
        }
        let (size, digest) = match self.lfs {
            Some(large) => (Some(large.size), Digest::sha256(&large.sha256)),
            None => (self.size, self.blob_id.as_deref().and_then(Digest::git)),
        };
        match (size, digest) {
            (Some(size), Some(digest)) => Ok(RemoteFile { path, size, digest }),
            _ => Err(format!("gives no size or hash for {path:?}, so that it could not be checked")),
        }
    }
}

/// Whether a path in a listing or a record stays below the folder it is joined to, on every system.
pub(super) fn is_inside(path: &str) -> bool {
    let plain = |c: char| !c.is_control() && !matches!(c, '\\' | ':');
    let segment = |part: &str| !part.is_empty() && part != "." && part != "..";
    path.len() <= 1000 && path.chars().all(plain) && path.split('/').all(segment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_are_an_owner_and_a_name_with_a_revision_where_one_is_given() {
        let plain = Repository::parse("some-one/tiny.model_1").unwrap();
        assert_eq!((plain.id.as_str(), plain.revision.as_str()), ("some-one/tiny.model_1", "main"));
        assert_eq!(plain.name(), "tiny.model_1");
        let revised = Repository::parse("a/b@refs/pr/7").unwrap();
        assert_eq!((revised.id.as_str(), revised.revision.as_str()), ("a/b", "refs/pr/7"));
        for wrong in
            ["", "a", "a/", "/b", "a/b/c", "a/b@", "../b", "a/..", "a/b@../x", "a/b@x//y", "a/b?x", "a b/c", "a\\b/c"]
        {
            assert!(matches!(Repository::parse(wrong), Err(Error::Hub(Fault::Unsuitable(_)))), "{wrong:?}");
        }
    }

    #[test]
    fn paths_stay_below_their_folder() {
        for path in ["a", "unet/config.json", "a/b/c.d", "..a/b..", "sdxl (1.0)/x y.safetensors", "ü"] {
            assert!(is_inside(path), "{path:?}");
        }
        for path in [
            "", ".", "..", "../a", "a/..", "a/../b", "/a", "a//b", "a/", "a\\b", "..\\a", "C:/a", "c:a", "a\0b", "a\nb",
        ] {
            assert!(!is_inside(path), "{path:?}");
        }
        assert!(!is_inside(&"a/".repeat(600)));
    }

    fn parse(siblings: &str) -> Result<Listing> {
        let json = format!(r#"{{"sha":"{}","tags":["x","license:mit"],"siblings":[{siblings}]}}"#, "ab".repeat(20));
        Listing::parse(json.as_bytes(), &Repository::parse("a/b").unwrap())
    }

    #[test]
    fn large_files_have_a_sha_256_and_small_ones_gits_name() {
        let (large, small) = ("0A".repeat(32), "1b".repeat(20));
        let lfs = format!(r#"{{"sha256":"{large}","size":9,"pointerSize":1}}"#);
        let listing = parse(&format!(
            r#"{{"rfilename":"x/y.safetensors","size":9,"blobId":"{small}","lfs":{lfs}}},
               {{"rfilename":"z.json","size":3,"blobId":"{small}"}}"#
        ));
        let listing = listing.unwrap();
        assert_eq!((listing.commit, listing.licence.as_deref()), ("ab".repeat(20), Some("mit")));
        let digests: Vec<_> = listing.files.iter().map(|f| (f.path.as_str(), f.size, f.digest.clone())).collect();
        let lower = large.to_ascii_lowercase();
        assert_eq!(digests, [("x/y.safetensors", 9, Digest::Sha256(lower)), ("z.json", 3, Digest::GitSha1(small))]);
    }

    #[test]
    fn listings_that_cannot_be_trusted_are_refused_whole() {
        let good = format!(r#"{{"rfilename":"a","size":1,"blobId":"{}"}}"#, "0".repeat(40));
        for (wrong, says) in [
            (r#"{"rfilename":"../a","size":1}"#, "could lead out of the model's folder"),
            (r#"{"rfilename":"a"}"#, "gives no size or hash for \"a\""),
            (r#"{"rfilename":"a","size":1,"blobId":"xyz"}"#, "gives no size or hash for \"a\""),
            ("7", "is not what a hub sends"),
        ] {
            let error = parse(&format!("{good},{wrong}")).unwrap_err();
            assert!(matches!(error, Error::Hub(Fault::Broken(_))) && error.to_string().contains(says), "{error}");
        }
    }
}
