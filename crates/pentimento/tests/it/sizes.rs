//! Several models behind one server: each with its own size.

use crate::{program::Folder, serve::Server};
use serde_json::{Value, json};

fn ask(server: &Server, id: &str, body: &Value) -> (u16, Value) {
    let (status, answer) = server.ask(&format!("POST /model/{id}/invoke"), &body.to_string());
    (status, serde_json::from_slice(&answer).unwrap_or_default())
}

#[cfg(unix)]
#[test]
fn a_size_that_a_model_cannot_do_is_the_vendors_error() {
    let folder = Folder::new();
    let config = "[models]\nable = \"default\"\nsmall = { model = \"default\", pixels = 10_000 }\n";
    let path = folder.write("p.toml", config.as_bytes());
    let server = Server::start(&["--no-auth", "--config", &path], &[]);
    let body = |more: Value| {
        let mut body = json!({ "text_prompts": [{ "text": "x" }], "steps": 10, "seed": 1 });
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        body
    };
    let (status, answer) = ask(&server, "able", &body(json!({ "width": 512, "height": 512 })));
    assert_eq!((status, &answer["result"]), (200, &"success".into()), "{answer}");
    // The same request to a model that may not work at its own size.
    let (status, answer) = ask(&server, "small", &body(json!({ "width": 512, "height": 512 })));
    let message = answer["message"].as_str().unwrap_or_default();
    assert_eq!(status, 400, "{answer}");
    assert!(
        message.contains("bad_request") && message.contains("size: ") && message.contains("10000"),
        "{message}"
    );
    // Sizes that the vendor knows for none of them.
    for (size, part) in [
        (json!({ "width": 256, "height": 256 }), "invalid_pixel_count"),
        (json!({ "width": 2048, "height": 2048 }), "invalid_pixel_count"),
        (json!({ "width": 1000, "height": 1024 }), "width"),
    ] {
        for id in ["able", "small"] {
            let (status, answer) = ask(&server, id, &body(size.clone()));
            assert_eq!(status, 400, "{answer}");
            assert!(answer["message"].as_str().is_some_and(|message| message.contains(part)), "{answer}");
        }
    }
    let breaks = body(json!({ "text_prompts": [{ "text": "BREAK ".repeat(333) }] }));
    let (status, answer) = ask(&server, "able", &breaks);
    assert_eq!(status, 400, "{answer}");
    assert!(
        answer["message"].as_str().is_some_and(|message| message.contains("prompt: 333 BREAKs")),
        "{answer}"
    );
    assert_eq!(ask(&server, "third", &body(json!({}))).0, 400);
    assert_eq!(server.end().0, Some(0));
}
