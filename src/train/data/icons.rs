//! The bundled model's data set: the same thousands of concepts drawn in four styles, from icon sets on the npm registry.

use super::emoji::{self, Concept};
use super::package::{self, Package};
use super::store::Draft;
use super::{Record, Source, Split, captions::STYLES, captions::Style, render, split};
use crate::{Error, Result};
use rayon::prelude::*;
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// Builds the data set at `out` from `tarballs`, fetching with npm what is not among them, with pictures of `size` x
/// `size` pixels. `on_picture(total)` is called once at the start, then after each
/// picture, from many threads. Returns the number of pictures.
pub fn build(
    out: &Path,
    tarballs: &[PathBuf],
    size: usize,
    force: bool,
    on_picture: &(dyn Fn(usize) + Sync),
) -> Result<usize> {
    let draft = Draft::new(out, size, force)?;
    let names: Vec<&str> = std::iter::once(emoji::PACKAGE).chain(STYLES.iter().map(|s| s.package)).collect();
    let packages = package::collect(&names, tarballs)?;
    let concepts = emoji::concepts(&packages[0])?;
    let sets = packages[1..].iter().map(IconSet::read).collect::<Result<Vec<_>>>()?;
    let drawings = match_up(&concepts, &sets);
    on_picture(drawings.len());
    let mut records = drawings
        .par_iter()
        .map(|drawing| {
            let record = drawing.store(&draft, size)?;
            on_picture(drawings.len());
            Ok(record)
        })
        .collect::<Result<Vec<_>>>()?;
    split::hold_out_pairs(&mut records, &STYLES.map(|s| s.name));
    draft.publish(packages.iter().map(Package::source).collect::<Vec<Source>>(), records)?;
    Ok(drawings.len())
}

/// One iconify package: drawings by name.
#[derive(Debug)]
struct IconSet {
    package: String,
    icons: Icons,
    names_by_code: HashMap<String, String>,
}

/// `icons.json`.
#[derive(Debug, Deserialize)]
struct Icons {
    icons: HashMap<String, Icon>,
    #[serde(default)]
    aliases: HashMap<String, Alias>,
    width: f64,
    height: f64,
}

#[derive(Debug, Deserialize)]
struct Icon {
    body: String,
    width: Option<f64>,
    height: Option<f64>,
}

#[derive(Debug, Deserialize)]
struct Alias {
    parent: String,
    #[serde(default, rename = "hFlip")]
    mirrored: bool,
}

impl IconSet {
    fn read(package: &Package) -> Result<Self> {
        let (icons, names_by_code) = (package.json("icons.json")?, package.json("chars.json")?);
        Ok(Self { package: package.name().to_owned(), icons, names_by_code })
    }

    fn has(&self, name: &str) -> bool {
        self.icons.icons.contains_key(name) || self.icons.aliases.contains_key(name)
    }

    /// The icon as a document of its own; `None` if an alias leads nowhere.
    fn svg(&self, name: &str) -> Option<String> {
        let Some(icon) = self.icons.icons.get(name) else {
            let alias = self.icons.aliases.get(name)?;
            let icon = self.icons.icons.get(&alias.parent)?;
            return Some(self.document(icon, alias.mirrored));
        };
        Some(self.document(icon, false))
    }

    fn document(&self, icon: &Icon, mirrored: bool) -> String {
        let (w, h) = (icon.width.unwrap_or(self.icons.width), icon.height.unwrap_or(self.icons.height));
        let body = &icon.body;
        let body =
            if mirrored { format!(r#"<g transform="translate({w} 0) scale(-1 1)">{body}</g>"#) } else { body.clone() };
        format!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="{w}" height="{h}" viewBox="0 0 {w} {h}">{body}</svg>"#
        )
    }
}

/// A concept, the style it is drawn in, and the icon that does it.
struct Drawing<'a> {
    concept: &'a Concept,
    style: &'static Style,
    set: &'a IconSet,
    icon: &'a str,
}

/// Finds each concept in each set. Some sets do not say which code point an icon is for, but all name icons alike: so
/// the names that any set knows for the code point are tried, and then the concept's own.
fn match_up<'a>(concepts: &'a [Concept], sets: &'a [IconSet]) -> Vec<Drawing<'a>> {
    let mut drawings = Vec::new();
    let mut seen = BTreeMap::new();
    for concept in concepts {
        if seen.insert(&concept.name, ()).is_some() {
            continue;
        }
        let known = sets.iter().filter_map(|set| set.names_by_code.get(&concept.code)).map(String::as_str);
        let names: Vec<&str> = known.chain([concept.slug.as_str()]).collect();
        for (style, set) in STYLES.iter().zip(sets) {
            if let Some(icon) = names.iter().find(|name| set.has(name)) {
                drawings.push(Drawing { concept, style, set, icon });
            }
        }
    }
    drawings
}

impl Drawing<'_> {
    fn store(&self, draft: &Draft, size: usize) -> Result<Record> {
        let fault = |what: &str| Error::Training(format!("{}: icon {}: {what}", self.set.package, self.icon));
        let svg = self.set.svg(self.icon).ok_or_else(|| fault("its alias leads nowhere"))?;
        let pixels = render::draw(&svg, size).map_err(|e| fault(&e))?;
        let stem = format!("{}-{}", self.concept.name.replace([' ', '\''], "-"), self.style.name);
        Ok(Record {
            file: draft.add(&stem, &pixels)?,
            concept: self.concept.name.clone(),
            style: Some(self.style.name.to_owned()),
            keywords: self.concept.keywords.clone(),
            group: self.concept.group.clone(),
            captions: Vec::new(),
            split: Split::Train,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(json: &str, chars: &[(&str, &str)]) -> Result<IconSet, serde_json::Error> {
        let names_by_code = chars.iter().map(|(c, n)| ((*c).to_owned(), (*n).to_owned())).collect();
        Ok(IconSet { package: "test".to_owned(), icons: serde_json::from_str(json)?, names_by_code })
    }

    const ICONS: &str = r#"{"width": 32, "height": 16, "icons": {"left": {"body": "<a/>"}, "tall": {"body": "<b/>", "height": 40}},
        "aliases": {"right": {"parent": "left", "hFlip": true}, "same": {"parent": "left"}, "lost": {"parent": "gone"}}}"#;

    #[test]
    fn aliases_are_followed_and_mirrored() -> Result<(), serde_json::Error> {
        let set = set(ICONS, &[])?;
        let right = set.svg("right").unwrap_or_default();
        assert!(
            right.contains(r#"viewBox="0 0 32 16"><g transform="translate(32 0) scale(-1 1)"><a/></g>"#),
            "{right}"
        );
        assert_eq!(set.svg("same"), set.svg("left"));
        assert!(set.svg("tall").is_some_and(|svg| svg.contains(r#"viewBox="0 0 32 40""#)));
        assert_eq!((set.svg("lost"), set.svg("none")), (None, None));
        Ok(())
    }

    #[test]
    fn a_set_without_code_points_borrows_the_names_of_the_others() -> Result<(), serde_json::Error> {
        let concept = |name: &str, code: &str| Concept {
            name: name.to_owned(),
            keywords: vec![],
            group: None,
            code: code.to_owned(),
            slug: name.replace(' ', "-"),
        };
        let concepts = [concept("leftwards", "2190"), concept("tall", "1"), concept("nothing", "2")];
        let sets = [set(ICONS, &[("2190", "left")])?, set(ICONS, &[])?];
        let found = match_up(&concepts, &sets);
        let found: Vec<_> = found.iter().map(|d| (d.concept.name.as_str(), d.style.name, d.icon)).collect();
        let (a, b) = (STYLES[0].name, STYLES[1].name);
        let expected = [("leftwards", a, "left"), ("leftwards", b, "left"), ("tall", a, "tall"), ("tall", b, "tall")];
        assert_eq!(found, expected);
        Ok(())
    }
}
