//! Group and layer normalisation.
//!
//! Means and variances are summed in f64, in sixteen interleaved lanes of fixed order, so they are exact to f32 and
//! do not depend on the threads.

use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

use crate::activation::silu_of;
use crate::bf16::round_slice;
use crate::isa::{Arith, Isa, per_isa};
use crate::rows::RowsMut;
use crate::scratch::{self, LANES, floats_mut};

/// What follows a normalisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormActivation {
    /// Nothing.
    None,
    /// `x · sigmoid(x)`.
    Silu,
}

/// Group normalisation of `x`, `[batch, channels, pixels]`, over groups of neighbouring channels, then
/// `weight[channel] · x + bias[channel]`, then the activation.
///
/// # Panics
/// If a slice does not fit, or the groups do not divide the channels.
pub fn group_norm(
    x: &[f32],
    [batch, channels, pixels]: [usize; 3],
    groups: usize,
    weight: &[f32],
    bias: &[f32],
    epsilon: f32,
    activation: NormActivation,
    out: &mut [f32],
) {
    assert!(groups > 0 && channels.is_multiple_of(groups), "{groups} groups of {channels} channels");
    assert_eq!(x.len(), batch * channels * pixels, "input of a group norm");
    assert_eq!(out.len(), x.len(), "output of a group norm");
    assert!(weight.len() == channels && bias.len() == channels, "weight and bias of a group norm");
    if x.is_empty() {
        return;
    }
    let isa = Isa::current();
    let group_channels = channels / groups;
    let len = group_channels * pixels;
    out.par_chunks_mut(len).zip(x.par_chunks(len)).enumerate().with_max_len(1).for_each(
        |(group, (out, x))| {
            let (mean, scale) = mean_and_scale(isa, x, epsilon);
            let first = group % groups * group_channels;
            for (c, (out, x)) in out.chunks_exact_mut(pixels).zip(x.chunks_exact(pixels)).enumerate() {
                let (weight, bias) = (weight[first + c], bias[first + c]);
                normalize(isa, x, mean, scale * weight, bias, activation, out);
            }
        },
    );
}

/// The sums of each channel's values and of their squares: of a picture or, added up, of parts of one. `x` is
/// `[channels, pixels]`, a sum is `[values, squares]`.
///
/// # Panics
/// If `x` does not hold as many channels as there are sums.
pub fn add_channel_sums(x: &[f32], pixels: usize, sums: &mut [[f64; 2]]) {
    assert_eq!(x.len(), sums.len() * pixels, "values of {} channels of {pixels} pixels", sums.len());
    let isa = Isa::current();
    if pixels == 0 {
        return;
    }
    sums.par_iter_mut().zip(x.par_chunks(pixels)).for_each(|(sums, x)| {
        let mut more = [0.0; 2];
        moments(isa, x, &mut more);
        sums[0] += more[0];
        sums[1] += more[1];
    });
}

/// What a group norm does to each channel of a picture, once it has seen all of it.
#[derive(Clone, Debug)]
pub struct ChannelNorm {
    /// Mean of the group, factor and bias of the channel.
    channels: Vec<[f32; 3]>,
}

impl ChannelNorm {
    /// Of the sums of all channels of a picture with so many pixels ([`add_channel_sums`]).
    ///
    /// # Panics
    /// If a slice does not fit, or the groups do not divide the channels.
    pub fn new(
        sums: &[[f64; 2]],
        pixels: usize,
        groups: usize,
        weight: &[f32],
        bias: &[f32],
        epsilon: f32,
    ) -> ChannelNorm {
        let count = sums.len();
        assert!(groups > 0 && count.is_multiple_of(groups), "{groups} groups of {count} channels");
        assert!(weight.len() == count && bias.len() == count, "weight and bias of a group norm");
        let members = (count / groups).max(1);
        let mut channels = Vec::with_capacity(count);
        for (group, sums) in sums.chunks(members).enumerate() {
            let total = sums.iter().fold([0.0; 2], |total, sum| [total[0] + sum[0], total[1] + sum[1]]);
            let (mean, scale) = mean_and_scale_of(total, members * pixels, epsilon);
            let first = group * members;
            channels.extend(
                (first..first + members).map(|channel| [mean, scale * weight[channel], bias[channel]]),
            );
        }
        ChannelNorm { channels }
    }

    /// How many channels there are.
    pub fn channels(&self) -> usize {
        self.channels.len()
    }

    /// Normalises part of a channel in place, then SiLU.
    pub(crate) fn apply_to_channel(&self, isa: Isa, channel: usize, x: &mut [f32]) {
        let [mean, scale, bias] = self.channels[channel];
        normalize_in_place(isa, x, mean, scale, bias, NormActivation::Silu);
    }

    /// Normalises part of the picture in place, `[channels, pixels]`, then the activation.
    ///
    /// # Panics
    /// If `x` does not hold all channels.
    pub fn apply(&self, x: &mut [f32], pixels: usize, activation: NormActivation) {
        assert_eq!(x.len(), self.channels.len() * pixels, "part of a picture of {pixels} pixels");
        let isa = Isa::current();
        if pixels == 0 {
            return;
        }
        x.par_chunks_mut(pixels).zip(&self.channels).for_each(|(x, &[mean, scale, bias])| {
            normalize_in_place(isa, x, mean, scale, bias, activation);
        });
    }
}

/// Layer normalisation of each row of `[rows, n]`, then `weight · x + bias`.
///
/// # Panics
/// If a slice does not fit.
pub fn layer_norm(x: &[f32], n: usize, weight: &[f32], bias: &[f32], epsilon: f32, out: RowsMut) {
    assert!(n > 0 && x.len().is_multiple_of(n), "layer norm over rows of {n}");
    assert_eq!(out.len(), x.len(), "output of a layer norm");
    assert!(weight.len() == n && bias.len() == n, "weight and bias of a layer norm");
    let isa = Isa::current();
    let norm = |x: &[f32], out: &mut [f32]| {
        let (mean, scale) = mean_and_scale(isa, x, epsilon);
        normalize_row(isa, x, mean, scale, weight, bias, out);
    };
    let rows = x.par_chunks(n);
    match out {
        RowsMut::F32(out) => {
            out.par_chunks_mut(n).zip(rows).with_min_len(4).for_each(|(out, x)| norm(x, out))
        }
        RowsMut::Bf16(out) => {
            out.reinterpret_cast_mut().par_chunks_mut(n).zip(rows).with_min_len(4).for_each(|(out, x)| {
                scratch::with(n, |lines| {
                    let row = &mut floats_mut(lines)[..n];
                    norm(x, row);
                    round_slice(isa, row, out);
                });
            });
        }
    }
}

/// The mean of `x` and `1 / sqrt(variance + epsilon)`.
fn mean_and_scale(isa: Isa, x: &[f32], epsilon: f32) -> (f32, f32) {
    let mut sums = [0.0; 2];
    moments(isa, x, &mut sums);
    mean_and_scale_of(sums, x.len(), epsilon)
}

/// The same of the sums of `count` values and of their squares.
fn mean_and_scale_of(sums: [f64; 2], count: usize, epsilon: f32) -> (f32, f32) {
    let mean = sums[0] / count as f64;
    let variance = (sums[1] / count as f64 - mean * mean).max(0.0);
    // `max` would hide a NaN; a non-finite input must stay visible.
    let variance = if sums[1].is_finite() { variance } else { f64::NAN };
    (mean as f32, (1.0 / (variance + f64::from(epsilon)).sqrt()) as f32)
}

per_isa!(fn moments(x: &[f32], sums: &mut [f64; 2]) = moments_body);
per_isa!(
    fn normalize(x: &[f32], mean: f32, scale: f32, bias: f32, activation: NormActivation, out: &mut [f32]) =
        normalize_body
);
per_isa!(
    fn normalize_in_place(x: &mut [f32], mean: f32, scale: f32, bias: f32, activation: NormActivation) =
        normalize_in_place_body
);
per_isa!(
    fn normalize_row(x: &[f32], mean: f32, scale: f32, weight: &[f32], bias: &[f32], out: &mut [f32]) =
        normalize_row_body
);

#[inline(always)]
fn moments_body<A: Arith>(x: &[f32], sums: &mut [f64; 2]) {
    let (mut sum, mut squares) = ([0.0_f64; LANES], [0.0_f64; LANES]);
    let (chunks, rest) = x.as_chunks::<LANES>();
    // Two loops over what the first-level cache holds: of one the compiler makes pairs of a value and its square.
    for chunks in chunks.chunks(64) {
        for chunk in chunks {
            for lane in 0..LANES {
                sum[lane] += f64::from(chunk[lane]);
            }
        }
        for chunk in chunks {
            for lane in 0..LANES {
                squares[lane] += f64::from(chunk[lane]) * f64::from(chunk[lane]);
            }
        }
    }
    for (lane, value) in rest.iter().enumerate() {
        let value = f64::from(*value);
        sum[lane] += value;
        squares[lane] += value * value;
    }
    *sums = [sum.iter().sum(), squares.iter().sum()];
}

#[inline(always)]
fn normalize_body<A: Arith>(
    x: &[f32],
    mean: f32,
    scale: f32,
    bias: f32,
    activation: NormActivation,
    out: &mut [f32],
) {
    match activation {
        NormActivation::None => {
            out.iter_mut().zip(x).for_each(|(out, x)| *out = A::fma(x - mean, scale, bias));
        }
        NormActivation::Silu => {
            out.iter_mut().zip(x).for_each(|(out, x)| *out = silu_of::<A>(A::fma(x - mean, scale, bias)));
        }
    }
}

#[inline(always)]
fn normalize_in_place_body<A: Arith>(
    x: &mut [f32],
    mean: f32,
    scale: f32,
    bias: f32,
    activation: NormActivation,
) {
    match activation {
        NormActivation::None => x.iter_mut().for_each(|x| *x = A::fma(*x - mean, scale, bias)),
        NormActivation::Silu => {
            x.iter_mut().for_each(|x| *x = silu_of::<A>(A::fma(*x - mean, scale, bias)));
        }
    }
}

#[inline(always)]
fn normalize_row_body<A: Arith>(
    x: &[f32],
    mean: f32,
    scale: f32,
    weight: &[f32],
    bias: &[f32],
    out: &mut [f32],
) {
    for (((out, x), weight), bias) in out.iter_mut().zip(x).zip(weight).zip(bias) {
        *out = A::fma((x - mean) * scale, *weight, *bias);
    }
}
