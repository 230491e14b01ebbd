//! Scores to weights in f32 in AVX2, a group of queries at a time.

use std::arch::x86_64::*;

use super::{HEADROOM, Looked, STRIP, Strip};
use crate::activation::Exp2;
use crate::attention::KEPT;
use crate::gemm::ROWS;
use crate::scratch::{LANES, Line};

/// Lanes of a register.
const HALF: usize = LANES / 2;

/// See [`super::Weigher::weigh`].
///
/// # Safety
/// The slices fit as asserted there; the machine has AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn weigh(groups: usize, looked: &Looked, strip: &mut Strip, weights: &mut [Line]) -> bool {
    let mut raised = false;
    for group in 0..groups {
        let mut scores = [[_mm256_setzero_ps(); 2]; ROWS];
        let keys = looked.keys.as_ptr().cast::<f32>();
        let queries = looked.queries[group * looked.steps..].as_ptr().cast::<f32>();
        for step in 0..looked.steps {
            // SAFETY: queries hold `steps` lines per group, keys `steps` words in each row.
            unsafe {
                let at = queries.add(step * LANES);
                let columns = [_mm256_load_ps(at), _mm256_load_ps(at.add(HALF))];
                for m in 0..ROWS {
                    let key = _mm256_broadcast_ss(&*keys.add(m * looked.steps + step));
                    for half in 0..2 {
                        scores[m][half] = _mm256_fmadd_ps(key, columns[half], scores[m][half]);
                    }
                }
            }
        }
        if looked.first + ROWS > strip.least_seen {
            for (key, row) in (looked.first..).zip(&mut scores) {
                for (half, score) in row.iter_mut().enumerate() {
                    *score = hidden(*score, key, strip, 2 * group + half);
                }
            }
        }
        for half in 0..2 {
            let lines = &mut weights[group * KEPT..][..ROWS];
            raised |= finish(scores.map(|row| row[half]), 2 * group + half, looked.scale, strip, lines);
        }
    }
    raised
}

/// A key's scores, minus infinity for queries that do not see it.
#[inline]
#[target_feature(enable = "avx2")]
fn hidden(scores: __m256, key: usize, strip: &Strip, half: usize) -> __m256 {
    let seen = &strip.seen.as_chunks::<HALF>().0[half];
    // SAFETY: half a group is a register.
    let seen = unsafe { _mm256_loadu_si256(seen.as_ptr().cast()) };
    let sees = _mm256_castsi256_ps(_mm256_cmpgt_epi32(seen, _mm256_set1_epi32(key as i32)));
    _mm256_blendv_ps(_mm256_set1_ps(f32::NEG_INFINITY), scores, sees)
}

/// Makes weights of half a group's scores. Returns whether a shift was raised.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn finish(scores: [__m256; ROWS], half: usize, scale: f32, strip: &mut Strip, lines: &mut [Line]) -> bool {
    let mut greatest = _mm256_set1_ps(f32::NEG_INFINITY);
    for score in scores {
        // Of a NaN and a number the instruction takes its second operand.
        greatest = _mm256_max_ps(score, greatest);
    }
    let all = _mm256_set1_ps(scale);
    let top = _mm256_fmsub_ps(greatest, all, load(&strip.shift, half));
    let passed = _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GT_OQ>(top, _mm256_set1_ps(HEADROOM)));
    if passed != 0 {
        // SAFETY: two registers are as many numbers.
        let both = unsafe { std::mem::transmute::<[__m256; 2], [f32; LANES]>([greatest; 2]) };
        strip.raise(half / 2, (passed as u32) << (half % 2 * HALF), &both, scale);
    }
    let shift = load(&strip.shift, half);
    let mut sum = load(&strip.sum, half);
    for (score, line) in scores.into_iter().zip(lines) {
        let power = powers(_mm256_fmsub_ps(score, all, shift));
        sum = _mm256_add_ps(sum, power);
        // SAFETY: a line is two registers.
        unsafe { _mm256_store_ps(line.0.as_mut_ptr().add(half % 2 * HALF).cast(), power) };
    }
    let sums = &mut strip.sum.as_chunks_mut::<HALF>().0[half];
    // SAFETY: half a group is a register.
    unsafe { _mm256_storeu_ps(sums.as_mut_ptr(), sum) };
    passed != 0
}

/// Half a group of a strip's lanes.
#[inline]
#[target_feature(enable = "avx2")]
fn load(values: &[f32; STRIP], half: usize) -> __m256 {
    let values = &values.as_chunks::<HALF>().0[half];
    // SAFETY: half a group is a register.
    unsafe { _mm256_loadu_ps(values.as_ptr()) }
}

/// [`crate::activation::exp2`] of each lane.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn powers(x: __m256) -> __m256 {
    let all = |value: f32| _mm256_set1_ps(value);
    // Of a NaN and a number the instruction takes its second operand.
    let clamped = _mm256_max_ps(all(Exp2::LEAST), x);
    let shifted = _mm256_add_ps(clamped, all(Exp2::SHIFTER));
    let r = _mm256_sub_ps(clamped, _mm256_sub_ps(shifted, all(Exp2::SHIFTER)));
    let mut p = all(Exp2::TERMS[0]);
    for term in &Exp2::TERMS[1..] {
        p = _mm256_fmadd_ps(p, r, all(*term));
    }
    let power = _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_castps_si256(shifted)));
    _mm256_mul_ps(p, power)
}
