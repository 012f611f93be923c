//! Where a model lies among the models: under its name when it is whole, in a hidden folder beside that until then.
//!
//! ```text
//! models/NAME/              a model folder, with its limner.json
//! models/NAME.safetensors   a model in one file, with NAME.limner.json
//! models/.pull/.NAME.lock   held by whoever works on NAME
//! models/.pull/NAME/        what is on its way: tree/ is the folder in the making, HASH.part a file that is
//! ```

use super::repository::RemoteFile;
use super::select::Form;
use super::{Fault, Record};
use crate::image::sync_folder_of;
use crate::model::checkpoint::{RECORD, is_name};
use crate::{Error, Result};
use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The folder of what is on its way. Hidden: [`crate::model::checkpoint::find`] takes no name with a dot in front.
const WORKSHOPS: &str = ".pull";

/// A model's place, by its name.
#[derive(Debug, Clone)]
pub(super) struct Place {
    models: PathBuf,
    name: String,
    one_file: bool,
}

impl Place {
    /// The place of the model `name`, which lies as `form` says, in the folder `models`. Names that could lead
    /// elsewhere are refused.
    pub(super) fn new(models: &Path, name: &str, form: &Form) -> Result<Self> {
        if !is_name(name) {
            let message = format!("{name:?} cannot be a model's name: up to 100 letters, digits, '.', '_' and '-'");
            return Err(Error::Hub(Fault::Unsuitable(message)));
        }
        Ok(Self { models: models.to_owned(), name: name.to_owned(), one_file: matches!(form, Form::File(_)) })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The model's folder or file.
    pub(super) fn model(&self) -> PathBuf {
        if self.one_file { self.root().join(self.file_name()) } else { self.models.join(&self.name) }
    }

    fn file_name(&self) -> String {
        format!("{}.safetensors", self.name)
    }

    /// A file's path from [`Place::root`].
    pub(super) fn local(&self, file: &RemoteFile) -> String {
        if self.one_file { self.file_name() } else { file.path.clone() }
    }

    /// The folder in which a whole model's files lie.
    pub(super) fn root(&self) -> PathBuf {
        if self.one_file { self.models.clone() } else { self.model() }
    }

    /// The folder into which whole files are put. A single file needs no other: it is whole or not there.
    pub(super) fn assembly(&self) -> PathBuf {
        if self.one_file { self.root() } else { self.workshop().join("tree") }
    }

    pub(super) fn record(&self) -> PathBuf {
        if self.one_file { self.models.join(format!("{}.{RECORD}", self.name)) } else { self.model().join(RECORD) }
    }

    /// What is remembered of a model that is on its way.
    pub(super) fn plan(&self) -> PathBuf {
        self.workshop().join(RECORD)
    }

    /// A file that is on its way; called by its content, so that it can never be mistaken for the beginning of another.
    pub(super) fn part(&self, file: &RemoteFile) -> PathBuf {
        self.workshop().join(format!("{}.part", file.digest.hex()))
    }

    /// Holds the name for this process, until the lock is dropped or the process ends. The file stays: if it were
    /// removed, two processes could hold locks on two files of that name.
    pub(super) fn lock(&self) -> Result<File> {
        let folder = self.models.join(WORKSHOPS);
        fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
        let path = folder.join(format!(".{}.lock", self.name));
        let lock = File::options().write(true).create(true).truncate(false).open(&path).map_err(Error::io(&path))?;
        match lock.try_lock() {
            Ok(()) => Ok(lock),
            Err(TryLockError::Error(source)) => Err(Error::Io { path, source }),
            Err(TryLockError::WouldBlock) => {
                let message =
                    format!("{} is being pulled or removed by another limner; wait until it is done", self.name);
                Err(Error::Hub(Fault::Taken(message)))
            }
        }
    }

    /// What is remembered of the model that is there, none if there is none. Fails if that is another one than `file`
    /// of the repository `id`.
    pub(super) fn occupant(&self, id: &str, file: Option<&str>) -> Result<Option<Record>> {
        let other = Self { one_file: !self.one_file, ..self.clone() };
        let taken = |path: PathBuf| {
            let (path, name) = (path.display(), &self.name);
            let message = format!(
                "{path} is there already and is not from {id}: choose another name with --name, or remove it with \
                 limner rm {name}"
            );
            Err(Error::Hub(Fault::Taken(message)))
        };
        if is_there(&other.model()) {
            return taken(other.model());
        }
        if !is_there(&self.model()) {
            return Ok(None);
        }
        let record =
            Record::read(&self.record()).filter(|known| known.repository == id && known.file.as_deref() == file);
        record.map_or_else(|| taken(self.model()), |record| Ok(Some(record)))
    }

    /// Makes the workshop, and sets right what a crash between two renames left.
    pub(super) fn open_workshop(&self) -> Result<()> {
        let (workshop, old) = (self.workshop(), self.old());
        fs::create_dir_all(&workshop).map_err(Error::io(&workshop))?;
        match (is_there(&old), is_there(&self.model())) {
            (true, false) => rename(&old, &self.model()),
            (true, true) => remove(&old),
            (false, _) => Ok(()),
        }
    }

    /// Moves a whole file to where it belongs in the assembly.
    pub(super) fn put(&self, part: &Path, file: &RemoteFile) -> Result<()> {
        let path = self.assembly().join(self.local(file));
        let folder = path.parent().unwrap_or(&path);
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
        rename(part, &path)
    }

    /// Puts the assembled model under its name, in place of the one that is there.
    pub(super) fn publish(&self, record: &Record) -> Result<()> {
        if self.one_file {
            record.write(&self.record())?;
            return self.clear();
        }
        record.write(&self.assembly().join(RECORD))?;
        let replaced = is_there(&self.model());
        if replaced {
            rename(&self.model(), &self.old())?;
        }
        rename(&self.assembly(), &self.model()).inspect_err(|_| {
            if replaced {
                let _ = rename(&self.old(), &self.model());
            }
        })?;
        self.clear()
    }

    /// Takes the model away: at once under its name, then from the disk.
    pub(super) fn remove(&self) -> Result<()> {
        self.open_workshop()?;
        if is_there(&self.model()) {
            rename(&self.model(), &self.old())?;
        }
        if self.one_file && is_there(&self.record()) {
            remove(&self.record())?;
        }
        self.clear()
    }

    /// Removes everything that was on its way.
    pub(super) fn clear(&self) -> Result<()> {
        if is_there(&self.workshop()) { remove(&self.workshop()) } else { Ok(()) }
    }

    /// Where the model's own files lie while they are on their way.
    pub(super) fn workshop(&self) -> PathBuf {
        workshop(&self.models, &self.name)
    }

    fn old(&self) -> PathBuf {
        self.workshop().join("old")
    }
}

/// Where what is on its way to the model `name` lies.
pub(super) fn workshop(models: &Path, name: &str) -> PathBuf {
    models.join(WORKSHOPS).join(name)
}

/// Names of all models that are on their way in the folder `models`.
pub(super) fn workshops(models: &Path) -> Vec<String> {
    let entries = fs::read_dir(models.join(WORKSHOPS)).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let mut names: Vec<_> = folders.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Also true for a link that leads nowhere.
pub(super) fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).and_then(|()| sync_folder_of(to)).map_err(Error::io(to))
}

/// Removes a file, a link (not what it leads to), or a folder with all that is in it.
fn remove(path: &Path) -> Result<()> {
    let is_folder = path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir());
    let removed = if is_folder { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io(path)(error)),
        _ => Ok(()),
    }
}
