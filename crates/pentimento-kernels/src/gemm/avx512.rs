//! The register tile in AVX-512: up to 6 rows by 4 registers of 16 columns, 24 sums held in registers.

use std::arch::x86_64::*;

use super::{Tile, tiles};
use crate::scratch::LANES;

/// f32 factors, one fused multiply-add per step and 16 columns.
///
/// # Safety
/// See `Kernel::run`; the machine has AVX-512F.
pub(super) unsafe fn f32(rows: usize, groups: usize, tile: &Tile) {
    tiles!(rows, groups, tile, f32_tile, [1 2 3 4 5 6], [1 2 3 4])
}

/// bf16 pairs through the dot-product instruction.
///
/// # Safety
/// See `Kernel::run`; the machine has AVX512_BF16.
pub(super) unsafe fn bf16(rows: usize, groups: usize, tile: &Tile) {
    tiles!(rows, groups, tile, bf16_tile, [1 2 3 4 5 6], [1 2 3 4])
}

/// bf16 pairs widened to f32: two fused multiply-adds per step.
///
/// # Safety
/// See `Kernel::run`; the machine has AVX-512F.
pub(super) unsafe fn bf16_emulated(rows: usize, groups: usize, tile: &Tile) {
    tiles!(rows, groups, tile, bf16_emulated_tile, [1 2 3 4 5 6], [1 2 3 4])
}

/// Defines a tile: the loops are the same for each kind of step.
macro_rules! define_tile {
    ($name:ident, $features:literal, |$sum:ident, $a:ident, $b:ident| $step:expr) => {
        #[target_feature(enable = $features)]
        unsafe fn $name<const M: usize, const G: usize>(tile: &Tile) {
            let mut sums = [[_mm512_setzero_ps(); G]; M];
            let mut a = tile.a;
            let mut b = tile.b.cast::<f32>();
            let group_stride = tile.b_stride * LANES;
            for m in 0..M {
                for g in 0..G {
                    _mm_prefetch::<_MM_HINT_T0>(tile.c.wrapping_add(m * tile.c_stride + g * LANES).cast());
                }
            }
            for _ in 0..tile.steps {
                let mut columns = [_mm512_setzero_ps(); G];
                for g in 0..G {
                    // SAFETY: B holds `steps` lines per group, each aligned to 64 bytes.
                    columns[g] = unsafe { _mm512_load_ps(b.add(g * group_stride)) };
                }
                for m in 0..M {
                    // SAFETY: A holds `steps` words in each of M rows.
                    let $a = unsafe { _mm512_set1_epi32(*a.add(m * tile.a_stride).cast()) };
                    for g in 0..G {
                        let ($sum, $b) = (sums[m][g], columns[g]);
                        sums[m][g] = $step;
                    }
                }
                a = a.wrapping_add(1);
                b = b.wrapping_add(LANES);
            }
            for m in 0..M {
                for g in 0..G {
                    // SAFETY: C holds 16·G columns in each of M rows.
                    unsafe {
                        let c = tile.c.add(m * tile.c_stride + g * LANES);
                        let sum =
                            if tile.add { _mm512_add_ps(_mm512_loadu_ps(c), sums[m][g]) } else { sums[m][g] };
                        _mm512_storeu_ps(c, sum);
                    }
                }
            }
        }
    };
}

define_tile!(f32_tile, "avx512f", |sum, a, b| _mm512_fmadd_ps(_mm512_castsi512_ps(a), b, sum));

define_tile!(bf16_tile, "avx512f,avx512bf16", |sum, a, b| {
    // SAFETY: both are 512-bit registers of 16 pairs of bf16.
    let (a, b) =
        unsafe { (std::mem::transmute::<__m512i, __m512bh>(a), std::mem::transmute::<__m512, __m512bh>(b)) };
    _mm512_dpbf16_ps(sum, a, b)
});

define_tile!(bf16_emulated_tile, "avx512f", |sum, a, b| {
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
