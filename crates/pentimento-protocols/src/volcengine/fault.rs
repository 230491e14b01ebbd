//! What is wrong with a request, before it is put into the vendor's words.

use super::auth::Denial;

/// Why a request is answered with an error at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The query lacks this parameter.
    MissingQuery(&'static str),
    /// The caller is not let in.
    Denied(Denial),
    /// No such action in that version.
    UnknownAction,
    /// The action is known, but the request cannot be carried out.
    Refused(Code, String),
}

/// The service's numbers for what is wrong with a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    /// A value that does not do; also a style that is not there.
    InvalidArgs,
    /// A member is missing.
    MissingArgs,
    /// A member is of another type, or the body is no JSON object.
    ParseArgs,
    /// The picture has too many bytes or pixels, or too few.
    ImageSize,
    /// There is no picture.
    ImageEmpty,
    /// The picture cannot be read or fetched.
    ImageDecode,
}

impl Fault {
    /// A value that does not do.
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::Refused(Code::InvalidArgs, message.into())
    }

    /// A value of another type.
    pub(super) fn unreadable(message: impl Into<String>) -> Self {
        Self::Refused(Code::ParseArgs, message.into())
    }

    /// A member that is not there.
    pub(super) fn missing(member: &str) -> Self {
        Self::Refused(Code::MissingArgs, format!("Missing Args: {member}"))
    }
}

impl From<Denial> for Fault {
    fn from(denial: Denial) -> Self {
        Self::Denied(denial)
    }
}
