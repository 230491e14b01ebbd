//! A kernel that panics in the middle of a picture: what each protocol's caller is answered, and that nothing else is harmed.

use crate::{
    program::{Folder, repository},
    serve::{Server, invoke},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use pentimento_imaging::read_receipt;
use serde_json::{Value, json};
use std::{
    fs,
    time::{Duration, Instant},
};

const STYLE: &str = "img2img_pastel_boys_style_usage";

/// How long a task may take on a loaded machine before the test fails.
const PATIENCE: Duration = Duration::from_secs(120);

/// Asks one of Volcengine's actions; answers status and body.
fn cloud(server: &Server, action: &str, body: &Value) -> (u16, Value) {
    let (status, answer) =
        server.ask(&format!("POST /?Action={action}&Version=2022-08-31"), &body.to_string());
    let text = String::from_utf8_lossy(&answer);
    assert!(!text.contains("told to"), "what the panic said is for the log: {text}");
    (status, serde_json::from_slice(&answer).expect("JSON"))
}

/// The hash of an answer's pixels; its file differs each time, since it tells how long drawing took.
fn pixels(answer: &Value) -> String {
    let text =
        answer["data"]["binary_data_base64"][0].as_str().unwrap_or_else(|| panic!("no picture in {answer}"));
    let receipt = read_receipt(&STANDARD.decode(text).expect("base64")).expect("a receipt");
    receipt["pixels_hash"].as_str().expect("a hash").to_owned()
}

/// The task's answer once it is neither waiting nor being drawn.
fn end_of(server: &Server, submitted: &Value) -> (u16, Value) {
    let question = json!({"req_key": STYLE, "task_id": submitted["data"]["task_id"]});
    let begun = Instant::now();
    loop {
        let (status, answer) = cloud(server, "CVSync2AsyncGetResult", &question);
        if status != 200 || answer["data"]["status"] == "done" {
            return (status, answer);
        }
        assert!(begun.elapsed() < PATIENCE, "{answer}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_kernel_that_panics_fails_its_own_picture_in_either_protocol_and_the_next_one_is_drawn_as_ever() {
    let folder = Folder::new();
    let config = folder.write(
        "pentimento.toml",
        format!("model = {:?}", repository("reference/goldens/models/tiny-sd15")).as_bytes(),
    );
    let options = ["--no-auth", "--threads", "2", "--config", &config];
    let server = Server::start(&options, &[("PENTIMENTO_TEST_PANICS", "2,4,6,8")]);
    let photo = STANDARD.encode(fs::read(repository("examples/scene.png")).expect("a picture"));
    let style = json!({
        "req_key": STYLE, "binary_data_base64": [photo], "prompt": "a cat", "seed": 7, "ddim_steps": 4,
        "long_resolution": 256, "canny_weight": 0,
    });
    let first = cloud(&server, "CVProcess", &style); // The first picture, untouched.
    assert_eq!(first.0, 200, "{}", first.1);
    let picture = pixels(&first.1);

    let (status, answer) = cloud(&server, "CVProcess", &style);
    assert_eq!((status, &answer["code"]), (500, &json!(50501)), "{answer}");
    assert_eq!(answer["data"]["binary_data_base64"], json!([]), "{answer}");
    let (status, answer) = cloud(&server, "CVProcess", &style);
    assert_eq!((status, pixels(&answer)), (200, picture.clone()), "the very same picture");

    let (target, text) = invoke(&json!({"text_prompts": [{"text": "a cat"}], "seed": 7, "steps": 10}));
    let (status, answer) = server.ask(&target, &text);
    let answer = String::from_utf8_lossy(&answer);
    assert!(status == 500 && answer.contains("message") && !answer.contains("told to"), "{status} {answer}");
    assert_eq!(server.ask(&target, &text).0, 200);

    // A stream has said 200 by then: its last event is the exception.
    let (status, answer) = server.ask(&format!("{target}-with-response-stream"), &text);
    let answer = String::from_utf8_lossy(&answer);
    let refused = status == 500 || answer.contains("internalServerException");
    assert!(refused && !answer.contains("told to"), "{status} {answer}");
    assert_eq!(server.ask(&format!("{target}-with-response-stream"), &text).0, 200);

    let (status, failing) = cloud(&server, "CVSync2AsyncSubmitTask", &style);
    assert_eq!(status, 200, "{failing}");
    for _ in 0..2 {
        let (status, answer) = end_of(&server, &failing);
        assert_eq!((status, &answer["code"]), (500, &json!(50501)), "it stays failed: {answer}");
    }
    let (_, next) = cloud(&server, "CVSync2AsyncSubmitTask", &style);
    let (status, answer) = end_of(&server, &next);
    assert_eq!((status, pixels(&answer)), (200, picture));

    let (_, metrics) = server.ask("GET /metrics", "");
    let metrics = String::from_utf8(metrics).expect("text");
    assert!(metrics.contains("pentimento_panics_total 4"), "{metrics}");
}
