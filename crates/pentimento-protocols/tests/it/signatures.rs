use crate::fixtures::{
    self, INVOKE, NOW, access_key, config, context, expect_error, guarded, header, now, post,
};
use pentimento_protocols::{
    Call, Context, HttpRequest, Protocol, Reply,
    bedrock::{AccessKey, Auth, Bedrock, Keyring, sign},
};
use serde_json::Value;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const BODY: &str = r#"{"text_prompts":[{"text":"cat"}]}"#;

/// The captured requests, each with its name and the time at which it was signed.
fn vectors() -> Vec<(String, HttpRequest, SystemTime)> {
    let file = include_str!("../data/sigv4_vectors.json");
    let vectors: Vec<Value> = serde_json::from_str(file).expect("a list of vectors");
    vectors.iter().map(vector).collect()
}

fn vector(vector: &Value) -> (String, HttpRequest, SystemTime) {
    let text = |key: &str| vector[key].as_str().expect("a text").to_owned();
    let headers = vector["headers"].as_array().expect("a list").iter().map(|pair| {
        let part = |index: usize| pair[index].as_str().expect("a text").to_owned();
        (part(0).to_lowercase(), part(1).into_bytes())
    });
    let request = HttpRequest {
        method: text("method"),
        target: text("target_as_sent"),
        headers: headers.collect(),
        body: text("body").into(),
    };
    let date = request.header("x-amz-date").expect("a date");
    // All were captured on 2026-11-21, whose midnight is 20:50:28 before NOW.
    let clock = |from: usize| date[from..from + 2].parse::<u64>().expect("digits");
    let midnight = NOW - (20 * 3600 + 50 * 60 + 28);
    let seconds = midnight + clock(9) * 3600 + clock(11) * 60 + clock(13);
    (text("name"), request, UNIX_EPOCH + Duration::from_secs(seconds))
}

/// Whether the signature of a request was taken: everything that is checked after it may still be wrong.
fn denied(protocol: &Bedrock, request: &HttpRequest, now: SystemTime) -> Option<Reply> {
    let reply = protocol.receive(request, &Context { now, ..context() }).err()?;
    (reply.status == 403 || reply.error == Some("IncompleteSignatureException")).then_some(reply)
}

fn signed(body: &str) -> HttpRequest {
    let mut request = post(INVOKE, &[("host", "127.0.0.1:8080")], body.to_owned());
    sign(&mut request, &access_key(), now(), "eu-central-1");
    request
}

fn replace(request: &mut HttpRequest, name: &str, change: impl Fn(&str) -> String) {
    let (_, value) = request.headers.iter_mut().find(|(key, _)| key == name).expect("the header is there");
    *value = change(std::str::from_utf8(value).expect("text")).into_bytes();
}

fn receive(request: &HttpRequest) -> Result<Call, Reply> {
    fixtures::receive(&guarded(), request)
}

#[test]
fn all_ten_captured_requests_are_let_in() {
    let vectors = vectors();
    assert_eq!(vectors.len(), 10);
    for (name, request, signed_at) in vectors {
        if let Some(reply) = denied(&guarded(), &request, signed_at) {
            panic!("{name}: {:?}", reply.body);
        }
    }
}

#[test]
fn no_captured_request_survives_a_change() {
    for (name, request, signed_at) in vectors() {
        let mut changed: Vec<(String, HttpRequest)> = Vec::new();
        let mut change = |what: &str, alter: &dyn Fn(&mut HttpRequest)| {
            let mut request = request.clone();
            alter(&mut request);
            changed.push((what.to_owned(), request));
        };
        change("method", &|request| request.method = "PUT".into());
        change("path", &|request| request.target = request.target.replacen("/model/", "/model/x", 1));
        change("query", &|request| request.target.push_str("?a=1"));
        change("body", &|request| request.body = [request.body.as_ref(), b" "].concat().into());
        change("signature", &|request| {
            replace(request, "authorization", |value| {
                let (rest, last) = value.split_at(value.len() - 1);
                format!("{rest}{}", if last == "0" { "1" } else { "0" })
            });
        });
        change("access key", &|request| {
            replace(request, "authorization", |value| value.replace("AKIDEXAMPLE", "AKIDOTHER"));
        });
        change("region", &|request| {
            replace(request, "authorization", |value| value.replace("/bedrock/", "x/bedrock/"));
        });
        change("service", &|request| {
            replace(request, "authorization", |value| value.replace("/bedrock/", "/s3/"));
        });
        let authorization = request.header("authorization").expect("a signature").to_owned();
        let signed_headers = authorization
            .split_once("SignedHeaders=")
            .and_then(|(_, rest)| rest.split_once(','))
            .map(|(names, _)| names.to_owned())
            .expect("signed headers");
        for header in signed_headers.split(';') {
            change(header, &|request| replace(request, header, |value| format!("{value}0")));
        }
        for (what, request) in changed {
            if what == "method" {
                // It is not even an operation then.
                let reply = guarded().receive(&request, &context()).expect_err("PUT is no operation");
                assert_eq!(reply.status, 404);
                continue;
            }
            assert!(denied(&guarded(), &request, signed_at).is_some(), "{name}: changed {what}");
        }
    }
}

#[test]
fn our_own_signatures_are_taken_in_any_region() {
    let call = receive(&signed(BODY)).expect("a signed request");
    assert!(call.same_work.is_none());
}

#[test]
fn a_wrong_secret_is_told_in_the_services_words() {
    let mut request = post(INVOKE, &[("host", "h")], BODY);
    sign(&mut request, &AccessKey { secret: "other".into(), ..access_key() }, now(), "us-east-1");
    let reply = receive(&request).expect_err("the secret is wrong");
    assert_eq!(
        expect_error(&reply, 403, "InvalidSignatureException"),
        "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access \
         Key and signing method. Consult the service documentation for details."
    );
    assert_eq!(reply.body.len(), 192, "as long as the service's own");
    assert_eq!(
        header(&reply, "x-amzn-errortype"),
        Some("InvalidSignatureException:http://internal.amazon.com/coral/com.amazon.coral.service/")
    );
}

#[test]
fn an_unknown_key_is_told_in_the_services_words() {
    let mut request = post(INVOKE, &[("host", "h")], BODY);
    sign(&mut request, &AccessKey { id: "AKIDOTHER".into(), ..access_key() }, now(), "us-east-1");
    let reply = receive(&request).expect_err("the key is unknown");
    assert_eq!(
        expect_error(&reply, 403, "UnrecognizedClientException"),
        "The security token included in the request is invalid."
    );
}

#[test]
fn no_credentials_at_all_are_told_in_the_services_words() {
    let reply = receive(&post(INVOKE, &[("host", "h")], BODY)).expect_err("no signature");
    expect_error(&reply, 403, "AccessDeniedException");
    assert_eq!(&reply.body[..], br#"{"Message":"Authorization header is missing"}"#);
}

#[test]
fn clocks_may_be_off_by_five_minutes() {
    let request = signed(BODY);
    let at = |offset: i64| Context {
        now: UNIX_EPOCH + Duration::from_secs(NOW.saturating_add_signed(offset)),
        ..context()
    };
    for offset in [-300, 0, 300] {
        assert!(guarded().receive(&request, &at(offset)).is_ok(), "{offset} s");
    }
    let expired = guarded().receive(&request, &at(301)).expect_err("too old");
    assert_eq!(
        expect_error(&expired, 403, "InvalidSignatureException"),
        "Signature expired: 20261121T205028Z is now earlier than 20261121T205029Z (20261121T205529Z - 5 min.)"
    );
    let early = guarded().receive(&request, &at(-301)).expect_err("too early");
    assert_eq!(
        expect_error(&early, 403, "InvalidSignatureException"),
        "Signature not yet current: 20261121T205028Z is still later than 20261121T205027Z (20261121T204527Z + 5 min.)"
    );
}

#[test]
fn incomplete_signatures_say_what_is_missing() {
    type Alter = dyn Fn(&mut HttpRequest);
    let table: [(&str, &Alter, &str); 7] = [
        ("scheme", &|request| replace(request, "authorization", |_| "Basic eDp5".into()), "must begin with"),
        (
            "credential",
            &|request| replace(request, "authorization", |value| value.replace("Credential=", "C=")),
            "'Credential'",
        ),
        (
            "scope",
            &|request| replace(request, "authorization", |value| value.replace("/bedrock", "")),
            "5 slash-delimited",
        ),
        (
            "headers",
            &|request| replace(request, "authorization", |value| value.replace("SignedHeaders=", "S=")),
            "'SignedHeaders'",
        ),
        (
            "signature",
            &|request| {
                replace(request, "authorization", |value| value.replace("Signature=", "Signature=xyz"))
            },
            "hexadecimal",
        ),
        (
            "date",
            &|request| request.headers.retain(|(name, _)| name != "x-amz-date"),
            "'X-Amz-Date' or a 'Date'",
        ),
        ("unreadable date", &|request| replace(request, "x-amz-date", |_| "yesterday".into()), "'yesterday'"),
    ];
    for (what, alter, part) in table {
        let mut request = signed(BODY);
        alter(&mut request);
        let text = expect_error(&receive(&request).expect_err(what), 400, "IncompleteSignatureException");
        assert!(text.contains(part), "{what}: {text}");
    }
}

#[test]
fn a_signature_for_something_else_is_refused() {
    let table: [(&str, &str, &str); 4] = [
        ("/bedrock/", "/s3/", "correct service: 'bedrock'"),
        ("aws4_request", "aws5_request", "valid terminator: 'aws4_request'"),
        ("/20261121/", "/20261120/", "Date in Credential scope"),
        ("SignedHeaders=host;", "SignedHeaders=", "'Host' or ':authority' must be a 'SignedHeader'"),
    ];
    for (from, to, part) in table {
        let mut request = signed(BODY);
        replace(&mut request, "authorization", |value| value.replace(from, to));
        let text = expect_error(&receive(&request).expect_err(part), 403, "InvalidSignatureException");
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn a_header_signed_twice_is_refused() {
    let mut request = signed(BODY);
    let many = "host;".repeat(5000);
    replace(&mut request, "authorization", |value| value.replace("host;", &many));
    assert!(receive(&request).is_err());
}

#[test]
fn the_bodys_hash_is_checked_where_it_is_sent() {
    let mut request = signed(BODY);
    request.headers.push(("x-amz-content-sha256".into(), "0".repeat(64).into_bytes()));
    let text = expect_error(&receive(&request).expect_err("wrong hash"), 403, "InvalidSignatureException");
    assert!(text.contains("x-amz-content-sha256"), "{text}");
}

#[test]
fn unsigned_bodies_need_tls() {
    // Signed by another implementation of SigV4 over the hash UNSIGNED-PAYLOAD.
    let mut request = post(
        INVOKE,
        &[
            ("host", "h"),
            ("x-amz-date", "20261121T205028Z"),
            ("x-amz-content-sha256", "UNSIGNED-PAYLOAD"),
            ("authorization", UNSIGNED_PAYLOAD_AUTHORIZATION),
        ],
        BODY,
    );
    let text = expect_error(&receive(&request).expect_err("cleartext"), 403, "InvalidSignatureException");
    assert!(text.contains("HTTPS"), "{text}");
    let secure = Context { secure: true, ..context() };
    assert!(guarded().receive(&request, &secure).is_ok());
    replace(&mut request, "x-amz-date", |_| "20261121T205029Z".into());
    assert!(guarded().receive(&request, &secure).is_err());
}

const UNSIGNED_PAYLOAD_AUTHORIZATION: &str = "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20261121/us-east-1/bedrock/aws4_request, \
     SignedHeaders=host;x-amz-content-sha256;x-amz-date, Signature=afba37ef80d06482a9744ed0e5116bbcbc3b2759c9006021d122efeda6e5a7aa";

#[test]
fn a_date_header_does_as_well() {
    let mut request = signed(BODY);
    request.headers.retain(|(name, _)| name != "x-amz-date" && name != "authorization");
    request.headers.push(("date".into(), b"Sat, 21 Nov 2026 20:50:28 GMT".to_vec()));
    request.headers.push(("authorization".into(), DATE_AUTHORIZATION.as_bytes().to_vec()));
    assert!(receive(&request).is_ok());
}

const DATE_AUTHORIZATION: &str = "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20261121/us-east-1/bedrock/aws4_request, \
     SignedHeaders=date;host, Signature=d2db05f77a5d03fa0534e4ab0567a116f4e910d06ebbdc929cdbd43e007da64c";

#[test]
fn paths_with_dots_and_queries_are_signed_as_clients_sign_them() {
    for target in [
        "/model/stability.stable-diffusion-xl-v1:0/invoke",
        "/model/stability.stable-diffusion-xl-v1%3a0/invoke?x=1&a=%20b&flag",
        "/model/arn%3Aaws%3Abedrock%3Aus-east-1%3A%3Afoundation-model%2Fstability.stable-diffusion-xl-v1/invoke",
    ] {
        let mut request = post(target, &[("host", "h")], BODY);
        sign(&mut request, &access_key(), now(), "us-east-1");
        assert!(receive(&request).is_ok(), "{target}");
    }
}

#[test]
fn a_session_token_is_compared_where_one_is_set() {
    let key = AccessKey { session_token: Some("token".into()), ..access_key() };
    let keyring = Keyring { access_keys: vec![key.clone()], api_keys: Vec::new() };
    let protocol = Bedrock::new(config(Auth::Required(keyring)));
    let with_token = |token: Option<&str>| {
        let mut request = post(INVOKE, &[("host", "h")], BODY);
        let key = AccessKey { session_token: token.map(str::to_owned), ..key.clone() };
        sign(&mut request, &key, now(), "us-east-1");
        request
    };
    assert!(protocol.receive(&with_token(Some("token")), &context()).is_ok());
    for wrong in [None, Some("other"), Some("toke")] {
        let reply = protocol.receive(&with_token(wrong), &context()).expect_err("another token");
        expect_error(&reply, 403, "UnrecognizedClientException");
    }
    assert!(receive(&with_token(Some("anything"))).is_ok(), "no token is set");
}

#[test]
fn bearer_keys_open_the_door() {
    for value in ["Bearer first-key", "bearer second-key", "Bearer  first-key "] {
        assert!(receive(&post(INVOKE, &[("authorization", value)], BODY)).is_ok(), "{value}");
    }
    for value in ["Bearer third-key", "Bearer first-ke", "Bearer first-keyx", "Bearer ", "Bearer"] {
        let reply = receive(&post(INVOKE, &[("authorization", value)], BODY)).expect_err(value);
        expect_error(&reply, 403, "AccessDeniedException");
        assert_eq!(
            &reply.body[..],
            br#"{"Message":"Authentication failed: Please make sure your API Key is valid."}"#
        );
    }
}

#[test]
fn an_empty_key_lets_nobody_in() {
    let protocol =
        Bedrock::new(config(Auth::Required(Keyring { api_keys: vec![String::new()], ..Keyring::default() })));
    assert!(protocol.receive(&signed(BODY), &context()).is_err());
    assert!(protocol.receive(&post(INVOKE, &[("authorization", "Bearer ")], BODY), &context()).is_err());
    assert!(protocol.receive(&post(INVOKE, &[("authorization", "Bearer x")], BODY), &context()).is_err());
}

#[test]
fn nothing_about_the_body_is_told_to_strangers() {
    let reply = receive(&post(INVOKE, &[("content-type", "text/plain")], "{")).expect_err("no signature");
    expect_error(&reply, 403, "AccessDeniedException");
}
