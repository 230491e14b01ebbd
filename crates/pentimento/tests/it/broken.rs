//! Files that are missing, cut off or something else: one line that names them, exit code 1, no picture, no panic.

use crate::program::{Folder, repository, run, run_with};
use std::{fs, path::Path};

/// A copy of the embedded model.
fn model_in(folder: &Folder) -> String {
    let target = folder.path("model");
    copy(&repository("models/default"), Path::new(&target));
    target
}

/// The embedded model as a folder.
pub(crate) fn copy_model(target: &str) {
    copy(&repository("models/default"), Path::new(target));
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("it is there") {
        let entry = entry.expect("it is readable");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("it is copied");
        }
    }
}

/// Breaks a model in some way, and holds `generate` and `serve` to naming the file.
fn broken_by(breaking: impl Fn(&Path), part: &str) {
    let folder = Folder::new();
    let model = model_in(&folder);
    breaking(Path::new(&model));
    let out = folder.path("out.png");
    run(&["generate", "--prompt", "x", "--model", &model, "--out", &out]).is_an_error(1, &[part]);
    run(&["serve", "--listen", "127.0.0.1:0", "--model", &model]).is_an_error(1, &[part]);
    assert_eq!(folder.names(), ["model"]);
}

#[test]
fn a_missing_model_is_named() {
    let folder = Folder::new();
    let out = folder.path("out.png");
    let words = ["generate", "--prompt", "x", "--model", "no/such/model", "--out", &out];
    run(&words).is_an_error(1, &["no/such/model", "default"]);
    run(&["serve", "--model", "no/such/model"]).is_an_error(1, &["no/such/model"]);
    assert_eq!(folder.names(), [""; 0]);
}

#[test]
fn a_cut_weight_file_is_named() {
    let weights = "unet/diffusion_pytorch_model.safetensors";
    let cut = |model: &Path| {
        let file = fs::OpenOptions::new().write(true).open(model.join(weights)).expect("it is there");
        file.set_len(1_000_000).expect("it is cut");
    };
    broken_by(cut, weights);
    let empty = |model: &Path| fs::write(model.join(weights), b"").expect("it is emptied");
    broken_by(empty, weights);
}

#[test]
fn a_missing_weight_file_is_named() {
    broken_by(
        |model| fs::remove_file(model.join("text_encoder/model.safetensors")).expect("gone"),
        "text_encoder",
    );
    broken_by(|model| fs::remove_file(model.join("vae/config.json")).expect("gone"), "vae/config.json");
}

#[test]
fn a_misshapen_model_is_named() {
    let widen = |model: &Path| {
        let path = model.join("unet/config.json");
        let text = fs::read_to_string(&path).expect("it is there");
        assert!(text.contains("\n  64,"), "the first level's width");
        fs::write(&path, text.replacen("\n  64,", "\n  96,", 1)).expect("it is changed");
    };
    broken_by(widen, "unet/diffusion_pytorch_model.safetensors");
    broken_by(|model| fs::write(model.join("model_index.json"), "{").expect("changed"), "model_index.json");
}

#[test]
fn pictures_that_are_none_are_named() {
    let folder = Folder::new();
    let (out, text) = (folder.path("out.png"), folder.write("text.png", b"no picture"));
    let init = repository("examples/scene.png").display().to_string();
    run(&generate(&out, &["--init", "missing.png"])).is_an_error(1, &["missing.png"]);
    run(&generate(&out, &["--init", &text])).is_an_error(1, &["text.png"]);
    run_with(&generate(&out, &["--init", "-"]), b"no picture").is_an_error(1, &["standard input"]);
    run(&generate(&out, &["--init", &init, "--mask", &text])).is_an_error(1, &["text.png"]);
    run(&generate(&out, &["--init", &init, "--mask-source", "alpha"]))
        .is_an_error(1, &["alpha", "scene.png"]);
    assert_eq!(folder.names(), ["text.png"]);
}

#[test]
fn places_that_cannot_be_written_are_named_before_the_work() {
    let table = ["no/such/folder/out.png", "."];
    for out in table {
        run(&["generate", "--prompt", "x", "--out", out, "--format", "png"]).is_an_error(1, &[out]);
    }
}

#[test]
fn a_wrong_configuration_is_told_with_its_line() {
    let folder = Folder::new();
    let config = folder.write("p.toml", b"listen = \"127.0.0.1:0\"\n\n[limits]\nqeue = 3\n");
    run(&["serve", "--config", &config]).is_an_error(1, &["p.toml", "line 4", "`qeue`"]);
    run(&["serve", "--config", "missing.toml"]).is_an_error(1, &["missing.toml"]);
}

/// Words that draw something into `out`, with these options.
fn generate<'a>(out: &'a str, options: &[&'a str]) -> Vec<&'a str> {
    [&["generate", "--prompt", "x", "--out", out], options].concat()
}
