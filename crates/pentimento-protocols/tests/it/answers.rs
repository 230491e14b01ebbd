use crate::fixtures::{INVOKE, REQUEST_ID, STREAM, context, expect_error, header, open, post, receive};
use bytes::Bytes;
use pentimento_protocols::{Answer, Call, Finished, HttpRequest, Protocol, Refusal};
use pentimento_request::{ErrorKind, GenerateError, Verdict};
use serde_json::{Value, json};
use std::time::Duration;

const PNG: &[u8] = b"\x89PNG not really";
const SUCCESS: &str = r#"{"result":"success","artifacts":[{"seed":42,"base64":"iVBORyBub3QgcmVhbGx5","finishReason":"SUCCESS"}]}"#;

fn call(target: &str, headers: &[(&str, &str)]) -> Call {
    let request: HttpRequest = post(target, headers, r#"{"text_prompts":[{"text":"cat"}]}"#);
    receive(&open(), &request).expect("a good request")
}

fn finished() -> Answer {
    Answer::Picture(Finished {
        file: Bytes::from_static(PNG),
        link: None,
        seed: 42,
        verdict: Verdict::Clean,
        latency: Duration::from_micros(1_234_999),
    })
}

/// A frame's headers and payload.
type Frame = (Vec<(String, String)>, Vec<u8>);

/// Takes a stream of frames apart, checking lengths and sums: headers by name, and payload.
fn frames(mut stream: &[u8]) -> Vec<Frame> {
    let mut frames = Vec::new();
    let number = |bytes: &[u8]| u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    while !stream.is_empty() {
        let (length, headers_length) = (number(stream) as usize, number(&stream[4..]) as usize);
        let (frame, rest) = stream.split_at(length);
        assert_eq!(number(&frame[8..]), crc32fast::hash(&frame[..8]));
        assert_eq!(number(&frame[length - 4..]), crc32fast::hash(&frame[..length - 4]));
        let mut headers = Vec::new();
        let mut left = &frame[12..12 + headers_length];
        while let [name_length, after @ ..] = left {
            let (name, after) = after.split_at(usize::from(*name_length));
            assert_eq!(after[0], 7);
            let value_length = usize::from(u16::from_be_bytes([after[1], after[2]]));
            let (value, after) = after[3..].split_at(value_length);
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
            headers.push((text(name), text(value)));
            left = after;
        }
        frames.push((headers, frame[12 + headers_length..length - 4].to_vec()));
        stream = rest;
    }
    frames
}

fn event(frame: &Frame) -> [&str; 3] {
    [0, 1, 2].map(|index| frame.0[index].1.as_str())
}

#[test]
fn a_picture_is_answered_as_json() {
    let reply = open().answer(&call(INVOKE, &[]), Ok(&finished()));
    assert_eq!((reply.status, reply.error), (200, None));
    assert_eq!(reply.body, SUCCESS);
    assert_eq!(header(&reply, "content-type"), Some("application/json"));
    assert_eq!(header(&reply, "x-amzn-requestid"), Some(REQUEST_ID));
    assert_eq!(header(&reply, "x-amzn-bedrock-invocation-latency"), Some("1234"));
    let body: Value = serde_json::from_slice(&reply.body).expect("JSON");
    assert_eq!(body["artifacts"][0]["seed"], 42);
}

#[test]
fn a_picture_is_answered_bare() {
    let reply = open().answer(&call(INVOKE, &[("accept", "image/png")]), Ok(&finished()));
    assert_eq!((reply.status, reply.body.as_ref()), (200, PNG));
    assert_eq!(header(&reply, "content-type"), Some("image/png"));
    assert_eq!(header(&reply, "finish-reason"), Some("SUCCESS"));
    assert_eq!(header(&reply, "seed"), Some("42"));
    assert!(header(&reply, "x-amzn-bedrock-invocation-latency").is_some());
}

#[test]
fn the_finish_reason_is_that_of_the_picture() {
    for verdict in Verdict::ALL {
        let Answer::Picture(drawn) = finished() else { unreachable!("a picture") };
        let drawn = Answer::Picture(Finished { verdict, ..drawn });
        let expected = if verdict.is_withheld() { "CONTENT_FILTERED" } else { "SUCCESS" };
        let reply = open().answer(&call(INVOKE, &[]), Ok(&drawn));
        let body: Value = serde_json::from_slice(&reply.body).expect("JSON");
        assert_eq!(body["artifacts"][0]["finishReason"], expected, "{verdict:?}");
        assert_eq!(body["result"], "success");
        let bare = open().answer(&call(INVOKE, &[("accept", "image/png")]), Ok(&drawn));
        assert_eq!(header(&bare, "finish-reason"), Some(expected), "{verdict:?}");
        let late = open().late_answer(&call(INVOKE, &[]), Ok(&drawn));
        assert_eq!(late, reply.body);
    }
}

#[test]
fn a_refused_prompt_is_the_containers_error_and_names_no_word() {
    let error = GenerateError::new(ErrorKind::PromptRefused, "the word 'secret' is not drawn here");
    let reply = open().answer(&call(INVOKE, &[]), Err(&error));
    assert_eq!((reply.status, reply.error), (400, Some("ValidationException")));
    let text = String::from_utf8_lossy(&reply.body);
    assert!(text.contains("'invalid_prompts', 'One or more prompts contains filtered words.'"), "{text}");
    assert!(!text.contains("secret"), "{text}");
    let late = open().late_answer(&call(INVOKE, &[]), Err(&error));
    let late: Value = serde_json::from_slice(&late).expect("JSON");
    assert_eq!(late["error"]["name"], "invalid_prompts");
    assert_eq!(late["error"]["message"], "One or more prompts contains filtered words.");
}

#[test]
fn a_picture_is_answered_as_one_chunk() {
    let reply = open().answer(&call(STREAM, &[]), Ok(&finished()));
    assert_eq!(header(&reply, "content-type"), Some("application/vnd.amazon.eventstream"));
    assert_eq!(header(&reply, "x-amzn-bedrock-content-type"), Some("application/json"));
    let frames = frames(&reply.body);
    assert_eq!(frames.len(), 1);
    assert_eq!(event(&frames[0]), ["chunk", "application/json", "event"]);
    assert_eq!(chunk_bytes(&frames[0].1), SUCCESS.as_bytes());
}

#[test]
fn a_picture_is_answered_bare_within_a_chunk() {
    let call = call(STREAM, &[("x-amzn-bedrock-accept", "image/png")]);
    let reply = open().answer(&call, Ok(&finished()));
    assert_eq!(header(&reply, "x-amzn-bedrock-content-type"), Some("image/png"));
    assert_eq!(chunk_bytes(&frames(&reply.body)[0].1), PNG);
}

fn chunk_bytes(payload: &[u8]) -> Vec<u8> {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let payload: Value = serde_json::from_slice(payload).expect("JSON");
    STANDARD.decode(payload["bytes"].as_str().expect("base64")).expect("base64")
}

/// Each kind of failure: status, exception, text, and the name in a stream.
fn failures() -> [(ErrorKind, u16, &'static str, &'static str, &'static str); 10] {
    let container = "bad_request\nsagemaker_inference.errors.BaseInferenceToolkitError: (400, 'bad_request', \"the \
                     generator's own words\")";
    let neutral = "The system encountered an unexpected error during processing. Try your request again.";
    [
        (ErrorKind::InvalidRequest, 400, "ValidationException", container, "validationException"),
        (ErrorKind::Unsupported, 400, "ValidationException", container, "validationException"),
        (ErrorKind::NoFace, 400, "ValidationException", container, "validationException"),
        (
            ErrorKind::ModelNotFound,
            404,
            "ResourceNotFoundException",
            "Could not resolve the foundation model from the provided model identifier.",
            "validationException",
        ),
        (
            ErrorKind::Overloaded,
            429,
            "ThrottlingException",
            "Too many requests, please wait before trying again.",
            "throttlingException",
        ),
        (
            ErrorKind::RateLimited,
            429,
            "ThrottlingException",
            "Too many requests, please wait before trying again.",
            "throttlingException",
        ),
        (
            ErrorKind::Unavailable,
            503,
            "ServiceUnavailableException",
            "The service is temporarily unable to handle the request. Try your request again.",
            "serviceUnavailableException",
        ),
        (
            ErrorKind::DeadlineExceeded,
            408,
            "ModelTimeoutException",
            "Model has timed out in processing the request. Try your request again.",
            "modelTimeoutException",
        ),
        (ErrorKind::Cancelled, 500, "InternalServerException", neutral, "internalServerException"),
        (ErrorKind::Internal, 500, "InternalServerException", neutral, "internalServerException"),
    ]
}

fn error(kind: ErrorKind) -> GenerateError {
    GenerateError::caused_by(kind, "the generator's own words", "a secret cause")
}

#[test]
fn each_kind_of_failure_has_its_exception() {
    for target in [INVOKE, STREAM] {
        for (kind, status, exception, text, _) in failures() {
            let reply = open().answer(&call(target, &[]), Err(&error(kind)));
            assert_eq!(expect_error(&reply, status, exception), text);
            let layer = "http://internal.amazon.com/coral/com.amazon.bedrock/";
            assert_eq!(header(&reply, "x-amzn-errortype"), Some(format!("{exception}:{layer}").as_str()));
            assert!(header(&reply, "x-amzn-bedrock-invocation-latency").is_none());
        }
    }
}

#[test]
fn late_failures_in_a_stream_are_exception_frames() {
    for (kind, _, _, text, member) in failures() {
        let rest = open().late_answer(&call(STREAM, &[]), Err(&error(kind)));
        let frames = frames(&rest);
        assert_eq!(frames.len(), 1);
        assert_eq!(frames[0].0[0], (":exception-type".to_owned(), member.to_owned()));
        assert_eq!(event(&frames[0]), [member, "application/json", "exception"]);
        let payload: Value = serde_json::from_slice(&frames[0].1).expect("JSON");
        assert_eq!(payload, json!({"message": text}));
    }
}

#[test]
fn late_failures_in_json_are_the_containers() {
    for (kind, _, _, text, _) in failures() {
        let rest = open().late_answer(&call(INVOKE, &[]), Err(&error(kind)));
        let body: Value = serde_json::from_slice(&rest).expect("JSON");
        let own_words =
            matches!(kind, ErrorKind::InvalidRequest | ErrorKind::Unsupported | ErrorKind::NoFace);
        let (name, message) =
            if own_words { ("bad_request", "the generator's own words") } else { ("generation_error", text) };
        let error = json!({"id": REQUEST_ID, "name": name, "message": message});
        assert_eq!(body, json!({"result": "error", "error": error}));
    }
}

#[test]
fn json_is_kept_alive_by_spaces() {
    let call = call(INVOKE, &[]);
    let keep_alive = open().keep_alive(&call).expect("JSON may begin with spaces");
    assert_eq!((keep_alive.head.status, keep_alive.head.body.len()), (200, 0));
    assert_eq!(header(&keep_alive.head, "content-type"), Some("application/json"));
    assert_eq!(header(&keep_alive.head, "x-amzn-requestid"), Some(REQUEST_ID));
    let rest = open().late_answer(&call, Ok(&finished()));
    let whole = [keep_alive.beat.as_ref(), &keep_alive.beat, &rest].concat();
    let body: Value = serde_json::from_slice(&whole).expect("spaces do no harm");
    assert_eq!(body["result"], "success");
}

#[test]
fn streams_are_kept_alive_by_events_that_nobody_knows() {
    let call = call(STREAM, &[]);
    let keep_alive = open().keep_alive(&call).expect("streams may hold other events");
    assert_eq!(header(&keep_alive.head, "content-type"), Some("application/vnd.amazon.eventstream"));
    assert_eq!(header(&keep_alive.head, "x-amzn-bedrock-content-type"), Some("application/json"));
    let rest = open().late_answer(&call, Ok(&finished()));
    let frames = frames(&[keep_alive.beat.as_ref(), &keep_alive.beat, &rest].concat());
    let names = frames.iter().map(|frame| event(frame)[0]).collect::<Vec<_>>();
    assert_eq!(names, ["ping", "ping", "chunk"]);
    assert_eq!(frames[0].1, b"{}");
}

#[test]
fn a_bare_picture_cannot_be_kept_alive() {
    assert!(open().keep_alive(&call(INVOKE, &[("accept", "image/png")])).is_none());
}

#[test]
fn refusals_have_their_exceptions() {
    let table = [
        (Refusal::BodyTooLarge, 413, "ValidationException", "at most 25000000 bytes"),
        (Refusal::BodyTooSlow, 408, "RequestTimeoutException", "did not arrive in time"),
        (Refusal::Overloaded, 429, "ThrottlingException", "Too many requests"),
        (Refusal::ShuttingDown, 503, "ServiceUnavailableException", "temporarily"),
        (Refusal::Internal, 500, "InternalServerException", "unexpected error"),
    ];
    for (refusal, status, exception, part) in table {
        let reply = open().refuse(refusal, &context());
        let text = expect_error(&reply, status, exception);
        assert!(text.contains(part), "{text}");
    }
    assert_eq!(open().body_limit(), 25_000_000);
}
