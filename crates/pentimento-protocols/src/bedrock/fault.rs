//! What is wrong with a request, before it is put into the vendor's words.

use super::auth::Denial;

/// Why a request is answered with an error at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The method and path name no operation.
    UnknownOperation,
    /// The caller is not let in.
    Denied(Denial),
    /// The model id breaks the service's pattern.
    ModelIdPattern(String),
    /// The model id is longer than this.
    ModelIdTooLong(usize),
    /// No model answers to this id.
    UnknownModel,
    /// The body is of a kind that is not read.
    ContentType,
    /// The answer is wanted in a form that is not written.
    Accept,
    /// The body is no JSON object.
    Malformed,
    /// The body breaks the schema, here and there.
    Violations(Vec<String>),
    /// The body keeps to the schema, but the model's container refuses it.
    Container {
        /// The container's name for what is wrong.
        name: &'static str,
        /// What is wrong, in a sentence.
        message: String,
    },
}

impl Fault {
    /// The container's refusal under this name.
    pub(super) fn container(name: &'static str, message: impl Into<String>) -> Self {
        Self::Container { name, message: message.into() }
    }
}

impl From<Denial> for Fault {
    fn from(denial: Denial) -> Self {
        Self::Denied(denial)
    }
}
