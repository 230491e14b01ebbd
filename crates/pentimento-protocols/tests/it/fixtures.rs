use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use pentimento_imaging::{Format, Limits, encode};
use pentimento_protocols::{
    Call, Context, HttpRequest, ModelProfile, Operation, Protocol, Received, Reply, Seed, Stopwatch,
    bedrock::{AccessKey, Auth, Bedrock, BedrockConfig, FallbackIds, Keyring, ModelMap},
};
use pentimento_request::{Accelerations, Channels, GenerationRequest, Picture, Size};
use serde_json::Value;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub(crate) const INVOKE: &str = "/model/stability.stable-diffusion-xl-v1%3A0/invoke";
pub(crate) const STREAM: &str = "/model/stability.stable-diffusion-xl-v1%3A0/invoke-with-response-stream";
pub(crate) const REQUEST_ID: &str = "11111111-2222-3333-4444-555555555555";

/// 2026-11-21 20:50:28 UTC, when the first captured request was signed.
pub(crate) const NOW: u64 = 1_795_294_228;

pub(crate) fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW)
}

pub(crate) fn context() -> Context {
    Context {
        now: now(),
        request_id: REQUEST_ID.to_owned(),
        secure: false,
        stopwatch: Stopwatch::new(|| Duration::from_micros(84)),
    }
}

pub(crate) fn config(auth: Auth) -> BedrockConfig {
    let accelerations =
        Accelerations { guidance_interval: "0.2:0.8".parse().expect("an interval"), ..Accelerations::NONE };
    let profile = ModelProfile { guidance_rescale: 0.5, accelerations, ..ModelProfile::named("embedded") };
    let limits = Limits { bytes: 5_000_000, pixels: 4_000_000 };
    BedrockConfig::new(auth, ModelMap::new(profile, FallbackIds::Stability), limits)
}

/// The protocol with an open door.
pub(crate) fn open() -> Bedrock {
    Bedrock::new(config(Auth::Off))
}

pub(crate) fn access_key() -> AccessKey {
    AccessKey { id: "AKIDEXAMPLE".into(), secret: "secretEXAMPLEKEY".into(), session_token: None }
}

/// The protocol behind one pair and two bearer keys.
pub(crate) fn guarded() -> Bedrock {
    let api_keys = vec!["first-key".to_owned(), "second-key".to_owned()];
    Bedrock::new(config(Auth::Required(Keyring { access_keys: vec![access_key()], api_keys })))
}

pub(crate) fn post(target: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> HttpRequest {
    let headers = headers.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect();
    HttpRequest { method: "POST".into(), target: target.into(), headers, body: body.into() }
}

pub(crate) fn invoke(protocol: &Bedrock, body: &Value) -> Result<Call, Reply> {
    receive(protocol, &post(INVOKE, &[], body.to_string()))
}

/// The call that a request without foreign pictures means.
pub(crate) fn receive(protocol: &dyn Protocol, request: &HttpRequest) -> Result<Call, Reply> {
    protocol.receive(request, &context()).map(ready)
}

/// The call of a request without foreign pictures.
pub(crate) fn ready(received: Received) -> Call {
    match received {
        Received::Call(call) => *call,
        Received::Fetch(fetch) => panic!("it wants pictures: {fetch:?}"),
    }
}

/// The neutral request that a body means.
pub(crate) fn understood(body: &Value) -> (GenerationRequest, Seed) {
    let call = invoke(&open(), body).unwrap_or_else(|reply| panic!("refused: {}", message(&reply)));
    let Operation::Generate { request, seed } = call.operation else { panic!("another operation") };
    (*request, seed)
}

/// The text of an error, which the body holds under one of two names.
pub(crate) fn message(reply: &Reply) -> String {
    let body: Value = serde_json::from_slice(&reply.body).expect("errors are JSON");
    let text = body.get("message").or_else(|| body.get("Message")).and_then(Value::as_str);
    text.expect("errors have a message").to_owned()
}

pub(crate) fn header<'a>(reply: &'a Reply, name: &str) -> Option<&'a str> {
    reply.headers.iter().find(|(key, _)| *key == name).map(|(_, value)| value.as_str())
}

/// Asserts that a reply is this error in every respect but its text, which is returned.
#[track_caller]
pub(crate) fn expect_error(reply: &Reply, status: u16, exception: &'static str) -> String {
    let text = message(reply);
    assert_eq!((reply.status, reply.error), (status, Some(exception)), "{text}");
    assert_eq!(header(reply, "content-type"), Some("application/json"));
    assert_eq!(header(reply, "x-amzn-requestid"), Some(REQUEST_ID));
    let error_type = header(reply, "x-amzn-errortype").expect("errors name their type");
    assert_eq!(error_type.split(':').next(), Some(exception));
    text
}

pub(crate) fn size(width: u32, height: u32) -> Size {
    Size::new(width, height).expect("a valid size")
}

/// A picture in one colour.
pub(crate) fn plain(width: u32, height: u32, pixel: &[u8]) -> Picture {
    let channels = if pixel.len() == 4 { Channels::Rgba } else { Channels::Rgb };
    Picture::new(size(width, height), channels, pixel.repeat((width * height) as usize))
        .expect("whole pixels")
}

pub(crate) fn base64_of(picture: &Picture, format: Format) -> String {
    STANDARD.encode(encode(picture, format, None).expect("an ordinary picture"))
}

/// A one-coloured PNG in base64.
pub(crate) fn png(width: u32, height: u32, pixel: &[u8]) -> String {
    base64_of(&plain(width, height, pixel), Format::Png)
}
