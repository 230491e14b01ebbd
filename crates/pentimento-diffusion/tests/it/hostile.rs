//! Model files made to harm: whatever stands in one, a model is refused or draws; nothing panics or takes all
//! memory.

use crate::{copy, goldens, options};
use pentimento_diffusion::{Folder, Model};
use pentimento_request::{
    Accelerations, Canvas, Channels, ClipSkip, Conditioning, ErrorKind, GenerationRequest, Generator,
    GuidanceScale, NoiseSource, Picture, PromptSyntax, Quiet, Size, SolverOptions, Span, Steps, Strength,
    Task,
};
use serde_json::{Value, json};
use std::{fs, path::Path, sync::Arc};

/// What is put in the place of every setting and of every entry of a list.
fn poisons() -> Vec<Value> {
    vec![
        json!(null),
        json!(-1),
        json!(0),
        json!(1),
        json!(7),
        json!(1e300),
        json!(u64::MAX),
        json!(u64::MAX / 4 + 1),
        json!(1u64 << 40),
        json!(""),
        json!([]),
        json!([0, u64::MAX]),
        json!({}),
    ]
}

/// A picture to start from, so that every network runs.
fn request() -> GenerationRequest {
    let size = Size::new(16, 16).expect("a size");
    let init = Arc::new(Picture::new(size, Channels::Rgb, vec![90; 768]).expect("a picture"));
    GenerationRequest {
        model: "hostile".to_owned(),
        prompts: Vec::new(),
        task: Task::ImageToImage { init, span: Span::of(Strength::FULL) },
        canvas: Canvas::Exact(None),
        sampler: None,
        schedule: None,
        steps: Steps::new(1).expect("steps"),
        guidance_scale: GuidanceScale::new(1.0).expect("a scale"),
        guidance_rescale: 0.0,
        accelerations: Accelerations::NONE,
        syntax: PromptSyntax::Emphasis,
        clip_skip: ClipSkip::LAST,
        hires: None,
        solver: SolverOptions::USUAL,
        noise: NoiseSource::TorchCpu,
        conditioning: Conditioning::none(),
        filter: None,
        seed: 1,
    }
}

/// Loads the model and draws with it; only the manner of a refusal is looked at.
fn try_out(folder: &Path, what: &str) {
    match Model::load(&Folder::new(folder), options("hostile")) {
        Ok(model) => {
            if let Err(error) = model.generate(&request(), &mut Quiet) {
                let said = error.to_string();
                assert!(!said.contains("tensor arithmetic"), "{what}: loaded, and then: {said}");
                assert_ne!(error.kind(), ErrorKind::Cancelled, "{what}: {said}");
            }
        }
        Err(error) => {
            let said = error.to_string();
            assert!(!said.contains('\n') && said.len() < 1000, "{what}: {said}");
        }
    }
}

/// Every value of an object or a list that is not one itself, by its JSON pointer.
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    let mut child = |name: &str, value: &Value| {
        let place = format!("{at}/{name}");
        places(value, &place, found);
        found.push(place);
    };
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| child(name, value)),
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(index, value)| child(&index.to_string(), value));
        }
        _ => {}
    }
}

/// Puts every poison at every place of a configuration.
fn poison(folder: &Path, file: &str) {
    let path = folder.join(file);
    let config: Value = serde_json::from_slice(&fs::read(&path).expect("a file")).expect("JSON");
    let mut found = Vec::new();
    places(&config, "", &mut found);
    for place in &found {
        for poison in poisons() {
            let mut poisoned = config.clone();
            *poisoned.pointer_mut(place).expect("a place") = poison.clone();
            fs::write(&path, poisoned.to_string()).expect("a file");
            try_out(folder, &format!("{file} {place} = {poison}"));
        }
    }
}

#[test]
fn no_setting_of_a_unet_does_harm() {
    poison(copy().path(), "unet/config.json");
}

#[test]
fn no_setting_of_an_autoencoder_does_harm() {
    poison(copy().path(), "vae/config.json");
    let small = copy();
    for file in ["vae/config.json", "vae/diffusion_pytorch_model.safetensors"] {
        fs::copy(goldens("models/tiny-taesd").join(file), small.path().join(file)).expect("a copy");
    }
    Model::load(&Folder::new(small.path()), options("hostile")).expect("as it is, it loads");
    poison(small.path(), "vae/config.json");
}

#[test]
fn no_setting_of_a_text_encoder_does_harm() {
    poison(copy().path(), "text_encoder/config.json");
}

#[test]
fn no_setting_of_a_scheduler_does_harm() {
    poison(copy().path(), "scheduler/scheduler_config.json");
}

#[test]
fn no_text_in_the_place_of_a_file_does_harm() {
    let deep = format!("{}1{}", r#"{"a":["#.repeat(50_000), "]}".repeat(50_000));
    let noise: Vec<u8> = (0..4096u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for file in [
        "model_index.json",
        "tokenizer/vocab.json",
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
        "tokenizer/merges.txt",
        "text_encoder/config.json",
        "unet/config.json",
        "vae/config.json",
        "scheduler/scheduler_config.json",
        "unet/diffusion_pytorch_model.safetensors",
    ] {
        let folder = copy();
        let path = folder.path().join(file);
        if file == "tokenizer/tokenizer.json" {
            // It is read where the lists are not there.
            fs::remove_file(folder.path().join("tokenizer/vocab.json")).expect("it was there");
            fs::copy(goldens("models/tiny-words").join(file), &path).expect("a copy");
        }
        let whole = fs::read(&path).unwrap_or_default();
        let texts: [&[u8]; 9] = [
            b"",
            b"null",
            b"{}",
            b"[]",
            br#"{"": 0}"#,
            br#"{"bos_token": "", "eos_token": "", "unk_token": "", "pad_token": {"content": ""}}"#,
            deep.as_bytes(),
            &noise,
            &whole[..whole.len() / 2],
        ];
        for (index, text) in texts.iter().enumerate() {
            fs::write(&path, text).expect("a file");
            try_out(folder.path(), &format!("{file}, text {index}"));
        }
    }
}
