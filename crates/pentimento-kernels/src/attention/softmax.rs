//! The running softmax of attention: scores of a block of keys become weights relative to the greatest score so far.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

use super::BLOCK;
use crate::bf16::round_pairs;
use crate::isa::{Arith, Isa, per_isa};
use crate::scratch::LANES;

/// What is kept of a query between blocks of keys.
#[derive(Clone, Copy)]
pub(super) struct Running {
    /// Greatest score so far, before scaling.
    max: f32,
    /// Sum of the exponentials so far, relative to `max`.
    pub(super) sum: f32,
    /// What the sums before the last block must be multiplied with.
    pub(super) correction: f32,
}

impl Running {
    pub(super) const START: Running = Running { max: f32::NEG_INFINITY, sum: 0.0, correction: 0.0 };
}

/// As [`softmax_block`], with the exponentials rounded to pairs of bf16: into `weights`, [`BLOCK`] words from row to row.
pub(super) fn softmax_pairs(
    isa: Isa,
    scores: &mut [f32],
    keys: usize,
    scale: f32,
    running: &mut [Running],
    weights: &mut [u32],
) {
    #[cfg(target_arch = "x86_64")]
    if isa == Isa::Avx512Bf16 {
        // SAFETY: the level was checked when it became current.
        return unsafe { avx512::softmax_pairs(scores, keys, scale, running, weights) };
    }
    softmax_block(isa, scores, keys, scale, running);
    for (row, weights) in scores.chunks_exact(BLOCK).zip(weights.chunks_exact_mut(BLOCK)).take(running.len())
    {
        round_pairs(isa, &row[..keys], &mut weights[..keys.div_ceil(2)]);
    }
}

/// Turns the rows' scores into exponentials relative to the new running maximum, and brings sums up to date.
pub(super) fn softmax_block(isa: Isa, scores: &mut [f32], keys: usize, scale: f32, running: &mut [Running]) {
    #[cfg(target_arch = "x86_64")]
    if isa == Isa::Avx2 {
        // SAFETY: the level was checked when it became current.
        return unsafe { avx2::softmax_block(scores, keys, scale, running) };
    }
    softmax_block_plainly(isa, scores, keys, scale, running);
}

per_isa!(
    fn softmax_block_plainly(scores: &mut [f32], keys: usize, scale: f32, running: &mut [Running]) =
        softmax_block_body
);

#[inline(always)]
fn softmax_block_body<A: Arith>(scores: &mut [f32], keys: usize, scale: f32, running: &mut [Running]) {
    let scale = scale * std::f32::consts::LOG2_E;
    for (row, running) in scores.chunks_exact_mut(BLOCK).zip(running) {
        let row = &mut row[..keys.next_multiple_of(LANES)];
        let mut lanes = [f32::NEG_INFINITY; LANES];
        for chunk in row.chunks_exact(LANES) {
            for lane in 0..LANES {
                lanes[lane] = if chunk[lane] > lanes[lane] { chunk[lane] } else { lanes[lane] };
            }
        }
        let max = lanes.iter().fold(running.max, |max, lane| if *lane > max { *lane } else { max });
        // A causal block may hold nothing for this row: then nothing is to be subtracted.
        let shift = if max == f32::NEG_INFINITY { 0.0 } else { max * scale };
        let mut lanes = [0.0_f32; LANES];
        for chunk in row.chunks_exact_mut(LANES) {
            for lane in 0..LANES {
                chunk[lane] = exp2::<A>(A::fma(chunk[lane], scale, -shift));
                lanes[lane] += chunk[lane];
            }
        }
        // The shift that the earlier sums are relative to, with the rounding it had.
        let correction = exp2::<A>(running.max * scale - shift);
        let sum = running.sum * correction + sum_of(lanes);
        *running = Running { max, sum, correction };
    }
}

#[inline(always)]
fn sum_of(mut lanes: [f32; LANES]) -> f32 {
    for width in [8, 4, 2, 1] {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
    }
    lanes[0]
}

/// The numbers of [`exp2`].
struct Exp2;

impl Exp2 {
    /// What lies below is taken for this, whose power is 0.
    const LEAST: f32 = -127.0;
    /// Adding it, 1.5 · 2^23 and the bias of an exponent, rounds to an integer, which then lies biased in the low bits.
    const SHIFTER: f32 = 12_582_912.0 + 127.0;
    /// Of the polynomial for `2^r` on [-1/2, 1/2], the highest power first: our own Chebyshev fit, with an error of 8e-8. The
    /// last one need not be exact, since weights are divided by their sum.
    const TERMS: [f32; 6] =
        [1.339_086_3e-3, 9.676_032e-3, 5.550_357e-2, 0.240_221_07, std::f32::consts::LN_2, 1.000_000_1];
}

/// `2^x` for `x <= 0` (or NaN), to 2 ulp; from about -126.5 down it is 0.
#[inline(always)]
fn exp2<A: Arith>(x: f32) -> f32 {
    let clamped = if x < Exp2::LEAST { Exp2::LEAST } else { x };
    let shifted = clamped + Exp2::SHIFTER;
    let r = clamped - (shifted - Exp2::SHIFTER);
    let mut p = Exp2::TERMS[0];
    for term in &Exp2::TERMS[1..] {
        p = A::fma(p, r, *term);
    }
    // 2^n: the biased integer as exponent; for -127 it is 0. A product keeps NaN, unlike an addition to p's exponent.
    p * f32::from_bits(shifted.to_bits() << 23)
}
