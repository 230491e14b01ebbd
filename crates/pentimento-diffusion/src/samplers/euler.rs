//! Euler's and Heun's methods.
//!
//! Source: Karras et al. 2022, Algorithm 2, with its churn; k-diffusion's `sample_euler`,
//! `sample_euler_ancestral` and `sample_heun`.

use super::{Between, Denoise, Draw, StepEnd, add_noise, ancestral_step, euler_step, pairs};
use crate::error::Result;
use crate::schedule::NoiseLevel;
use candle_core::Tensor;
use pentimento_request::SolverOptions;

/// Largest factor by which churn raises a sigma, less one: Karras et al. 2022, Algorithm 2.
const MOST_CHURN: f64 = std::f64::consts::SQRT_2 - 1.0;

/// Euler's method: Algorithm 2 without the correction.
pub(super) fn euler(
    denoise: &mut dyn Denoise,
    mut x: Tensor,
    sigmas: &[f64],
    options: &SolverOptions,
    draw: &mut Draw,
    between: &mut Between,
) -> Result<Tensor> {
    for (index, (sigma, next)) in pairs(sigmas) {
        let (churned, sigma) = churn(x, sigma, sigmas, options, draw)?;
        let denoised = denoise.denoise(&churned, NoiseLevel::exploding(sigma))?;
        x = euler_step(&churned, &denoised, sigma, next)?;
        x = between(StepEnd { index, denoised: &denoised }, x)?;
    }
    Ok(x)
}

/// Euler's method to below the next sigma, then fresh noise back up to it.
pub(super) fn euler_ancestral(
    denoise: &mut dyn Denoise,
    mut x: Tensor,
    sigmas: &[f64],
    options: &SolverOptions,
    draw: &mut Draw,
    between: &mut Between,
) -> Result<Tensor> {
    for (index, (sigma, next)) in pairs(sigmas) {
        let denoised = denoise.denoise(&x, NoiseLevel::exploding(sigma))?;
        let (down, up) = ancestral_step(sigma, next, options.eta.unwrap_or(1.0));
        x = euler_step(&x, &denoised, sigma, down)?;
        if next > 0.0 {
            x = add_noise(&x, up * options.s_noise, draw)?;
        }
        x = between(StepEnd { index, denoised: &denoised }, x)?;
    }
    Ok(x)
}

/// Heun's method: Algorithm 2 whole. The last step is Euler's.
pub(super) fn heun(
    denoise: &mut dyn Denoise,
    mut x: Tensor,
    sigmas: &[f64],
    options: &SolverOptions,
    draw: &mut Draw,
    between: &mut Between,
) -> Result<Tensor> {
    for (index, (sigma, next)) in pairs(sigmas) {
        let (churned, sigma) = churn(x, sigma, sigmas, options, draw)?;
        let denoised = denoise.denoise(&churned, NoiseLevel::exploding(sigma))?;
        x = euler_step(&churned, &denoised, sigma, next)?;
        if next > 0.0 {
            let at_next = denoise.denoise(&x, NoiseLevel::exploding(next))?;
            // The mean of both slopes: half of what the second one differs by is added to the first step.
            let change = (((&x - at_next)? / next)? - ((&churned - &denoised)? / sigma)?)?;
            x = (x + (change * ((next - sigma) / 2.0))?)?;
        }
        x = between(StepEnd { index, denoised: &denoised }, x)?;
    }
    Ok(x)
}

/// `x` with some noise put back, and the sigma that it then has.
pub(super) fn churn(
    x: Tensor,
    sigma: f64,
    sigmas: &[f64],
    options: &SolverOptions,
    draw: &mut Draw,
) -> Result<(Tensor, f64)> {
    if options.s_churn <= 0.0 {
        return Ok((x, sigma));
    }
    // k-diffusion draws in every step, also where it then adds nothing.
    let noise = draw()?;
    if !(options.s_tmin..=options.s_tmax).contains(&sigma) {
        return Ok((x, sigma));
    }
    let gamma = (options.s_churn / (sigmas.len() - 1) as f64).min(MOST_CHURN);
    let raised = sigma * (1.0 + gamma);
    let deviation = (raised.powi(2) - sigma.powi(2)).sqrt() * options.s_noise;
    Ok(((x + (noise * deviation)?)?, raised))
}
