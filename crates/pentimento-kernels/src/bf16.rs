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

per_isa!(pub(crate) fn round_slice(values: &[f32], out: &mut [u16]) = round_slice_body);

#[inline(always)]
fn round_slice_body<A: Arith>(values: &[f32], out: &mut [u16]) {
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
