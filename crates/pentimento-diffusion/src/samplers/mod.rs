//! Samplers: free functions that walk a latent from noise to clean.
//!
//! Shapes: `x` is `[1, C, h, w]` in latent cells. Units: sigma is the noise's standard deviation relative to
//! the signal; schedules are f64 on the host and end in 0. Each sampler calls `denoise` for the clean latent
//! that the model expects, and `between` after every step, which reports progress and may change `x` (a
//! mask's known part) or break off. No sampler knows of text, guidance or timesteps. Errors: only what
//! `denoise`, `draw` and `between` return.
//!
//! A step is written as a blend of `x` and the clean latent wherever that is possible: at the sigma of 4096
//! that stands for zero terminal SNR, a difference of sigmas times a slope would cancel away what f32 holds.
//! Where a sampler draws noise, it draws as often as its reference does, so that seeds agree.
//!
//! A new sampler is one function in the file of its kind, one arm in [`sample`], and its golden in
//! `reference/samplers.py`.

mod dpm;
mod dpmpp;
mod euler;
mod multistep;
mod preserving;

use crate::error::Result;
use crate::schedule::NoiseLevel;
use candle_core::{Tensor, bail};
use pentimento_request::{Sampler, SolverOptions};
use std::cell::Cell;

/// What a model expects at the end, given `x` at a noise level.
pub(crate) trait Denoise {
    /// `[1, C, h, w] -> [1, C, h, w]`, the clean latent.
    fn denoise(&mut self, x: &Tensor, level: NoiseLevel) -> Result<Tensor>;
}

/// A step that was just finished.
pub(crate) struct StepEnd<'a> {
    /// Its number, from 0.
    pub(crate) index: usize,
    /// What the model expected at the end when the step began.
    pub(crate) denoised: &'a Tensor,
}

/// Where a run of the steps is, for what acts in some of them.
#[derive(Clone, Copy)]
pub(crate) struct Position<'a> {
    /// The step that is being run, from 0.
    pub(crate) step: &'a Cell<usize>,
    /// Number of steps.
    pub(crate) of: usize,
}

/// What happens between two steps: gives back `x`, changed or not.
pub(crate) type Between<'a> = dyn FnMut(StepEnd<'_>, Tensor) -> Result<Tensor> + 'a;

/// Draws unit noise of the latent's shape.
pub(crate) type Draw<'a> = dyn FnMut() -> Result<Tensor> + 'a;

/// The noise levels of a run.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Path {
    /// Variance-preserving latents: where each step starts and where it goes.
    Preserving(Vec<Hop>),
    /// Variance-exploding latents: sigmas from noisy to 0, one more than steps.
    Exploding(Vec<f64>),
}

/// A step of a variance-preserving latent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Hop {
    /// The level that it starts from.
    pub(crate) from: NoiseLevel,
    /// The level that it goes to.
    pub(crate) to: NoiseLevel,
    /// The timestep that it starts from.
    pub(crate) timestep: f64,
}

impl Path {
    /// Number of steps.
    pub(crate) fn steps(&self) -> usize {
        match self {
            Self::Preserving(hops) => hops.len(),
            Self::Exploding(sigmas) => sigmas.len().saturating_sub(1),
        }
    }

    /// The level that step `index` starts from; clean behind the last one.
    pub(crate) fn level(&self, index: usize) -> NoiseLevel {
        match self {
            Self::Preserving(hops) => hops.get(index).map_or(NoiseLevel::CLEAN, |hop| hop.from),
            Self::Exploding(sigmas) => {
                sigmas.get(index).copied().map_or(NoiseLevel::CLEAN, NoiseLevel::exploding)
            }
        }
    }

    /// The sigmas that the run walks, the last one included.
    pub(crate) fn sigmas(&self) -> Vec<f64> {
        match self {
            Self::Preserving(hops) => {
                let end = hops.last().map(|hop| hop.to.sigma());
                hops.iter().map(|hop| hop.from.sigma()).chain(end).collect()
            }
            Self::Exploding(sigmas) => sigmas.clone(),
        }
    }
}

/// Walks `path` with a sampler.
pub(crate) fn sample(
    sampler: Sampler,
    denoise: &mut dyn Denoise,
    x: Tensor,
    path: &Path,
    options: &SolverOptions,
    draw: &mut Draw,
    between: &mut Between,
) -> Result<Tensor> {
    match (sampler, path) {
        (Sampler::Ddim, Path::Preserving(hops)) => {
            preserving::ddim(denoise, x, hops, options.eta.unwrap_or(0.0), draw, between)
        }
        (Sampler::Ddpm, Path::Preserving(hops)) => preserving::ddpm(denoise, x, hops, draw, between),
        (Sampler::Lcm, Path::Preserving(hops)) => preserving::lcm(denoise, x, hops, draw, between),
        (Sampler::KEuler, Path::Exploding(sigmas)) => {
            euler::euler(denoise, x, sigmas, options, draw, between)
        }
        (Sampler::KEulerAncestral, Path::Exploding(sigmas)) => {
            euler::euler_ancestral(denoise, x, sigmas, options, draw, between)
        }
        (Sampler::KHeun, Path::Exploding(sigmas)) => euler::heun(denoise, x, sigmas, options, draw, between),
        (Sampler::KDpm2, Path::Exploding(sigmas)) => dpm::dpm_2(denoise, x, sigmas, options, draw, between),
        (Sampler::KDpm2Ancestral, Path::Exploding(sigmas)) => {
            dpm::dpm_2_ancestral(denoise, x, sigmas, options, draw, between)
        }
        (Sampler::KLms, Path::Exploding(sigmas)) => multistep::lms(denoise, x, sigmas, between),
        (Sampler::UniPc, Path::Exploding(sigmas)) => multistep::unipc(denoise, x, sigmas, between),
        (Sampler::KDpmpp2m, Path::Exploding(sigmas)) => dpmpp::dpmpp_2m(denoise, x, sigmas, between),
        (Sampler::KDpmpp2sAncestral, Path::Exploding(sigmas)) => {
            dpmpp::dpmpp_2s_ancestral(denoise, x, sigmas, options, draw, between)
        }
        (Sampler::KDpmppSde, Path::Exploding(sigmas)) => {
            dpmpp::dpmpp_sde(denoise, x, sigmas, options, draw, between)
        }
        (Sampler::KDpmpp2mSde, Path::Exploding(sigmas)) => {
            dpmpp::dpmpp_2m_sde(denoise, x, sigmas, options, draw, between)
        }
        (Sampler::Ddim | Sampler::Ddpm | Sampler::Lcm, Path::Exploding(_)) | (_, Path::Preserving(_)) => {
            bail!("{sampler} does not walk a path of this kind")
        }
    }
}

/// Step numbers with the sigma that they start from and the one that they go to.
fn pairs(sigmas: &[f64]) -> impl Iterator<Item = (usize, (f64, f64))> {
    sigmas.windows(2).map(|pair| (pair[0], pair[1])).enumerate()
}

/// `x` where the noise is `share` of what it was and the rest is what the model expects: a straight step from
/// sigma to `share · sigma`.
fn blend(x: &Tensor, denoised: &Tensor, share: f64) -> Result<Tensor> {
    (x * share)? + (denoised * (1.0 - share))?
}

/// Along the slope `(x - denoised) / sigma` to `next`: Euler's method.
fn euler_step(x: &Tensor, denoised: &Tensor, sigma: f64, next: f64) -> Result<Tensor> {
    blend(x, denoised, next / sigma)
}

/// The sigma half way in the logarithm.
fn geometric_mean(sigma: f64, next: f64) -> f64 {
    (sigma * next).sqrt()
}

/// The sigma to step down to and the noise to add so that `next` is met: k-diffusion's `get_ancestral_step`.
fn ancestral_step(sigma: f64, next: f64, eta: f64) -> (f64, f64) {
    let full = (next.powi(2) * (sigma.powi(2) - next.powi(2)) / sigma.powi(2)).max(0.0).sqrt();
    let up = (eta * full).min(next);
    ((next.powi(2) - up.powi(2)).sqrt(), up)
}

/// `x` with fresh noise of this deviation.
fn add_noise(x: &Tensor, deviation: f64, draw: &mut Draw) -> Result<Tensor> {
    x + (draw()? * deviation)?
}
