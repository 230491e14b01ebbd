//! The softmax of a block in AVX2: the bytes of the plain code, of which the compiler keeps too few numbers in registers.

use std::arch::x86_64::*;

use super::{Exp2, Running, exp2, sum_of};
use crate::attention::BLOCK;
use crate::isa::Fused;
use crate::scratch::LANES;

/// Lanes of a register.
const HALF: usize = LANES / 2;

/// See [`super::softmax_block`].
///
/// # Panics
/// If a slice is too short for the rows.
#[target_feature(enable = "avx2,fma")]
pub(super) fn softmax_block(scores: &mut [f32], keys: usize, scale: f32, running: &mut [Running]) {
    let scale = scale * std::f32::consts::LOG2_E;
    for (row, running) in scores.chunks_exact_mut(BLOCK).zip(running) {
        let lines = row[..keys.next_multiple_of(LANES)].as_chunks_mut::<LANES>().0;
        let max = greatest(lines, running.max);
        let shift = if max == f32::NEG_INFINITY { 0.0 } else { max * scale };
        let (scale_lanes, shift_lanes) = (_mm256_set1_ps(scale), _mm256_set1_ps(-shift));
        let mut sums = [_mm256_setzero_ps(); 2];
        for line in lines {
            for (half, sum) in sums.iter_mut().enumerate() {
                // SAFETY: a line is two registers.
                unsafe {
                    let at = line.as_mut_ptr().add(half * HALF);
                    let power = powers(_mm256_fmadd_ps(_mm256_loadu_ps(at), scale_lanes, shift_lanes));
                    _mm256_storeu_ps(at, power);
                    *sum = _mm256_add_ps(*sum, power);
                }
            }
        }
        let correction = exp2::<Fused>(running.max * scale - shift);
        // SAFETY: two registers are as many numbers.
        let sums = unsafe { std::mem::transmute::<[__m256; 2], [f32; LANES]>(sums) };
        *running = Running { max, sum: running.sum * correction + sum_of(sums), correction };
    }
}

/// The greatest of some lines and `floor`; NaN counts as nothing.
#[inline]
#[target_feature(enable = "avx2")]
fn greatest(lines: &[[f32; LANES]], floor: f32) -> f32 {
    let mut lanes = [_mm256_set1_ps(floor); 2];
    for line in lines {
        for (half, lanes) in lanes.iter_mut().enumerate() {
            // SAFETY: a line is two registers. Of a NaN and a number the instruction takes its second operand.
            *lanes = unsafe { _mm256_max_ps(_mm256_loadu_ps(line.as_ptr().add(half * HALF)), *lanes) };
        }
    }
    // SAFETY: a register is as many numbers.
    let lanes = unsafe { std::mem::transmute::<__m256, [f32; HALF]>(_mm256_max_ps(lanes[0], lanes[1])) };
    lanes.into_iter().fold(floor, |max, lane| if lane > max { lane } else { max })
}

/// [`exp2`] of each lane.
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

#[cfg(test)]
mod tests {
    use super::super::softmax_block_body;
    use super::*;
    use crate::isa::Isa;

    #[test]
    fn weights_are_those_of_plain_code_bit_for_bit() {
        if !Isa::Avx2.is_available() {
            return;
        }
        let score = |at: usize| ((at * 7919 % 1009) as f32 - 500.0) / 11.0;
        for (keys, odd) in [(BLOCK, 0.0), (33, 0.0), (16, f32::NAN), (48, f32::NEG_INFINITY)] {
            let mut fast: Vec<f32> = (0..3 * BLOCK).map(score).collect();
            fast[5] = odd;
            fast[BLOCK..BLOCK + keys].fill(f32::NEG_INFINITY);
            let mut plain = fast.clone();
            let mut running = [[Running::START; 3]; 2];
            let [running_fast, running_plain] = &mut running;
            // Twice, so that the second block starts where the first one ended.
            for _ in 0..2 {
                // SAFETY: the machine has AVX2 and FMA.
                unsafe { softmax_block(&mut fast, keys, 0.3, running_fast) };
                softmax_block_body::<Fused>(&mut plain, keys, 0.3, running_plain);
                let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&fast), bits(&plain), "weights of {keys} keys");
                for (fast, plain) in running_fast.iter().zip(&*running_plain) {
                    let of = |it: &Running| bits(&[it.max, it.sum, it.correction]);
                    assert_eq!(of(fast), of(plain), "running sums of {keys} keys");
                }
            }
        }
    }
}
