//! Rounding to bfloat16: the upper half of an f32, nearest, ties to even, NaN kept.

use crate::isa::{Arith, Isa, per_isa};

/// The bits of `value` rounded to bf16.
#[inline(always)]
pub(crate) fn round_to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    // A NaN's payload could round to infinity: keep its upper half and set the quiet bit.
    (if value.is_nan() { bits >> 16 | 0x40 } else { rounded }) as u16
}

/// Rounds each value. The bf16 instructions take subnormal values for zero, as their dot product does.
pub(crate) fn round_slice(isa: Isa, values: &[f32], out: &mut [u16]) {
    #[cfg(target_arch = "x86_64")]
    if isa == Isa::Avx512Bf16 {
        let whole = values.len().min(out.len()) / 16 * 16;
        // SAFETY: the level was checked when it became current.
        unsafe { round_vectors(&values[..whole], &mut out[..whole]) };
        return round_rest(isa, &values[whole..], &mut out[whole..]);
    }
    round_rest(isa, values, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
fn round_vectors(values: &[f32], out: &mut [u16]) {
    use std::arch::x86_64::*;
    for (out, values) in out.chunks_exact_mut(16).zip(values.chunks_exact(16)) {
        // SAFETY: both chunks hold 16 elements; a __m256bh is 16 halves.
        unsafe {
            let rounded = _mm512_cvtneps_pbh(_mm512_loadu_ps(values.as_ptr()));
            _mm256_storeu_si256(out.as_mut_ptr().cast(), std::mem::transmute::<__m256bh, __m256i>(rounded));
        }
    }
}

/// Rounds 16 values of two rows each into pairs, the first row's value in the lower half.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(crate) fn pair_vectors(
    low: std::arch::x86_64::__m512,
    high: std::arch::x86_64::__m512,
) -> std::arch::x86_64::__m512i {
    use std::arch::x86_64::*;
    // Of halves 0 to 15 and 16 to 31, in turns.
    let first = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    let in_turns =
        _mm512_or_si512(first, _mm512_slli_epi32::<16>(_mm512_add_epi32(first, _mm512_set1_epi32(16))));
    // SAFETY: both are 32 halves.
    let rounded = unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low)) };
    _mm512_permutexvar_epi16(in_turns, rounded)
}

per_isa!(fn round_rest(values: &[f32], out: &mut [u16]) = round_rest_body);

#[inline(always)]
fn round_rest_body<A: Arith>(values: &[f32], out: &mut [u16]) {
    for (out, value) in out.iter_mut().zip(values) {
        *out = round_to_bf16(*value);
    }
}

/// Rounds a row into pairs, the earlier value in the lower half; an odd last value is paired with zero.
pub(crate) fn round_pairs(isa: Isa, values: &[f32], out: &mut [u32]) {
    debug_assert_eq!(out.len(), values.len().div_ceil(2), "pairs of a row");
    if cfg!(target_endian = "little") {
        if values.len() % 2 == 1 {
            out[values.len() / 2] = 0;
        }
        // SAFETY: the same memory as twice as many u16, which need less alignment.
        let halves = unsafe { std::slice::from_raw_parts_mut(out.as_mut_ptr().cast::<u16>(), out.len() * 2) };
        round_slice(isa, values, halves);
    } else {
        crate::pack::to_words(values, crate::Precision::Bf16, out);
    }
}
