//! DPM-Solver-2 in the form of Karras et al.'s Algorithm 2: a second look half way in the logarithm of sigma.
//!
//! Source: k-diffusion's `sample_dpm_2` and `sample_dpm_2_ancestral`; Lu et al. 2022 (DPM-Solver).

use super::{
    Between, Denoise, Draw, StepEnd, add_noise, ancestral_step, euler::churn, euler_step, geometric_mean,
    pairs,
};
use crate::error::Result;
use crate::schedule::NoiseLevel;
use candle_core::Tensor;
use pentimento_request::SolverOptions;

/// DPM-Solver-2.
pub(super) fn dpm_2(
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
        x = midpoint_step(denoise, &churned, &denoised, sigma, next)?;
        x = between(StepEnd { index, denoised: &denoised }, x)?;
    }
    Ok(x)
}

/// DPM-Solver-2 to below the next sigma, then fresh noise back up to it.
pub(super) fn dpm_2_ancestral(
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
        x = midpoint_step(denoise, &x, &denoised, sigma, down)?;
        if down > 0.0 {
            x = add_noise(&x, up * options.s_noise, draw)?;
        }
        x = between(StepEnd { index, denoised: &denoised }, x)?;
    }
    Ok(x)
}

/// From sigma to `next` along the slope that is found half way; straight where the way ends in 0.
fn midpoint_step(
    denoise: &mut dyn Denoise,
    x: &Tensor,
    denoised: &Tensor,
    sigma: f64,
    next: f64,
) -> Result<Tensor> {
    if next == 0.0 {
        return euler_step(x, denoised, sigma, next);
    }
    let middle = geometric_mean(sigma, next);
    let half_way = euler_step(x, denoised, sigma, middle)?;
    let at_middle = denoise.denoise(&half_way, NoiseLevel::exploding(middle))?;
    // x + (half_way - at_middle) / middle · (next - sigma), with half_way written out, so that what is large in
    // it and in x cancels here and not in f32.
    let along = (next - sigma) / middle;
    let of_denoised = along * (1.0 - middle / sigma);
    ((x * (next / sigma))? + (denoised * of_denoised)?)? - (at_middle * along)?
}
