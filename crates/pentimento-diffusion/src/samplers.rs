//! Samplers: free functions that walk a latent from noise to clean.
//!
//! Shapes: `x` is `[1, C, h, w]` in latent cells. Units: sigma is the noise's standard deviation relative to
//! the signal; schedules are f64 on the host and end in 0. Each sampler calls `denoise` for the clean latent
//! that the model expects, and `between` after every step, which reports progress and may change `x` (a
//! mask's known part) or break off. No sampler knows of text, guidance or timesteps. Errors: only what
//! `denoise` and `between` return.
//! Source: Song et al. 2021 (DDIM); Karras et al. 2022, Algorithm 2 (Euler); Lu et al. 2022 (DPM-Solver++);
//! k-diffusion `sampling.py` for the ancestral steps.
//!
//! A new sampler is one function here, one arm in [`sample`], its name in [`AVAILABLE`], and its golden in
//! `reference/samplers.py`.

use crate::error::Result;
use crate::schedule::NoiseLevel;
use candle_core::Tensor;
use pentimento_request::Sampler;

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

/// What happens between two steps: gives back `x`, changed or not.
pub(crate) type Between<'a> = dyn FnMut(StepEnd<'_>, Tensor) -> Result<Tensor> + 'a;

/// Draws unit noise of the latent's shape.
pub(crate) type Draw<'a> = dyn FnMut() -> Result<Tensor> + 'a;

/// The samplers that this engine runs.
pub(crate) const AVAILABLE: [Sampler; 4] =
    [Sampler::Ddim, Sampler::KEuler, Sampler::KEulerAncestral, Sampler::KDpmpp2m];

/// The noise levels of a run.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Path {
    /// Variance-preserving latents: the levels that each step starts from and goes to.
    Preserving(Vec<(NoiseLevel, NoiseLevel)>),
    /// Variance-exploding latents: sigmas from noisy to 0, one more than steps.
    Exploding(Vec<f64>),
}

impl Path {
    /// Number of steps.
    pub(crate) fn steps(&self) -> usize {
        match self {
            Self::Preserving(steps) => steps.len(),
            Self::Exploding(sigmas) => sigmas.len().saturating_sub(1),
        }
    }

    /// The level that step `index` starts from; clean behind the last one.
    pub(crate) fn level(&self, index: usize) -> NoiseLevel {
        match self {
            Self::Preserving(steps) => steps.get(index).map_or(NoiseLevel::CLEAN, |(from, _)| *from),
            Self::Exploding(sigmas) => {
                sigmas.get(index).copied().map_or(NoiseLevel::CLEAN, NoiseLevel::exploding)
            }
        }
    }

    /// The sigmas that the run walks, the last one included.
    pub(crate) fn sigmas(&self) -> Vec<f64> {
        match self {
            Self::Preserving(steps) => {
                let end = steps.last().map(|(_, to)| to.sigma());
                steps.iter().map(|(from, _)| from.sigma()).chain(end).collect()
            }
            Self::Exploding(sigmas) => sigmas.clone(),
        }
    }
}

/// Walks `path` with the sampler of this name; `None` when this engine does not have it.
pub(crate) fn sample(
    sampler: Sampler,
    denoise: &mut dyn Denoise,
    x: Tensor,
    path: &Path,
    draw: &mut Draw,
    between: &mut Between,
) -> Option<Result<Tensor>> {
    Some(match (sampler, path) {
        (Sampler::Ddim, Path::Preserving(steps)) => ddim(denoise, x, steps, between),
        (Sampler::KEuler, Path::Exploding(sigmas)) => euler(denoise, x, sigmas, between),
        (Sampler::KEulerAncestral, Path::Exploding(sigmas)) => {
            euler_ancestral(denoise, x, sigmas, draw, between)
        }
        (Sampler::KDpmpp2m, Path::Exploding(sigmas)) => dpmpp_2m(denoise, x, sigmas, between),
        _ => return None,
    })
}

/// Denoising diffusion implicit models, eta 0: equation 12 of Song et al. 2021.
fn ddim(
    denoise: &mut dyn Denoise,
    mut x: Tensor,
    steps: &[(NoiseLevel, NoiseLevel)],
    between: &mut Between,
) -> Result<Tensor> {
    for (index, (from, to)) in steps.iter().enumerate() {
        let denoised = denoise.denoise(&x, *from)?;
        let epsilon = ((&x - (&denoised * from.signal)?)? / from.noise)?;
        x = ((&denoised * to.signal)? + (epsilon * to.noise)?)?;
        x = between(StepEnd { index, denoised: &denoised }, x)?;
    }
    Ok(x)
}

/// Euler's method: Algorithm 2 of Karras et al. 2022 without churn and correction.
fn euler(denoise: &mut dyn Denoise, mut x: Tensor, sigmas: &[f64], between: &mut Between) -> Result<Tensor> {
    for (index, (sigma, next)) in pairs(sigmas) {
        let denoised = denoise.denoise(&x, NoiseLevel::exploding(sigma))?;
        x = euler_step(&x, &denoised, sigma, next)?;
        x = between(StepEnd { index, denoised: &denoised }, x)?;
    }
    Ok(x)
}

/// Euler's method to below the next sigma, then fresh noise back up to it.
fn euler_ancestral(
    denoise: &mut dyn Denoise,
    mut x: Tensor,
    sigmas: &[f64],
    draw: &mut Draw,
    between: &mut Between,
) -> Result<Tensor> {
    for (index, (sigma, next)) in pairs(sigmas) {
        let denoised = denoise.denoise(&x, NoiseLevel::exploding(sigma))?;
        let (down, up) = ancestral_step(sigma, next);
        x = euler_step(&x, &denoised, sigma, down)?;
        if next > 0.0 {
            x = (x + (draw()? * up)?)?;
        }
        x = between(StepEnd { index, denoised: &denoised }, x)?;
    }
    Ok(x)
}

/// DPM-Solver++(2M): Algorithm 2 of Lu et al. 2022, in `t = -ln sigma`.
fn dpmpp_2m(
    denoise: &mut dyn Denoise,
    mut x: Tensor,
    sigmas: &[f64],
    between: &mut Between,
) -> Result<Tensor> {
    let mut before: Option<(Tensor, f64)> = None;
    for (index, (sigma, next)) in pairs(sigmas) {
        let denoised = denoise.denoise(&x, NoiseLevel::exploding(sigma))?;
        // Infinite for the last step, which then goes straight to what the model expects.
        let h = sigma.ln() - next.ln();
        let expected = match &before {
            Some((old_denoised, old_h)) if next > 0.0 => {
                let weight = h / (2.0 * old_h);
                ((&denoised * (1.0 + weight))? - (old_denoised * weight)?)?
            }
            _ => denoised.clone(),
        };
        x = ((x * (next / sigma))? - (expected * (-h).exp_m1())?)?;
        x = between(StepEnd { index, denoised: &denoised }, x)?;
        before = Some((denoised, h));
    }
    Ok(x)
}

/// Step numbers with the sigma that they start from and the one that they go to.
fn pairs(sigmas: &[f64]) -> impl Iterator<Item = (usize, (f64, f64))> {
    sigmas.windows(2).map(|pair| (pair[0], pair[1])).enumerate()
}

/// Along the slope `(x - denoised) / sigma` to `next`, written as a blend: at the sigma of 4096 that stands
/// for zero terminal SNR the difference `next - sigma` times the slope would cancel away what f32 holds.
fn euler_step(x: &Tensor, denoised: &Tensor, sigma: f64, next: f64) -> Result<Tensor> {
    let share = next / sigma;
    (x * share)? + (denoised * (1.0 - share))?
}

/// The sigma to step down to and the noise to add so that `next` is met: k-diffusion's `get_ancestral_step`,
/// eta 1.
fn ancestral_step(sigma: f64, next: f64) -> (f64, f64) {
    let up = (next.powi(2) * (sigma.powi(2) - next.powi(2)) / sigma.powi(2)).sqrt().min(next);
    ((next.powi(2) - up.powi(2)).sqrt(), up)
}
