//! Schedules and samplers against diffusers and k-diffusion, and against exact solutions.

use super::{Golden, against, assert_close, f32_root, measured, part};
use crate::{
    config::{SchedulerConfig, UnetConfig},
    error::Result,
    guidance::GuidedUnet,
    noise::Noise,
    plan,
    samplers::{Denoise, Hop, Path, Position, StepEnd, sample},
    schedule::{NoiseLevel, NoiseSchedule, Timesteps},
    unet::{Conditions, Unet},
};
use candle_core::{Device, Tensor};
use pentimento_request::{NoiseSource, Sampler, Schedule, SolverOptions, Span, Strength};
use std::cell::Cell;

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

/// Sigmas relative to themselves, below 1 absolutely.
#[track_caller]
fn assert_sigmas(what: &str, got: &[f64], expected: &[f64]) {
    assert_eq!(got.len(), expected.len(), "{what}");
    let off = |(got, expected): (&f64, &f64)| (got - expected).abs() / expected.abs().max(1.0);
    let largest = got.iter().zip(expected).map(off).fold(0.0, f64::max);
    measured(what, largest, "of the sigma", 2e-5);
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
                let ddim = format!("ddim.{name}.{n}");
                let timesteps = levels.timesteps(spacing, *n).expect("whole timesteps");
                assert_eq!(as_f64(&timesteps), golden.f64s(&ddim), "{ddim}");
                let reference = match spacing {
                    Schedule::Linspace => format!("k.{table}.{n}"),
                    _ => format!("euler.{table}.{name}.{n}"),
                };
                against("k-diffusion, diffusers", "sigmas of linspace, leading, trailing");
                assert_sigmas(&reference, &levels.sigmas(spacing, *n), &golden.f64s(&reference));
                against("diffusers UniPCMultistepScheduler", "sigmas of UniPC");
                let reference = format!("unipc.{table}.{name}.{n}");
                assert_sigmas(&reference, &levels.unipc_sigmas(spacing, *n), &golden.f64s(&reference));
            }
        }
        against("k-diffusion", "sigmas of karras, exponential");
        for (name, n) in
            ["karras", "exponential"].iter().flat_map(|name| counts.iter().map(move |n| (name, n)))
        {
            let sigmas = schedule(&table, 0).sigmas(name.parse().expect("a schedule"), *n);
            let reference = format!("k.{table}.{name}.{n}");
            assert_sigmas(&reference, &sigmas, &golden.f64s(&reference));
        }
    }
    for n in 1..=50 {
        let timesteps = schedule("sd15", 0).lcm_timesteps(n).expect("at most 50");
        assert_eq!(as_f64(&timesteps), golden.f64s(&format!("lcm.{n}")), "LCM in {n} steps");
    }
    assert_eq!(schedule("sd15", 0).lcm_timesteps(51), None);
}

fn as_f64(timesteps: &[usize]) -> Vec<f64> {
    timesteps.iter().map(|timestep| *timestep as f64).collect()
}

#[test]
fn every_step_of_every_schedule_goes_down() {
    for table in ["sd15", "zero_snr"] {
        let levels = schedule(table, 1);
        for schedule in Schedule::ALL {
            for n in [1, 2, 3, 7, 333, 999, 1000] {
                for sigmas in [levels.sigmas(schedule, n), levels.unipc_sigmas(schedule, n)] {
                    assert_eq!(sigmas.len(), n + 1);
                    assert!(sigmas.is_sorted_by(|a, b| a > b), "{table} {schedule} {n}");
                }
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

/// A case by its name: `table.SAMPLER.schedule.n.strength`, with an option's name behind it where there is one.
struct Case<'a> {
    table: &'a str,
    sampler: Sampler,
    schedule: Schedule,
    path: Path,
    full: bool,
    option: Option<&'a str>,
}

impl<'a> Case<'a> {
    fn read(name: &'a str) -> Self {
        let [table, sampler, spaced, n, rest] =
            name.splitn(5, '.').collect::<Vec<_>>().try_into().expect("five parts");
        // The strength has one digit behind its point.
        let (strength, option) = rest.split_at(3);
        let (sampler, (schedule, offset)) = (sampler.parse().expect("a sampler"), spacing(spaced));
        let (levels, n) = (self::schedule(table, offset), n.parse().expect("a count"));
        let strength = strength.parse().ok().and_then(|share| Strength::new(share).ok()).expect("a strength");
        let path = plan::path(sampler, &levels, schedule, n, Span::of(strength)).expect("a path");
        Self {
            table,
            sampler,
            schedule,
            path,
            full: strength == Strength::FULL,
            option: option.strip_prefix('.'),
        }
    }

    /// What `x` is multiplied with to have the golden's units after so many steps.
    fn unit(&self, steps: usize) -> f64 {
        match self.sampler {
            // Its latents are variance-preserving in diffusers.
            Sampler::UniPc => NoiseLevel::preserving_of(self.path.level(steps).sigma()).signal,
            _ => 1.0,
        }
    }

    fn start(&self, golden: &Golden) -> Result<Tensor> {
        let (noise, latent) = (golden.tensor("noise"), golden.tensor("latent"));
        let level = self.path.level(0);
        match self.full {
            true => noise * plan::initial_deviation(&self.path, self.sampler, k_spacing(self.schedule)),
            false => (latent * level.signal)? + (noise * level.noise)?,
        }
    }

    fn options(&self, golden: &Golden) -> SolverOptions {
        let Some(option) = self.option else { return SolverOptions::USUAL };
        let usual = SolverOptions::USUAL;
        let given = |key: &str| golden.case["options"][option][key].as_f64();
        SolverOptions {
            eta: given("eta"),
            s_churn: given("s_churn").unwrap_or(usual.s_churn),
            s_tmin: given("s_tmin").unwrap_or(usual.s_tmin),
            s_tmax: given("s_tmax").unwrap_or(usual.s_tmax),
            s_noise: given("s_noise").unwrap_or(usual.s_noise),
        }
    }
}

/// The goldens start k-diffusion's samplers from the noise times the first sigma whatever the spacing.
fn k_spacing(schedule: Schedule) -> Schedule {
    if schedule == Schedule::Leading { Schedule::Trailing } else { schedule }
}

/// Runs a golden's case and compares `x` after the steps that were kept.
fn follow(golden: &Golden, name: &str, denoise: &mut dyn Denoise) {
    let case = Case::read(name);
    let start = case.start(golden).expect("a start");
    let shape = start.dims().to_vec();
    let seed = golden.case["noise_seed"].as_u64().expect("a seed");
    let mut noise = Noise::new(NoiseSource::TorchCpu, seed);
    let mut after: Vec<Tensor> = Vec::new();
    let mut draw = || noise.draw(&shape);
    let mut between = |_: StepEnd<'_>, x: Tensor| {
        after.push(x.clone());
        Ok(x)
    };
    let options = case.options(golden);
    let walked = sample(case.sampler, denoise, start, &case.path, &options, &mut draw, &mut between);
    let last = walked.expect("a walk");
    let steps = case.path.steps();
    assert_eq!(after.len(), steps, "{name}");
    let expected = golden.tensor(name);
    let mut kept = match case.option {
        Some(_) => vec![steps - 1],
        None => vec![0, steps / 2, steps - 1],
    };
    kept.dedup();
    assert_eq!(kept.len(), expected.dim(0).expect("steps"), "{name}");
    for (row, step) in kept.into_iter().enumerate() {
        let expected = expected.narrow(0, row, 1).expect("a step");
        let got = (&after[step] * case.unit(step + 1)).expect("a latent");
        if largest(&expected) < 1e-6 {
            // One step of DDPM from no signal at all: nothing, but for diffusers' least variance of 1e-20.
            assert!(largest(&got) < 1e-6, "{name} step {step}");
            continue;
        }
        assert_close(&format!("{name} step {step}"), &got, &expected, 1e-4);
    }
    let end =
        (last - after.last().expect("a step")).and_then(|left| left.abs()?.sum_all()?.to_scalar::<f32>());
    assert!(end.is_ok_and(|difference| difference == 0.0), "{name} ends elsewhere");
}

fn largest(x: &Tensor) -> f32 {
    x.abs().and_then(|x| x.flatten_all()?.max(0)?.to_scalar()).expect("f32 values")
}

fn cases(golden: &Golden) -> Vec<String> {
    serde_json::from_value(golden.case["cases"].clone()).expect("cases")
}

/// Names the row of a sampler's trajectories.
fn against_its_reference(sampler: Sampler, denoiser: &str) {
    let (reference, part) = match (sampler, denoiser) {
        (Sampler::Ddim | Sampler::Ddpm | Sampler::Lcm, "unet") => {
            ("diffusers, k-diffusion", "trajectories of DDIM, DDPM, LCM, on a UNet")
        }
        (Sampler::Ddim | Sampler::Ddpm | Sampler::Lcm, _) => {
            ("diffusers, k-diffusion", "trajectories of DDIM, DDPM, LCM, on Gaussian data")
        }
        (Sampler::UniPc, "unet") => ("diffusers", "trajectories of UniPC, on a UNet"),
        (Sampler::UniPc, _) => ("diffusers", "trajectories of UniPC, on Gaussian data"),
        (_, "unet") => ("k-diffusion", "trajectories of the K_ samplers, on a UNet"),
        _ => ("k-diffusion", "trajectories of the K_ samplers, on Gaussian data"),
    };
    against(reference, part);
}

#[test]
fn trajectories_on_gaussian_data_are_the_references() {
    for file in ["gaussian", "options"] {
        let golden = Golden::open(&format!("samplers/{file}"));
        let deviation = golden.case["scale"].as_f64().expect("a deviation");
        let cases = cases(&golden);
        assert!(cases.len() >= 50, "{file}");
        for name in cases {
            against_its_reference(Case::read(&name).sampler, file);
            follow(&golden, &name, &mut Gaussian { deviation });
        }
    }
}

#[test]
fn trajectories_on_a_unet_are_the_references() {
    let golden = Golden::open("samplers/unet");
    let (config, weights) = part::<UnetConfig>("tiny-sd15", "unet", "diffusion_pytorch_model");
    let unet = Unet::load(&f32_root(&weights), &config, "tiny-sd15").expect("a UNet");
    let context = |table: &str| unet.context(&golden.tensor(&format!("context.{table}"))).expect("a context");
    let tables = ["sd15", "zero_snr"].map(|table| (table, schedule(table, 0), context(table)));
    let cases = cases(&golden);
    // 14 samplers, 5 schedules, 3 strengths, epsilon and v.
    assert_eq!(cases.len(), 14 * 5 * 3 * 2);
    for name in cases {
        let case = Case::read(&name);
        against_its_reference(case.sampler, "unet");
        let (_, levels, context) =
            tables.iter().find(|(table, ..)| *table == case.table).expect("a known table");
        let timesteps = Timesteps::of(case.sampler, case.schedule);
        let mut denoise = GuidedUnet {
            unet: &unet,
            conditions: Conditions::of(context),
            shown: None,
            schedule: levels,
            guidance: None,
            controls: None,
            position: Position { step: &Cell::new(0), of: 1 },
            cache: None,
            timesteps,
        };
        follow(&golden, &name, &mut denoise);
    }
}

/// Standard deviation of the Gaussian data, and the sigmas between which orders are measured.
const DEVIATION: f64 = 0.7;
const FROM: f64 = 10.0;
const TO: f64 = 0.05;

/// Geometric steps down to a small sigma, where the exact solution is known too; no jump to 0.
fn geometric(steps: usize) -> Vec<f64> {
    (0..=steps).map(|index| FROM * (TO / FROM).powf(index as f64 / steps as f64)).collect()
}

/// A path of these sigmas in the units of a sampler.
fn path_of(sampler: Sampler, sigmas: &[f64]) -> Path {
    if !matches!(sampler, Sampler::Ddim | Sampler::Ddpm | Sampler::Lcm) {
        return Path::Exploding(sigmas.to_vec());
    }
    let level = |sigma: f64| NoiseLevel::preserving_of(sigma);
    let hop = |pair: &[f64]| Hop { from: level(pair[0]), to: level(pair[1]), timestep: 500.0 };
    Path::Preserving(sigmas.windows(2).map(hop).collect())
}

/// Where a walk over single numbers ends, in variance-exploding units; `draws` are the noises in their order, then
/// 0.
fn end_of(sampler: Sampler, start: f64, sigmas: &[f64], options: &SolverOptions, draws: &[f64]) -> f64 {
    let path = path_of(sampler, sigmas);
    let [first, last] = [sigmas[0], sigmas[sigmas.len() - 1]].map(|sigma| match path {
        Path::Preserving(_) => NoiseLevel::preserving_of(sigma).signal,
        Path::Exploding(_) => 1.0,
    });
    let number = |value: f64| Tensor::full(value as f32, (1, 1, 1, 1), &Device::Cpu);
    let mut draws = draws.iter().copied();
    let mut draw = || number(draws.next().unwrap_or_default());
    let mut between = |_: StepEnd<'_>, x: Tensor| Ok(x);
    let mut denoise = Gaussian { deviation: DEVIATION };
    let start = number(start * first).expect("a start");
    let end = sample(sampler, &mut denoise, start, &path, options, &mut draw, &mut between)
        .and_then(|x| x.flatten_all()?.to_vec1::<f32>())
        .expect("a walk");
    f64::from(end[0]) / last
}

/// The error of a walk without noise against the exact solution, `x·√(s²+σ²)` at every sigma.
fn error_of(sampler: Sampler, steps: usize) -> f64 {
    let options = SolverOptions { eta: Some(0.0), ..SolverOptions::USUAL };
    let end = end_of(sampler, FROM, &geometric(steps), &options, &[]);
    (end - FROM * TO.hypot(DEVIATION) / FROM.hypot(DEVIATION)).abs()
}

#[test]
fn samplers_converge_with_their_order() {
    for (sampler, order) in [
        (Sampler::Ddim, 1.0),
        (Sampler::KEuler, 1.0),
        (Sampler::KEulerAncestral, 1.0),
        (Sampler::KHeun, 2.0),
        (Sampler::KDpm2, 2.0),
        (Sampler::KDpm2Ancestral, 2.0),
        (Sampler::KDpmpp2m, 2.0),
        (Sampler::KDpmpp2sAncestral, 2.0),
        (Sampler::KDpmppSde, 2.0),
        (Sampler::KDpmpp2mSde, 2.0),
    ] {
        let measured = (error_of(sampler, 40) / error_of(sampler, 80)).log2();
        println!("{sampler}: order {measured:.2}");
        assert!((measured - order).abs() < 0.35, "{sampler}: order {measured:.2} instead of {order}");
    }
}

#[test]
fn methods_that_look_back_converge_at_least_as_their_first_steps_allow() {
    for sampler in [Sampler::KLms, Sampler::UniPc] {
        let measured = (error_of(sampler, 20) / error_of(sampler, 40)).log2();
        println!("{sampler}: order {measured:.2}");
        // They begin with a step of first order, which costs the square of its length.
        assert!(measured > 1.7, "{sampler}: order {measured:.2}");
    }
}

/// How far the variance of a stochastic walk's end is from the data's with the last noise. Everything is linear, so
/// that the variance is the sum of what each draw alone leaves.
fn variance_error_of(sampler: Sampler, steps: usize) -> f64 {
    let (sigmas, options) = (geometric(steps), SolverOptions::USUAL);
    let alone = |start: f64, draws: &[f64]| end_of(sampler, start, &sigmas, &options, draws).powi(2);
    let from_start = alone(FROM.hypot(DEVIATION), &[]);
    // Two draws in a step at most.
    let from_draws = (0..2 * steps).map(|index| {
        let mut draws = vec![0.0; index];
        draws.push(1.0);
        alone(0.0, &draws)
    });
    (from_start + from_draws.sum::<f64>() - TO.hypot(DEVIATION).powi(2)).abs()
}

#[test]
fn stochastic_samplers_converge_in_distribution() {
    for sampler in [
        Sampler::Ddpm,
        Sampler::KEulerAncestral,
        Sampler::KDpm2Ancestral,
        Sampler::KDpmpp2sAncestral,
        Sampler::KDpmppSde,
        Sampler::KDpmpp2mSde,
    ] {
        let measured = (variance_error_of(sampler, 40) / variance_error_of(sampler, 80)).log2();
        println!("{sampler}: weak order {measured:.2}");
        assert!(measured > 0.8, "{sampler}: weak order {measured:.2}");
    }
}
