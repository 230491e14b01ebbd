//! Schedules and samplers against diffusers and k-diffusion, and against exact solutions.

use super::{Golden, assert_close, f32_root, part};
use crate::{
    config::{SchedulerConfig, UnetConfig},
    error::Result,
    guidance::GuidedUnet,
    noise::Noise,
    samplers::{Denoise, Path, StepEnd, sample},
    schedule::{NoiseLevel, NoiseSchedule},
    unet::{Conditions, Unet},
};
use candle_core::{Device, Tensor};
use pentimento_request::{Sampler, Schedule};
use serde_json::Value;

/// The noise schedule of a golden's table, with a spacing's offset.
fn schedule(table: &str, steps_offset: usize) -> NoiseSchedule {
    let zero_snr = table == "zero_snr";
    let config = SchedulerConfig {
        beta_start: 0.00085,
        beta_end: 0.012,
        beta_schedule: "scaled_linear".to_owned(),
        prediction_type: if zero_snr { "v_prediction" } else { "epsilon" }.to_owned(),
        rescale_betas_zero_snr: zero_snr,
        set_alpha_to_one: Some(false),
        steps_offset,
        ..SchedulerConfig::default()
    };
    NoiseSchedule::new(&config, "a golden").expect("a schedule")
}

/// A golden's spacing: `leading1` is leading with an offset of 1.
fn spacing(name: &str) -> (Schedule, usize) {
    let offset = usize::from(name.ends_with('1'));
    (name.trim_end_matches(['0', '1']).parse().expect("a spacing"), offset)
}

#[track_caller]
fn assert_all_near(what: &str, got: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (got, expected) in got.iter().zip(expected) {
        let near = (got - expected).abs() <= tolerance * expected.abs().max(1.0);
        assert!(near, "{what}: {got} instead of {expected}");
    }
}

#[test]
fn schedules_are_spaced_as_the_references_space_them() {
    let golden = Golden::open("samplers/schedules");
    let names =
        |kind: &str| -> Vec<String> { serde_json::from_value(golden.case[kind].clone()).expect("names") };
    let counts: Vec<usize> = serde_json::from_value(golden.case["counts"].clone()).expect("counts");
    for table in names("tables") {
        for name in names("spacings") {
            let (spacing, offset) = spacing(&name);
            let levels = schedule(&table, offset);
            for n in &counts {
                let timesteps: Vec<f64> =
                    levels.timesteps(spacing, *n).into_iter().map(|timestep| timestep as f64).collect();
                let ddim = format!("ddim.{name}.{n}");
                assert_eq!(timesteps, golden.f64s(&ddim), "{ddim}");
                let sigmas = levels.sigmas(spacing, *n);
                let reference = match spacing {
                    Schedule::Linspace => format!("k.{table}.{n}"),
                    _ => format!("euler.{table}.{name}.{n}"),
                };
                assert_all_near(&reference, &sigmas, &golden.f64s(&reference), 2e-5);
            }
        }
    }
}

#[test]
fn a_levels_timestep_is_found_again() {
    for table in ["sd15", "zero_snr"] {
        let levels = schedule(table, 0);
        for timestep in [0, 1, 500, 998, 999] {
            let found = levels.timestep_of(levels.level(timestep));
            assert!((found - timestep as f64).abs() < 1e-6, "{table}: {found} instead of {timestep}");
        }
    }
}

/// The best denoiser of Gaussian data of deviation `deviation`.
struct Gaussian {
    deviation: f64,
}

impl Denoise for Gaussian {
    fn denoise(&mut self, x: &Tensor, level: NoiseLevel) -> Result<Tensor> {
        let variance = self.deviation.powi(2);
        x * (level.signal * variance / ((level.signal.powi(2) * variance) + level.noise.powi(2)))
    }
}

/// Runs a golden's case and compares `x` after every step.
fn follow(golden: &Golden, name: &str, case: &Value, denoise: &mut dyn Denoise) {
    let text = |key: &str| case[key].as_str().expect("a text");
    let sampler: Sampler = text("sampler").parse().expect("a sampler");
    let n = case["n"].as_u64().expect("a count") as usize;
    let path = match sampler {
        Sampler::Ddim => {
            let (_, offset) = spacing(text("spacing"));
            let levels = schedule(text("table"), offset);
            let timesteps = golden.f64s(&format!("{name}.timesteps")).into_iter().map(|t| t as usize);
            Path::Preserving(timesteps.map(|t| (levels.level(t), levels.level_after(t, n))).collect())
        }
        _ => Path::Exploding(golden.f64s(&format!("{name}.sigmas"))),
    };
    let start = golden.tensor(&format!("{name}.start"));
    let expected = golden.tensor(&format!("{name}.x"));
    let shape = start.dims().to_vec();
    let mut noise = Noise::new(golden.case["noise_seed"].as_u64().expect("a seed"));
    let mut after: Vec<Tensor> = Vec::new();
    let mut draw = || noise.draw(&shape);
    let mut between = |_: StepEnd<'_>, x: Tensor| {
        after.push(x.clone());
        Ok(x)
    };
    let last = sample(sampler, denoise, start, &path, &mut draw, &mut between);
    let last = last.expect("an available sampler").expect("a walk");
    assert_eq!(after.len(), path.steps());
    for (index, x) in after.iter().enumerate() {
        let expected = expected.narrow(0, index, 1).expect("a step").to_dtype(candle_core::DType::F32);
        assert_close(&format!("{name} step {index}"), x, &expected.expect("f32"), 1e-4);
    }
    assert_close(name, &last, after.last().expect("a step"), 0.0);
}

#[test]
fn trajectories_on_gaussian_data_are_the_references() {
    let golden = Golden::open("samplers/gaussian");
    let deviation = golden.case["scale"].as_f64().expect("a deviation");
    for (name, case) in golden.case["cases"].as_object().expect("cases") {
        follow(&golden, name, case, &mut Gaussian { deviation });
    }
}

#[test]
fn trajectories_on_a_unet_are_the_references() {
    let golden = Golden::open("samplers/unet");
    let (config, weights) = part::<UnetConfig>("tiny-sd15", "unet", "diffusion_pytorch_model");
    let unet = Unet::load(&f32_root(&weights), &config, "tiny-sd15").expect("a UNet");
    for (name, case) in golden.case["cases"].as_object().expect("cases") {
        let table = case["table"].as_str().expect("a table");
        let context = unet.context(&golden.tensor(&format!("context.{table}"))).expect("a context");
        let schedule = schedule(table, 0);
        let mut denoise = GuidedUnet {
            unet: &unet,
            conditions: Conditions::of(&context),
            shown: None,
            schedule: &schedule,
            guidance: None,
            controls: None,
        };
        follow(&golden, name, case, &mut denoise);
    }
}

/// The error of `steps` steps against the exact solution for Gaussian data, `x·s/√(s²+σ²)`.
fn error_of(sampler: Sampler, steps: usize) -> f64 {
    let (deviation, sigma) = (0.7f64, 10f64);
    // Geometric steps down to a small sigma, where the exact solution is known too; no jump to 0.
    let last: f64 = 0.05;
    let sigmas: Vec<f64> =
        (0..=steps).map(|index| sigma * (last / sigma).powf(index as f64 / steps as f64)).collect();
    let start = Tensor::full(sigma as f32, (1, 1, 1, 1), &Device::Cpu).expect("a start");
    let mut between = |_: StepEnd<'_>, x: Tensor| Ok(x);
    let mut draw = || candle_core::bail!("this sampler draws nothing");
    let path = Path::Exploding(sigmas);
    let end = sample(sampler, &mut Gaussian { deviation }, start, &path, &mut draw, &mut between)
        .expect("an available sampler")
        .and_then(|x| x.flatten_all()?.to_vec1::<f32>())
        .expect("a walk");
    let exact =
        sigma * (deviation.powi(2) + last.powi(2)).sqrt() / (deviation.powi(2) + sigma.powi(2)).sqrt();
    (f64::from(end[0]) - exact).abs()
}

#[test]
fn samplers_converge_with_their_order() {
    for (sampler, order) in [(Sampler::KEuler, 1.0), (Sampler::KDpmpp2m, 2.0)] {
        let measured = (error_of(sampler, 20) / error_of(sampler, 40)).log2();
        assert!((measured - order).abs() < 0.35, "{sampler}: order {measured:.2} instead of {order}");
    }
}
