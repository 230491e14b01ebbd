//! Amazon Bedrock's runtime, as it served Stability.ai Diffusion 1.0 (SDXL 1.0).
//!
//! Two operations: `POST /model/{modelId}/invoke` and `POST /model/{modelId}/invoke-with-response-stream`, told apart
//! on the raw path, since an ARN's escaped `/` must not become a segment's end. What every field means, and where the
//! vendor's documents leave a choice, stands in `docs/bedrock.md`.
//!
//! Order of checks: operation, caller, model id, media types, body's schema, pictures.

mod auth;
mod decode;
mod encode;
mod events;
mod fault;
mod media;
mod models;
mod schema;
mod sigv4;
mod wire;

pub use auth::{AccessKey, Auth, Keyring};
pub use models::{FallbackIds, ModelMap};
pub use sigv4::sign;

use crate::{
    Answer, Call, Context, HttpRequest, KeepAlive, Operation, Protocol, Received, Refusal, Reply, Seed,
    digest::hex, json,
};
use auth::Caller;
use bytes::Bytes;
use decode::Rules;
use fault::Fault;
use pentimento_imaging::{Finish, Limits};
use pentimento_request::{GenerateError, Size};
use percent_encoding::percent_decode_str;
use schema::UnknownKeys;
use serde_json::Value;
use sha2::{Digest, Sha256};
use wire::InvokeBody;

/// The largest body that the service takes, in bytes.
const BODY_LIMIT: usize = 25_000_000;

/// The longest `amz-sdk-invocation-id` that is looked at; clients send UUIDs.
const LONGEST_INVOCATION_ID: usize = 128;

/// Everything that shapes this protocol. [`BedrockConfig::new`] documents the defaults.
#[derive(Clone, Debug)]
pub struct BedrockConfig {
    /// Who may ask.
    pub auth: Auth,
    /// Which model answers which id.
    pub models: ModelMap,
    /// How large pictures that are sent may be.
    pub image_limits: Limits,
    /// The size of a picture made from nothing when none is asked for. Default: 1024x1024, SDXL's own.
    pub default_size: Size,
    /// Whether only the nine documented sizes are taken, for pictures sent as well. Default: no, since the service
    /// itself took all multiples of 64 within its range of pixels.
    pub strict_sizes: bool,
    /// Whether unknown keys of the body and of its prompts are refused. Default: no.
    pub strict_keys: bool,
}

impl BedrockConfig {
    /// The protocol with its defaults.
    pub fn new(auth: Auth, models: ModelMap, image_limits: Limits) -> Self {
        let default_size = Size::new(1024, 1024).expect("1024 is a possible side");
        Self { auth, models, image_limits, default_size, strict_sizes: false, strict_keys: false }
    }
}

/// The protocol.
#[derive(Clone, Debug)]
pub struct Bedrock {
    config: BedrockConfig,
}

impl Bedrock {
    /// The protocol of this shape.
    pub fn new(config: BedrockConfig) -> Self {
        Self { config }
    }

    fn understand(&self, request: &HttpRequest, context: &Context) -> Result<Call, Fault> {
        let route = Route::find(&request.method, request.path())?;
        let caller = auth::authenticate(&self.config.auth, request, context)?;
        let model = self.config.models.resolve_or_refuse(&route.model_id()?)?;
        media::check_content_type(request)?;
        let delivery = match route.framing {
            Framing::Whole => media::delivery(request)?,
            Framing::Stream => media::streamed_delivery(request)?,
        };
        let Some(Value::Object(body)) = json::parse(&request.body) else { return Err(Fault::Malformed) };
        let unknown_keys = if self.config.strict_keys { UnknownKeys::Refused } else { UnknownKeys::Ignored };
        let body = InvokeBody::read(body, unknown_keys).map_err(Fault::Violations)?;
        let rules = Rules {
            model,
            image_limits: &self.config.image_limits,
            default_size: self.config.default_size,
            strict_sizes: self.config.strict_sizes,
        };
        let (generation, seed) = decode::decode(body, rules)?;
        Ok(Call {
            operation: Operation::Generate { request: Box::new(generation), seed },
            delivery,
            finish: Finish::none(),
            link: false,
            caller: caller.public_name(),
            same_work: same_work(request, &caller, seed),
            may_retry: may_retry(request.header("amz-sdk-request")),
            request_id: context.request_id.clone(),
            memo: None,
        })
    }
}

impl Protocol for Bedrock {
    fn name(&self) -> &'static str {
        "bedrock"
    }

    fn claims(&self, _method: &str, target: &str) -> bool {
        target.starts_with("/model/")
    }

    fn body_limit(&self) -> usize {
        BODY_LIMIT
    }

    fn receive(&self, request: &HttpRequest, context: &Context) -> Result<Received, Reply> {
        self.understand(request, context)
            .map(|call| Received::Call(Box::new(call)))
            .map_err(|fault| encode::fault(fault, &context.request_id))
    }

    fn refuse(&self, refusal: Refusal, context: &Context) -> Reply {
        encode::refusal(refusal, BODY_LIMIT, &context.request_id)
    }

    fn answer(&self, call: &Call, outcome: Result<&Answer, &GenerateError>) -> Reply {
        encode::answer(call, outcome)
    }

    fn keep_alive(&self, call: &Call) -> Option<KeepAlive> {
        encode::keep_alive(call)
    }

    fn late_answer(&self, call: &Call, outcome: Result<&Answer, &GenerateError>) -> Bytes {
        encode::late_answer(call, outcome)
    }
}

/// An operation on a model, still as it stands in the path.
struct Route<'a> {
    segment: &'a str,
    framing: Framing,
}

/// Which of the two operations is asked for.
enum Framing {
    Whole,
    Stream,
}

impl<'a> Route<'a> {
    fn find(method: &str, path: &'a str) -> Result<Self, Fault> {
        let (segment, operation) = path
            .strip_prefix("/model/")
            .and_then(|rest| rest.split_once('/'))
            .filter(|(segment, _)| method == "POST" && !segment.is_empty())
            .ok_or(Fault::UnknownOperation)?;
        let framing = match operation {
            "invoke" => Framing::Whole,
            "invoke-with-response-stream" => Framing::Stream,
            _ => return Err(Fault::UnknownOperation),
        };
        Ok(Self { segment, framing })
    }

    /// The segment, percent-decoded once.
    fn model_id(&self) -> Result<String, Fault> {
        let escapes_are_whole = self.segment.split('%').skip(1).all(|rest| {
            rest.get(..2).is_some_and(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
        });
        let decoded = percent_decode_str(self.segment);
        match decoded.decode_utf8() {
            Ok(id) if escapes_are_whole => Ok(id.into_owned()),
            _ => Err(Fault::ModelIdPattern(self.segment.to_owned())),
        }
    }
}

/// The key by which equal work is found, hashed so that it is short and tells nothing.
///
/// The same request with a fixed seed is the same work. With a drawn seed it is only where the client says that it is
/// one invocation tried again; that header is not signed, so caller, target and body always count as well.
fn same_work(request: &HttpRequest, caller: &Caller, seed: Seed) -> Option<String> {
    let invocation = match seed {
        Seed::Given => "",
        Seed::Drawn { .. } => request
            .header("amz-sdk-invocation-id")
            .filter(|id| !id.is_empty() && id.len() <= LONGEST_INVOCATION_ID)?,
    };
    let (kind, caller): (&[u8], &[u8]) = match caller {
        Caller::Anyone => (b"anyone", b""),
        Caller::AccessKey(id) => (b"access key", id.as_bytes()),
        Caller::ApiKey(fingerprint) => (b"api key", fingerprint),
    };
    let mut hash = Sha256::new();
    for part in [kind, caller, invocation.as_bytes(), request.target.as_bytes(), &request.body] {
        // With their lengths, so that no two lists of parts run together to the same bytes.
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    Some(hex(&hash.finalize()))
}

/// Whether `attempt=1; max=3` announces another attempt. Without a `max` there may be one.
fn may_retry(header: Option<&str>) -> bool {
    let number = |name: &str| -> Option<u32> {
        let mut fields = header?.split(';').filter_map(|field| field.trim().split_once('='));
        fields.find(|(key, _)| *key == name)?.1.parse().ok()
    };
    number("attempt").is_some_and(|attempt| number("max").is_none_or(|max| attempt < max))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_are_announced_by_numbers() {
        let table = [
            (None, false),
            (Some(""), false),
            (Some("attempt=1; max=3"), true),
            (Some("attempt=3; max=3"), false),
            (Some("ttl=20261121T205028Z; attempt=2; max=5"), true),
            (Some("attempt=1"), true),
            (Some("attempt=x; max=3"), false),
        ];
        for (header, expected) in table {
            assert_eq!(may_retry(header), expected, "{header:?}");
        }
    }

    #[test]
    fn only_the_two_operations_are_found() {
        for (method, path) in [
            ("GET", "/model/x/invoke"),
            ("POST", "/model/x"),
            ("POST", "/model//invoke"),
            ("POST", "/model/x/"),
            ("POST", "/model/x/invoke/"),
            ("POST", "/model/x/y/invoke"),
            ("POST", "/model/x/converse"),
            ("POST", "/model/x/Invoke"),
        ] {
            assert!(matches!(Route::find(method, path), Err(Fault::UnknownOperation)), "{method} {path}");
        }
    }

    #[test]
    fn a_segment_is_decoded_once() {
        let id = |segment| Route { segment, framing: Framing::Whole }.model_id();
        assert_eq!(id("a%3A0").as_deref(), Ok("a:0"));
        assert_eq!(id("a:0").as_deref(), Ok("a:0"));
        assert_eq!(id("a%253A0").as_deref(), Ok("a%3A0"));
        assert_eq!(id("a%2Fb%2fc").as_deref(), Ok("a/b/c"));
        for wrong in ["%", "a%2", "a%zz", "%+1", "%ff", "%é"] {
            assert_eq!(id(wrong), Err(Fault::ModelIdPattern(wrong.to_owned())));
        }
    }
}
