//! Samplers of variance-preserving latents, which go from one level to another as diffusers' schedulers do.
//!
//! Source: Song et al. 2021 (DDIM); Ho et al. 2020 (DDPM); Luo et al. 2023, "Latent Consistency Models" (LCM).

use super::{Between, Denoise, Draw, Hop, StepEnd, add_noise};
use crate::error::Result;
use candle_core::Tensor;

/// Denoising diffusion implicit models: equations 12 and 16 of Song et al. 2021. `eta` is the share of fresh
/// noise, 0 for none and 1 for as much as DDPM's.
pub(super) fn ddim(
    denoise: &mut dyn Denoise,
    mut x: Tensor,
    hops: &[Hop],
    eta: f64,
    draw: &mut Draw,
    between: &mut Between,
) -> Result<Tensor> {
    for (index, hop) in hops.iter().enumerate() {
        let Hop { from, to, .. } = *hop;
        let denoised = denoise.denoise(&x, from)?;
        let epsilon = ((&x - (&denoised * from.signal)?)? / from.noise)?;
        let deviation = eta * fresh_noise(*hop);
        let kept = (to.noise.powi(2) - deviation.powi(2)).max(0.0).sqrt();
        x = ((&denoised * to.signal)? + (epsilon * kept)?)?;
        if eta > 0.0 {
            x = add_noise(&x, deviation, draw)?;
        }
        x = between(StepEnd { index, denoised: &denoised }, x)?;
    }
    Ok(x)
}

/// Denoising diffusion probabilistic models: equations 6 and 7 of Ho et al. 2020, with the posterior's variance.
pub(super) fn ddpm(
    denoise: &mut dyn Denoise,
    mut x: Tensor,
    hops: &[Hop],
    draw: &mut Draw,
    between: &mut Between,
) -> Result<Tensor> {
    for (index, hop) in hops.iter().enumerate() {
        let Hop { from, to, .. } = *hop;
        let denoised = denoise.denoise(&x, from)?;
        // The root of the step's own alpha, and the variance that the step takes away.
        let root = from.signal / to.signal;
        let beta = 1.0 - root.powi(2);
        let of_denoised = to.signal * beta / from.noise.powi(2);
        let of_x = root * to.noise.powi(2) / from.noise.powi(2);
        x = ((&denoised * of_denoised)? + (x * of_x)?)?;
        if to.noise > 0.0 {
            x = add_noise(&x, fresh_noise(*hop), draw)?;
        }
        x = between(StepEnd { index, denoised: &denoised }, x)?;
    }
    Ok(x)
}

/// The deviation of the posterior of a step.
fn fresh_noise(Hop { from, to, .. }: Hop) -> f64 {
    to.noise / from.noise * (1.0 - (from.signal / to.signal).powi(2)).max(0.0).sqrt()
}

/// Multistep consistency sampling: straight to what the model expects, then fresh noise up to the next level.
pub(super) fn lcm(
    denoise: &mut dyn Denoise,
    mut x: Tensor,
    hops: &[Hop],
    draw: &mut Draw,
    between: &mut Between,
) -> Result<Tensor> {
    for (index, hop) in hops.iter().enumerate() {
        let denoised = denoise.denoise(&x, hop.from)?;
        let (skip, out) = boundary(hop.timestep);
        x = ((&denoised * out)? + (x * skip)?)?;
        if hop.to.noise > 0.0 {
            x = ((x * hop.to.signal)? + (draw()? * hop.to.noise)?)?;
        }
        x = between(StepEnd { index, denoised: &denoised }, x)?;
    }
    Ok(x)
}

/// Shares of `x` and of the model's output that make the model the identity at timestep 0, with the data's
/// deviation 0.5 and timesteps scaled by 10 as in the authors' code.
fn boundary(timestep: f64) -> (f64, f64) {
    let (scaled, deviation) = (timestep * 10.0, 0.5f64);
    let length = scaled.hypot(deviation);
    ((deviation / length).powi(2), scaled / length)
}
