//! Why a server could not start or go on.

use pentimento_request::ErrorKind;
use std::{error::Error, fmt};

/// What the caller can do about a [`ServerError`].
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerErrorKind {
    /// A value of the configuration cannot work.
    InvalidConfig,
    /// The certificate or the key cannot be read, or they do not belong together.
    Tls,
    /// The address cannot be listened on.
    Bind,
    /// The data folder, its database or the store of results cannot be used.
    Data,
    /// The system refused a thread or a timer.
    Internal,
}

/// An error of the server itself, never of one request.
#[derive(Debug)]
pub struct ServerError {
    kind: ServerErrorKind,
    message: String,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl ServerError {
    pub(crate) fn new(kind: ServerErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    pub(crate) fn caused_by(
        kind: ServerErrorKind,
        message: impl Into<String>,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self { kind, message: message.into(), source: Some(source.into()) }
    }

    /// What the caller can do.
    pub fn kind(&self) -> ServerErrorKind {
        self.kind
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.message)
    }
}

impl Error for ServerError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|source| &**source as &(dyn Error + 'static))
    }
}

/// An error and everything that caused it, in one line.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line.push_str(": ");
        line.push_str(&error.to_string());
        cause = error.source();
    }
    line
}

/// A kind's name in logs and metrics, where no vendor's name for it is known.
pub(crate) fn kind_name(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::InvalidRequest => "invalid_request",
        ErrorKind::Unsupported => "unsupported",
        ErrorKind::ModelNotFound => "model_not_found",
        ErrorKind::NoFace => "no_face",
        ErrorKind::PromptRefused => "prompt_refused",
        ErrorKind::Overloaded => "overloaded",
        ErrorKind::RateLimited => "rate_limited",
        ErrorKind::Unavailable => "unavailable",
        ErrorKind::DeadlineExceeded => "deadline_exceeded",
        ErrorKind::Cancelled => "cancelled",
        ErrorKind::Internal => "internal",
        _ => "other",
    }
}
