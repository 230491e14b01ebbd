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
    for part in ["sd15     4 B", "not to be run", "other    0 B", "default  34.8 MB", "Stable Diffusion"] {
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
