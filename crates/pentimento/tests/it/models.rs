//! Listing and inspecting models.

use crate::program::{Folder, repository, run};
use serde_json::Value;
use std::fs;

#[test]
fn the_embedded_model_is_listed_with_those_of_the_data_folder() {
    let list = run(&["models", "list"]).ended_well();
    assert!(list.text().lines().nth(1).is_some_and(|line| line.starts_with("default ")), "{}", list.text());
    let data = Folder::new();
    fs::create_dir_all(data.path("models/sd15")).expect("a folder");
    fs::create_dir_all(data.path("more/other")).expect("a folder");
    data.write("models/sd15/notes.txt", b"1234");
    let (here, more) = (data.path(""), data.path("more"));
    let words = ["models", "list", "--data-dir", &here, "--models-dir", &more];
    let list = run(&words).ended_well();
    for part in ["sd15     4 B", "not to be run", "other    0 B", "default  45.0 MB", "Stable Diffusion"] {
        assert!(list.text().contains(part), "'{part}' is missing in:\n{}", list.text());
    }
    assert_eq!(list.text().lines().count(), 4, "{}", list.text());
    let json = run(&[&words[..], &["--json"]].concat()).ended_well();
    let json: Value = serde_json::from_str(json.text()).expect("it is JSON");
    assert_eq!((&json[1]["name"], &json[2]["bytes"]), (&"other".into(), &4.into()));
    assert!(json[2]["error"].as_str().is_some_and(|error| error.contains("model_index.json")), "{json}");
}

#[test]
fn inspecting_shows_parts_sizes_and_precision() {
    let table = run(&["models", "inspect", "default"]).ended_well();
    for part in ["128x128", "v_prediction", "UNet2DConditionModel", "AutoencoderKL", "11.2 M", "F16"] {
        assert!(table.text().contains(part), "'{part}' is missing in:\n{}", table.text());
    }
    let folder = repository("models/default").display().to_string();
    let json = run(&["models", "inspect", &folder, "--json"]).ended_well();
    let json: Value = serde_json::from_str(json.text()).expect("it is JSON");
    assert_eq!(json["native_size"]["width"], 128);
    assert_eq!(json["parts"].as_array().map(Vec::len), Some(3));
}

#[test]
fn inspecting_tells_what_is_missing() {
    let whole = run(&["models", "inspect", "default", "--json"]).ended_well();
    let whole: Value = serde_json::from_str(whole.text()).expect("it is JSON");
    assert_eq!(whole["missing"], serde_json::json!([]));
    let folder = Folder::new();
    let model = folder.path("model");
    crate::broken::copy_model(&model);
    for file in
        ["scheduler/scheduler_config.json", "tokenizer/merges.txt", "vae/diffusion_pytorch_model.safetensors"]
    {
        fs::remove_file(folder.path(&format!("model/{file}"))).expect("it was there");
    }
    let told = run(&["models", "inspect", &model]).ended_well();
    for part in [
        "?",
        "unet ",
        "scheduler_config.json is missing",
        "merges.txt is missing",
        "vae/diffusion_pytorch_model",
    ] {
        assert!(told.text().contains(part), "'{part}' is missing in:\n{}", told.text());
    }
    let json = run(&["models", "inspect", &model, "--json"]).ended_well();
    let json: Value = serde_json::from_str(json.text()).expect("it is JSON");
    assert_eq!(json["missing"].as_array().map(Vec::len), Some(3), "{json}");
    assert_eq!(json["scheduler"], Value::Null);
    // What is no model at all is an error that says what it is.
    let part = folder.path("model/unet");
    run(&["models", "inspect", &part]).is_an_error(1, &["model_index.json", "one part"]);
    let text = folder.write("text.safetensors", b"no weights");
    run(&["models", "inspect", &text])
        .is_an_error(1, &["text.safetensors", "cut off or no safetensors file"]);
    let pickle = folder.write("old.ckpt", b"PK");
    run(&["models", "inspect", &pickle]).is_an_error(1, &["old.ckpt", "pickle"]);
    let lora = repository("reference/goldens/lora/kohya.safetensors").display().to_string();
    run(&["models", "inspect", &lora]).is_an_error(1, &["kohya.safetensors", "a LoRA", "--lora"]);
}

#[test]
fn the_notices_travel_with_the_program() {
    let licences = run(&["models", "licences"]).ended_well();
    for part in ["Microsoft Corporation", "Google", "Miles Johnson", "Apache License", "public domain"] {
        assert!(licences.text().contains(part), "{part}");
    }
}

#[test]
fn an_unknown_name_lists_the_known_ones() {
    run(&["models", "inspect", "nosuch"]).is_an_error(1, &["'nosuch'", "default"]);
}

#[test]
fn a_sound_model_is_verified_and_every_fault_of_a_broken_one_is_listed() {
    let sound = run(&["models", "verify", "default"]).ended_well();
    assert!(sound.text().contains("finite values") && sound.text().contains("sha256 "), "{}", sound.text());
    let folder = Folder::new();
    let model = folder.path("model");
    crate::broken::copy_model(&model);
    let config = folder.path("model/unet/config.json");
    let text = fs::read_to_string(&config).expect("it is there");
    fs::write(&config, text.replacen("\n  64,", "\n  96,", 1)).expect("it is changed");
    let vae = folder.path("model/vae/diffusion_pytorch_model.safetensors");
    let mut bytes = fs::read(&vae).expect("it is there");
    let end = bytes.len();
    bytes[end - 2..].copy_from_slice(&0x7e00u16.to_le_bytes());
    fs::write(&vae, bytes).expect("it is changed");
    let broken = run(&["models", "verify", &model, "--json"]);
    assert_eq!(broken.code, Some(1), "{}", broken.stderr);
    let told: Value = serde_json::from_slice(&broken.stdout).expect("it is JSON");
    let faults: Vec<_> =
        told["faults"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    assert!(faults.iter().any(|fault| fault.contains("1 of ") && fault.contains("finite")), "{faults:?}");
    assert!(faults.iter().filter(|fault| fault.contains("expected [96")).count() > 3, "{faults:?}");
    assert_eq!(told["ok"], false);
}

#[test]
fn a_converted_model_draws_the_same_and_nothing_is_overwritten() {
    let folder = Folder::new();
    let (wide, back) = (folder.path("wide"), folder.path("back"));
    run(&["models", "convert", "default", &wide, "--dtype", "f32"]).ended_well();
    run(&["models", "convert", &wide, &back]).ended_well();
    run(&["models", "convert", "default", &back]).is_an_error(1, &["is there already", "--force"]);
    run(&["models", "convert", &wide, &back, "--force", "--dtype", "f16"]).ended_well();
    assert_eq!(folder.names().len(), 2, "nothing else is left: {:?}", folder.names());
    // Its control network and its adapters come along.
    let told = run(&["models", "inspect", &back]).ended_well();
    for part in ["canny", "pastel, pencil, plaster"] {
        assert!(told.text().contains(part), "'{part}' is missing in:\n{}", told.text());
    }
    let inspected = run(&["models", "inspect", &wide]).ended_well();
    assert!(inspected.text().contains("F32") && !inspected.text().contains("F16"), "{}", inspected.text());
    let draw = |model: &str, out: &str| {
        let words = ["generate", "-p", "x", "--seed", "1", "--steps", "2", "--model", model, "--out", out];
        run(&words).ended_well();
        crate::program::picture(out)
    };
    let original = draw("default", &folder.path("a.png"));
    assert!(draw(&wide, &folder.path("b.png")).pixels() == original.pixels());
    assert!(draw(&back, &folder.path("c.png")).pixels() == original.pixels());
    let steered = |model: &str, out: &str| {
        let init = repository("examples/scene.png").display().to_string();
        let words = ["generate", "-p", "x", "--seed", "1", "--steps", "2", "--model", model, "--out", out];
        let options = ["--init", &init, "--canny", "0.8", "--lora", "plaster=0.5"];
        run(&[&words[..], &options].concat()).ended_well();
        crate::program::picture(out)
    };
    let (one, other) = (folder.path("d.png"), folder.path("e.png"));
    assert!(steered("default", &one).pixels() == steered(&back, &other).pixels());
}
