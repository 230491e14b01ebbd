//! Where a model's files come from: a folder, or the binary itself.
//!
//! Files are named by their path inside the model (`unet/config.json`), with `/` on every system.

use crate::{
    blob::Blob,
    error::{LoadError, LoadErrorKind},
    weights::Weights,
};
use std::{io, ops::Deref, path::PathBuf, sync::Arc};

/// The files of a model in diffusers layout.
pub trait ModelFiles: Send + Sync {
    /// How messages name a file: its path on disk, or its name in the binary.
    fn describe(&self, path: &str) -> String;

    /// The bytes of a file; `None` when there is none.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    fn read(&self, path: &str) -> Result<Option<Bytes>, LoadError>;

    /// A file of weights, to be read piece by piece; `None` when there is none.
    ///
    /// # Errors
    /// When the file is there and cannot be opened.
    fn open(&self, path: &str) -> Result<Option<Blob>, LoadError> {
        Ok(self.read(path)?.map(|bytes| Blob::held(self.describe(path), bytes)))
    }

    /// The names of the files in a folder of the model, sorted; empty when there is none.
    ///
    /// # Errors
    /// When the folder is there and cannot be read.
    fn list(&self, folder: &str) -> Result<Vec<String>, LoadError>;

    /// The weights of the part in a folder of the model, where they lie elsewhere or under other names than diffusers'.
    ///
    /// # Errors
    /// When they are there and cannot be read.
    fn weights(&self, _folder: &str) -> Result<Option<Weights>, LoadError> {
        Ok(None)
    }
}

/// The bytes of a file, cheap to clone.
#[derive(Clone, Debug)]
pub enum Bytes {
    /// Part of the binary.
    Static(&'static [u8]),
    /// In memory.
    Held(Arc<[u8]>),
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Held(bytes.into())
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Static(bytes) => bytes,
            Self::Held(bytes) => bytes,
        }
    }
}

/// A folder on disk.
#[derive(Clone, Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// The model in this folder.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    fn failed(&self, path: &str, error: io::Error) -> LoadError {
        LoadError::caused_by(LoadErrorKind::Malformed, format!("cannot read {}", self.describe(path)), error)
    }
}

impl ModelFiles for Folder {
    fn describe(&self, path: &str) -> String {
        self.0.join(path).display().to_string()
    }

    fn read(&self, path: &str) -> Result<Option<Bytes>, LoadError> {
        match std::fs::read(self.0.join(path)) {
            Ok(bytes) => Ok(Some(Bytes::from(bytes))),
            Err(error) if is_no_file(&error) => Ok(None),
            Err(error) => Err(self.failed(path, error)),
        }
    }

    fn open(&self, path: &str) -> Result<Option<Blob>, LoadError> {
        let full = self.0.join(path);
        if full.is_dir() {
            return Ok(None);
        }
        match Blob::open(self.describe(path), &full) {
            Ok(blob) => Ok(Some(blob)),
            Err(error) if is_no_file(&error) => Ok(None),
            Err(error) => Err(self.failed(path, error)),
        }
    }

    fn list(&self, folder: &str) -> Result<Vec<String>, LoadError> {
        let entries = match std::fs::read_dir(self.0.join(folder)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(self.failed(folder, error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| self.failed(folder, error))?;
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }
}

/// Whether there is nothing of this name that could be read, as opposed to something that cannot.
fn is_no_file(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::IsADirectory | io::ErrorKind::NotADirectory
    )
}

/// Files that are part of the binary: pairs of path and bytes.
#[derive(Clone, Copy, Debug)]
pub struct Embedded(pub &'static [(&'static str, &'static [u8])]);

impl ModelFiles for Embedded {
    fn describe(&self, path: &str) -> String {
        format!("embedded:{path}")
    }

    fn read(&self, path: &str) -> Result<Option<Bytes>, LoadError> {
        Ok(self.0.iter().find(|(name, _)| *name == path).map(|(_, bytes)| Bytes::Static(bytes)))
    }

    fn list(&self, folder: &str) -> Result<Vec<String>, LoadError> {
        let mut names: Vec<String> = self
            .0
            .iter()
            .filter_map(|(name, _)| name.strip_prefix(folder)?.strip_prefix('/'))
            .filter(|name| !name.contains('/'))
            .map(str::to_owned)
            .collect();
        names.sort();
        Ok(names)
    }
}
