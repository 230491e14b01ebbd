//! Measuring: what is told, not how fast it is.

use crate::program::{Folder, repository, run};
use safetensors::{Dtype, SafeTensors, serialize, tensor::TensorView};
use serde_json::Value;

#[test]
fn stages_are_measured_and_told_as_json() {
    let words = ["bench", "--stages", "text,unet_step,vae_decode", "--runs", "1", "--threads", "1", "--json"];
    let told = run(&words).ended_well();
    let json: Value = serde_json::from_str(told.text()).expect("it is JSON");
    assert_eq!((&json["dtype"], &json["width"], &json["threads"]), (&"f32".into(), &128.into(), &1.into()));
    let stages = json["stages"].as_object().expect("stages");
    assert_eq!(stages.keys().collect::<Vec<_>>(), ["text", "unet_step", "vae_decode"]);
    for (name, stage) in stages {
        for figure in ["median_s", "min_s", "gflop", "gflops", "share_of_peak"] {
            assert!(stage[figure].as_f64().is_some_and(|figure| figure > 0.0), "{name}: {figure}: {stage}");
        }
        assert_eq!(stage["runs"], 1);
        assert!(stage["layers"]["conv 3x3"].is_object() == (name != "text"), "{stage}");
    }
    assert!(json["cold_start_s"].as_f64().is_some_and(|seconds| seconds > 0.0), "{json}");
}

#[test]
fn a_table_shows_where_the_time_goes() {
    let told = run(&["bench", "--stages", "unet_step,whole", "--runs", "1", "--profile", "--size", "64x64"]);
    let told = told.ended_well();
    for part in
        ["model default, 64x64, f32", "unet_step", "whole", "conv 3x3", "attention", "between", "first step"]
    {
        assert!(told.text().contains(part), "'{part}' is missing in:\n{}", told.text());
    }
}

#[test]
fn what_steering_costs_is_told_beside_plain_steps() {
    let words = ["bench", "--runs", "1", "--size", "64x64", "--lora", "plaster=0.8", "--canny", "0.5"];
    let told = run(&words).ended_well();
    assert!(
        told.text().contains("a step: ") && told.text().contains("medians of 1 rounds of 2 steps"),
        "{}",
        told.text()
    );
    assert!(!told.text().contains("unet_step"), "only what was asked for:\n{}", told.text());
    let json = run(&[&words[..], &["--json", "--stages", "text"]].concat()).ended_well();
    let json: Value = serde_json::from_str(json.text()).expect("it is JSON");
    for figure in ["plain_s", "steered_s", "before_plain_s", "before_steered_s"] {
        assert!(json["steered"][figure].as_f64().is_some_and(|seconds| seconds > 0.0), "{figure}: {json}");
    }
    assert!(json["stages"]["text"].is_object(), "{json}");
    run(&["bench", "--lora", "nosuch"]).is_an_error(1, &["no lora 'nosuch'", "plaster"]);
}

#[test]
fn one_call_of_the_unet_goes_from_file_to_file() {
    let folder = Folder::new();
    let values = |count: usize| -> Vec<u8> {
        (0..count).flat_map(|index| ((index % 7) as f32 / 7.0 - 0.4).to_le_bytes()).collect()
    };
    let config =
        std::fs::read_to_string(repository("models/default/unet/config.json")).expect("a configuration");
    let config: Value = serde_json::from_str(&config).expect("JSON");
    let width = config["cross_attention_dim"].as_u64().expect("a width") as usize;
    let (sample, context, timestep) = (values(2 * 4 * 16 * 16), values(2 * 77 * width), 500f32.to_le_bytes());
    let view = |shape: &[usize], bytes| TensorView::new(Dtype::F32, shape.to_vec(), bytes).expect("a tensor");
    let tensors = [
        ("sample", view(&[2, 4, 16, 16], &sample)),
        ("timestep", view(&[1], &timestep)),
        ("context", view(&[2, 77, width], &context)),
    ];
    folder.write("in.safetensors", &serialize(tensors, None).expect("a file"));
    let (input, goal) = (folder.path("in.safetensors"), folder.path("out.safetensors"));
    run(&["bench", "--unet-io", &input, &goal]).ended_well();
    let bytes = std::fs::read(&goal).expect("a file");
    let out = SafeTensors::deserialize(&bytes).expect("safetensors");
    let out = out.tensor("out").expect("what it predicts");
    assert_eq!(out.shape(), [2, 4, 16, 16]);
    let numbers: Vec<f32> = out.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    assert!(numbers.iter().all(|number| number.is_finite()) && numbers.iter().any(|number| *number != 0.0));
    folder.write("in.safetensors", b"no such thing");
    let refused = run(&["bench", "--unet-io", &input, &goal]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("in.safetensors is no safetensors file"), "{}", refused.stderr);
}

#[test]
fn what_cannot_be_measured_is_said() {
    let refused = run(&["bench", "--random", "sd15", "--model", "default"]);
    assert_eq!(refused.code, Some(2));
    let refused = run(&["bench", "--size", "60x64"]);
    assert!(refused.stderr.contains("size: 60x64"), "{}", refused.stderr);
}
