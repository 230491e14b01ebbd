//! Noise levels: the training schedule's alphas, and how a sampler's steps are spaced over them.
//!
//! Units: timesteps count from 0 (least noise) to `num_train_timesteps - 1`; sigma is the noise's standard
//! deviation relative to the signal. Scalars are f64, but the alphas are rounded to f32 where the references
//! do.
//! Source: Ho et al. 2020 (alphas); Lin et al. 2024, "Common diffusion noise schedules and sample steps are
//! flawed" (zero terminal SNR: Algorithm 1; spacings: table 2); Karras et al. 2022, equation 5; k-diffusion's
//! `DiscreteSchedule` (timesteps between the discrete ones); diffusers' `UniPCMultistepScheduler` and
//! `LCMScheduler`, which space their steps in their own ways.

use crate::{
    config::{SchedulerConfig, unsupported},
    error::{LoadError, LoadErrorKind},
};
use pentimento_request::{Sampler, Schedule};

/// How much signal and how much noise a latent holds: `x = signal·x₀ + noise·ε`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct NoiseLevel {
    /// Factor of the clean latent.
    pub(crate) signal: f64,
    /// Factor of the unit noise.
    pub(crate) noise: f64,
}

impl NoiseLevel {
    /// Clean latents.
    pub(crate) const CLEAN: Self = Self { signal: 1.0, noise: 0.0 };

    /// The level of a variance-exploding latent: full signal, `sigma` noise.
    pub(crate) fn exploding(sigma: f64) -> Self {
        Self { signal: 1.0, noise: sigma }
    }

    /// The level of a variance-preserving latent.
    pub(crate) fn preserving(alpha_cumprod: f64) -> Self {
        Self { signal: alpha_cumprod.sqrt(), noise: (1.0 - alpha_cumprod).sqrt() }
    }

    /// The variance-preserving level of as much noise per signal.
    pub(crate) fn preserving_of(sigma: f64) -> Self {
        let scale = 1.0 / sigma.hypot(1.0);
        Self { signal: scale, noise: sigma * scale }
    }

    /// Noise relative to the signal; infinite where there is no signal.
    pub(crate) fn sigma(self) -> f64 {
        self.noise / self.signal
    }
}

/// Which timestep a network is told for a noise level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timesteps {
    /// The level's own, between two whole ones.
    Exact,
    /// The nearest whole one.
    Rounded,
    /// The whole one below.
    Floored,
}

impl Timesteps {
    /// Those that the references tell: diffusers' UniPC whole ones, k-diffusion exact ones.
    pub(crate) fn of(sampler: Sampler, schedule: Schedule) -> Self {
        match (sampler, schedule) {
            // diffusers rounds those of Karras' sigmas and cuts those of exponential ones.
            (Sampler::UniPc, Schedule::Exponential) => Self::Floored,
            (Sampler::UniPc, _) => Self::Rounded,
            _ => Self::Exact,
        }
    }

    /// What the network is told.
    pub(crate) fn told(self, timestep: f64) -> f64 {
        match self {
            Self::Exact => timestep,
            Self::Rounded => timestep.round_ties_even(),
            Self::Floored => timestep.floor(),
        }
    }
}

/// What a network predicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Prediction {
    /// The noise.
    Epsilon,
    /// `v = √ᾱ·ε − √(1−ᾱ)·x₀` (Salimans & Ho 2022).
    V,
}

impl Prediction {
    /// The name in scheduler configurations.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Epsilon => "epsilon",
            Self::V => "v_prediction",
        }
    }
}

/// The noise levels that a model was trained on.
pub(crate) struct NoiseSchedule {
    /// Cumulative products of the alphas per timestep, f32 values; the last is 0 with zero terminal SNR.
    alphas_cumprod: Vec<f64>,
    /// Logarithms of the sigmas per timestep, finite everywhere.
    log_sigmas: Vec<f64>,
    final_alpha_cumprod: f64,
    steps_offset: usize,
    /// How steps are spaced unless the request says otherwise.
    pub(crate) spacing: Schedule,
    /// The schedule of sigmas that stands above it for samplers that walk sigmas.
    of_sigmas: Option<Schedule>,
    /// What the network predicts.
    pub(crate) prediction: Prediction,
}

impl NoiseSchedule {
    /// Computes the levels of a scheduler configuration.
    pub(crate) fn new(config: &SchedulerConfig, label: &str) -> Result<Self, LoadError> {
        let prediction = match config.prediction_type.as_str() {
            "epsilon" => Prediction::Epsilon,
            "v_prediction" => Prediction::V,
            other => return Err(unsupported(label, "prediction_type", other)),
        };
        let spacing = spacing(config, label)?;
        refuse_unimplemented(config, prediction, label)?;
        let mut betas = betas(config, label)?;
        if config.rescale_betas_zero_snr {
            betas = rescale_to_zero_snr(&betas);
        }
        let alphas_cumprod = cumulative_alphas(&betas);
        // diffusers' DDIM ends on the first alpha unless told to end on 1; its default is to be told so.
        let final_alpha_cumprod =
            if config.set_alpha_to_one.unwrap_or(true) { 1.0 } else { alphas_cumprod[0] };
        let log_sigmas: Vec<f64> = alphas_cumprod.iter().map(|alpha| finite_sigma(*alpha).ln()).collect();
        refuse_flat(&log_sigmas, label)?;
        Ok(Self {
            alphas_cumprod,
            log_sigmas,
            final_alpha_cumprod,
            steps_offset: config.steps_offset,
            spacing,
            of_sigmas: of_sigmas(config),
            prediction,
        })
    }

    /// The schedule that the model's own configuration means for a sampler.
    pub(crate) fn own_schedule(&self, sampler: Sampler) -> Schedule {
        match sampler {
            // diffusers' scheduler of this name has no other.
            Sampler::Lcm => Schedule::Trailing,
            Sampler::Ddim | Sampler::Ddpm => self.spacing,
            _ => self.of_sigmas.unwrap_or(self.spacing),
        }
    }

    /// A model's own scheduler in words.
    pub(crate) fn described(&self, class: &str) -> String {
        let zero_snr = if self.has_zero_terminal_snr() { ", zero terminal SNR" } else { "" };
        format!("{class}, {}{zero_snr}", self.spacing)
    }

    /// Whether the last timestep holds no signal at all.
    fn has_zero_terminal_snr(&self) -> bool {
        self.alphas_cumprod.last() == Some(&0.0)
    }

    /// Number of timesteps that the model was trained on.
    pub(crate) fn count(&self) -> usize {
        self.alphas_cumprod.len()
    }

    /// `steps` whole timesteps from noisy to clean, as diffusers spaces them for DDIM and DDPM; `None` where the
    /// schedule is made of sigmas.
    pub(crate) fn timesteps(&self, schedule: Schedule, steps: usize) -> Option<Vec<usize>> {
        Some(match schedule {
            // Counted from below, unlike k-diffusion: a single step is the first timestep, not the last.
            Schedule::Linspace => self.even_timesteps(steps),
            Schedule::Leading => {
                let stride = self.count() / steps;
                let offset = self.offset_within((steps - 1) * stride);
                (0..steps).rev().map(|index| index * stride + offset).collect()
            }
            Schedule::Trailing => {
                let stride = self.count() as f64 / steps as f64;
                let ends = (0..steps).map(|index| self.count() as f64 - index as f64 * stride);
                rounded(&ends.collect::<Vec<_>>()).into_iter().map(|end| end.saturating_sub(1)).collect()
            }
            Schedule::Karras | Schedule::Exponential => return None,
        })
    }

    /// Evenly spaced whole timesteps from the last to 0, computed as numpy's `linspace` counts up, which decides ties.
    fn even_timesteps(&self, steps: usize) -> Vec<usize> {
        let last = (self.count() - 1) as f64;
        let gap = last / steps.saturating_sub(1).max(1) as f64;
        rounded(&(0..steps).rev().map(|index| (index as f64 * gap).min(last)).collect::<Vec<_>>())
    }

    /// The offset of leading timesteps, which falls away where it would point past the end.
    fn offset_within(&self, largest: usize) -> usize {
        if largest + self.steps_offset < self.count() { self.steps_offset } else { 0 }
    }

    /// Evenly spaced timesteps from the last to 0, not rounded; a single one is the last.
    fn fractional_timesteps(&self, steps: usize) -> Vec<f64> {
        let last = (self.count() - 1) as f64;
        let gaps = steps.saturating_sub(1).max(1) as f64;
        (0..steps).map(|index| last - last * index as f64 / gaps).collect()
    }

    /// The sigmas of `steps` steps and a zero behind them, for the samplers of k-diffusion.
    pub(crate) fn sigmas(&self, schedule: Schedule, steps: usize) -> Vec<f64> {
        let mut sigmas = match (schedule, self.timesteps(schedule, steps)) {
            (Schedule::Linspace, _) => {
                self.fractional_timesteps(steps).into_iter().map(|timestep| self.sigma_at(timestep)).collect()
            }
            (_, Some(timesteps)) => self.sigmas_at(&timesteps),
            // The seventh root: Karras et al. 2022, table 1.
            (Schedule::Karras, None) => {
                self.descent(steps, |sigma| sigma.powf(1.0 / 7.0), |root| root.powi(7))
            }
            (_, None) => self.descent(steps, f64::ln, f64::exp),
        };
        sigmas.push(0.0);
        sigmas
    }

    /// The sigmas of `steps` steps and a zero behind them, as diffusers' UniPC spaces them: it counts one step
    /// more and leaves the last one out.
    pub(crate) fn unipc_sigmas(&self, schedule: Schedule, steps: usize) -> Vec<f64> {
        let timesteps: Vec<usize> = match schedule {
            // There are no more timesteps than steps.
            _ if steps == self.count() => return self.sigmas(schedule, steps),
            Schedule::Linspace => self.even_timesteps(steps + 1)[..steps].to_vec(),
            Schedule::Leading => {
                let stride = self.count() / (steps + 1);
                let offset = self.offset_within(steps * stride);
                (1..=steps).rev().map(|index| index * stride + offset).collect()
            }
            Schedule::Trailing | Schedule::Karras | Schedule::Exponential => {
                return self.sigmas(schedule, steps);
            }
        };
        self.sigmas_at(&timesteps).into_iter().chain([0.0]).collect()
    }

    /// `steps` of the whole timesteps that latent consistency models were distilled on; `None` where they are
    /// fewer.
    pub(crate) fn lcm_timesteps(&self, steps: usize) -> Option<Vec<usize>> {
        let stride = (self.count() / LCM_TIMESTEPS).max(1);
        let known = self.count() / stride;
        // In floating point, as numpy's `linspace` counts.
        let skipped = |index: usize| (index as f64 * (known as f64 / steps as f64)) as usize;
        let of_index = |index: usize| (known - skipped(index)) * stride - 1;
        (steps <= known).then(|| (0..steps).map(of_index).collect())
    }

    fn sigmas_at(&self, timesteps: &[usize]) -> Vec<f64> {
        timesteps.iter().map(|timestep| self.log_sigmas[*timestep].exp()).collect()
    }

    /// `steps` sigmas from the model's largest to its smallest, evenly spaced after `forth`.
    fn descent(&self, steps: usize, forth: impl Fn(f64) -> f64, back: impl Fn(f64) -> f64) -> Vec<f64> {
        let ends = [self.log_sigmas[self.count() - 1], self.log_sigmas[0]];
        let [from, to] = ends.map(|log_sigma| forth(log_sigma.exp()));
        let gaps = steps.saturating_sub(1).max(1) as f64;
        (0..steps).map(|index| back(from + (to - from) * index as f64 / gaps)).collect()
    }

    /// The sigma of a timestep, between two of them log-linear.
    fn sigma_at(&self, timestep: f64) -> f64 {
        let low = timestep.floor() as usize;
        let high = (low + 1).min(self.count() - 1);
        let share = timestep - low as f64;
        ((1.0 - share) * self.log_sigmas[low] + share * self.log_sigmas[high]).exp()
    }

    /// The timestep of a noise level, not rounded; the inverse of [`Self::sigma_at`].
    pub(crate) fn timestep_of(&self, level: NoiseLevel) -> f64 {
        let log_sigma = level.sigma().ln();
        let above = self.log_sigmas.partition_point(|known| *known < log_sigma);
        if above == 0 {
            return 0.0;
        }
        if above == self.count() {
            return (self.count() - 1) as f64;
        }
        let (low, high) = (self.log_sigmas[above - 1], self.log_sigmas[above]);
        (above - 1) as f64 + (log_sigma - low) / (high - low)
    }

    /// The level of a whole timestep.
    pub(crate) fn level(&self, timestep: usize) -> NoiseLevel {
        NoiseLevel::preserving(self.alphas_cumprod[timestep])
    }

    /// The level that a DDIM step of `steps` goes to from `timestep`: always a fixed stride below, as in
    /// diffusers.
    pub(crate) fn level_after(&self, timestep: usize, steps: usize) -> NoiseLevel {
        match timestep.checked_sub(self.count() / steps) {
            Some(before) => self.level(before),
            None => NoiseLevel::preserving(self.final_alpha_cumprod),
        }
    }
}

/// Timesteps that latent consistency models are distilled on: diffusers' `original_inference_steps`.
pub(crate) const LCM_TIMESTEPS: usize = 50;

/// Whole timesteps, ties to the even one as in numpy.
fn rounded(timesteps: &[f64]) -> Vec<usize> {
    timesteps.iter().map(|timestep| timestep.round_ties_even() as usize).collect()
}

/// The sigma of an alpha; where there is no signal at all, of the 2^-24 that diffusers puts in its place.
fn finite_sigma(alpha_cumprod: f64) -> f64 {
    let alpha = if alpha_cumprod == 0.0 { 2f64.powi(-24) } else { alpha_cumprod };
    ((1.0 - alpha) / alpha).sqrt()
}

/// Refuses levels that no sampler can walk: of betas of nothing, or so large that f32 soon keeps no signal.
fn refuse_flat(log_sigmas: &[f64], label: &str) -> Result<(), LoadError> {
    if log_sigmas.iter().all(|sigma| sigma.is_finite()) && log_sigmas.is_sorted_by(|a, b| a < b) {
        return Ok(());
    }
    let message =
        format!("{label}: with this beta_start and beta_end the noise does not rise from step to step");
    Err(LoadError::new(LoadErrorKind::Malformed, message))
}

fn spacing(config: &SchedulerConfig, label: &str) -> Result<Schedule, LoadError> {
    match config.timestep_spacing.as_deref() {
        Some(name) => name.parse().map_err(|_| unsupported(label, "timestep_spacing", name)),
        // The defaults of the classes in diffusers.
        None => Ok(match config.class_name.as_str() {
            "EulerDiscreteScheduler"
            | "EulerAncestralDiscreteScheduler"
            | "DPMSolverMultistepScheduler"
            | "DPMSolverSinglestepScheduler"
            | "DPMSolverSDEScheduler"
            | "HeunDiscreteScheduler"
            | "KDPM2DiscreteScheduler"
            | "KDPM2AncestralDiscreteScheduler"
            | "LMSDiscreteScheduler"
            | "UniPCMultistepScheduler" => Schedule::Linspace,
            _ => Schedule::Leading,
        }),
    }
}

fn of_sigmas(config: &SchedulerConfig) -> Option<Schedule> {
    match (config.use_karras_sigmas, config.use_exponential_sigmas) {
        (Some(true), _) => Some(Schedule::Karras),
        (_, Some(true)) => Some(Schedule::Exponential),
        _ => None,
    }
}

fn refuse_unimplemented(
    config: &SchedulerConfig,
    prediction: Prediction,
    label: &str,
) -> Result<(), LoadError> {
    if config.thresholding {
        return Err(unsupported(label, "thresholding", "true"));
    }
    if config.clip_sample == Some(true) {
        return Err(unsupported(label, "clip_sample", "true"));
    }
    if config.trained_betas.is_some() {
        return Err(unsupported(label, "trained_betas", "a list"));
    }
    if config.rescale_betas_zero_snr && prediction == Prediction::Epsilon {
        // Without signal the noise says nothing about the picture.
        return Err(unsupported(label, "rescale_betas_zero_snr with prediction_type", "epsilon"));
    }
    if !(2..=100_000).contains(&config.num_train_timesteps) {
        return Err(unsupported(label, "num_train_timesteps", &config.num_train_timesteps.to_string()));
    }
    let betas = 0.0..1.0;
    if !betas.contains(&config.beta_start) || !betas.contains(&config.beta_end) {
        return Err(unsupported(label, "beta_start or beta_end", "outside 0 to 1"));
    }
    Ok(())
}

fn betas(config: &SchedulerConfig, label: &str) -> Result<Vec<f32>, LoadError> {
    let count = config.num_train_timesteps;
    match config.beta_schedule.as_str() {
        "linear" => Ok(linspace(config.beta_start as f32, config.beta_end as f32, count)),
        "scaled_linear" => {
            let roots = linspace(config.beta_start.sqrt() as f32, config.beta_end.sqrt() as f32, count);
            Ok(roots.into_iter().map(|root| root * root).collect())
        }
        other => Err(unsupported(label, "beta_schedule", other)),
    }
}

/// `torch.linspace` in f32: computed from both ends towards the middle.
fn linspace(start: f32, end: f32, count: usize) -> Vec<f32> {
    let step = (end - start) / (count - 1) as f32;
    (0..count)
        .map(|index| match index < count / 2 {
            true => start + step * index as f32,
            false => end - step * (count - 1 - index) as f32,
        })
        .collect()
}

/// Cumulative products of `1 - beta`, carried in f64 and rounded to f32, as torch's `cumprod` does.
fn cumulative_alphas(betas: &[f32]) -> Vec<f64> {
    let mut product = 1.0;
    let cumulate = |beta: &f32| {
        product *= f64::from(1.0 - beta);
        f64::from(product as f32)
    };
    betas.iter().map(cumulate).collect()
}

/// Shifts and scales the square roots of the cumulative alphas so that the last is 0 and the first stays.
fn rescale_to_zero_snr(betas: &[f32]) -> Vec<f32> {
    let roots: Vec<f32> = cumulative_alphas(betas).iter().map(|alpha| (*alpha as f32).sqrt()).collect();
    let (first, last) = (roots[0], roots[roots.len() - 1]);
    let rescaled = roots.iter().map(|root| (root - last) * (first / (first - last)));
    let squares: Vec<f32> = rescaled.map(|root| root * root).collect();
    let ratios = squares.windows(2).map(|pair| pair[1] / pair[0]);
    std::iter::once(squares[0]).chain(ratios).map(|alpha| 1.0 - alpha).collect()
}
