//! DPM-Solver++, in `t = -ln sigma`: exact for the part of the equation that is linear.
//!
//! Source: Lu et al. 2022 (DPM-Solver++): Algorithm 1 (2S), Algorithm 2 (2M) and appendix (SDE); k-diffusion's
//! `sample_dpmpp_2m`, `sample_dpmpp_2s_ancestral`, `sample_dpmpp_sde` and `sample_dpmpp_2m_sde` (midpoint). In place
//! of k-diffusion's Brownian tree stands the request's own noise, one draw for each that the tree is asked for.

use super::{
    Between, Denoise, Draw, StepEnd, add_noise, ancestral_step, blend, euler_step, geometric_mean, pairs,
};
use crate::error::Result;
use crate::schedule::NoiseLevel;
use candle_core::Tensor;
use pentimento_request::SolverOptions;

/// DPM-Solver++(2M): Algorithm 2 of Lu et al. 2022.
pub(super) fn dpmpp_2m(
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
        x = blend(&x, &expected, next / sigma)?;
        x = between(StepEnd { index, denoised: &denoised }, x)?;
        before = Some((denoised, h));
    }
    Ok(x)
}

/// DPM-Solver++(2S) to below the next sigma, then fresh noise back up to it.
pub(super) fn dpmpp_2s_ancestral(
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
        if down == 0.0 {
            x = euler_step(&x, &denoised, sigma, down)?;
        } else {
            let middle = geometric_mean(sigma, down);
            let half_way = blend(&x, &denoised, middle / sigma)?;
            let at_middle = denoise.denoise(&half_way, NoiseLevel::exploding(middle))?;
            x = blend(&x, &at_middle, down / sigma)?;
        }
        if next > 0.0 {
            x = add_noise(&x, up * options.s_noise, draw)?;
        }
        x = between(StepEnd { index, denoised: &denoised }, x)?;
    }
    Ok(x)
}

/// DPM-Solver++ for the stochastic equation, with a second look half way (r = 1/2).
pub(super) fn dpmpp_sde(
    denoise: &mut dyn Denoise,
    mut x: Tensor,
    sigmas: &[f64],
    options: &SolverOptions,
    draw: &mut Draw,
    between: &mut Between,
) -> Result<Tensor> {
    let eta = options.eta.unwrap_or(1.0);
    for (index, (sigma, next)) in pairs(sigmas) {
        let denoised = denoise.denoise(&x, NoiseLevel::exploding(sigma))?;
        if next == 0.0 {
            x = euler_step(&x, &denoised, sigma, next)?;
        } else {
            let middle = geometric_mean(sigma, next);
            let (down, up) = ancestral_step(sigma, middle, eta);
            let half_way = add_noise(&blend(&x, &denoised, down / sigma)?, up * options.s_noise, draw)?;
            let at_middle = denoise.denoise(&half_way, NoiseLevel::exploding(middle))?;
            // With r = 1/2 the first look has no weight of its own.
            let (down, up) = ancestral_step(sigma, next, eta);
            x = add_noise(&blend(&x, &at_middle, down / sigma)?, up * options.s_noise, draw)?;
        }
        x = between(StepEnd { index, denoised: &denoised }, x)?;
    }
    Ok(x)
}

/// DPM-Solver++(2M) for the stochastic equation, with the midpoint rule.
pub(super) fn dpmpp_2m_sde(
    denoise: &mut dyn Denoise,
    mut x: Tensor,
    sigmas: &[f64],
    options: &SolverOptions,
    draw: &mut Draw,
    between: &mut Between,
) -> Result<Tensor> {
    let eta = options.eta.unwrap_or(1.0);
    let mut before: Option<(Tensor, f64)> = None;
    for (index, (sigma, next)) in pairs(sigmas) {
        let denoised = denoise.denoise(&x, NoiseLevel::exploding(sigma))?;
        if next == 0.0 {
            x = denoised.clone();
        } else {
            let h = sigma.ln() - next.ln();
            let share = next / sigma * (-eta * h).exp();
            x = blend(&x, &denoised, share)?;
            if let Some((old_denoised, old_h)) = &before {
                let weight = 0.5 * (1.0 - share) * h / old_h;
                x = (x + ((&denoised - old_denoised)? * weight)?)?;
            }
            if eta > 0.0 {
                let deviation = next * (-(-2.0 * eta * h).exp_m1()).sqrt();
                x = add_noise(&x, deviation * options.s_noise, draw)?;
            }
            before = Some((denoised.clone(), h));
        }
        x = between(StepEnd { index, denoised: &denoised }, x)?;
    }
    Ok(x)
}
