//! What steers a picture beside its prompts, by the options of `generate` on a tiny random model.

use crate::program::{Folder, Outcome, copy_tree, picture, repository, run};
use pentimento_imaging::read_receipt;
use pentimento_request::Picture;
use serde_json::Value;
use std::{fs, path::Path};

/// A model with a network for edges and a CLIP, in a data folder with adapters, control networks and face networks.
struct Studio {
    folder: Folder,
    model: String,
    data: String,
}

impl Studio {
    fn new() -> Self {
        let folder = Folder::new();
        let (model, data) = (folder.path("tiny"), folder.path("data"));
        let goldens = repository("reference/goldens");
        for layer in ["tiny-sd15", "tiny-clip"] {
            copy_tree(&goldens.join("models").join(layer), Path::new(&model));
        }
        copy_tree(&goldens.join("controls/canny"), &Path::new(&model).join("controlnet-canny"));
        let data_folder = Path::new(&data);
        copy_tree(&goldens.join("lora"), &data_folder.join("loras"));
        copy_tree(&goldens.join("controls"), &data_folder.join("controls"));
        copy_tree(&goldens.join("models/tiny-vision"), &data_folder.join("ip-adapters"));
        for name in ["plain", "faceid_512"] {
            let file = format!("{name}.safetensors");
            let target = data_folder.join("ip-adapters").join(&file);
            fs::copy(goldens.join("ip_adapter").join(&file), target).expect("a copy");
        }
        fs::create_dir(data_folder.join("faces")).expect("a folder");
        let network = goldens.join("faces/networks/w600k_tiny.onnx");
        fs::copy(network, data_folder.join("faces/w600k_tiny.onnx")).expect("a copy");
        Self { folder, model, data }
    }

    fn run(&self, options: &[&str]) -> Outcome {
        let out = self.folder.path("out.png");
        let words = ["generate", "-p", "a cat", "--steps", "4", "--seed", "3", "--dtype", "f32"];
        let place = ["--model", &self.model, "--data-dir", &self.data, "--out", &out];
        run(&[&words[..], &place, options].concat())
    }

    fn draw(&self, options: &[&str]) -> (Picture, Value) {
        let outcome = self.run(options);
        assert_eq!(outcome.code, Some(0), "{options:?}: {}", outcome.stderr);
        let out = self.folder.path("out.png");
        let file = fs::read(&out).expect("a picture");
        (picture(&out), read_receipt(&file).expect("a receipt"))
    }
}

fn photo(name: &str) -> String {
    repository(&format!("reference/goldens/faces/photos/{name}.webp")).display().to_string()
}

#[test]
fn adapters_and_control_networks_steer_by_name_and_by_file() {
    let studio = Studio::new();
    let (plain, receipt) = studio.draw(&[]);
    assert_eq!((&receipt["loras"], &receipt["looks"]), (&Value::from(vec![0; 0]), &Value::from(vec![0; 0])));
    let (by_name, receipt) = studio.draw(&["--lora", "kohya=0.6:0.2", "--lora", "lokr=-0.3"]);
    assert_eq!(receipt["loras"][0]["text_weight"], 0.2);
    assert!(receipt["loras"][1]["matched"].as_array().is_some_and(|layers| !layers.is_empty()));
    let file = format!("{}=0.6:0.2", repository("reference/goldens/lora/kohya.safetensors").display());
    let (by_file, _) = studio.draw(&["--lora", &file, "--lora", "lokr=-0.3"]);
    assert!(by_name == by_file && by_name != plain);
    assert!(studio.draw(&["--lora", "kohya=0", "--lora", "lokr=0"]).0 == plain);

    let hint = photo("face");
    let (by_name, receipt) = studio.draw(&["--control", "canny=0.8", "--control-image", &hint]);
    assert_eq!(
        (&receipt["controls"][0]["name"], &receipt["controls"][0]["steps_run"]),
        (&"canny".into(), &4.into())
    );
    let folder = format!("{}=0.8", repository("reference/goldens/controls/canny").display());
    let (by_folder, _) = studio.draw(&["--control", &folder, "--control-image", &hint]);
    assert!(by_name == by_folder && by_name != plain);
    let half = ["--control", "canny=0.8", "--control-image", &hint, "--control-range", "0:0.5"];
    let (ranged, receipt) = studio.draw(&half);
    assert_eq!(receipt["controls"][0]["steps_run"], 2);
    assert!(ranged != by_name && ranged != plain);
    let (nothing, receipt) = studio.draw(&["--control", "canny=0", "--control-image", &hint]);
    assert!(nothing == plain && receipt["controls"][0]["hash"].is_null());
    let refused = studio.run(&["--lora", "nosuch=1"]);
    refused.is_an_error(2, &["no lora 'nosuch'", "known are dora"]);
    studio.run(&["--lora", "kohya_xl=1"]).is_an_error(2, &["kohya_xl"]);
}

#[test]
fn edges_and_texture_are_those_of_the_input() {
    let studio = Studio::new();
    let init = photo("face");
    let start = ["--init", &init, "--strength", "0.75"];
    let draw = |options: &[&str]| studio.draw(&[&start[..], options].concat());
    let (plain, _) = draw(&[]);
    let (edges, receipt) = draw(&["--canny", "0.8", "--canny-thresholds", "50:150"]);
    assert_eq!(receipt["controls"][0]["hint"], "edges 50:150");
    assert!(edges != plain && draw(&["--canny", "0"]).0 == plain);
    let smooth = draw(&["--keep-texture", "off"]).0;
    assert!(draw(&["--keep-texture", "on"]).0 == plain && smooth != plain);
}

#[test]
fn pictures_and_faces_are_shown() {
    let studio = Studio::new();
    let (plain, _) = studio.draw(&[]);
    let (face, two) = (photo("face"), photo("two"));
    let pictures = ["--image-prompt", &face, "--image-prompt", &two];
    let (shown, receipt) = studio.draw(&[&pictures[..], &["--ip-adapter", "plain=0.7"]].concat());
    assert_eq!((&receipt["looks"][0]["pictures"], &receipt["looks"][0]["scale"]), (&2.into(), &0.7.into()));
    assert!(
        shown != plain && studio.draw(&[&pictures[..], &["--ip-adapter", "plain=0"]].concat()).0 == plain
    );

    let (known, receipt) = studio.draw(&["--face", &face, "--id-scale", "0.6"]);
    let [left, top, right, bottom] =
        [0, 1, 2, 3].map(|edge| receipt["looks"][0]["faces"][0][edge].as_i64().expect("a box"));
    assert!(left < right && top < bottom && receipt["looks"][0]["name"] == "faceid_512", "{receipt}");
    assert!(receipt["loras"][0]["matched"].as_array().is_some_and(|layers| !layers.is_empty()));
    assert!(known != plain && studio.draw(&["--face", &face, "--id-scale", "0"]).0 == plain);
    let named = ["--face", &face, "--id-scale", "0.6", "--face-adapter", "faceid_512"];
    assert!(studio.draw(&named).0 == known);
    let nobody = photo("nobody");
    studio.run(&["--face", &nobody]).is_an_error(2, &["no face was found"]);
    studio.run(&["--init", &nobody, "--id-scale", "0.5"]).is_an_error(2, &["no face was found"]);
    studio
        .run(&["--face", &face, "--face-adapter", "nosuch"])
        .is_an_error(2, &["known are faceid_512, plain"]);
    studio.run(&["--id-scale", "0.5"]).is_an_error(2, &["--id-scale", "--face FILE"]);
}

#[test]
fn clip_steers_where_the_model_carries_it() {
    let studio = Studio::new();
    let ancestral = ["--sampler", "K_EULER_ANCESTRAL"];
    let (plain, _) = studio.draw(&ancestral);
    let (guided, receipt) = studio.draw(&[&ancestral[..], &["--clip-guidance", "fast_blue"]].concat());
    assert_eq!(receipt["clip_guidance"]["preset"], "FAST_BLUE");
    assert!(guided != plain);
    let wrong = studio.run(&["--sampler", "K_HEUN", "--clip-guidance", "SLOW"]);
    wrong.is_an_error(2, &["clip_guidance", "K_DPMPP_2S_ANCESTRAL"]);
    let words = ["generate", "-p", "x", "--clip-guidance", "SLOW", "--out"];
    let out = studio.folder.path("default.png");
    run(&[&words[..], &[&out]].concat()).is_an_error(2, &["'default' carries no CLIP picture encoder"]);
}
