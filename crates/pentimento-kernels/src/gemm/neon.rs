//! The register tile in NEON: up to 6 rows by one group of 16 columns (four registers), 24 sums in registers.

use std::arch::aarch64::*;

use super::{Tile, tiles};
use crate::scratch::LANES;

/// f32 factors.
///
/// # Safety
/// See `Kernel::run`.
pub(super) unsafe fn f32(rows: usize, groups: usize, tile: &Tile) {
    each_group(groups, tile, |tile| tiles!(rows, 1, tile, f32_tile, [1 2 3 4 5 6], [1]));
}

/// bf16 pairs widened to f32.
///
/// # Safety
/// See `Kernel::run`.
pub(super) unsafe fn bf16_emulated(rows: usize, groups: usize, tile: &Tile) {
    each_group(groups, tile, |tile| tiles!(rows, 1, tile, bf16_emulated_tile, [1 2 3 4 5 6], [1]));
}

/// Unsigned bytes of `A` with signed ones of `B`, widened to 16 bits.
///
/// # Safety
/// See `Kernel::run`.
pub(super) unsafe fn int8(rows: usize, groups: usize, tile: &Tile) {
    each_group(groups, tile, |tile| tiles!(rows, 1, tile, int8_tile, [1 2 3 4 5 6], [1]));
}

/// Signed bytes of `A` with unsigned ones of `B`.
///
/// # Safety
/// See `Kernel::run`.
pub(super) unsafe fn int8_weights_left(rows: usize, groups: usize, tile: &Tile) {
    each_group(groups, tile, |tile| tiles!(rows, 1, tile, int8_weights_left_tile, [1 2 3 4 5 6], [1]));
}

fn each_group(groups: usize, tile: &Tile, run: impl Fn(&Tile)) {
    for g in 0..groups {
        let (b, c) = (tile.b.wrapping_add(g * tile.b_stride), tile.c.wrapping_add(g * LANES));
        run(&Tile { b, c, ..*tile });
    }
}

/// Defines a tile: the loops are the same for each kind of step. `G` is 1; `add` says how sums are added to `C`.
macro_rules! define_tile {
    ($name:ident, $add:ident, |$sum:ident, $a:ident, $b:ident| $step:expr) => {
        #[target_feature(enable = "neon")]
        unsafe fn $name<const M: usize, const G: usize>(tile: &Tile) {
            let mut sums = [[vdupq_n_f32(0.0); 4]; M];
            let mut a = tile.a;
            let mut b = tile.b.cast::<u32>();
            for _ in 0..tile.steps {
                let mut columns = [vdupq_n_u32(0); 4];
                for g in 0..4 {
                    // SAFETY: B holds `steps` lines of 16 words.
                    columns[g] = unsafe { vld1q_u32(b.add(4 * g)) };
                }
                for m in 0..M {
                    // SAFETY: A holds `steps` words in each of M rows.
                    let $a = unsafe { vdupq_n_u32(*a.add(m * tile.a_stride)) };
                    for g in 0..4 {
                        let ($sum, $b) = (sums[m][g], columns[g]);
                        sums[m][g] = $step;
                    }
                }
                a = a.wrapping_add(tile.a_step);
                b = b.wrapping_add(LANES);
            }
            for m in 0..M {
                for g in 0..4 {
                    // SAFETY: C holds 16 columns in each of M rows.
                    unsafe {
                        let c = tile.c.add(m * tile.c_stride + g * 4);
                        let sum = if tile.add { $add(vld1q_f32(c), sums[m][g]) } else { sums[m][g] };
                        vst1q_f32(c, sum);
                    }
                }
            }
        }
    };
}

define_tile!(f32_tile, vaddq_f32, |sum, a, b| vfmaq_f32(
    sum,
    vreinterpretq_f32_u32(a),
    vreinterpretq_f32_u32(b)
));

define_tile!(bf16_emulated_tile, vaddq_f32, |sum, a, b| {
    let high = vdupq_n_u32(0xffff_0000);
    let low = vfmaq_f32(
        sum,
        vreinterpretq_f32_u32(vshlq_n_u32::<16>(a)),
        vreinterpretq_f32_u32(vshlq_n_u32::<16>(b)),
    );
    vfmaq_f32(low, vreinterpretq_f32_u32(vandq_u32(a, high)), vreinterpretq_f32_u32(vandq_u32(b, high)))
});

/// Adds integers that lie in the bits of floats.
#[target_feature(enable = "neon")]
fn add_integers(a: float32x4_t, b: float32x4_t) -> float32x4_t {
    vreinterpretq_f32_u32(vaddq_u32(vreinterpretq_u32_f32(a), vreinterpretq_u32_f32(b)))
}

/// The sum of four products of unsigned with signed bytes, added to `sum`.
#[target_feature(enable = "neon")]
fn dot_bytes(sum: float32x4_t, unsigned: uint32x4_t, signed: uint32x4_t) -> float32x4_t {
    let (unsigned, signed) = (vreinterpretq_u8_u32(unsigned), vreinterpretq_s8_u32(signed));
    let widened = |unsigned: uint8x8_t, signed: int8x8_t| {
        let unsigned = vreinterpretq_s16_u16(vmovl_u8(unsigned));
        let signed = vmovl_s8(signed);
        let low = vmull_s16(vget_low_s16(unsigned), vget_low_s16(signed));
        let high = vmull_s16(vget_high_s16(unsigned), vget_high_s16(signed));
        // Two sums of pairs per word.
        vpaddq_s32(low, high)
    };
    let low = widened(vget_low_u8(unsigned), vget_low_s8(signed));
    let high = widened(vget_high_u8(unsigned), vget_high_s8(signed));
    add_integers(sum, vreinterpretq_f32_s32(vpaddq_s32(low, high)))
}

define_tile!(int8_tile, add_integers, |sum, a, b| dot_bytes(sum, a, b));

define_tile!(int8_weights_left_tile, add_integers, |sum, a, b| dot_bytes(sum, b, a));
