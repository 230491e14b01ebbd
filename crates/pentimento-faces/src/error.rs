//! What can be wrong with a network's file.

use std::fmt;

/// What is wrong, by what the file's owner can do about it.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaceErrorKind {
    /// The file is cut off, too large or no ONNX file.
    Malformed,
    /// It is a network of a kind that is not run here.
    Unsupported,
    /// The network failed on a picture.
    Failed,
}

/// An error with the file's name.
#[derive(Debug)]
pub struct FaceError {
    kind: FaceErrorKind,
    message: String,
}

impl FaceError {
    /// An error about the file of this name.
    pub(crate) fn new(kind: FaceErrorKind, label: &str, what: impl fmt::Display) -> Self {
        Self { kind, message: format!("{label}: {what}") }
    }

    /// What the file's owner can do.
    pub fn kind(&self) -> FaceErrorKind {
        self.kind
    }
}

impl fmt::Display for FaceError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.message)
    }
}

impl std::error::Error for FaceError {}
