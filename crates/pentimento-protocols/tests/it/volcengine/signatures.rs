use super::{PROCESS, body, config, context, json_of, key, now, post};
use pentimento_protocols::{
    Context, HttpRequest, Protocol,
    volcengine::{AccessKey, Auth, Volcengine, sign},
};
use serde_json::json;
use std::time::{Duration, UNIX_EPOCH};

fn guarded(key: AccessKey) -> Volcengine {
    Volcengine::new(config(Auth::Required(vec![key])))
}

fn signed(target: &str, key: &AccessKey) -> HttpRequest {
    let mut request = post(target, body(&json!({})));
    sign(&mut request, key, now(), "cn-beijing", "cv");
    request
}

fn set(request: &mut HttpRequest, name: &str, value: Option<&str>) {
    request.headers.retain(|(key, _)| key != name);
    request.headers.extend(value.map(|value| (name.to_owned(), value.as_bytes().to_vec())));
}

/// Status and code of the gateway's refusal, `None` where there is none.
fn refusal(protocol: &Volcengine, request: &HttpRequest, context: &Context) -> Option<(u16, String)> {
    let reply = protocol.receive(request, context).err()?;
    let code =
        json_of(&reply)["ResponseMetadata"]["Error"]["Code"].as_str().expect("the gateway's").to_owned();
    Some((reply.status, code))
}

#[test]
fn a_signed_request_names_its_caller() {
    let received = guarded(key()).receive(&signed(PROCESS, &key()), &context()).expect("it is signed");
    let pentimento_protocols::Received::Call(call) = received else { panic!("nothing to fetch") };
    assert_eq!(call.caller.as_deref(), Some("AKLTEXAMPLE"));
}

#[test]
fn what_is_wrong_with_a_signature_is_told() {
    type Change = fn(&mut HttpRequest);
    let table: Vec<(Change, u16, &str)> = vec![
        (|request| set(request, "authorization", None), 401, "MissingAuthenticationToken"),
        (|request| set(request, "authorization", Some("Bearer x")), 400, "InvalidAuthorization"),
        (|request| set(request, "x-date", None), 400, "MissingRequestInfo"),
        (|request| set(request, "x-date", Some("yesterday")), 400, "InvalidTimestamp"),
        (|request| set(request, "x-date", Some("20240523T125945Z")), 400, "InvalidCredential"),
        (|request| set(request, "x-content-sha256", Some("00")), 401, "SignatureDoesNotMatch"),
        (|request| set(request, "content-type", Some("text/plain")), 401, "SignatureDoesNotMatch"),
        (|request| set(request, "host", Some("127.0.0.1:8081")), 401, "SignatureDoesNotMatch"),
        (|request| request.body = "{}".into(), 401, "SignatureDoesNotMatch"),
        (|request| request.target.push_str("&x=1"), 401, "SignatureDoesNotMatch"),
        (|request| request.method = "GET".into(), 401, "SignatureDoesNotMatch"),
    ];
    for (index, (change, status, code)) in table.into_iter().enumerate() {
        let mut request = signed(PROCESS, &key());
        change(&mut request);
        let told = refusal(&guarded(key()), &request, &context());
        assert_eq!(told, Some((status, code.to_owned())), "case {index}");
    }
    let other = AccessKey { id: "AKLTOTHER".to_owned(), ..key() };
    let told = refusal(&guarded(key()), &signed(PROCESS, &other), &context());
    assert_eq!(told, Some((401, "InvalidAccessKey".to_owned())));
    let other = AccessKey { secret: "x".to_owned(), ..key() };
    let told = refusal(&guarded(key()), &signed(PROCESS, &other), &context());
    assert_eq!(told, Some((401, "SignatureDoesNotMatch".to_owned())));
    let mut request = post(PROCESS, body(&json!({})));
    sign(&mut request, &key(), now(), "cn-north-1", "s3");
    assert_eq!(refusal(&guarded(key()), &request, &context()), Some((404, "ServiceNotFound".to_owned())));
}

#[test]
fn clocks_may_be_off_by_fifteen_minutes_or_as_the_query_says() {
    let at = |offset: i64| Context {
        now: UNIX_EPOCH + Duration::from_secs(1_716_382_785_u64.saturating_add_signed(offset)),
        ..context()
    };
    let expired = Some((400, "InvalidTimestamp".to_owned()));
    let check = |target: &str, offset| refusal(&guarded(key()), &signed(target, &key()), &at(offset));
    for (offset, expected) in [(-901, &expired), (-900, &None), (0, &None), (900, &None), (901, &expired)] {
        assert_eq!(check(PROCESS, offset), *expected, "{offset}");
    }
    let short = format!("{PROCESS}&X-Expires=60");
    assert_eq!((check(&short, 60), check(&short, 61)), (None, expired.clone()));
    let long = format!("{PROCESS}&X-Expires=3600");
    assert_eq!((check(&long, 3600), check(&long, 3601)), (None, expired.clone()));
    for wrong in ["0", "-1", "x", "99999999"] {
        assert_eq!(check(&format!("{PROCESS}&X-Expires={wrong}"), 0), expired, "{wrong}");
    }
}

#[test]
fn a_session_token_is_wanted_where_one_is_configured() {
    let with_token = AccessKey { session_token: Some("STS".to_owned()), ..key() };
    let protocol = guarded(with_token.clone());
    assert_eq!(refusal(&protocol, &signed(PROCESS, &with_token), &context()), None);
    assert_eq!(refusal(&guarded(key()), &signed(PROCESS, &with_token), &context()), None);
    let bad = Some((401, "InvalidSecretToken".to_owned()));
    assert_eq!(refusal(&protocol, &signed(PROCESS, &key()), &context()), bad);
    let other = AccessKey { session_token: Some("STX".to_owned()), ..key() };
    assert_eq!(refusal(&protocol, &signed(PROCESS, &other), &context()), bad);
}

#[test]
fn strangers_learn_nothing_of_actions() {
    let request = post("/?Action=Nosuch&Version=2022-08-31", "{}");
    let told = refusal(&guarded(key()), &request, &context());
    assert_eq!(told, Some((401, "MissingAuthenticationToken".to_owned())));
}

#[test]
fn secrets_are_not_printed() {
    let shown = format!("{:?}", guarded(AccessKey { session_token: Some("STS".to_owned()), ..key() }));
    assert!(!shown.contains("U0tFWEFNUExF") && !shown.contains("STS\""), "{shown}");
}
