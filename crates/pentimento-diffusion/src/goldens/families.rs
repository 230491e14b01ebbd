//! What only some families have: two text encoders, and what a UNet is told beside the texts.

use super::{Golden, against, assert_close, f32_root, files, part};
use crate::{
    LoadOptions, Model,
    config::UnetConfig,
    unet::{AddedInputs, Conditions, Unet},
};
use candle_core::{Device, Tensor};

fn positions(golden: &Golden) -> Tensor {
    let positions: Vec<u32> = serde_json::from_value(golden.case["positions"].clone()).expect("positions");
    Tensor::new(positions, &Device::Cpu).expect("positions")
}

#[test]
fn two_encoders_side_by_side_are_those_of_transformers() {
    against("transformers CLIPTextModel, CLIPTextModelWithProjection", "text encoders of XL");
    let golden = Golden::open("families/networks");
    let options = LoadOptions::new("xl", 1 << 20);
    let model = Model::load(&files("tiny-xl"), options).expect("a model");
    let towers = model.reader(&model.text).towers;
    for (index, text) in golden.case["texts"].as_array().expect("texts").iter().enumerate() {
        let (mut contexts, mut pooled) = (Vec::new(), None);
        for tower in &towers {
            let mut ids = tower.tokenizer.ids(text.as_str().expect("a text")).expect("ids");
            ids.truncate(75);
            let states = tower.encode(&[&ids], 0).expect("states").remove(0);
            contexts.push(states.context);
            pooled = states.pooled.or(pooled);
        }
        let context = Tensor::cat(&contexts, 2).expect("contexts");
        let context = context.index_select(&positions(&golden), 1).expect("positions");
        assert_close(&format!("{text}"), &context, &golden.tensor(&format!("text.{index}.context")), 1e-4);
        let expected = golden.tensor(&format!("text.{index}.pooled"));
        assert_close(&format!("pooled {text}"), &pooled.expect("a pooled state"), &expected, 1e-4);
    }
}

#[test]
fn unets_are_told_of_sizes_texts_scales_and_masks() {
    against("diffusers UNet2DConditionModel", "UNets of XL, LCM and inpainting");
    let golden = Golden::open("families/networks");
    let timestep = golden.case["timestep"].as_f64().expect("a timestep");
    for model in ["tiny-xl", "tiny-lcm", "tiny-inpaint"] {
        let tensor = |name: &str| golden.tensor(&format!("unet.{model}.{name}"));
        let (config, weights) = part::<UnetConfig>(model, "unet", "diffusion_pytorch_model");
        let unet = Unet::load(&f32_root(&weights), &config, model).expect("a UNet");
        let context = unet.context(&tensor("context")).expect("keys and values");
        let pooled = (model == "tiny-xl").then(|| tensor("pooled"));
        let mut inputs = AddedInputs { pooled: pooled.as_ref(), sizes: [0.0; 6], guidance_scale: 1.0 };
        match model {
            "tiny-xl" => {
                let sizes: Vec<f32> = tensor("sizes").to_vec1().expect("sizes");
                inputs.sizes = sizes.try_into().expect("six sizes");
            }
            "tiny-lcm" => inputs.guidance_scale = golden.f64s("unet.tiny-lcm.scale")[0],
            _ => {}
        }
        let added = unet.added(&inputs).expect("what is added");
        assert_eq!((added.is_some(), unet.knows_guidance()), (model != "tiny-inpaint", model == "tiny-lcm"));
        let conditions = Conditions { added: added.as_ref(), ..Conditions::of(&context) };
        let got = unet.forward(&tensor("sample"), timestep, &conditions).expect("a prediction");
        assert_close(model, &got, &tensor("output"), 1e-3);
    }
}
