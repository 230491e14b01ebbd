//! What is not drawn and what is not shown: a model whose checker objects to everything, and words that are refused.

use crate::{
    program::{Folder, copy_tree, picture, repository, run},
    serve::{Server, invoke},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use pentimento_imaging::{blur_away, decode, read_receipt};
use pentimento_request::Picture;
use serde_json::{Value, json};
use std::{fs, path::Path};

/// A tiny random model in a folder `checked`, with a checker whose thresholds are below every similarity.
fn checked() -> (Folder, String) {
    let folder = Folder::new();
    let model = folder.path("checked");
    copy_tree(&repository("reference/goldens/models/tiny-sd15"), Path::new(&model));
    copy_tree(&repository("reference/goldens/models/tiny-checked"), Path::new(&model));
    trip(&Path::new(&model).join("safety_checker/model.safetensors"));
    (folder, model)
}

/// Sets the thresholds of all concepts to -2, stored as f16.
fn trip(path: &Path) {
    let mut bytes = fs::read(path).expect("weights");
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).expect("a header");
    let offsets = &header["concept_embeds_weights"]["data_offsets"];
    let at = |index: usize| 8 + length + offsets[index].as_u64().expect("an offset") as usize;
    for value in bytes[at(0)..at(1)].chunks_exact_mut(2) {
        value.copy_from_slice(&0xC000_u16.to_le_bytes());
    }
    fs::write(path, bytes).expect("a file");
}

fn draw(model: &str, out: &str, options: &[&str]) -> (Picture, Value, String) {
    let words =
        ["generate", "-p", "a cat", "--steps", "2", "--seed", "3", "--dtype", "f32", "--model", model];
    let outcome = run(&[&words[..], options, &["--out", out]].concat());
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let file = fs::read(out).expect("a picture");
    (picture(out), read_receipt(&file).expect("a receipt"), outcome.stderr)
}

#[test]
fn the_modes_of_the_command_line() {
    let (folder, model) = checked();
    let out = folder.path("out.png");
    let (plain, receipt, said) = draw(&model, &out, &["--filter", "off"]);
    assert_eq!((receipt["filter"].as_str(), said.as_str()), (Some("unchecked"), ""));
    let (flagged, receipt, said) = draw(&model, &out, &["--filter", "FLAG"]);
    assert!(flagged == plain && receipt["filter"] == "flagged" && said.contains("objects"), "{said}");
    for options in [&[][..], &["--filter", "blur"]] {
        let (blurred, receipt, said) = draw(&model, &out, options);
        assert!(blurred == blur_away(&plain) && receipt["filter"] == "blurred", "{said}");
        assert!(said.contains("blurred") && said.contains("--filter off"), "{said}");
    }
    let (black, receipt, _) = draw(&model, &out, &["--filter", "block"]);
    assert!(black.pixels().iter().all(|byte| *byte == 0) && receipt["filter"] == "blocked");
    let refused = run(&["generate", "-p", "x", "--filter", "blur", "--out", &out]);
    refused.is_an_error(2, &["filter: ", "no safety checker"]);
}

#[test]
fn two_passes_of_the_command_line() {
    let (folder, model) = checked();
    let out = folder.path("out.png");
    let options = ["--filter", "off", "--size", "32x40", "--hires", "1.5:0.5:4"];
    let (picture, receipt, _) = draw(&model, &out, &options);
    assert_eq!(picture.size().to_string(), "48x64");
    let second = &receipt["hires"];
    assert_eq!((&second["steps"], &second["steps_run"]), (&4.into(), &2.into()));
    assert_eq!(second["worked_at"], json!({ "width": 48, "height": 64 }));
    let refused = run(&["generate", "-p", "x", "--hires", "2:3", "--out", &out]);
    refused.is_an_error(2, &["--hires: "]);
}

/// Status, finish reason or error message, and the picture's receipt.
fn ask(server: &Server, id: &str, body: &Value) -> (u16, String, Value) {
    let (_, body) = invoke(body);
    let (status, answer) = server.ask(&format!("POST /model/{id}/invoke"), &body);
    let answer: Value = serde_json::from_slice(&answer).expect("it is JSON");
    let Some(artifact) = answer["artifacts"].get(0) else {
        return (status, answer["message"].as_str().unwrap_or_default().to_owned(), Value::Null);
    };
    let file = STANDARD.decode(artifact["base64"].as_str().expect("a picture")).expect("base64");
    decode(&file, &crate::program::LIMITS).expect("a picture");
    let reason = artifact["finishReason"].as_str().expect("a reason").to_owned();
    (status, reason, read_receipt(&file).expect("a receipt"))
}

#[cfg(unix)]
#[test]
fn the_server_answers_with_what_the_picture_is() {
    let (folder, _) = checked();
    let config = "model = \"./checked\"\ndtype = \"f32\"\n[filter]\nwords = [\"gore\", \"blood bath\"]\n[models]\n\
                  flagging = { model = \"./checked\", filter = \"flag\" }\n\
                  unchecked = { model = \"./checked\", filter = \"off\" }\n";
    let config = folder.write("pentimento.toml", config.as_bytes());
    let server = Server::start(&["--no-auth", "--threads", "2", "--config", &config], &[]);
    let body = |text: &str, weight: f64| {
        json!({ "text_prompts": [{ "text": "a cat" }, { "text": text, "weight": weight }], "steps": 10, "seed": 7,
                "width": 512, "height": 512 })
    };
    let usual = "stability.stable-diffusion-xl-v1";
    for (id, reason, verdict) in [
        (usual, "CONTENT_FILTERED", "blurred"),
        ("flagging", "SUCCESS", "flagged"),
        ("unchecked", "SUCCESS", "unchecked"),
    ] {
        let (status, answered, receipt) = ask(&server, id, &body("fog", -1.0));
        assert_eq!(
            (status, answered.as_str(), receipt["filter"].as_str()),
            (200, reason, Some(verdict)),
            "{id}"
        );
    }
    for text in ["GORE!", "a b.l.o.o.d bath", "(gore:1.2)"] {
        let (status, message, _) = ask(&server, usual, &body(text, 1.0));
        assert_eq!(status, 400, "{text}: {message}");
        assert!(
            message.contains("invalid_prompts") && message.contains("contains filtered words"),
            "{message}"
        );
    }
    assert_eq!(ask(&server, usual, &body("gore", -1.0)).0, 200, "what repels may be named");
    assert_eq!(server.end().0, Some(0));
}

#[test]
fn a_mode_that_cannot_be_is_told_at_the_start() {
    let folder = Folder::new();
    let config =
        folder.write("pentimento.toml", b"[models]\na = { model = \"default\", filter = \"block\" }\n");
    let outcome = run(&["serve", "--no-auth", "--listen", "127.0.0.1:0", "--config", &config]);
    outcome.is_an_error(1, &["filter = \"block\"", "no safety checker"]);
    let config = folder.write("pentimento.toml", b"[filter]\nwords = [\"...\"]\n");
    let outcome = run(&["serve", "--no-auth", "--listen", "127.0.0.1:0", "--config", &config]);
    outcome.is_an_error(1, &["filter.words", "holds no letter"]);
}
