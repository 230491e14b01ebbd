//! Control networks: what they add to the UNet, and whole pictures, against diffusers.

use super::{Golden, against, assert_close, files, manifest::Manifest, pipelines::compare, reference};
use crate::{
    ControlFile, Folder, Library, LoadError, LoadOptions, LoraFile, Model, Precision,
    config::{UnetConfig, read_json},
    pixels,
    unet::{ALL_SKIPS, AddedInputs, Residuals},
};
use candle_core::Tensor;
use pentimento_imaging as imaging;
use pentimento_request::{
    Accelerations, Canvas, Channels, ClipSkip, Conditioning, Control, ControlNetwork, GenerationRequest,
    Generator, GuidanceScale, Hint, NoiseSource, Picture, Prompt, PromptSyntax, Quiet, Region, Sampler, Size,
    SolverOptions, Span, Steps, Strength, Task, Untouched,
};
use serde_json::Value;
use std::sync::Arc;

fn open(name: &str) -> ControlFile {
    ControlFile::open(&Folder::new(reference().join("goldens/controls")), name).expect("a network")
}

fn unet_config(model: &str) -> UnetConfig {
    read_json(&files(model), "unet/config.json").expect("a configuration")
}

fn assert_residuals(golden: &Golden, name: &str, got: &Residuals) {
    for (index, got) in got.down.iter().enumerate() {
        let place = format!("{name}.down.{index}");
        assert_close(&place, got, &golden.tensor(&place), 1e-3);
    }
    assert!(!golden.tensors.contains_key(&format!("{name}.down.{}", got.down.len())));
    let middle = got.middle.as_ref().expect("the whole way down");
    assert_close(name, middle, &golden.tensor(&format!("{name}.middle")), 1e-3);
}

#[test]
fn networks_add_what_they_add_in_diffusers() {
    against("diffusers ControlNetModel", "control networks of 1.x");
    let golden = Golden::open("control");
    let mut two_blocks = unet_config("tiny-sd15");
    two_blocks.layers_per_block = crate::config::PerLevel::One(2);
    let plain = unet_config("tiny-sd15");
    for (file, name, config, weight) in [
        ("canny", "canny", &plain, 0.7),
        ("depth", "depth", &plain, 0.7),
        ("original.safetensors", "original", &two_blocks, 1.0),
    ] {
        let network = open(file).bind(config, Precision::F32).expect("a network");
        let context = network.context(&golden.tensor("context")).expect("keys and values");
        let hint = network.embed_hint(&golden.tensor("hint")).expect("a hint");
        let got = network.forward(&golden.tensor("x"), 500.0, &context, None, &hint, ALL_SKIPS);
        let got = got.and_then(|got| got.times(weight));
        assert_residuals(&golden, name, &got.expect("residuals"));
    }
}

/// What of the original checkpoints a control network copies.
const COPIED: [&str; 4] = ["input_blocks.", "middle_block.", "time_embed.", "label_emb."];

#[test]
fn every_name_of_a_single_file_is_understood_at_the_true_sizes() {
    for (family, least) in [("true_sd1", 250), ("true_sd2", 250), ("true_sdxl", 700)] {
        let mut known = 0;
        for (stored, part, names, ..) in Manifest::open(family).tensors {
            let Some(rest) = stored.strip_prefix("model.diffusion_model.") else { continue };
            if part == "unet" && COPIED.iter().any(|place| rest.starts_with(place)) {
                for stored in [format!("control_model.{rest}"), rest.to_owned()] {
                    let got = crate::control::from_original(&stored, 2);
                    assert_eq!(got.as_deref(), names.first().map(String::as_str), "{family}: {stored}");
                }
                known += 1;
            }
        }
        assert!(known > least, "{family}: {known}");
    }
}

#[test]
fn networks_of_xl_are_told_pooled_texts_and_sizes() {
    against("diffusers ControlNetModel", "control networks of XL");
    assert_xl(&Golden::open("control"), &open("canny_xl"));
}

fn assert_xl(golden: &Golden, file: &ControlFile) {
    let network = file.bind(&unet_config("tiny-xl"), Precision::F32).expect("a network");
    let context = network.context(&golden.tensor("xl.context")).expect("keys and values");
    let pooled = golden.tensor("xl.pooled");
    let sizes: Vec<f32> = golden.tensor("xl.sizes").to_vec1().expect("sizes");
    let sizes = sizes.try_into().expect("six sizes");
    let inputs = AddedInputs { pooled: Some(&pooled), sizes, guidance_scale: 1.0 };
    let added = network.added(&inputs).expect("an embedding");
    let hint = network.embed_hint(&golden.tensor("hint")).expect("a hint");
    let got = network.forward(&golden.tensor("x"), 500.0, &context, added.as_ref(), &hint, ALL_SKIPS);
    assert_residuals(golden, "xl", &got.expect("residuals"));
}

#[test]
fn single_files_in_the_naming_of_diffusers_are_what_the_folders_are() {
    against("diffusers ControlNetModel", "control networks of 1.x and XL in one file");
    let golden = Golden::open("control");
    let file = |folder: &str| open(&format!("{folder}/diffusion_pytorch_model.safetensors"));
    let network = file("canny").bind(&unet_config("tiny-sd15"), Precision::F32).expect("a network");
    let context = network.context(&golden.tensor("context")).expect("keys and values");
    let hint = network.embed_hint(&golden.tensor("hint")).expect("a hint");
    let got = network.forward(&golden.tensor("x"), 500.0, &context, None, &hint, ALL_SKIPS);
    let got = got.and_then(|got| got.times(0.7));
    assert_residuals(&golden, "canny", &got.expect("residuals"));
    assert_xl(&golden, &file("canny_xl"));
}

#[test]
fn networks_of_another_family_are_refused() {
    let error = open("canny").bind(&unet_config("tiny-xl"), Precision::F32).err().expect("a refusal");
    assert!(error.to_string().contains("cross_attention_dim"), "{error}");
    assert!(open("original.safetensors").bind(&unet_config("tiny-xl"), Precision::F32).is_err());
}

/// The control networks of the goldens.
#[derive(Debug)]
pub(super) struct Shelf;

impl Library for Shelf {
    fn lora(&self, _name: &str) -> Result<Option<Arc<LoraFile>>, LoadError> {
        Ok(None)
    }

    fn lora_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn control(&self, name: &str) -> Result<Option<Arc<ControlFile>>, LoadError> {
        Ok(Some(Arc::new(open(name))))
    }

    fn control_names(&self) -> Vec<String> {
        Vec::new()
    }
}

fn hint(golden: &Golden, name: &str) -> Arc<Picture> {
    let values: Tensor = golden.tensor(&format!("hint.{name}"));
    let values: Vec<i64> = values.flatten_all().and_then(|flat| flat.to_vec1()).expect("bytes");
    let bytes = values.into_iter().map(|value| value as u8).collect();
    Arc::new(Picture::new(Size::new(64, 64).expect("a size"), Channels::Rgb, bytes).expect("a picture"))
}

fn controls(golden: &Golden, case: &Value) -> Vec<Control> {
    let share = |value: &Value| Strength::new(value.as_f64().expect("a share")).expect("a share");
    let control = |control: &Value| Control {
        network: ControlNetwork::Named(control[0].as_str().expect("a name").to_owned()),
        hint: Hint::Picture(hint(golden, control[1].as_str().expect("a name"))),
        weight: control[2].as_f64().expect("a weight") as f32,
        start: share(&control[3]),
        end: share(&control[4]),
    };
    case["controls"].as_array().expect("controls").iter().map(control).collect()
}

fn task(case: &Value) -> Task {
    if case["init"].is_null() {
        return Task::TextToImage;
    }
    let init = Arc::new(super::pipelines::read("inputs/init_64x64.png"));
    let span = Span::of(Strength::new(0.75).expect("a strength"));
    if case["mask"].is_null() {
        return Task::ImageToImage { init, span };
    }
    let mask = super::pipelines::read("inputs/mask_aligned_64x64.png");
    let mask = Arc::new(imaging::mask::from_picture(&mask, imaging::MaskSource::White).expect("a mask"));
    Task::Repaint { init, mask, span, region: Region::Whole, untouched: Untouched::AsDecoded }
}

#[test]
fn pictures_are_those_of_diffusers() {
    let golden = Golden::open("control");
    against("diffusers pipelines", "whole pictures with control networks of 1.x and XL");
    let load = |name: &str| {
        let options = LoadOptions { library: Arc::new(Shelf), ..LoadOptions::new("tiny", 1 << 20) };
        Model::load(&files(name), options).expect("a model")
    };
    let (plain, xl) = (load("tiny-sd15"), load("tiny-xl"));
    let prompt = |text: &str, weight| Prompt { text: text.to_owned(), weight };
    for (name, case) in golden.case["pictures"].as_object().expect("cases") {
        let request = GenerationRequest {
            model: "tiny".to_owned(),
            prompts: vec![
                prompt("a cat on a white background, 3d model", 1.0),
                prompt("blurry dog, line art", -1.0),
            ],
            task: task(case),
            canvas: Canvas::Exact(None),
            sampler: Some(Sampler::Ddim),
            schedule: None,
            steps: Steps::new(8).expect("steps"),
            guidance_scale: GuidanceScale::new(4.0).expect("a scale"),
            guidance_rescale: 0.0,
            accelerations: Accelerations::NONE,
            syntax: PromptSyntax::Plain,
            clip_skip: ClipSkip::LAST,
            hires: None,
            solver: SolverOptions::USUAL,
            noise: NoiseSource::TorchCpu,
            conditioning: Conditioning { controls: controls(&golden, case), ..Conditioning::none() },
            filter: None,
            seed: 42,
        };
        let model = if case["model"] == "tiny-xl" { &xl } else { &plain };
        let image = model.generate(&request, &mut Quiet).expect("a picture");
        let decoded = model.networks.vae.decode(&golden.tensor(&format!("picture.{name}")));
        let expected = decoded.and_then(|decoded| pixels::to_picture(&decoded)).expect("a picture");
        let (_, near, largest) = compare(&image.picture, &expected);
        assert!(near >= 0.999 && largest <= 3, "{name}: {near:.4} within 1, largest {largest}");
        assert_eq!(image.receipt.controls.len(), request.conditioning.controls.len());
    }
}
