//! Tokenizer, text encoder, UNet and autoencoders against transformers and diffusers.

use super::{Golden, against, assert_close, bits, f32_root, files, part, reference};
use crate::{
    config::{TextConfig, UnetConfig, VaeConfig},
    files::Folder,
    ops::Precision,
    packed::Packed,
    text::TextEncoder,
    tokenizer::Tokenizer,
    unet::{Conditions, Unet},
    vae::{Encoded, Vae},
    weights::Scope,
};
use candle_core::Tensor;
use serde_json::Value;

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).expect("ids")
}

#[test]
fn token_ids_are_those_of_transformers() {
    let golden = Golden::open("text");
    let tokenizer = Tokenizer::load(&files("default"), "tokenizer").expect("a tokenizer");
    for kind in ["texts", "long"] {
        for case in golden.case[kind].as_array().expect("texts") {
            let text = case["text"].as_str().expect("a text");
            let expected = ids(&case["ids"]);
            let mut got = tokenizer.ids(text).expect("ids");
            if kind == "texts" {
                got.truncate(75);
            }
            // Start and end stand around the expected ids.
            assert_eq!(tokenizer.framed(&got, got.len() + 2), expected, "{text:?}");
        }
    }
}

#[test]
fn a_tokenizer_in_one_file_gives_the_ids_of_transformers() {
    let golden = Golden::open("text");
    let folder = Folder::new(reference().join("goldens/models/tiny-words"));
    let tokenizer = Tokenizer::load(&folder, "tokenizer").expect("a tokenizer");
    for case in golden.case["words"].as_array().expect("texts") {
        let text = case["text"].as_str().expect("a text");
        let got = tokenizer.ids(text).expect("ids");
        assert_eq!(tokenizer.framed(&got, got.len() + 2), ids(&case["ids"]), "{text:?}");
    }
    // `!` fills up, and the last token that was added has the largest id.
    assert_eq!(tokenizer.framed(&[], 3), [662, 663, 0]);
    assert_eq!(tokenizer.largest_id(), 665);
}

#[test]
fn chunks_are_framed_and_padded_as_diffusers_asks_for_them() {
    let golden = Golden::open("text");
    for model in ["tiny-sd15", "tiny-sd21"] {
        let tokenizer = Tokenizer::load(&files(model), "tokenizer").expect("a tokenizer");
        for (text, expected) in golden.case["padded"][model].as_object().expect("texts") {
            let framed = tokenizer.framed(&tokenizer.ids(text).expect("ids"), 77);
            assert_eq!(framed, ids(expected), "{model}: {text:?}");
        }
    }
}

#[test]
fn text_states_are_those_of_transformers() {
    against("transformers CLIPTextModel", "text encoder");
    let golden = Golden::open("text");
    let positions = ids(&golden.case["positions"]);
    let positions = Tensor::new(positions, &candle_core::Device::Cpu).expect("positions");
    for model in ["tiny-sd15", "tiny-sd21", "default"] {
        let (config, weights) = part::<TextConfig>(model, "text_encoder", "model");
        let encoder = TextEncoder::load(&f32_root(&weights), &config, model).expect("an encoder");
        let tokenizer = Tokenizer::load(&files(model), "tokenizer").expect("a tokenizer");
        let expected = golden.tensor(&format!("states.{model}"));
        let mut texts = Vec::new();
        for (index, text) in golden.case["encoded"].as_array().expect("texts").iter().enumerate() {
            let mut text_ids = tokenizer.ids(text.as_str().expect("a text")).expect("ids");
            text_ids.truncate(75);
            texts.push(tokenizer.framed(&text_ids, 77));
            let states = encoder.forward(&texts[index..], 0).expect("states");
            let states = states.index_select(&positions, 1).expect("positions");
            let expected = expected.narrow(0, index, 1).expect("a row");
            assert_close(&format!("{model} {text}"), &states, &expected, 1e-4);
        }
        // Together they are what they are alone, bit for bit.
        let together = encoder.forward(&texts, 0).expect("states");
        for (index, text) in texts.iter().enumerate() {
            let alone = encoder.forward(std::slice::from_ref(text), 0).expect("states");
            let beside = together.narrow(0, index, 1).expect("a text's");
            assert!(bits(&alone) == bits(&beside), "{model}, text {index}");
        }
    }
}

#[test]
fn unets_predict_what_diffusers_predicts() {
    against("diffusers UNet2DConditionModel", "UNet");
    for model in ["tiny-sd15", "tiny-sd21", "tiny-bf16-sharded", "default"] {
        let golden = Golden::open(&format!("unet/{model}"));
        let (config, weights) = part::<UnetConfig>(model, "unet", "diffusion_pytorch_model");
        let unet = Unet::load(&f32_root(&weights), &config, model).expect("a UNet");
        for index in 0..golden.case["cases"].as_array().expect("cases").len() {
            let tensor = |name: &str| golden.tensor(&format!("{index}.{name}"));
            let (sample, context, expected) = (tensor("sample"), tensor("context"), tensor("output"));
            // Each item alone: this UNet takes one timestep for a whole batch.
            for (item, timestep) in golden.f64s(&format!("{index}.timestep")).into_iter().enumerate() {
                let of_item = |tensor: &Tensor| tensor.narrow(0, item, 1).expect("an item");
                let context = unet.context(&of_item(&context)).expect("keys and values");
                let got = unet
                    .forward(&of_item(&sample), timestep, &Conditions::of(&context))
                    .expect("a prediction");
                assert_close(&format!("{model} {index}.{item}"), &got, &of_item(&expected), 1e-3);
            }
        }
    }
}

#[test]
fn the_last_convolutions_of_a_unet_in_bf16_are_in_f32() {
    let (config, weights) = part::<UnetConfig>("tiny-sd15", "unet", "diffusion_pytorch_model");
    let packed = Packed::default();
    let scope = Scope::root(&weights, Precision::Bf16).sharing(Some(&packed));
    Unet::load(&scope, &config, "tiny-sd15").expect("a UNet");
    let is_exact = |place: &String| packed.layer(place).expect("a layer").precision() == Precision::F32;
    let exact: Vec<String> = packed.shapes().into_keys().filter(is_exact).collect();
    assert_eq!(exact, ["conv_out", "up_blocks.1.resnets.1.conv2"]);
}

#[test]
fn an_item_of_a_batch_has_the_bytes_that_it_has_alone() {
    let golden = Golden::open("unet/default");
    let (config, weights) = part::<UnetConfig>("default", "unet", "diffusion_pytorch_model");
    let unet = Unet::load(&f32_root(&weights), &config, "default").expect("a UNet");
    let (sample, context) = (golden.tensor("0.sample"), golden.tensor("0.context"));
    let run = |sample: &Tensor, context: &Tensor| {
        let context = unet.context(context).expect("keys and values");
        unet.forward(sample, 500.0, &Conditions::of(&context)).expect("a prediction")
    };
    let together = run(&sample, &context);
    for item in 0..2 {
        let of_item = |tensor: &Tensor| tensor.narrow(0, item, 1).expect("an item");
        let alone = run(&of_item(&sample), &of_item(&context));
        assert_eq!(bits(&alone), bits(&of_item(&together)));
    }
}

#[test]
fn autoencoders_encode_and_decode_as_diffusers_does() {
    against("diffusers AutoencoderKL, AutoencoderTiny", "autoencoders");
    let golden = Golden::open("vae");
    for (model, sizes) in golden.case.as_object().expect("models") {
        let (mut config, weights) = part::<VaeConfig>(model, "vae", "diffusion_pytorch_model");
        // The goldens are the bare networks.
        (config.scaling_factor, config.shift_factor) = (Some(1.0), None);
        let vae = Vae::load(&f32_root(&weights), &config, model).expect("an autoencoder");
        for index in 0..sizes.as_array().expect("sizes").len() {
            let what = |part: &str| format!("{model}.{index}.{part}");
            // Each picture of a batch alone: autoencoders take one at a time.
            for item in 0..golden.tensor(&what("latent")).dim(0).expect("a batch") {
                let expected = |part: &str| golden.tensor(&what(part)).narrow(0, item, 1).expect("an item");
                match vae.encode(&expected("pixels")).expect("latents") {
                    Encoded::Posterior { mean, log_variance } => {
                        assert_close(&what("mean"), &mean, &expected("mean"), 1e-3);
                        assert_close(&what("logvar"), &log_variance, &expected("logvar"), 1e-3);
                    }
                    Encoded::Latents(latents) => {
                        assert_close(&what("mean"), &latents, &expected("mean"), 1e-3);
                    }
                }
                let decoded = vae.decode(&expected("latent")).expect("pixels");
                assert_close(&what("decoded"), &decoded, &expected("decoded"), 1e-3);
            }
        }
    }
}
