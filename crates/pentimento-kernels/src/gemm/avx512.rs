//! The register tile in AVX-512: up to 6 rows by 4 registers of 16 columns, 24 sums held in registers, or 12 rows by one.
//!
//! Registers are typed as f32 throughout; sums of integers lie in their bits.

use std::arch::x86_64::*;

use super::{TALL_ROWS, TALL_STEPS, Tile, tiles};
use crate::scratch::LANES;

/// Expands to the tile compiled for these rows and groups.
macro_rules! all_tiles {
    ($rows:expr, $groups:expr, $tile:expr, $function:ident) => {
        match ($rows, $groups) {
            // SAFETY: the caller of the dispatching function promises what the tile needs.
            (TALL_ROWS, 1) => unsafe { $function::<TALL_ROWS, 1>($tile) },
            _ => tiles!($rows, $groups, $tile, $function, [1 2 3 4 5 6], [1 2 3 4]),
        }
    };
}

/// f32 factors, one fused multiply-add per step and 16 columns.
///
/// # Safety
/// See `Kernel::run`; the machine has AVX-512F.
pub(super) unsafe fn f32(rows: usize, groups: usize, tile: &Tile) {
    all_tiles!(rows, groups, tile, f32_tile)
}

/// f32 factors of which `B` is in f16: 16 halves a line.
///
/// # Safety
/// See `Kernel::run`; the machine has AVX-512F.
pub(super) unsafe fn f32_of_halves(rows: usize, groups: usize, tile: &Tile) {
    all_tiles!(rows, groups, tile, f32_of_halves_tile)
}

/// bf16 pairs through the dot-product instruction.
///
/// # Safety
/// See `Kernel::run`; the machine has AVX512_BF16.
pub(super) unsafe fn bf16(rows: usize, groups: usize, tile: &Tile) {
    all_tiles!(rows, groups, tile, bf16_tile)
}

/// bf16 pairs widened to f32: two fused multiply-adds per step.
///
/// # Safety
/// See `Kernel::run`; the machine has AVX-512F.
pub(super) unsafe fn bf16_emulated(rows: usize, groups: usize, tile: &Tile) {
    all_tiles!(rows, groups, tile, bf16_emulated_tile)
}

/// Unsigned bytes of `A` with signed ones of `B` through the dot-product instruction.
///
/// # Safety
/// See `Kernel::run`; the machine has AVX512_VNNI.
pub(super) unsafe fn int8(rows: usize, groups: usize, tile: &Tile) {
    all_tiles!(rows, groups, tile, int8_tile)
}

/// Signed bytes of `A` with unsigned ones of `B`.
///
/// # Safety
/// See `Kernel::run`; the machine has AVX512_VNNI.
pub(super) unsafe fn int8_weights_left(rows: usize, groups: usize, tile: &Tile) {
    all_tiles!(rows, groups, tile, int8_weights_left_tile)
}

/// As [`int8`], by bytes widened to 16 bits: the same sums.
///
/// # Safety
/// See `Kernel::run`; the machine has AVX-512F and BW.
pub(super) unsafe fn int8_emulated(rows: usize, groups: usize, tile: &Tile) {
    all_tiles!(rows, groups, tile, int8_emulated_tile)
}

/// As [`int8_weights_left`], by bytes widened to 16 bits.
///
/// # Safety
/// See `Kernel::run`; the machine has AVX-512F and BW.
pub(super) unsafe fn int8_emulated_weights_left(rows: usize, groups: usize, tile: &Tile) {
    all_tiles!(rows, groups, tile, int8_emulated_weights_left_tile)
}

/// Steps of `B` that floats ask for ahead: a block of it is larger than the first-level cache. Bytes gain nothing by it, nor by
/// asking for what is read next.
const AHEAD: usize = 8;

/// Halves in a line of `B`.
const WORDS: usize = 2 * LANES;

/// A line of words.
///
/// # Safety
/// There is one, aligned to 64 bytes.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn words(at: *const u16) -> __m512 {
    // SAFETY: the caller's promise.
    unsafe { _mm512_load_ps(at.cast()) }
}

/// A line of f16, widened.
///
/// # Safety
/// There is one.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn halves(at: *const u16) -> __m512 {
    // SAFETY: the caller's promise.
    unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(at.cast())) }
}

/// Defines a tile: the loops are the same for each kind of step. `load` reads a line of `B`, which has so many `halves`; `add` says
/// how sums are added to `C`, `ahead` how many steps of `B` are asked for ahead, if any.
macro_rules! define_tile {
    ($name:ident, $features:literal, $add:ident, $ahead:expr, |$sum:ident, $a:ident, $b:ident| $step:expr) => {
        define_tile!($name, $features, words, WORDS, $add, $ahead, |$sum, $a, $b| $step);
    };
    ($name:ident, $features:literal, $load:ident, $halves:expr, $add:ident, $ahead:expr, |$sum:ident, $a:ident, $b:ident| $step:expr) => {
        #[target_feature(enable = $features)]
        unsafe fn $name<const M: usize, const G: usize>(tile: &Tile) {
            let mut sums = [[_mm512_setzero_ps(); G]; M];
            let mut a = tile.a;
            let mut b = tile.b.cast::<u16>();
            let group_stride = tile.b_stride * $halves;
            let mut next = tile.next;
            for m in 0..M {
                for g in 0..G {
                    _mm_prefetch::<_MM_HINT_T0>(tile.c.wrapping_add(m * tile.c_stride + g * LANES).cast());
                }
            }
            // Addresses of rows are sums that wait for one another: with twelve they take as long as two steps' products.
            let together = if M == TALL_ROWS { TALL_STEPS } else { 1 };
            for _ in 0..tile.steps / together {
                for step in 0..together {
                    if $ahead > 0 {
                        _mm_prefetch::<_MM_HINT_T1>(next.cast());
                        next = next.wrapping_add(1);
                    }
                    let mut columns = [_mm512_setzero_ps(); G];
                    for g in 0..G {
                        // SAFETY: B holds `steps` lines per group, those of words each aligned to 64 bytes.
                        columns[g] = unsafe { $load(b.add(g * group_stride)) };
                        if $ahead > 0 {
                            _mm_prefetch::<_MM_HINT_T0>(
                                b.wrapping_add(g * group_stride + $ahead * $halves).cast(),
                            );
                        }
                    }
                    for m in 0..M {
                        // SAFETY: A holds `steps` words in each of M rows, side by side where several are taken together.
                        let $a = unsafe { _mm512_set1_epi32(*a.add(m * tile.a_stride + step).cast()) };
                        for g in 0..G {
                            let ($sum, $b) = (sums[m][g], columns[g]);
                            sums[m][g] = $step;
                        }
                    }
                    b = b.wrapping_add($halves);
                }
                a = a.wrapping_add(if together == 1 { tile.a_step } else { together });
            }
            for m in 0..M {
                for g in 0..G {
                    // SAFETY: C holds 16·G columns in each of M rows.
                    unsafe {
                        let c = tile.c.add(m * tile.c_stride + g * LANES);
                        let sum = if tile.add { $add(_mm512_loadu_ps(c), sums[m][g]) } else { sums[m][g] };
                        _mm512_storeu_ps(c, sum);
                    }
                }
            }
        }
    };
}

define_tile!(f32_tile, "avx512f", _mm512_add_ps, AHEAD, |sum, a, b| _mm512_fmadd_ps(
    _mm512_castsi512_ps(a),
    b,
    sum
));

define_tile!(
    f32_of_halves_tile,
    "avx512f",
    halves,
    LANES,
    _mm512_add_ps,
    AHEAD,
    |sum, a, b| _mm512_fmadd_ps(_mm512_castsi512_ps(a), b, sum)
);

define_tile!(bf16_tile, "avx512f,avx512bf16", _mm512_add_ps, AHEAD, |sum, a, b| {
    // SAFETY: both are 512-bit registers of 16 pairs of bf16.
    let (a, b) =
        unsafe { (std::mem::transmute::<__m512i, __m512bh>(a), std::mem::transmute::<__m512, __m512bh>(b)) };
    _mm512_dpbf16_ps(sum, a, b)
});

define_tile!(bf16_emulated_tile, "avx512f", _mm512_add_ps, AHEAD, |sum, a, b| {
    let b = _mm512_castps_si512(b);
    let high = _mm512_set1_epi32(0xffff_0000_u32 as i32);
    let low = _mm512_fmadd_ps(
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(a)),
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(b)),
        sum,
    );
    _mm512_fmadd_ps(
        _mm512_castsi512_ps(_mm512_and_si512(a, high)),
        _mm512_castsi512_ps(_mm512_and_si512(b, high)),
        low,
    )
});

/// Adds integers that lie in the bits of floats.
#[target_feature(enable = "avx512f")]
fn add_integers(a: __m512, b: __m512) -> __m512 {
    _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a), _mm512_castps_si512(b)))
}

define_tile!(int8_tile, "avx512f,avx512vnni", add_integers, 0, |sum, a, b| {
    _mm512_castsi512_ps(_mm512_dpbusd_epi32(_mm512_castps_si512(sum), a, _mm512_castps_si512(b)))
});

define_tile!(int8_weights_left_tile, "avx512f,avx512vnni", add_integers, 0, |sum, a, b| {
    _mm512_castsi512_ps(_mm512_dpbusd_epi32(_mm512_castps_si512(sum), _mm512_castps_si512(b), a))
});

/// The sum of four products of unsigned with signed bytes, added to `sum`.
#[target_feature(enable = "avx512f,avx512bw")]
fn dot_bytes(sum: __m512, unsigned: __m512i, signed: __m512i) -> __m512 {
    let even = _mm512_madd_epi16(
        _mm512_and_si512(unsigned, _mm512_set1_epi16(0xff)),
        _mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(signed)),
    );
    let odd = _mm512_madd_epi16(_mm512_srli_epi16::<8>(unsigned), _mm512_srai_epi16::<8>(signed));
    _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(sum), _mm512_add_epi32(even, odd)))
}

define_tile!(int8_emulated_tile, "avx512f,avx512bw", add_integers, 0, |sum, a, b| {
    dot_bytes(sum, a, _mm512_castps_si512(b))
});

define_tile!(int8_emulated_weights_left_tile, "avx512f,avx512bw", add_integers, 0, |sum, a, b| {
    dot_bytes(sum, _mm512_castps_si512(b), a)
});
