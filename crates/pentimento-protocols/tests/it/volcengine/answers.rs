use super::{KEY, PROCESS, REQUEST_ID, body, call, json_of, open};
use pentimento_protocols::{Answer, Finished, Protocol, TaskReport, TaskState};
use pentimento_request::{ErrorKind, GenerateError, Verdict};
use serde_json::{Value, json};
use std::time::Duration;

const STYLIZE: &str = "/?Action=AIGCStylizeImageUsage&Version=2024-06-06";
const SUBMIT: &str = "/?Action=CVSync2AsyncSubmitTask&Version=2022-08-31";
const POLL: &str = "/?Action=CVSync2AsyncGetResult&Version=2022-08-31";
const OLD_POLL: &str = "/?Action=CVGetResult&Version=2022-08-31";
const CANCEL: &str = "/?Action=CVCancelTask&Version=2024-06-06";

fn finished(link: Option<&str>, verdict: Verdict) -> Finished {
    let file = if link.is_some() { "" } else { "hello" };
    Finished { file: file.into(), link: link.map(str::to_owned), seed: 7, verdict, latency: Duration::ZERO }
}

fn answered(target: &str, body: &str, answer: &Answer) -> (u16, Value) {
    let reply = open().answer(&call(target, body.to_owned()), Ok(answer));
    assert!(reply.headers.contains(&("x-tt-logid", REQUEST_ID.to_owned())));
    assert!(reply.headers.contains(&("content-type", "application/json; charset=utf-8".to_owned())));
    (reply.status, json_of(&reply))
}

fn failed(target: &str, body: &str, kind: ErrorKind) -> (u16, Value) {
    let error = GenerateError::new(kind, "secret");
    let reply = open().answer(&call(target, body.to_owned()), Err(&error));
    (reply.status, json_of(&reply))
}

fn task(state: TaskState, finished: Option<Finished>) -> Answer {
    Answer::Task(TaskReport { id: "7392616336519610409".to_owned(), state, finished })
}

fn question() -> String {
    json!({"req_key": KEY, "task_id": "7392616336519610409"}).to_string()
}

#[test]
fn a_picture_in_the_flat_body() {
    let picture = Answer::Picture(finished(None, Verdict::Clean));
    let reply = open().answer(&call(PROCESS, body(&json!({}))), Ok(&picture));
    assert_eq!(
        String::from_utf8_lossy(&reply.body),
        format!(
            r#"{{"code":10000,"data":{{"algorithm_base_resp":{{"status_code":0,"status_message":"Success"}},"binary_data_base64":["aGVsbG8="]}},"message":"Success","request_id":"{REQUEST_ID}","status":10000,"time_elapsed":"84.448µs"}}"#
        )
    );
}

#[test]
fn a_link_and_a_label() {
    let wire = body(&json!({"return_url": true, "aigc_meta": {"producer_id": "1"}}));
    let (status, told) =
        answered(PROCESS, &wire, &Answer::Picture(finished(Some("http://x/y"), Verdict::Clean)));
    let data = &told["data"];
    assert_eq!(
        (status, &data["image_urls"], &data["binary_data_base64"]),
        (200, &json!(["http://x/y"]), &json!([]))
    );
    assert_eq!(data["aigc_meta_tagged"], true);
}

#[test]
fn the_newer_version_wraps_the_same_body() {
    let picture = Answer::Picture(finished(None, Verdict::Clean));
    let (_, flat) = answered(PROCESS, &body(&json!({})), &picture);
    let (status, told) = answered(STYLIZE, &body(&json!({})), &picture);
    assert_eq!((status, &told["Result"]), (200, &flat));
    assert_eq!(
        told["ResponseMetadata"],
        json!({
            "RequestId": REQUEST_ID, "Action": "AIGCStylizeImageUsage", "Version": "2024-06-06", "Service": "cv",
            "Region": "cn-north-1"
        })
    );
    let (status, told) = failed(STYLIZE, &body(&json!({})), ErrorKind::NoFace);
    assert_eq!((status, &told["ResponseMetadata"]["Error"]["Code"]), (400, &json!("60102")));
}

#[test]
fn a_picture_that_a_filter_took_away_is_an_error() {
    for verdict in Verdict::ALL {
        let (status, told) = answered(PROCESS, &body(&json!({})), &Answer::Picture(finished(None, verdict)));
        let is_taken = matches!(verdict, Verdict::Blurred | Verdict::Blocked);
        let expected = if is_taken { (400, 50511) } else { (200, 10000) };
        assert_eq!((status, told["code"].as_u64().unwrap_or_default()), expected, "{verdict:?}");
    }
}

#[test]
fn every_failure_has_its_code_and_keeps_its_secrets() {
    let table = [
        (ErrorKind::NoFace, 400, 60102),
        (ErrorKind::PromptRefused, 400, 50413),
        (ErrorKind::Overloaded, 429, 50430),
        (ErrorKind::RateLimited, 429, 50429),
        (ErrorKind::Cancelled, 500, 50500),
        (ErrorKind::ModelNotFound, 500, 50501),
        (ErrorKind::Internal, 500, 50501),
    ];
    for (kind, status, code) in table {
        let (told_status, told) = failed(PROCESS, &body(&json!({})), kind);
        assert_eq!(
            (told_status, &told["code"], &told["status"]),
            (status, &json!(code), &json!(code)),
            "{kind:?}"
        );
        assert!(!told.to_string().contains("secret"), "{told}");
    }
    let (_, told) = failed(PROCESS, &body(&json!({})), ErrorKind::Internal);
    assert_eq!(told["data"]["algorithm_base_resp"]["status_code"], 100_202);
    let (status, told) = failed(PROCESS, &body(&json!({})), ErrorKind::InvalidRequest);
    assert_eq!(
        (status, &told["code"], &told["message"]),
        (400, &json!(50200), &json!("Invalid Args: secret"))
    );
}

#[test]
fn time_and_shutdown_are_the_gateways_unless_a_task_ended_by_them() {
    for (kind, status, code, number) in [
        (ErrorKind::DeadlineExceeded, 504, "InternalServiceTimeout", 100_016),
        (ErrorKind::Unavailable, 503, "ServiceUnavailableTemp", 100_019),
    ] {
        let (told_status, told) = failed(PROCESS, &body(&json!({})), kind);
        let error = &told["ResponseMetadata"]["Error"];
        assert_eq!((told_status, &error["Code"], &error["CodeN"]), (status, &json!(code), &json!(number)));
        let (told_status, told) = failed(POLL, &question(), kind);
        assert_eq!((told_status, &told["code"]), (500, &json!(50500)));
    }
    let (status, _) = failed(SUBMIT, &body(&json!({})), ErrorKind::Unavailable);
    assert_eq!(status, 503);
}

#[test]
fn tasks_tell_where_they_stand() {
    let (status, told) = answered(SUBMIT, &body(&json!({})), &task(TaskState::Queued, None));
    assert_eq!((status, &told["data"]), (200, &json!({"task_id": "7392616336519610409"})));
    for (state, word) in [
        (TaskState::Queued, "in_queue"),
        (TaskState::Running, "generating"),
        (TaskState::NotFound, "not_found"),
        (TaskState::Expired, "expired"),
    ] {
        let (status, told) = answered(POLL, &question(), &task(state, None));
        assert_eq!((status, &told["data"]["status"]), (200, &json!(word)));
    }
    let done = task(TaskState::Done, Some(finished(None, Verdict::Unchecked)));
    let (_, told) = answered(POLL, &question(), &done);
    assert_eq!(
        (&told["data"]["status"], &told["data"]["binary_data_base64"]),
        (&json!("done"), &json!(["aGVsbG8="]))
    );
    let (status, told) = answered(OLD_POLL, &question(), &task(TaskState::NotFound, None));
    assert_eq!((status, &told["code"]), (400, &json!(50215)));
    let (status, told) = answered(POLL, &question(), &task(TaskState::Cancelled, None));
    assert_eq!((status, &told["code"]), (400, &json!(50215)));
}

#[test]
fn cancelling_answers_in_the_newer_envelope() {
    let (status, told) = answered(CANCEL, &question(), &task(TaskState::Cancelled, None));
    assert_eq!((status, &told["Result"]["code"]), (200, &json!(10000)));
    let (status, told) = answered(CANCEL, &question(), &task(TaskState::NotFound, None));
    assert_eq!((status, &told["ResponseMetadata"]["Error"]["Code"]), (400, &json!("50215")));
}
