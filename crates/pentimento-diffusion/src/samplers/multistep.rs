//! Methods that look back at earlier steps: the linear multistep method, and UniPC.
//!
//! Source: k-diffusion's `sample_lms`; Zhao et al. 2023, "UniPC: A Unified Predictor-Corrector Framework for Fast
//! Sampling of Diffusion Models", as diffusers' `UniPCMultistepScheduler` sets it.

use super::{Between, Denoise, StepEnd, blend, euler_step, pairs};
use crate::error::Result;
use crate::schedule::NoiseLevel;
use candle_core::Tensor;
use std::collections::VecDeque;

/// Steps that the linear multistep method looks at.
const LMS_ORDER: usize = 4;

/// The linear multistep method (Adams-Bashforth) in sigma. It starts with Euler's step.
pub(super) fn lms(
    denoise: &mut dyn Denoise,
    mut x: Tensor,
    sigmas: &[f64],
    between: &mut Between,
) -> Result<Tensor> {
    // Slopes, the newest first.
    let mut slopes: VecDeque<Tensor> = VecDeque::with_capacity(LMS_ORDER);
    for (index, (sigma, next)) in pairs(sigmas) {
        let denoised = denoise.denoise(&x, NoiseLevel::exploding(sigma))?;
        slopes.truncate(LMS_ORDER - 1);
        slopes.push_front(((&x - &denoised)? / sigma)?);
        x = euler_step(&x, &denoised, sigma, next)?;
        for (back, slope) in slopes.iter().enumerate() {
            // Euler's step above is the newest slope over the whole step.
            let taken = if back == 0 { next - sigma } else { 0.0 };
            let weight = lagrange_integral(&sigmas[..=index + 1], slopes.len(), back) - taken;
            x = (x + (slope * weight)?)?;
        }
        x = between(StepEnd { index, denoised: &denoised }, x)?;
    }
    Ok(x)
}

/// The integral, over the last interval of `sigmas`, of the polynomial that is 1 at the `back`-th of the `order`
/// sigmas before its end and 0 at the others.
fn lagrange_integral(sigmas: &[f64], order: usize, back: usize) -> f64 {
    let start = sigmas.len() - 2;
    let (from, to) = (sigmas[start], sigmas[start + 1]);
    let at = |sigma: f64| -> f64 {
        let others = (0..order).filter(|other| *other != back).map(|other| sigmas[start - other]);
        others.map(|other| (sigma - other) / (sigmas[start - back] - other)).product()
    };
    // Gauss' rule with two points is exact up to the third degree, which is that of order 4.
    let (middle, half) = ((from + to) / 2.0, (to - from) / 2.0);
    let reach = half / 3f64.sqrt();
    half * (at(middle - reach) + at(middle + reach))
}

/// What UniPC keeps of a step that it has taken.
struct Taken {
    /// The latent that the step started from, corrected.
    x: Tensor,
    denoised: Tensor,
    sigma: f64,
    order: usize,
}

/// UniPC of second order in the clean latent, B(h) = e^h - 1. Every step but the first corrects the one before
/// with the new look; the last step is of first order.
pub(super) fn unipc(
    denoise: &mut dyn Denoise,
    mut x: Tensor,
    sigmas: &[f64],
    between: &mut Between,
) -> Result<Tensor> {
    let steps = sigmas.len().saturating_sub(1);
    // The last step and the one before it.
    let mut taken: [Option<Taken>; 2] = [None, None];
    for (index, (sigma, next)) in pairs(sigmas) {
        let denoised = denoise.denoise(&x, NoiseLevel::exploding(sigma))?;
        if let [Some(last), earlier] = &taken {
            x = corrected(last, earlier.as_ref(), &denoised, sigma)?;
        }
        let [last, _] = taken;
        let order = if last.is_some() && index + 1 < steps { 2 } else { 1 };
        let start = Taken { x, denoised, sigma, order };
        x = predicted(&start, last.as_ref(), next)?;
        x = between(StepEnd { index, denoised: &start.denoised }, x)?;
        taken = [Some(start), last];
    }
    Ok(x)
}

/// UniP: the latent at `next`.
fn predicted(start: &Taken, last: Option<&Taken>, next: f64) -> Result<Tensor> {
    let share = next / start.sigma;
    let x = blend(&start.x, &start.denoised, share)?;
    match last {
        Some(last) if start.order == 2 => {
            let (slope, _) = slope_before(start, last, next)?;
            x + (slope * (0.5 * (1.0 - share)))?
        }
        _ => Ok(x),
    }
}

/// UniC: the latent at `sigma`, where the model by now expects `denoised`.
fn corrected(last: &Taken, earlier: Option<&Taken>, denoised: &Tensor, sigma: f64) -> Result<Tensor> {
    let share = sigma / last.sigma;
    let (x, change) = (blend(&last.x, &last.denoised, share)?, (denoised - &last.denoised)?);
    match earlier {
        Some(earlier) if last.order == 2 => {
            let (slope, ratio) = slope_before(last, earlier, sigma)?;
            let (of_slope, of_change) = correction_weights((last.sigma / sigma).ln(), ratio);
            (x + (slope * (of_slope * (1.0 - share)))?)? + (change * (of_change * (1.0 - share)))?
        }
        _ => x + (change * (0.5 * (1.0 - share)))?,
    }
}

/// The change of the expected latent between two steps, by the ratio of that step's length to the one to
/// `next`, and that ratio (below 0: it points back).
fn slope_before(start: &Taken, last: &Taken, next: f64) -> Result<(Tensor, f64)> {
    let ratio = (start.sigma / last.sigma).ln() / (start.sigma / next).ln();
    Ok((((&last.denoised - &start.denoised)? / ratio)?, ratio))
}

/// The weights of the earlier slope and of the newest change: the solution of the two conditions of order of
/// equation 5 in Zhao et al. 2023, for a step of length `h`.
fn correction_weights(h: f64, ratio: f64) -> (f64, f64) {
    let factor = (-h).exp_m1();
    let second = factor / -h - 1.0;
    let third = second / -h - 0.5;
    let (first_condition, second_condition) = (second / factor, 2.0 * third / factor);
    let of_slope = (first_condition - second_condition) / (1.0 - ratio);
    (of_slope, first_condition - of_slope)
}
