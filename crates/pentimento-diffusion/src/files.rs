//! Where a model's files come from: a folder, or the binary itself.

use crate::error::{LoadError, LoadErrorKind};
use std::{borrow::Cow, path::PathBuf};

/// The files of a model in diffusers layout, by their path inside it (`unet/config.json`).
pub trait ModelFiles: Send + Sync {
    /// How messages name a file: its path on disk, or its name in the binary.
    fn describe(&self, path: &str) -> String;

    /// The bytes of a file, memory-mapped where that can be; `None` when there is none.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    fn read(&self, path: &str) -> Result<Option<Bytes>, LoadError>;

    /// The names of the files in a folder of the model, sorted; empty when there is none.
    ///
    /// # Errors
    /// When the folder is there and cannot be read.
    fn list(&self, folder: &str) -> Result<Vec<String>, LoadError>;
}
/// to be written
pub type Bytes = Cow<'static, [u8]>;

/// A folder on disk.
#[derive(Clone, Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// The model in this folder.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }
}

impl ModelFiles for Folder {
    fn describe(&self, path: &str) -> String {
        self.0.join(path).display().to_string()
    }

    fn read(&self, path: &str) -> Result<Option<Bytes>, LoadError> {
        let _ = path;
        Err(LoadError::new(LoadErrorKind::Missing, "not written yet"))
    }

    fn list(&self, _: &str) -> Result<Vec<String>, LoadError> {
        Ok(Vec::new())
    }
}

/// Files that are part of the binary: pairs of path and bytes.
#[derive(Clone, Copy, Debug)]
pub struct Embedded(pub &'static [(&'static str, &'static [u8])]);

impl ModelFiles for Embedded {
    fn describe(&self, path: &str) -> String {
        format!("embedded:{path}")
    }

    fn read(&self, path: &str) -> Result<Option<Bytes>, LoadError> {
        Ok(self.0.iter().find(|(name, _)| *name == path).map(|(_, bytes)| Cow::Borrowed(*bytes)))
    }

    fn list(&self, _: &str) -> Result<Vec<String>, LoadError> {
        Ok(Vec::new())
    }
}
