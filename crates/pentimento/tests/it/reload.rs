//! A new configuration for a running server.

use crate::{program::Folder, serve::Server};
use serde_json::{Value, json};
use std::{
    fs,
    time::{Duration, Instant},
};

/// Asks until the answer is as expected: what a signal sets off has no moment at which it is done.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        std::thread::yield_now();
    }
}

fn ask(server: &Server, id: &str, key: &str) -> (u16, Value) {
    let body = json!({ "text_prompts": [{ "text": "x" }], "steps": 10, "seed": 1 }).to_string();
    let (status, answer) = server.ask_as(
        &format!("POST /model/{id}/invoke"),
        &format!("authorization: Bearer {key}\r\n"),
        &body,
    );
    (status, serde_json::from_slice(&answer).unwrap_or_default())
}

#[cfg(unix)]
#[test]
fn a_changed_file_holds_at_once_and_a_wrong_one_not_at_all() {
    let folder = Folder::new();
    let log = folder.path("log");
    let config = |keys: &str, models: &str| format!("[auth]\napi_keys = [\"{keys}\"]\n[models]\n{models}\n");
    let path = folder.write("p.toml", config("one", "a = \"default\"").as_bytes());
    let file = fs::File::create(&log).expect("a file");
    let server = Server::start_logged(&["--config", &path], &[], file.into());
    assert_eq!(ask(&server, "a", "one").0, 200);
    assert_eq!(ask(&server, "b", "one").0, 400);

    folder.write("p.toml", config("two", "b = \"default\"").as_bytes());
    until("the new key is taken", || ask(&server, "c", "two").0 == 400);
    assert_eq!(ask(&server, "a", "one").0, 403, "the old key is not");
    assert_eq!(ask(&server, "b", "two").0, 200);
    assert_eq!(ask(&server, "a", "two").0, 400);

    let log = || fs::read_to_string(&log).expect("it is text");
    for (wrong, part) in [
        (config("three", "a = \"nosuch\""), "nosuch"),
        ("[limits]\nqeue = 3".to_owned(), "qeue"),
        ("[limits]\nmodel_memory_bytes = 1000".to_owned(), "1000"),
    ] {
        folder.write("p.toml", wrong.as_bytes());
        until(part, || log().lines().any(|line| line.contains("refused") && line.contains(part)));
        assert_eq!(ask(&server, "b", "two").0, 200, "what held before still holds");
    }
    let fixed = config("four", "[limits]\nqueue = 3");
    folder.write("p.toml", fixed.as_bytes());
    until("what cannot be changed is told", || {
        log().contains("[limits], [results], [fetch] and [connections] of the server")
    });
    assert_eq!(ask(&server, "c", "four").0, 400);
    assert_eq!(server.end().0, Some(0));
}

#[cfg(unix)]
#[test]
fn a_model_put_into_the_folder_answers_to_its_name_after_a_hangup() {
    let folder = Folder::new();
    let data = folder.path("");
    let server = Server::start(&["--data-dir", &data], &[("PENTIMENTO_API_KEYS", "key")]);
    assert_eq!(ask(&server, "mine", "key").0, 400);
    crate::broken::copy_model(&folder.path("models/mine"));
    server.signal("-HUP");
    until("the model is served", || ask(&server, "mine", "key").0 == 200);
    // The embedded model answers beside it, each loaded when it was asked for.
    assert_eq!(ask(&server, "stability.stable-diffusion-xl-v1", "key").0, 200);
    let answer = ask(&server, "mine", "key").1;
    assert_eq!(answer["result"], "success");
    assert_eq!(server.end().0, Some(0));
}
