//! What can go wrong, by what the caller can do about it.

use std::{error::Error, fmt};

/// What the caller can do about an error.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request contradicts itself or a limit: change it.
    InvalidRequest,
    /// The request is sensible, but this generator cannot do it.
    Unsupported,
    /// No model of that name.
    ModelNotFound,
    /// A face is to be shown, and the picture has none.
    NoFace,
    /// The request's texts hold what is not drawn here.
    PromptRefused,
    /// Too much work is waiting: try again later.
    Overloaded,
    /// The caller asks more often than it may: try again later.
    RateLimited,
    /// The generator is going away: another one, or a later try, may answer.
    Unavailable,
    /// The job took longer than it may.
    DeadlineExceeded,
    /// The caller broke off.
    Cancelled,
    /// Not the request's fault. The message goes to the log, not to the client.
    Internal,
}

/// An error of generation: its kind, what happened, and what caused it.
#[derive(Debug)]
pub struct GenerateError {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl GenerateError {
    /// An error that is its own cause.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// An error that something else caused.
    pub fn caused_by(
        kind: ErrorKind,
        message: impl Into<String>,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self { kind, message: message.into(), source: Some(source.into()) }
    }

    /// What the caller can do.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What happened, without the causes.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for GenerateError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.message)
    }
}

impl Error for GenerateError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|source| &**source as &(dyn Error + 'static))
    }
}
