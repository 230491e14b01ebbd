//! What steers the embedded model: its own control network for edges, and its own adapters.

use crate::program::{Folder, picture, repository, run};
use pentimento_imaging::read_receipt;
use pentimento_request::Picture;
use serde_json::Value;
use std::fs;

/// A drawing made anew in very few steps, in a precision that is said, so that nothing is measured.
fn drawn(folder: &Folder, name: &str, options: &[&str]) -> (Picture, Value) {
    let (init, out) = (repository("examples/scene.png").display().to_string(), folder.path(name));
    let words = ["generate", "-p", "a house, 3d model", "--init", &init, "--strength", "0.9", "--steps", "2"];
    let rest = ["--seed", "3", "--dtype", "f32", "--out", &out];
    run(&[&words[..], &rest, options].concat()).ended_well();
    let receipt = read_receipt(&fs::read(&out).expect("the picture is there")).expect("it holds a receipt");
    (picture(&out), receipt)
}

#[test]
fn edges_steer_the_embedded_model_and_a_weight_of_none_changes_nothing() {
    let folder = Folder::new();
    let (plain, _) = drawn(&folder, "plain.png", &[]);
    let (none, _) = drawn(&folder, "none.png", &["--canny", "0"]);
    let (steered, receipt) = drawn(&folder, "steered.png", &["--canny", "0.8"]);
    assert!(plain == none && plain != steered);
    let control = &receipt["controls"][0];
    assert_eq!(control["name"], "canny", "{receipt}");
    assert!(control["steps_run"].as_u64() > Some(0), "{receipt}");
}

#[test]
fn its_own_adapters_are_listed_and_change_the_picture() {
    let list = run(&["lora", "list"]).ended_well();
    let inspected = run(&["models", "inspect", "default", "--json"]).ended_well();
    let inspected: Value = serde_json::from_str(inspected.text()).expect("it is JSON");
    assert_eq!(inspected["controls"]["canny"], true);
    let names: Vec<_> =
        inspected["loras"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    assert!(names.contains(&"plaster") && names.len() > 1, "{names:?}");
    let folder = Folder::new();
    let (plain, _) = drawn(&folder, "plain.png", &[]);
    for name in names {
        assert!(list.text().lines().any(|line| line.starts_with(name)), "{}", list.text());
        let (none, _) = drawn(&folder, "none.png", &["--lora", &format!("{name}=0")]);
        let (worn, receipt) = drawn(&folder, "worn.png", &["--lora", &format!("{name}=0.8")]);
        assert!(plain == none && plain != worn, "{name}");
        let lora = &receipt["loras"][0];
        let matched = lora["matched"].as_array().map_or(0, Vec::len);
        assert!(matched > 50 && lora["unmatched"] == Value::Array(Vec::new()), "{lora}");
    }
    let unknown = ["generate", "-p", "x", "--out", &folder.path("x.png"), "--lora", "nosuch=1"];
    run(&unknown).is_an_error(2, &["'nosuch'", "plaster"]);
}

#[cfg(unix)]
#[test]
fn a_stylised_picture_follows_its_edges_and_wears_adapters() {
    use base64::{Engine, engine::general_purpose::STANDARD};
    use serde_json::json;

    let server = crate::serve::Server::start(&["--no-auth", "--threads", "2"], &[]);
    let scene = STANDARD.encode(fs::read(repository("examples/scene.png")).expect("it is there"));
    let ask = |canny: f64, loras: Value| {
        let body = json!({
            "req_key": "img2img_pastel_boys_style", "binary_data_base64": [scene], "prompt": "white plaster statue",
            "seed": 5, "ddim_steps": 2, "long_resolution": 256, "canny_weight": canny, "lora_multipers": loras,
        });
        let (status, answer) = server.ask("POST /?Action=CVProcess&Version=2022-08-31", &body.to_string());
        let answer: Value = serde_json::from_slice(&answer).expect("it is JSON");
        assert_eq!(status, 200, "{answer}");
        let data = &answer["data"];
        (
            data["binary_data_base64"][0].as_str().expect("a picture").to_owned(),
            data["pentimento_notes"].clone(),
        )
    };
    let (plain, notes) = ask(0.0, json!({}));
    assert_eq!(notes, Value::Null);
    let (steered, notes) = ask(0.8, json!({}));
    assert!(plain != steered && notes == Value::Null, "{notes}");
    let (worn, notes) = ask(0.0, json!({"plaster": 0.8, "Colorwater_v4": 0.2}));
    assert!(
        plain != worn && notes[0].as_str().is_some_and(|note| note.ends_with(": Colorwater_v4")),
        "{notes}"
    );
    assert_eq!(server.end().0, Some(0));
}
