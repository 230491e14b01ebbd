//! Volcengine's protocol from outside: requests, answers, and what is wrong with both.

/// Requests as clients send them, and what becomes of them.
mod requests;

/// Wrong requests, each with its answer.
mod malformed;

/// Outcomes in both envelopes.
mod answers;

/// Clocks, keys and tokens.
mod signatures;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use pentimento_imaging::{Format, encode};
use pentimento_protocols::{
    Call, Context, HttpRequest, ModelProfile, Protocol, Received, Reply, Stopwatch,
    volcengine::{AccessKey, Auth, KnownLoras, Styles, Volcengine, VolcengineConfig},
};
use pentimento_request::{Channels, Picture, Size};
use serde_json::{Value, json};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const PROCESS: &str = "/?Action=CVProcess&Version=2022-08-31";
const KEY: &str = "img2img_pastel_boys_style_usage";
const REQUEST_ID: &str = "202405222059450B71689BCB6B527F21C0";

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_716_382_785)
}

fn context() -> Context {
    Context {
        now: now(),
        request_id: "0b71689b-cb6b-527f-21c0-123456789abc".to_owned(),
        secure: false,
        stopwatch: Stopwatch::new(|| Duration::from_nanos(84_448)),
    }
}

fn model() -> ModelProfile {
    ModelProfile::named("default")
}

fn config(auth: Auth) -> VolcengineConfig {
    let mut config = VolcengineConfig::new(auth, Styles::shipped(&model()));
    config.loras = KnownLoras::new(|name| name == "Colorwater_v4");
    config
}

fn open() -> Volcengine {
    Volcengine::new(config(Auth::Off))
}

fn key() -> AccessKey {
    AccessKey { id: "AKLTEXAMPLE".to_owned(), secret: "U0tFWEFNUExF".to_owned(), session_token: None }
}

fn post(target: &str, body: impl Into<Bytes>) -> HttpRequest {
    let headers = [("host", "127.0.0.1:8080"), ("content-type", "application/json")];
    HttpRequest {
        method: "POST".to_owned(),
        target: target.to_owned(),
        headers: headers.map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec())).to_vec(),
        body: body.into(),
    }
}

fn file(width: u32, height: u32, format: Format) -> Vec<u8> {
    let size = Size::new(width, height).expect("possible");
    let pixels = (0..size.pixels() * 3).map(|place| (place * 37 % 251) as u8).collect();
    let picture = Picture::new(size, Channels::Rgb, pixels).expect("as many bytes");
    encode(&picture, format, None).expect("it fits")
}

fn photo() -> String {
    STANDARD.encode(file(60, 80, Format::Jpeg))
}

/// The least body, with these members beside.
fn body(members: &Value) -> String {
    let mut body = json!({"req_key": KEY, "binary_data_base64": [photo()]});
    for (name, value) in members.as_object().expect("an object") {
        body[name] = value.clone();
    }
    body.to_string()
}

fn received(protocol: &Volcengine, request: &HttpRequest) -> Result<Call, Reply> {
    match protocol.receive(request, &context())? {
        Received::Call(call) => Ok(*call),
        Received::Fetch(fetch) => panic!("it wants pictures: {fetch:?}"),
    }
}

fn call(target: &str, body: impl Into<Bytes>) -> Call {
    let result = received(&open(), &post(target, body));
    result.unwrap_or_else(|reply| panic!("{:?}", String::from_utf8_lossy(&reply.body)))
}

fn json_of(reply: &Reply) -> Value {
    serde_json::from_slice(&reply.body).expect("JSON")
}
