//! Scores to weights in AVX-512: the scores of a register tile never leave the registers.

use std::arch::x86_64::*;

use super::{HEADROOM, Looked, STRIP, Strip};
use crate::activation::Exp2;
use crate::attention::KEPT;
use crate::bf16::pair_vectors;
use crate::gemm::ROWS;
use crate::scratch::{LANES, Line};

/// The sum of a tile's weights from which on their shift is raised.
const MOST: f32 = (1_u64 << HEADROOM as u32) as f32;

/// Defines what [`super::Weigher::weigh`] does: `step` adds a word's products to a sum, `finish` makes weights of a query's
/// scores for the tile's keys, relative to its shift, writes them and gives their sum.
macro_rules! define_weigh {
    ($(#[$doc:meta])* $name:ident, $tile:ident, $features:literal, |$sum:ident, $a:ident, $b:ident| $step:expr, $finish:ident, [$($g:literal)*]) => {
        $(#[$doc])*
        pub(super) unsafe fn $name(groups: usize, looked: &Looked, strip: &mut Strip, weights: &mut [Line]) -> bool {
            // SAFETY: the caller's promise.
            unsafe {
                match groups {
                    1 => $tile::<1>(looked, strip, weights),
                    2 => $tile::<2>(looked, strip, weights),
                    3 => $tile::<3>(looked, strip, weights),
                    4 => $tile::<4>(looked, strip, weights),
                    _ => unreachable!("groups of a strip"),
                }
            }
        }

        #[target_feature(enable = $features)]
        unsafe fn $tile<const G: usize>(looked: &Looked, strip: &mut Strip, weights: &mut [Line]) -> bool {
            let mut scores = [[_mm512_setzero_ps(); G]; ROWS];
            let (keys, queries) = (looked.keys.as_ptr(), looked.queries.as_ptr().cast::<f32>());
            for step in 0..looked.steps {
                let mut columns = [_mm512_setzero_ps(); G];
                for g in 0..G {
                    // SAFETY: queries hold `steps` lines per group, each aligned to 64 bytes.
                    columns[g] = unsafe { _mm512_load_ps(queries.add((g * looked.steps + step) * LANES)) };
                }
                for m in 0..ROWS {
                    // SAFETY: keys hold `steps` words in each row.
                    let $a = unsafe { _mm512_set1_epi32(*keys.add(m * looked.steps + step).cast()) };
                    for g in 0..G {
                        let ($sum, $b) = (scores[m][g], columns[g]);
                        scores[m][g] = $step;
                    }
                }
            }
            if looked.first + ROWS > strip.least_seen {
                for (m, row) in scores.iter_mut().enumerate() {
                    for (g, score) in row.iter_mut().enumerate() {
                        *score = hidden(*score, looked.first + m, strip, g);
                    }
                }
            }
            // One by one: a loop would keep the scores in memory.
            let mut raised = false;
            $(if $g < G {
                raised |= define_weigh!(@group $g, scores, looked, strip, weights, $finish);
            })*
            raised
        }
    };
    (@group $g:literal, $scores:ident, $looked:ident, $strip:ident, $weights:ident, $finish:ident) => {{
        let (scale, lines) = (_mm512_set1_ps($looked.scale), &mut $weights[$g * KEPT..]);
        let scores = $scores.map(|row| row[$g]);
        let shift = lanes(&$strip.shift, $g);
        let mut sum = $finish(scores.map(|score| _mm512_fmsub_ps(score, scale, shift)), lines);
        // A sum is as soon too great as a score is.
        let passed = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(sum, _mm512_set1_ps(MOST));
        if passed != 0 {
            raise(scores, passed, $g, $looked.scale, $strip);
            let shift = lanes(&$strip.shift, $g);
            sum = $finish(scores.map(|score| _mm512_fmsub_ps(score, scale, shift)), lines);
        }
        let total = _mm512_add_ps(lanes(&$strip.sum, $g), sum);
        store(&mut $strip.sum, $g, total);
        passed != 0
    }};
}

define_weigh!(
    /// In f32.
    ///
    /// # Safety
    /// The slices fit as asserted there; the machine has AVX-512F and DQ.
    weigh,
    weigh_tile,
    "avx512f,avx512dq",
    |sum, a, b| _mm512_fmadd_ps(_mm512_castsi512_ps(a), b, sum),
    exact_weights,
    [0 1 2 3]
);

define_weigh!(
    /// In bf16, with weights as exact as their rounding needs.
    ///
    /// # Safety
    /// The slices fit as asserted there; the machine has AVX-512F, BW, DQ and BF16.
    weigh_pairs,
    weigh_pairs_tile,
    "avx512f,avx512bw,avx512dq,avx512bf16",
    |sum, a, b| {
        // SAFETY: both are 512-bit registers of 16 pairs of bf16.
        let (a, b) =
            unsafe { (std::mem::transmute::<__m512i, __m512bh>(a), std::mem::transmute::<__m512, __m512bh>(b)) };
        _mm512_dpbf16_ps(sum, a, b)
    },
    rounded_weights,
    [0 1 2 3]
);

/// Lanes of a strip's group.
#[inline]
#[target_feature(enable = "avx512f")]
fn lanes(values: &[f32; STRIP], group: usize) -> __m512 {
    let values = &values.as_chunks::<LANES>().0[group];
    // SAFETY: a group is a register.
    unsafe { _mm512_loadu_ps(values.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(values: &mut [f32; STRIP], group: usize, lanes: __m512) {
    let values = &mut values.as_chunks_mut::<LANES>().0[group];
    // SAFETY: a group is a register.
    unsafe { _mm512_storeu_ps(values.as_mut_ptr(), lanes) }
}

/// A key's scores, minus infinity for queries of the group that do not see it.
#[inline]
#[target_feature(enable = "avx512f")]
fn hidden(scores: __m512, key: usize, strip: &Strip, group: usize) -> __m512 {
    let seen = &strip.seen.as_chunks::<LANES>().0[group];
    // SAFETY: a group is a register.
    let seen = unsafe { _mm512_loadu_si512(seen.as_ptr().cast()) };
    let sees = _mm512_cmpgt_epu32_mask(seen, _mm512_set1_epi32(key as i32));
    _mm512_mask_blend_ps(sees, _mm512_set1_ps(f32::NEG_INFINITY), scores)
}

/// Raises the shifts of a group's lanes.
#[cold]
#[target_feature(enable = "avx512f")]
fn raise(scores: [__m512; ROWS], lanes: __mmask16, group: usize, scale: f32, strip: &mut Strip) {
    // Of a NaN and a number the instruction takes its second operand.
    let floor = _mm512_set1_ps(f32::NEG_INFINITY);
    let greatest = scores.into_iter().fold(floor, |greatest, score| _mm512_max_ps(score, greatest));
    // SAFETY: a register is as many numbers.
    let greatest = unsafe { std::mem::transmute::<__m512, [f32; LANES]>(greatest) };
    strip.raise(group, u32::from(lanes), &greatest, scale);
}

/// Weights in f32, a line for each key, and their sum.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn exact_weights(scores: [__m512; ROWS], lines: &mut [Line]) -> __m512 {
    let mut sum = _mm512_setzero_ps();
    for (score, line) in scores.into_iter().zip(&mut lines[..ROWS]) {
        let power = exact_powers(score);
        sum = _mm512_add_ps(sum, power);
        // SAFETY: a line is an aligned register.
        unsafe { _mm512_store_ps(line.0.as_mut_ptr().cast(), power) };
    }
    sum
}

/// Weights in bf16, a line for two keys, and their sum as they are rounded: so the weights that count add up to 1.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512bf16")]
fn rounded_weights(scores: [__m512; ROWS], lines: &mut [Line]) -> __m512 {
    let mut sum = _mm512_setzero_ps();
    // SAFETY: a register of pairs of bf16.
    let ones = unsafe { std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(0x3f80_3f80)) };
    for ([low, high], line) in scores.as_chunks().0.iter().zip(&mut lines[..ROWS / 2]) {
        let pairs = pair_vectors(powers(*low), powers(*high));
        // SAFETY: as above, and a line is an aligned register.
        unsafe {
            sum = _mm512_dpbf16_ps(sum, std::mem::transmute::<__m512i, __m512bh>(pairs), ones);
            _mm512_store_si512(line.0.as_mut_ptr().cast(), pairs);
        }
    }
    sum
}

/// [`crate::activation::exp2`] of each lane.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn exact_powers(x: __m512) -> __m512 {
    // What rounding to an integer takes away; of minus infinity that is 0, and scaling by it makes 0.
    let r = _mm512_reduce_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x);
    let mut p = _mm512_set1_ps(Exp2::TERMS[0]);
    for term in &Exp2::TERMS[1..] {
        p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(*term));
    }
    _mm512_scalef_ps(p, _mm512_sub_ps(x, r))
}

/// `2^x` within 7.5e-5 of itself, a twenty-fifth of bf16's rounding. The polynomial is our own minimax fit to `2^r` on [0, 1].
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
