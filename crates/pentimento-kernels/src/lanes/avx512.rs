//! Transposition in registers: 16 rows of 16 words in 64 shuffles.

use std::arch::x86_64::*;

use crate::scratch::{LANES, Line};

/// See [`super::interleave`].
///
/// # Panics
/// If a row is shorter than the lines are many.
#[target_feature(enable = "avx512f")]
pub(super) fn interleave(rows: &[&[u32]; LANES], lines: &mut [Line]) {
    let len = lines.len();
    assert!(rows.iter().all(|row| row.len() >= len), "rows of {len} words");
    for (at, lines) in lines.chunks_mut(LANES).enumerate() {
        let there = (1_u32 << lines.len()).wrapping_sub(1) as __mmask16;
        let mut square = [_mm512_setzero_si512(); LANES];
        for (words, row) in square.iter_mut().zip(rows) {
            // SAFETY: the row holds the words that the mask lets through.
            *words = unsafe { _mm512_maskz_loadu_epi32(there, row.as_ptr().add(at * LANES).cast()) };
        }
        let square = transposed(square);
        for (line, words) in lines.iter_mut().zip(square) {
            // SAFETY: a line is an aligned register.
            unsafe { _mm512_store_si512(line.0.as_mut_ptr().cast(), words) };
        }
    }
}

/// See [`super::interleave_pairs`].
///
/// # Panics
/// If there are not two values of each row for a line, the last of which may be missing.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) fn interleave_pairs(rows: &[&[f32]; LANES], lines: &mut [Line]) {
    let count = rows[0].len();
    assert!(rows.iter().all(|row| row.len() == count) && count.div_ceil(2) >= lines.len(), "rows of pairs");
    for (at, lines) in lines.chunks_mut(LANES).enumerate() {
        let from = at * 2 * LANES;
        let there = ((1_u64 << (2 * lines.len()).min(count - from)) - 1) as u32;
        let (low, high) = (there as __mmask16, (there >> LANES) as __mmask16);
        let mut square = [_mm512_setzero_si512(); LANES];
        for (words, row) in square.iter_mut().zip(rows) {
            let row = row.as_ptr().wrapping_add(from);
            // SAFETY: the row holds the values that the masks let through; a register of pairs is as many words.
            *words = unsafe {
                let low = _mm512_maskz_loadu_ps(low, row);
                let high = _mm512_maskz_loadu_ps(high, row.wrapping_add(LANES));
                std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low))
            };
        }
        for (line, words) in lines.iter_mut().zip(transposed(square)) {
            // SAFETY: a line is an aligned register.
            unsafe { _mm512_store_si512(line.0.as_mut_ptr().cast(), words) };
        }
    }
}

/// Columns become rows.
#[inline]
#[target_feature(enable = "avx512f")]
fn transposed(rows: [__m512i; LANES]) -> [__m512i; LANES] {
    let mut pairs = rows;
    for at in (0..LANES).step_by(2) {
        pairs[at] = _mm512_unpacklo_epi32(rows[at], rows[at + 1]);
        pairs[at + 1] = _mm512_unpackhi_epi32(rows[at], rows[at + 1]);
    }
    // In each quarter of register 4·i + j: column 4·quarter + j of rows 4·i to 4·i + 3.
    let mut quads = pairs;
    for at in (0..LANES).step_by(4) {
        quads[at] = _mm512_unpacklo_epi64(pairs[at], pairs[at + 2]);
        quads[at + 1] = _mm512_unpackhi_epi64(pairs[at], pairs[at + 2]);
        quads[at + 2] = _mm512_unpacklo_epi64(pairs[at + 1], pairs[at + 3]);
        quads[at + 3] = _mm512_unpackhi_epi64(pairs[at + 1], pairs[at + 3]);
    }
    let mut columns = quads;
    for at in 0..4 {
        let [even_low, odd_low] = even_and_odd(quads[at], quads[at + 4]);
        let [even_high, odd_high] = even_and_odd(quads[at + 8], quads[at + 12]);
        [columns[at], columns[at + 8]] = even_and_odd(even_low, even_high);
        [columns[at + 4], columns[at + 12]] = even_and_odd(odd_low, odd_high);
    }
    columns
}

/// Quarters 0 and 2 of both registers, and 1 and 3.
#[inline]
#[target_feature(enable = "avx512f")]
fn even_and_odd(low: __m512i, high: __m512i) -> [__m512i; 2] {
    [_mm512_shuffle_i32x4::<0b10_00_10_00>(low, high), _mm512_shuffle_i32x4::<0b11_01_11_01>(low, high)]
}
