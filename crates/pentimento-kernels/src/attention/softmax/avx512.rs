//! The softmax of a block in AVX-512 with bf16: exponentials as exact as their rounding needs, in half the instructions.

use std::arch::x86_64::*;

use super::{Running, exp2};
use crate::attention::BLOCK;
use crate::isa::Fused;
use crate::scratch::LANES;

/// See [`super::softmax_pairs`].
///
/// # Panics
/// If a slice is too short for the rows.
#[target_feature(enable = "avx512f,avx512dq,avx512bf16")]
pub(super) fn softmax_pairs(
    scores: &mut [f32],
    keys: usize,
    scale: f32,
    running: &mut [Running],
    weights: &mut [u32],
) {
    let scale = scale * std::f32::consts::LOG2_E;
    // Whole registers of pairs: what lies past the keys becomes exp(-inf), 0.
    let (seen, end) = (keys.next_multiple_of(LANES), keys.next_multiple_of(2 * LANES));
    for ((row, weights), running) in
        scores.chunks_exact_mut(BLOCK).zip(weights.chunks_exact_mut(BLOCK)).zip(running)
    {
        row[seen..end].fill(f32::NEG_INFINITY);
        let max = greatest(&row[..end], running.max);
        let shift = if max == f32::NEG_INFINITY { 0.0 } else { max * scale };
        let (scale_lanes, shift_lanes) = (_mm512_set1_ps(scale), _mm512_set1_ps(-shift));
        let mut sums = [_mm512_setzero_ps(); 2];
        let pairs = weights[..end / 2].as_chunks_mut::<LANES>().0;
        for (scores, weights) in row[..end].as_chunks::<{ 2 * LANES }>().0.iter().zip(pairs) {
            // SAFETY: 32 scores are two registers.
            let scores =
                unsafe { [_mm512_loadu_ps(scores.as_ptr()), _mm512_loadu_ps(scores.as_ptr().add(LANES))] };
            let [low, high] = scores.map(|score| powers(_mm512_fmadd_ps(score, scale_lanes, shift_lanes)));
            sums = [_mm512_add_ps(sums[0], low), _mm512_add_ps(sums[1], high)];
            // SAFETY: a register of 32 halves is 16 words.
            unsafe {
                let rounded = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
                _mm512_storeu_si512(weights.as_mut_ptr().cast(), rounded);
            }
        }
        let correction = exp2::<Fused>(running.max * scale - shift);
        let sum = running.sum * correction + _mm512_reduce_add_ps(_mm512_add_ps(sums[0], sums[1]));
        *running = Running { max, sum, correction };
    }
}

/// The greatest of whole pairs of registers and `floor`; NaN counts as nothing.
#[inline]
#[target_feature(enable = "avx512f")]
fn greatest(scores: &[f32], floor: f32) -> f32 {
    let mut lanes = [_mm512_set1_ps(floor); 2];
    for scores in scores.as_chunks::<{ 2 * LANES }>().0 {
        for (half, lanes) in lanes.iter_mut().enumerate() {
            // SAFETY: 32 scores are two registers. Of a NaN and a number the instruction takes its second operand.
            *lanes = unsafe { _mm512_max_ps(_mm512_loadu_ps(scores.as_ptr().add(half * LANES)), *lanes) };
        }
    }
    _mm512_reduce_max_ps(_mm512_max_ps(lanes[0], lanes[1]))
}

/// `2^x` for `x <= 0` (or NaN) within 7.5e-5 of itself, a twenty-fifth of bf16's rounding. The polynomial is our own
/// minimax fit to `2^r` on [0, 1].
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn powers(x: __m512) -> __m512 {
    // x less its floor; of minus infinity that is 0 (no fraction), and scaling makes it 0.
    let r = _mm512_reduce_ps::<{ _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC }>(x);
    let mut p = _mm512_fmadd_ps(_mm512_set1_ps(P3), r, _mm512_set1_ps(P2));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(P1));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(P0));
    _mm512_scalef_ps(p, x)
}

const P0: f32 = 0.999_925_2;
const P1: f32 = 0.695_833_5;
const P2: f32 = 0.226_067_16;
const P3: f32 = 0.078_024_52;
