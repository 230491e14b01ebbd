//! The true architectures of Stable Diffusion 1.5 and XL with random weights, against diffusers.
//!
//! The models take gigabytes, so `reference/sd15_random.py FOLDER` and `reference/sdxl_random.py FOLDER` make them where
//! they are wanted, and `PENTIMENTO_SD15_RANDOM=FOLDER` or `PENTIMENTO_SDXL_RANDOM=FOLDER` before
//! `cargo test --release -p pentimento-diffusion true_size -- --nocapture` compares.

use super::{Golden, f32_root};
use crate::{
    LoadOptions, Model, Precision,
    config::{TextConfig, UnetConfig, VaeConfig, read_json},
    files::Folder,
    text::TextEncoder,
    unet::{AddedInputs, Conditions, Unet},
    vae::{Budget, Vae},
    weights::{Scope, Weights},
};
use candle_core::Tensor;
use std::{path::PathBuf, time::Instant};

/// Root mean square of the difference, as a share of that of the expected values.
fn relative_rms(got: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(got.dims(), expected.dims());
    let rms = |tensor: &Tensor| -> f64 {
        let mean = tensor.sqr().and_then(|squares| squares.mean_all());
        f64::from(mean.and_then(|mean| mean.to_scalar::<f32>()).expect("f32 values")).sqrt()
    };
    rms(&(got - expected).expect("one shape")) / rms(expected)
}

#[test]
fn the_true_size_is_what_diffusers_computes() {
    let Some(folder) = std::env::var_os("PENTIMENTO_SD15_RANDOM").map(PathBuf::from) else {
        println!("skipped: PENTIMENTO_SD15_RANDOM names no folder (see reference/sd15_random.py)");
        return;
    };
    let golden = Golden::read(&folder.join("expected.safetensors"));
    let files = Folder::new(&folder);
    let open = |part, stem| Weights::open(&files, part, stem).expect("weights");

    let config: TextConfig = read_json(&files, "text_encoder/config.json").expect("a configuration");
    let weights = open("text_encoder", "model");
    let text = TextEncoder::load(&f32_root(&weights), &config, "text").expect("an encoder");
    let ids: Vec<u32> = golden.f64s("text.ids").into_iter().map(|id| id as u32).collect();
    let states = text.forward(&[ids], 0).expect("states");
    let error = relative_rms(&states, &golden.tensor("text.states"));
    println!("text encoder: relative error {error:.1e}");
    assert!(error < 1e-4);

    let mut config: VaeConfig = read_json(&files, "vae/config.json").expect("a configuration");
    (config.scaling_factor, config.shift_factor) = (Some(1.0), None);
    let weights = open("vae", "diffusion_pytorch_model");
    let vae = Vae::load(&f32_root(&weights), &config, "vae").expect("an autoencoder");
    let start = Instant::now();
    let decoded = vae.decode(&golden.tensor("vae.latent")).expect("pixels");
    let took = start.elapsed().as_secs_f64();
    let error = relative_rms(&decoded, &golden.tensor("vae.decoded"));
    println!("VAE decode: {took:.2} s, relative error {error:.1e}");
    assert!(error < 1e-4);

    let config: UnetConfig = read_json(&files, "unet/config.json").expect("a configuration");
    let weights = open("unet", "diffusion_pytorch_model");
    for (precision, allowed) in [(Precision::F32, 1e-4), (Precision::Bf16, 1.7e-2)] {
        let unet = Unet::load(&Scope::root(&weights, precision), &config, "unet").expect("a UNet");
        let context = unet.context(&golden.tensor("unet.context")).expect("keys and values");
        let timestep = golden.f64s("unet.timestep")[0];
        let mut times = Vec::new();
        for _ in 0..3 {
            let start = Instant::now();
            let got = unet
                .forward(&golden.tensor("unet.sample"), timestep, &Conditions::of(&context))
                .expect("a prediction");
            times.push(start.elapsed().as_secs_f64());
            let error = relative_rms(&got, &golden.tensor("unet.output"));
            println!("UNet step {precision:?}: {:.2} s, relative error {error:.1e}", times[times.len() - 1]);
            assert!(error < allowed);
        }
    }
}

/// The largest memory that this process has had, where the system tells.
fn peak_memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    peak.map_or("unknown".to_owned(), |peak| peak.trim().to_owned())
}

#[test]
fn the_true_size_of_xl_is_what_diffusers_computes() {
    let Some(folder) = std::env::var_os("PENTIMENTO_SDXL_RANDOM").map(PathBuf::from) else {
        println!("skipped: PENTIMENTO_SDXL_RANDOM names no folder (see reference/sdxl_random.py)");
        return;
    };
    let golden = Golden::read(&folder.join("expected.safetensors"));
    let tensor = |name: &str| golden.tensor(&format!("unet.{name}"));
    let sizes: Vec<f32> = tensor("sizes").to_vec1().expect("sizes");
    for (precision, allowed) in [(Precision::Bf16, 3e-2), (Precision::F32, 1e-4)] {
        let options = LoadOptions { precision, ..LoadOptions::new("xl", 1 << 20) };
        let start = Instant::now();
        let model = Model::load(&Folder::new(&folder), options).expect("a model");
        println!(
            "{precision:?}: loaded in {:.1} s, peak memory {}",
            start.elapsed().as_secs_f64(),
            peak_memory()
        );
        let unet = &model.networks.unet;
        let (pooled, sizes) = (tensor("pooled"), sizes.clone().try_into().expect("six sizes"));
        let inputs = AddedInputs { pooled: Some(&pooled), sizes, guidance_scale: 1.0 };
        let (context, added) = (unet.context(&tensor("context")), unet.added(&inputs));
        let (context, added) = (context.expect("keys and values"), added.expect("what is added"));
        let conditions = Conditions { added: added.as_ref(), ..Conditions::of(&context) };
        let start = Instant::now();
        let got = unet.forward(&tensor("sample"), golden.f64s("unet.timestep")[0], &conditions);
        let (got, took) = (got.expect("a prediction"), start.elapsed().as_secs_f64());
        let error = relative_rms(&got, &tensor("output"));
        println!(
            "UNet step {precision:?}: {took:.2} s, relative error {error:.1e}, peak memory {}",
            peak_memory()
        );
        assert!(error < allowed);
    }
}

/// A number in the environment.
fn variable(name: &str) -> Option<usize> {
    std::env::var(name).ok()?.parse().ok()
}

/// Prints what decoding and encoding take, in a process of their own: `PENTIMENTO_SD15_RANDOM=FOLDER
/// PENTIMENTO_VAE_SIDE=512 [PENTIMENTO_VAE_BAND=BYTES] cargo test … the_autoencoder_keeps_its_memory -- --nocapture`.
#[test]
fn the_autoencoder_keeps_its_memory() {
    let folder = std::env::var_os("PENTIMENTO_SD15_RANDOM").map(PathBuf::from);
    let (Some(folder), Some(side)) = (folder, variable("PENTIMENTO_VAE_SIDE")) else {
        println!("skipped: PENTIMENTO_SD15_RANDOM and PENTIMENTO_VAE_SIDE do not name a folder and a size");
        return;
    };
    let budget = variable("PENTIMENTO_VAE_BAND").map_or(Budget::USUAL, Budget::of);
    let files = Folder::new(&folder);
    let config: VaeConfig = read_json(&files, "vae/config.json").expect("a configuration");
    let weights = Weights::open(&files, "vae", "diffusion_pytorch_model").expect("weights");
    let vae = Vae::load(&f32_root(&weights), &config, "vae").expect("an autoencoder");
    println!("bound: {}", peak_memory());
    let cells = side / 8;
    let latents = Tensor::zeros((1, 4, cells, cells), candle_core::DType::F32, &candle_core::Device::Cpu);
    let start = Instant::now();
    let decoded = vae.decode_within(&latents.expect("latents"), budget).expect("pixels");
    println!("decoded: {}, {:.1} s", peak_memory(), start.elapsed().as_secs_f64());
    let start = Instant::now();
    vae.encode_within(&decoded, budget).expect("latents");
    println!("encoded: {}, {:.1} s", peak_memory(), start.elapsed().as_secs_f64());
}
