//! Adapters of every flavour, alone and stacked, against PEFT, diffusers and LyCORIS.

use super::{Golden, against, assert_close, files, reference};
use crate::{
    Folder, LoadOptions, LoraFile, Model, Precision,
    lora::WantedLora,
    text_encoders::{TextEncoders, TextStates},
    unet::{AddedInputs, Conditions, Unet},
};
use candle_core::Tensor;
use pentimento_request::Lora;
use serde_json::Value;
use std::sync::Arc;

fn load(model: &str) -> Model {
    Model::load(&files(model), LoadOptions::new(model, 1 << 20)).expect("a model")
}

/// The adapters of a case.
fn adapters(case: &Value) -> Vec<(Lora, Arc<LoraFile>)> {
    let folder = Folder::new(reference().join("goldens/lora"));
    let adapters = case["adapters"].as_array().expect("adapters").iter();
    let adapter = |adapter: &Value| {
        let name = adapter[0].as_str().expect("a name").to_owned();
        let file = LoraFile::open(&folder, &format!("{name}.safetensors")).expect("an adapter");
        let weight = adapter[1].as_f64().expect("a weight") as f32;
        (Lora { name, weight, text_weight: adapter[2].as_f64().map(|weight| weight as f32) }, Arc::new(file))
    };
    adapters.map(adapter).collect()
}

fn wanted(adapters: &[(Lora, Arc<LoraFile>)]) -> Vec<WantedLora<'_>> {
    adapters.iter().map(|(lora, file)| WantedLora { lora, file: file.clone() }).collect()
}

/// What the encoders make of a framed chunk of ids.
fn states(model: &Model, encoders: &TextEncoders, ids: &Tensor) -> Tensor {
    let ids = ids.flatten_all().and_then(|ids| ids.to_vec1::<i64>()).expect("ids");
    let inner: Vec<u32> = ids[1..76].iter().map(|id| u32::try_from(*id).expect("an id")).collect();
    let towers = encoders.towers(&model.tokenizers);
    let states = towers.iter().map(|tower| tower.encode(&[&inner], 0).expect("states").remove(0)).collect();
    TextStates::side_by_side(states).expect("states").context
}

#[test]
fn every_flavour_does_what_it_does_in_its_reference() {
    against("PEFT, diffusers, LyCORIS", "adapters of every flavour");
    let golden = Golden::open("lora");
    let model = load("tiny-sd15");
    let (x, context, ids) = (golden.tensor("x"), golden.tensor("context"), golden.tensor("ids"));
    let timestep = golden.case["timestep"].as_f64().expect("a timestep");
    let cases = golden.case["cases"].as_object().expect("cases");
    let mut compared = 0;
    for (name, case) in cases.iter().filter(|(name, _)| *name != "xl") {
        let adapters = adapters(case);
        let bound = model.bound(&wanted(&adapters)).expect("the networks");
        let unet: &Unet = bound.unet.as_ref().unwrap_or(&model.networks.unet);
        let context = unet.context(&context).expect("keys and values");
        let got = unet.forward(&x, timestep, &Conditions::of(&context)).expect("a prediction");
        assert_close(name, &got, &golden.tensor(&format!("unet.{name}")), 1e-3);
        let got = states(&model, bound.text.as_ref().unwrap_or(&model.text), &ids);
        assert_close(name, &got, &golden.tensor(&format!("text.{name}")), 1e-3);
        for report in &bound.reports {
            assert!(report.unmatched.is_empty() && !report.matched.is_empty(), "{name}: {report:?}");
        }
        compared += 1;
    }
    assert!(compared >= 17, "{compared}");
    // Whatever was bound before, the model itself is as it was.
    let context = model.networks.unet.context(&context).expect("keys and values");
    let got = model.networks.unet.forward(&x, timestep, &Conditions::of(&context)).expect("a prediction");
    assert_close("the base", &got, &golden.tensor("unet.none"), 1e-3);
}

#[test]
fn the_original_layout_of_xl_is_understood() {
    against("diffusers, kohya's rule by hand", "adapters of XL in the original layout");
    let golden = Golden::open("lora");
    let model = load("tiny-xl");
    let adapters = adapters(&golden.case["cases"]["xl"]);
    let bound = model.bound(&wanted(&adapters)).expect("the networks");
    assert_eq!(bound.reports[0].unmatched, [] as [&str; 0]);
    let (unet, text) = (bound.unet.expect("a UNet"), bound.text.expect("text encoders"));
    let context = unet.context(&golden.tensor("xl.context")).expect("keys and values");
    let pooled = golden.tensor("xl.pooled");
    let sizes: Vec<f32> = golden.tensor("xl.sizes").to_vec1().expect("sizes");
    let inputs = AddedInputs {
        pooled: Some(&pooled),
        sizes: sizes.try_into().expect("six sizes"),
        guidance_scale: 1.0,
    };
    let added = unet.added(&inputs).expect("an embedding");
    let conditions = Conditions { added: added.as_ref(), ..Conditions::of(&context) };
    let timestep = golden.case["timestep"].as_f64().expect("a timestep");
    let got = unet.forward(&golden.tensor("xl.x"), timestep, &conditions).expect("a prediction");
    assert_close("unet", &got, &golden.tensor("xl.unet"), 1e-3);
    assert_close("text", &states(&model, &text, &golden.tensor("ids")), &golden.tensor("xl.text"), 1e-3);
}

#[test]
fn less_exact_precisions_stay_near() {
    against("the adapters in f32, from their references", "adapters in bf16 and int8");
    let golden = Golden::open("lora");
    // bf16 and int8 keep 8 bits of each factor. This is the greatest of all differences.
    for (precision, allowed) in [(Precision::Bf16, 0.15), (Precision::Int8, 0.2)] {
        let options = LoadOptions { precision, ..LoadOptions::new("tiny", 1 << 20) };
        let model = Model::load(&files("tiny-sd15"), options).expect("a model");
        for name in ["kohya", "lokr_and_kohya"] {
            let adapters = adapters(&golden.case["cases"][name]);
            let unet = model.bound(&wanted(&adapters)).expect("the networks").unet.expect("a UNet");
            let context = unet.context(&golden.tensor("context")).expect("keys and values");
            let timestep = golden.case["timestep"].as_f64().expect("a timestep");
            let got =
                unet.forward(&golden.tensor("x"), timestep, &Conditions::of(&context)).expect("a prediction");
            let what = format!("{name} in {precision:?}");
            assert_close(&what, &got, &golden.tensor(&format!("unet.{name}")), allowed);
        }
    }
}
