//! Why a model could not be loaded.

use std::{error::Error, fmt};

/// What is wrong with a model's files, by what its owner can do about it.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadErrorKind {
    /// A file or folder is not there.
    Missing,
    /// A file is cut off or is not what its name says.
    Malformed,
    /// A tensor is missing or has another shape than the configuration says.
    Tensor,
    /// The model is of a kind that this engine does not run, or in a format that it refuses to read.
    Unsupported,
}

/// An error of loading. The message is one line that names the file, and the tensor where there is one.
#[derive(Debug)]
pub struct LoadError {
    kind: LoadErrorKind,
    message: String,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl LoadError {
    /// An error that is its own cause.
    pub fn new(kind: LoadErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// An error that something else caused; the cause is part of the message.
    pub fn caused_by(
        kind: LoadErrorKind,
        message: impl fmt::Display,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        let source = source.into();
        Self { kind, message: format!("{message}: {source}"), source: Some(source) }
    }

    /// What the model's owner can do.
    pub fn kind(&self) -> LoadErrorKind {
        self.kind
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.message)
    }
}

impl Error for LoadError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|source| &**source as &(dyn Error + 'static))
    }
}

/// Results of the engine's inside; most errors there are candle's.
pub(crate) type Result<T, E = candle_core::Error> = std::result::Result<T, E>;
