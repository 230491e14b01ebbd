//! The register tile in AVX2 and FMA: up to 6 rows by one group of 16 columns (two registers), 12 sums in registers.

use std::arch::x86_64::*;

use super::{Tile, tiles};
use crate::scratch::LANES;

/// f32 factors.
///
/// # Safety
/// See `Kernel::run`; the machine has AVX2 and FMA.
pub(super) unsafe fn f32(rows: usize, groups: usize, tile: &Tile) {
    each_group(groups, tile, |tile| tiles!(rows, 1, tile, f32_tile, [1 2 3 4 5 6], [1]));
}

/// f32 factors of which `B` is in f16: 16 halves a line.
///
/// # Safety
/// See `Kernel::run`; the machine has AVX2, FMA and F16C.
pub(super) unsafe fn f32_of_halves(rows: usize, groups: usize, tile: &Tile) {
    each_group_of(LANES, groups, tile, |tile| tiles!(rows, 1, tile, f32_of_halves_tile, [1 2 3 4 5 6], [1]));
}

/// bf16 pairs widened to f32.
///
/// # Safety
/// See `Kernel::run`; the machine has AVX2 and FMA.
pub(super) unsafe fn bf16_emulated(rows: usize, groups: usize, tile: &Tile) {
    each_group(groups, tile, |tile| tiles!(rows, 1, tile, bf16_emulated_tile, [1 2 3 4 5 6], [1]));
}

/// Magnitudes and signs of `A`, see [`super::signs_apart`], with signed bytes of `B`.
///
/// # Safety
/// See `Kernel::run`; the machine has AVX2.
pub(super) unsafe fn int8(rows: usize, groups: usize, tile: &Tile) {
    // With more rows the registers would not hold the sums.
    const MOST: usize = 3;
    for first in (0..rows).step_by(MOST) {
        let (a, c) = (tile.a.wrapping_add(first * tile.a_stride), tile.c.wrapping_add(first * tile.c_stride));
        let rows = MOST.min(rows - first);
        each_group(groups, &Tile { a, c, ..*tile }, |tile| tiles!(rows, 1, tile, int8_tile, [1 2 3], [1]));
    }
}

/// Signed bytes of `A` with unsigned ones of `B`.
///
/// # Safety
/// See `Kernel::run`; the machine has AVX2.
pub(super) unsafe fn int8_weights_left(rows: usize, groups: usize, tile: &Tile) {
    each_group(groups, tile, |tile| tiles!(rows, 1, tile, int8_weights_left_tile, [1 2 3 4 5 6], [1]));
}

fn each_group(groups: usize, tile: &Tile, run: impl Fn(&Tile)) {
    each_group_of(WORDS, groups, tile, run);
}

/// Where a line of `B` has so many halves.
fn each_group_of(halves: usize, groups: usize, tile: &Tile, run: impl Fn(&Tile)) {
    for g in 0..groups {
        let b = tile.b.cast::<u16>().wrapping_add(g * tile.b_stride * halves).cast();
        let next = if g == 0 { tile.next } else { b };
        run(&Tile { b, c: tile.c.wrapping_add(g * LANES), next, ..*tile });
    }
}

/// Halves in a line of `B`.
const WORDS: usize = 2 * LANES;

/// A line of words.
///
/// # Safety
/// There is one, aligned to 64 bytes.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn words(at: *const u16) -> [__m256; 2] {
    // SAFETY: the caller's promise.
    unsafe { [_mm256_load_ps(at.cast()), _mm256_load_ps(at.add(LANES).cast())] }
}

/// A line of f16, widened.
///
/// # Safety
/// There is one.
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn halves(at: *const u16) -> [__m256; 2] {
    // SAFETY: the caller's promise.
    unsafe { [0, 8].map(|half| _mm256_cvtph_ps(_mm_loadu_si128(at.add(half).cast()))) }
}

/// Defines a tile: the loops are the same for each kind of step. `G` is 1; `columns` reads a line of `B`, which has so many
/// `halves`, `load` what a step takes of a row of `A`; `add` says how sums are added to `C`.
macro_rules! define_tile {
    ($name:ident, $load:ident, $add:ident, |$sum:ident, $a:ident, $b:ident| $step:expr) => {
        define_tile!($name, "avx2,fma", words, WORDS, $load, $add, |$sum, $a, $b| $step);
    };
    ($name:ident, $features:literal, $columns:ident, $halves:expr, $load:ident, $add:ident, |$sum:ident, $a:ident, $b:ident| $step:expr) => {
        #[target_feature(enable = $features)]
        unsafe fn $name<const M: usize, const G: usize>(tile: &Tile) {
            let mut sums = [[_mm256_setzero_ps(); 2]; M];
            let mut a = tile.a;
            let mut b = tile.b.cast::<u16>();
            let mut next = tile.next;
            for _ in 0..tile.steps {
                _mm_prefetch::<_MM_HINT_T1>(next.cast());
                next = next.wrapping_add(1);
                // SAFETY: B holds `steps` lines, those of words each aligned to 64 bytes.
                let columns = unsafe { $columns(b) };
                for m in 0..M {
                    // SAFETY: A holds `steps` words in each of M rows, or as many pairs of words.
                    let $a = unsafe { $load(a.add(m * tile.a_stride), tile.a_stride) };
                    for g in 0..2 {
                        let ($sum, $b) = (sums[m][g], columns[g]);
                        sums[m][g] = $step;
                    }
                }
                a = a.wrapping_add(tile.a_step);
                b = b.wrapping_add($halves);
            }
            for m in 0..M {
                for g in 0..2 {
                    // SAFETY: C holds 16 columns in each of M rows.
                    unsafe {
                        let c = tile.c.add(m * tile.c_stride + g * 8);
                        let sum = if tile.add { $add(_mm256_loadu_ps(c), sums[m][g]) } else { sums[m][g] };
                        _mm256_storeu_ps(c, sum);
                    }
                }
            }
        }
    };
}

/// A word of `A`.
///
/// # Safety
/// It must be valid.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn word(at: *const u32, _stride: usize) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe { _mm256_set1_epi32(*at.cast()) }
}

/// The magnitudes and the signs of four bytes of `A`, half a row apart.
///
/// # Safety
/// Both words must be valid.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn magnitudes_and_signs(at: *const u32, stride: usize) -> [__m256i; 2] {
    // SAFETY: the caller's promise.
    unsafe { [word(at, stride), word(at.add(stride / 2), stride)] }
}

define_tile!(f32_tile, word, _mm256_add_ps, |sum, a, b| _mm256_fmadd_ps(_mm256_castsi256_ps(a), b, sum));

define_tile!(f32_of_halves_tile, "avx2,fma,f16c", halves, LANES, word, _mm256_add_ps, |sum, a, b| {
    _mm256_fmadd_ps(_mm256_castsi256_ps(a), b, sum)
});

define_tile!(bf16_emulated_tile, word, _mm256_add_ps, |sum, a, b| {
    let b = _mm256_castps_si256(b);
    let high = _mm256_set1_epi32(0xffff_0000_u32 as i32);
    let low = _mm256_fmadd_ps(
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(a)),
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(b)),
        sum,
    );
    _mm256_fmadd_ps(
        _mm256_castsi256_ps(_mm256_and_si256(a, high)),
        _mm256_castsi256_ps(_mm256_and_si256(b, high)),
        low,
    )
});

/// Adds integers that lie in the bits of floats.
#[target_feature(enable = "avx2")]
fn add_integers(a: __m256, b: __m256) -> __m256 {
    _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a), _mm256_castps_si256(b)))
}

/// The sum of four products of unsigned with signed bytes, added to `sum`.
#[target_feature(enable = "avx2")]
fn dot_bytes(sum: __m256, unsigned: __m256i, signed: __m256i) -> __m256 {
    let even = _mm256_madd_epi16(
        _mm256_and_si256(unsigned, _mm256_set1_epi16(0xff)),
        _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(signed)),
    );
    let odd = _mm256_madd_epi16(_mm256_srli_epi16::<8>(unsigned), _mm256_srai_epi16::<8>(signed));
    _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(sum), _mm256_add_epi32(even, odd)))
}

// A magnitude is at most 128 and a weight, or its complement, at least -128 and at most 127, so that two products fit into 16 bits.
define_tile!(int8_tile, magnitudes_and_signs, add_integers, |sum, a, b| {
    let [magnitudes, signs] = a;
    let pairs = _mm256_maddubs_epi16(magnitudes, _mm256_xor_si256(_mm256_castps_si256(b), signs));
    add_integers(sum, _mm256_castsi256_ps(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1))))
});

define_tile!(int8_weights_left_tile, word, add_integers, |sum, a, b| dot_bytes(
    sum,
    _mm256_castps_si256(b),
    a
));
