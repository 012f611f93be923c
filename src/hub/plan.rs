//! A pull, once it is known what has to be there in the end: what of it is there already, what is missing, whether
//! there is room for that, and one file after the other.

use super::assembly;
use super::client::Hub;
use super::download;
use super::place::Place;
use super::record::{Record, RecordedFile, Variant};
use super::repository::{Listing, RemoteFile, Repository};
use super::select::{self, Form};
use super::watcher::{Phase, Watcher};
use super::{Fault, Order, Pulled};
use crate::model::checkpoint::check_index;
use crate::{Error, Result};
use indicatif::HumanBytes;
use std::collections::BTreeSet;
use std::path::Path;

/// What is left free on a disk besides what a model needs.
const SPARE: u64 = 64 << 20;

/// A pull of which it is known what has to be there in the end.
pub(super) struct Plan<'a> {
    order: &'a Order,
    place: &'a Place,
    files: Vec<RemoteFile>,
    /// What will be remembered of the model.
    record: Record,
    /// What is remembered of the one that is there.
    known: Option<Record>,
}

impl<'a> Plan<'a> {
    pub(super) fn new(order: &'a Order, listing: &Listing, form: &Form, place: &'a Place) -> Result<Self> {
        let Repository { id, revision } = &order.repository;
        let file = if let Form::File(path) = form { Some(path.clone()) } else { None };
        let known = place.occupant(id, file.as_deref())?;
        let variant = order.variant.or_else(|| known.as_ref()?.variant).unwrap_or(Variant::Fp16);
        let files = select::files(listing, form, variant)?;
        let recorded =
            |file: &RemoteFile| RecordedFile { path: place.local(file), size: file.size, digest: file.digest.clone() };
        let record = Record {
            repository: id.clone(),
            revision: revision.clone(),
            commit: listing.commit.clone(),
            licence: listing.licence.clone(),
            variant: file.is_none().then_some(variant),
            file,
            files: files.iter().map(recorded).collect(),
        };
        Ok(Self { order, place, files, record, known })
    }

    pub(super) fn carry_out(&self, hub: &Hub, watcher: &mut Watcher<'_>) -> Result<Pulled> {
        let there = self.whole_in(&self.place.root(), &self.files, watcher)?;
        if there.len() == self.files.len() {
            if self.known.as_ref() != Some(&self.record) {
                self.record.write(&self.place.record())?;
            }
            self.place.clear()?;
            return Ok(self.pulled(&[], 0));
        }
        self.record.write(&self.place.plan())?;
        let missing = self.missing(&there, watcher)?;
        let bytes = self.check_space(&missing)?;
        watcher.begin(Phase::Fetching, missing.iter().map(|file| file.size).sum());
        for file in &missing {
            self.fetch(hub, file, watcher)?;
        }
        self.place.publish(&self.record)?;
        Ok(self.pulled(&missing, bytes))
    }

    /// The local paths of those of `files` that are whole in `folder`.
    fn whole_in(&self, folder: &Path, files: &[RemoteFile], watcher: &mut Watcher<'_>) -> Result<BTreeSet<String>> {
        let path = |file: &RemoteFile| folder.join(self.place.local(file));
        let there: Vec<_> = files.iter().filter(|file| path(file).is_file()).collect();
        if !there.is_empty() {
            watcher.begin(Phase::Checking, there.iter().map(|file| file.size).sum());
        }
        let mut whole = BTreeSet::new();
        for file in there {
            watcher.file(&file.path);
            if file.digest.fits(&path(file), file.size, watcher)? {
                whole.insert(self.place.local(file));
            }
        }
        Ok(whole)
    }

    /// Begins the assembly with what is `there` and with what an earlier attempt left; the rest is missing.
    fn missing(&self, there: &BTreeSet<String>, watcher: &mut Watcher<'_>) -> Result<Vec<RemoteFile>> {
        let absent = |known: &BTreeSet<String>| {
            let absent = |file: &&RemoteFile| !known.contains(&self.place.local(file));
            self.files.iter().filter(absent).cloned().collect::<Vec<_>>()
        };
        let (assembly, model) = (self.place.assembly(), self.place.model());
        if assembly == self.place.root() {
            return Ok(absent(there));
        }
        let wanted: BTreeSet<_> = self.files.iter().map(|file| file.path.clone()).collect();
        assembly::prune(&assembly, &wanted)?;
        let mut known = self.whole_in(&assembly, &absent(there), watcher)?;
        known.extend(there.iter().cloned());
        // Files that a user has put there belong to the user.
        let ours = |path: &str| self.known.iter().flat_map(|record| &record.files).any(|file| file.path == path);
        assembly::carry_over(&model, &assembly, |path| there.contains(path) || !(wanted.contains(path) || ours(path)))?;
        Ok(absent(&known))
    }

    /// How many bytes have to be fetched. Fails if there is no room for them.
    fn check_space(&self, missing: &[RemoteFile]) -> Result<u64> {
        let begun = |file: &RemoteFile| self.place.part(file).metadata().map_or(0, |part| part.len());
        let bytes = missing.iter().fold(0u64, |sum, file| sum.saturating_add(file.size.saturating_sub(begun(file))));
        let workshop = self.place.workshop();
        let free = fs4::available_space(&workshop).map_err(Error::io(&workshop))?;
        if bytes.saturating_add(SPARE) <= free {
            return Ok(bytes);
        }
        let (name, bytes, free) = (self.place.name(), HumanBytes(bytes), HumanBytes(free));
        let message = format!(
            "{name} takes {bytes} more, but only {free} are free at {}: make room, or keep models on another disk with \
             LIMNER_MODELS",
            workshop.display()
        );
        Err(Error::Hub(Fault::NoSpace(message)))
    }

    fn fetch(&self, hub: &Hub, file: &RemoteFile, watcher: &mut Watcher<'_>) -> Result<()> {
        watcher.file(&file.path);
        let part = self.place.part(file);
        download::fetch(hub, &self.order.repository, &self.record.commit, file, &part, watcher)?;
        self.place.put(&part, file)?;
        if file.path == select::INDEX { self.check_kind() } else { Ok(()) }
    }

    /// The first file of a folder says what it is: better known now than after some gigabytes.
    fn check_kind(&self) -> Result<()> {
        check_index(&self.place.assembly()).map_err(|error| match error {
            Error::Model { message, .. } => {
                Error::Hub(Fault::Unsuitable(format!("{}: {message}", self.record.repository)))
            }
            other => other,
        })
    }

    fn pulled(&self, fetched: &[RemoteFile], bytes: u64) -> Pulled {
        Pulled {
            name: self.place.name().to_owned(),
            path: self.place.model(),
            fetched_files: fetched.len(),
            fetched_bytes: bytes,
            record: self.record.clone(),
        }
    }
}
