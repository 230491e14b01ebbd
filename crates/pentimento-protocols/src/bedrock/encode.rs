//! Outcomes and errors in the vendor's words. The only place that knows status codes.
//!
//! An error is a status, a header that names the exception, and a JSON body with a message; which of the service's
//! layers speaks shows in the header's suffix, and in whether the body says `message` or `Message`. Internal error
//! texts are never shown.
//! Source: captured replies of the service; botocore's model of it (2023-09-30).

use super::{auth::Denial, events, fault::Fault};
use crate::{Answer, Call, Delivery, Finished, KeepAlive, Refusal, Reply};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use pentimento_request::{ErrorKind, GenerateError, Verdict};
use serde_json::json;

/// The service's pattern for model ids, as its own error quotes it.
const MODEL_ID_PATTERN: &str = r"(arn:aws(-[^:]+)?:bedrock:[a-z0-9-]{1,20}:(([0-9]{12}:custom-model/[a-z0-9-]{1,63}[.]{1}[a-z0-9-]{1,63}/[a-z0-9]{12})|(:foundation-model/[a-z0-9-]{1,63}[.]{1}[a-z0-9-]{1,63}([.:]?[a-z0-9-]{1,63}))|([0-9]{12}:imported-model/[a-z0-9]{12})|([0-9]{12}:provisioned-model/[a-z0-9]{12})|([0-9]{12}:custom-model-deployment/[a-z0-9]{12})|([0-9]{12}:(inference-profile|application-inference-profile)/[a-zA-Z0-9-:.]+)))|([a-z0-9-]{1,63}[.]{1}[a-z0-9-]{1,63}([.:]?[a-z0-9-]{1,63}))|(([0-9a-zA-Z][_-]?)+)|([a-zA-Z0-9-:.]+)$";

/// Characters of a model id that are told back at most.
const MOST_ECHOED: usize = 200;

/// The container's words for a prompt that is refused; clients look for them.
const FILTERED_WORDS: &str = "One or more prompts contains filtered words.";

/// The exceptions that are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exception {
    AccessDenied,
    IncompleteSignature,
    InternalServer,
    InvalidSignature,
    ModelTimeout,
    RequestTimeout,
    ResourceNotFound,
    ServiceUnavailable,
    Throttling,
    UnknownOperation,
    UnrecognizedClient,
    Validation,
}

/// An exception with what it says.
struct Problem {
    exception: Exception,
    message: String,
}

/// The answer to a request with this fault.
pub(super) fn fault(fault: Fault, request_id: &str) -> Reply {
    let problem = match fault {
        Fault::UnknownOperation => Problem::new(
            Exception::UnknownOperation,
            "There is no such operation. Send a POST to /model/{modelId}/invoke or /model/{modelId}/invoke-with-response-stream.",
        ),
        Fault::Denied(denial) => denied(denial),
        Fault::ModelIdPattern(id) => Problem::validation(format!(
            "1 validation error detected: Value '{}' at 'modelId' failed to satisfy constraint: Member must satisfy \
             regular expression pattern: {MODEL_ID_PATTERN}",
            id.chars().take(MOST_ECHOED).collect::<String>()
        )),
        Fault::ModelIdTooLong(longest) => Problem::validation(format!(
            "1 validation error detected: Value at 'modelId' failed to satisfy constraint: Member must have length \
             less than or equal to {longest}"
        )),
        Fault::UnknownModel => Problem::validation("The provided model identifier is invalid."),
        Fault::ContentType => {
            Problem::validation("The provided Content Type is invalid or not supported for this model")
        }
        Fault::Accept => {
            Problem::validation("The provided Accept Type is invalid or not supported for this model")
        }
        Fault::Malformed => {
            Problem::validation("Malformed input request, please reformat your input and try again.")
        }
        Fault::Violations(violations) => Problem::validation(format!(
            "Malformed input request: {}, please reformat your input and try again.",
            violations.join(", ")
        )),
        Fault::Container { name, message } => Problem::validation(container_text(name, &message)),
    };
    problem.reply(request_id)
}

/// The answer to a request that was not read to its end.
pub(super) fn refusal(refusal: Refusal, body_limit: usize, request_id: &str) -> Reply {
    match refusal {
        Refusal::BodyTooLarge => {
            let text = format!("The request body is too large: at most {body_limit} bytes are allowed.");
            // No text of the service's is known for this; the status is HTTP's own, which every client reports.
            Reply { status: 413, ..Problem::validation(text).reply(request_id) }
        }
        Refusal::BodyTooSlow => {
            Problem::new(Exception::RequestTimeout, "The request body did not arrive in time.")
                .reply(request_id)
        }
        Refusal::Overloaded => Problem::from(ErrorKind::Overloaded).reply(request_id),
        Refusal::ShuttingDown => Problem::from(ErrorKind::Unavailable).reply(request_id),
        Refusal::Internal => Problem::from(ErrorKind::Internal).reply(request_id),
    }
}

/// The answer to a call, nothing having been sent yet.
pub(super) fn answer(call: &Call, outcome: Result<&Answer, &GenerateError>) -> Reply {
    let finished = match outcome {
        Ok(Answer::Picture(finished)) => finished,
        // This protocol has no tasks.
        Ok(Answer::Task(_)) => return Problem::from(ErrorKind::Internal).reply(&call.request_id),
        Err(error) => return Problem::of(error).reply(&call.request_id),
    };
    let mut reply = head(call);
    reply.headers.push(("x-amzn-bedrock-invocation-latency", finished.latency.as_millis().to_string()));
    if call.delivery == Delivery::Picture {
        reply.headers.push(("finish-reason", finish_reason(finished.verdict).to_owned()));
        reply.headers.push(("seed", finished.seed.to_string()));
    }
    reply.body = success_body(call, finished);
    reply
}

/// How the connection is kept alive: leading spaces before JSON, events that nobody knows in a stream.
pub(super) fn keep_alive(call: &Call) -> Option<KeepAlive> {
    let beat = match call.delivery {
        Delivery::Json => Bytes::from_static(b" "),
        Delivery::Events | Delivery::PictureEvents => events::ping().into(),
        Delivery::Picture => return None,
    };
    Some(KeepAlive { head: head(call), beat })
}

/// The rest of a body whose head and beats were sent.
pub(super) fn late_answer(call: &Call, outcome: Result<&Answer, &GenerateError>) -> Bytes {
    let error = match outcome {
        Ok(Answer::Picture(finished)) => return success_body(call, finished),
        // This protocol has no tasks.
        Ok(Answer::Task(_)) => return Bytes::new(),
        Err(error) => error,
    };
    match call.delivery {
        Delivery::Events | Delivery::PictureEvents => {
            let problem = Problem::of(error);
            events::exception(problem.exception.stream_member(), problem.body().as_bytes()).into()
        }
        Delivery::Json | Delivery::Picture => late_error_json(call, error).into(),
    }
}

/// The container's own way to say that a request failed after the status was sent.
fn late_error_json(call: &Call, error: &GenerateError) -> String {
    let (name, message) = match error.kind() {
        ErrorKind::InvalidRequest | ErrorKind::Unsupported | ErrorKind::NoFace => {
            ("bad_request", error.message().to_owned())
        }
        ErrorKind::PromptRefused => ("invalid_prompts", FILTERED_WORDS.to_owned()),
        kind => ("generation_error", Problem::from(kind).message),
    };
    json!({"result": "error", "error": {"id": call.request_id, "name": name, "message": message}}).to_string()
}

fn head(call: &Call) -> Reply {
    let media_type = |name: &'static str, value: &str| (name, value.to_owned());
    let mut headers = match call.delivery {
        Delivery::Json => vec![media_type("content-type", "application/json")],
        Delivery::Picture => vec![media_type("content-type", "image/png")],
        Delivery::Events => vec![
            media_type("content-type", events::MEDIA_TYPE),
            media_type("x-amzn-bedrock-content-type", "application/json"),
        ],
        Delivery::PictureEvents => vec![
            media_type("content-type", events::MEDIA_TYPE),
            media_type("x-amzn-bedrock-content-type", "image/png"),
        ],
    };
    headers.push(("x-amzn-requestid", call.request_id.clone()));
    Reply { status: 200, headers, body: Bytes::new(), error: None }
}

fn success_body(call: &Call, finished: &Finished) -> Bytes {
    match call.delivery {
        Delivery::Json => success_json(finished).into(),
        Delivery::Picture => finished.file.clone(),
        Delivery::Events => events::chunks(success_json(finished).as_bytes()).into(),
        Delivery::PictureEvents => events::chunks(&finished.file).into(),
    }
}

/// Written by hand: base64 needs no escapes, and megabytes of it no second look.
fn success_json(finished: &Finished) -> String {
    let mut json = format!(r#"{{"result":"success","artifacts":[{{"seed":{},"base64":""#, finished.seed);
    json.reserve(finished.file.len() / 3 * 4 + 64);
    STANDARD.encode_string(&finished.file, &mut json);
    json.push_str(r#"","finishReason":""#);
    json.push_str(finish_reason(finished.verdict));
    json.push_str(r#""}]}"#);
    json
}

/// What the caller is told of the picture: `CONTENT_FILTERED` where it is another one than was drawn.
const fn finish_reason(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Unchecked | Verdict::Clean | Verdict::Flagged => "SUCCESS",
        Verdict::Blurred | Verdict::Blocked => "CONTENT_FILTERED",
    }
}

/// The denial in the words of the service's signature layer.
fn denied(denial: Denial) -> Problem {
    match denial {
        Denial::Missing => Problem::new(Exception::AccessDenied, "Authorization header is missing"),
        Denial::UnknownApiKey => Problem::new(
            Exception::AccessDenied,
            "Authentication failed: Please make sure your API Key is valid.",
        ),
        Denial::UnknownAccessKey => Problem::new(
            Exception::UnrecognizedClient,
            "The security token included in the request is invalid.",
        ),
        Denial::Incomplete(what) => Problem::new(Exception::IncompleteSignature, what),
        Denial::Misplaced(what) => Problem::new(Exception::InvalidSignature, what),
        Denial::WrongSignature => Problem::new(
            Exception::InvalidSignature,
            "The request signature we calculated does not match the signature you provided. Check your AWS Secret \
             Access Key and signing method. Consult the service documentation for details.",
        ),
        Denial::Expired { signed, earliest, now } => Problem::new(
            Exception::InvalidSignature,
            format!("Signature expired: {signed} is now earlier than {earliest} ({now} - 5 min.)"),
        ),
        Denial::NotYetValid { signed, latest, now } => Problem::new(
            Exception::InvalidSignature,
            format!("Signature not yet current: {signed} is still later than {latest} ({now} + 5 min.)"),
        ),
    }
}

impl Problem {
    fn new(exception: Exception, message: impl Into<String>) -> Self {
        Self { exception, message: message.into() }
    }

    fn validation(message: impl Into<String>) -> Self {
        Self::new(Exception::Validation, message)
    }

    /// What a failed generation is for the client. Only what the request caused is told in the generator's words.
    fn of(error: &GenerateError) -> Self {
        match error.kind() {
            ErrorKind::InvalidRequest | ErrorKind::Unsupported | ErrorKind::NoFace => {
                Self::validation(container_text("bad_request", error.message()))
            }
            // Which word it was goes to the log: a list that answers is a list that can be read out.
            ErrorKind::PromptRefused => Self::validation(container_text("invalid_prompts", FILTERED_WORDS)),
            kind => Self::from(kind),
        }
    }

    fn reply(&self, request_id: &str) -> Reply {
        let name = self.exception.name();
        let headers = vec![
            ("content-type", "application/json".to_owned()),
            ("x-amzn-requestid", request_id.to_owned()),
            ("x-amzn-errortype", format!("{name}:{}", self.exception.layer())),
        ];
        Reply { status: self.exception.status(), headers, body: self.body().into(), error: Some(name) }
    }

    fn body(&self) -> String {
        let key = if self.exception == Exception::AccessDenied { "Message" } else { "message" };
        json!({key: self.message}).to_string()
    }
}

impl From<ErrorKind> for Problem {
    /// The service's own neutral texts.
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::ModelNotFound => Self::new(
                Exception::ResourceNotFound,
                "Could not resolve the foundation model from the provided model identifier.",
            ),
            ErrorKind::Overloaded | ErrorKind::RateLimited => {
                Self::new(Exception::Throttling, "Too many requests, please wait before trying again.")
            }
            ErrorKind::Unavailable => Self::new(
                Exception::ServiceUnavailable,
                "The service is temporarily unable to handle the request. Try your request again.",
            ),
            ErrorKind::DeadlineExceeded => Self::new(
                Exception::ModelTimeout,
                "Model has timed out in processing the request. Try your request again.",
            ),
            _ => Self::new(
                Exception::InternalServer,
                "The system encountered an unexpected error during processing. Try your request again.",
            ),
        }
    }
}

impl Exception {
    /// Every exception.
    #[cfg(test)]
    const ALL: [Self; 12] = [
        Self::AccessDenied,
        Self::IncompleteSignature,
        Self::InternalServer,
        Self::InvalidSignature,
        Self::ModelTimeout,
        Self::RequestTimeout,
        Self::ResourceNotFound,
        Self::ServiceUnavailable,
        Self::Throttling,
        Self::UnknownOperation,
        Self::UnrecognizedClient,
        Self::Validation,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::AccessDenied => "AccessDeniedException",
            Self::IncompleteSignature => "IncompleteSignatureException",
            Self::InternalServer => "InternalServerException",
            Self::InvalidSignature => "InvalidSignatureException",
            Self::ModelTimeout => "ModelTimeoutException",
            Self::RequestTimeout => "RequestTimeoutException",
            Self::ResourceNotFound => "ResourceNotFoundException",
            Self::ServiceUnavailable => "ServiceUnavailableException",
            Self::Throttling => "ThrottlingException",
            Self::UnknownOperation => "UnknownOperationException",
            Self::UnrecognizedClient => "UnrecognizedClientException",
            Self::Validation => "ValidationException",
        }
    }

    const fn status(self) -> u16 {
        match self {
            Self::IncompleteSignature | Self::Validation => 400,
            Self::AccessDenied | Self::InvalidSignature | Self::UnrecognizedClient => 403,
            Self::ResourceNotFound | Self::UnknownOperation => 404,
            Self::ModelTimeout | Self::RequestTimeout => 408,
            Self::Throttling => 429,
            Self::InternalServer => 500,
            Self::ServiceUnavailable => 503,
        }
    }

    /// The name space of the layer that speaks. Clients cut it off.
    const fn layer(self) -> &'static str {
        match self {
            Self::AccessDenied
            | Self::IncompleteSignature
            | Self::InvalidSignature
            | Self::RequestTimeout
            | Self::UnknownOperation
            | Self::UnrecognizedClient => "http://internal.amazon.com/coral/com.amazon.coral.service/",
            Self::InternalServer
            | Self::ModelTimeout
            | Self::ResourceNotFound
            | Self::ServiceUnavailable
            | Self::Throttling
            | Self::Validation => "http://internal.amazon.com/coral/com.amazon.bedrock/",
        }
    }

    /// The name in a stream, where clients can read only these five of ours.
    const fn stream_member(self) -> &'static str {
        match self {
            Self::ModelTimeout => "modelTimeoutException",
            Self::ServiceUnavailable => "serviceUnavailableException",
            Self::Throttling => "throttlingException",
            Self::ResourceNotFound | Self::Validation => "validationException",
            Self::AccessDenied
            | Self::IncompleteSignature
            | Self::InternalServer
            | Self::InvalidSignature
            | Self::RequestTimeout
            | Self::UnknownOperation
            | Self::UnrecognizedClient => "internalServerException",
        }
    }
}

/// An error of the model's container, as it reaches clients through the service. Some look for its parts.
fn container_text(name: &str, message: &str) -> String {
    let (name_literal, message) = (python_literal(name), python_literal(message));
    format!("{name}\nsagemaker_inference.errors.BaseInferenceToolkitError: (400, {name_literal}, {message})")
}

/// A text as Python prints it inside a tuple: quoted in the way that needs fewer escapes.
fn python_literal(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut literal = String::from(quote);
    for letter in text.chars() {
        match letter {
            '\n' => literal.push_str("\\n"),
            '\\' => literal.push_str("\\\\"),
            letter if letter == quote => literal.extend(['\\', letter]),
            letter if letter.is_ascii_control() => literal.push_str(&format!("\\x{:02x}", letter as u32)),
            letter => literal.push(letter),
        }
    }
    literal.push(quote);
    literal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_differ_and_statuses_are_errors() {
        for (index, exception) in Exception::ALL.into_iter().enumerate() {
            assert!(Exception::ALL[..index].iter().all(|other| other.name() != exception.name()));
            assert!(exception.name().ends_with("Exception") && (400..600).contains(&exception.status()));
            assert!(exception.stream_member().ends_with("Exception"));
        }
    }

    #[test]
    fn texts_are_quoted_as_python_quotes_them() {
        let table = [
            ("plain", "'plain'"),
            ("it's", "\"it's\""),
            ("\"a\"", "'\"a\"'"),
            ("'a' \"b\"", "'\\'a\\' \"b\"'"),
            ("a\nb\\", "'a\\nb\\\\'"),
            ("\u{1b}", "'\\x1b'"),
        ];
        for (text, literal) in table {
            assert_eq!(python_literal(text), literal);
        }
    }

    #[test]
    fn a_containers_error_has_the_form_that_was_reported() {
        assert_eq!(
            container_text("invalid_prompts", "One or more prompts contains filtered words."),
            "invalid_prompts\nsagemaker_inference.errors.BaseInferenceToolkitError: (400, 'invalid_prompts', \
             'One or more prompts contains filtered words.')"
        );
    }
}
