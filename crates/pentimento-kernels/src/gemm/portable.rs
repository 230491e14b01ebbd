//! The register tile in plain Rust: one row by 16 columns at a time, which any compiler keeps in registers.

use std::ops::AddAssign;

use super::Tile;
use crate::scratch::LANES;

/// f32 factors.
///
/// # Safety
/// See `Kernel::run`.
pub(super) unsafe fn f32(rows: usize, groups: usize, tile: &Tile) {
    // SAFETY: the caller's promise.
    unsafe {
        each_row(rows, groups, tile, |sum: &mut f32, a, b| *sum += f32::from_bits(a) * f32::from_bits(b))
    }
}

/// bf16 pairs widened to f32.
///
/// # Safety
/// See `Kernel::run`.
pub(super) unsafe fn bf16_emulated(rows: usize, groups: usize, tile: &Tile) {
    let step = |sum: &mut f32, a: u32, b: u32| {
        *sum += f32::from_bits(a << 16) * f32::from_bits(b << 16);
        *sum += f32::from_bits(a & 0xffff_0000) * f32::from_bits(b & 0xffff_0000);
    };
    // SAFETY: the caller's promise.
    unsafe { each_row(rows, groups, tile, step) }
}

/// Unsigned bytes of `A` with signed ones of `B`.
///
/// # Safety
/// See `Kernel::run`.
pub(super) unsafe fn int8(rows: usize, groups: usize, tile: &Tile) {
    // SAFETY: the caller's promise.
    unsafe { each_row(rows, groups, tile, |sum: &mut i32, a, b| *sum += dot_bytes(a, b)) }
}

/// Signed bytes of `A` with unsigned ones of `B`.
///
/// # Safety
/// See `Kernel::run`.
pub(super) unsafe fn int8_weights_left(rows: usize, groups: usize, tile: &Tile) {
    // SAFETY: the caller's promise.
    unsafe { each_row(rows, groups, tile, |sum: &mut i32, a, b| *sum += dot_bytes(b, a)) }
}

fn dot_bytes(unsigned: u32, signed: u32) -> i32 {
    let pairs = unsigned.to_le_bytes().into_iter().zip(signed.to_le_bytes());
    pairs.map(|(unsigned, signed)| i32::from(unsigned) * i32::from(signed as i8)).sum()
}

/// # Safety
/// See `Kernel::run`; `C`'s elements hold sums of this type in their bits.
#[inline(always)]
unsafe fn each_row<S: Copy + Default + AddAssign>(
    rows: usize,
    groups: usize,
    tile: &Tile,
    step: impl Fn(&mut S, u32, u32),
) {
    const { assert!(size_of::<S>() == size_of::<f32>() && align_of::<S>() == align_of::<f32>()) };
    for row in 0..rows {
        for g in 0..groups {
            // SAFETY: A holds `steps` words in each row, B `steps` lines in each group, C 16 columns per group.
            let (b, c) = unsafe {
                (
                    std::slice::from_raw_parts(tile.b.add(g * tile.b_stride), tile.steps),
                    std::slice::from_raw_parts_mut(
                        tile.c.add(row * tile.c_stride + g * LANES).cast::<S>(),
                        LANES,
                    ),
                )
            };
            let mut sums = [S::default(); LANES];
            for (at, b) in b.iter().enumerate() {
                // SAFETY: as above.
                let a = unsafe { *tile.a.add(row * tile.a_stride + at * tile.a_step) };
                for lane in 0..LANES {
                    step(&mut sums[lane], a, b.0[lane]);
                }
            }
            for (out, sum) in c.iter_mut().zip(sums) {
                if tile.add {
                    *out += sum;
                } else {
                    *out = sum;
                }
            }
        }
    }
}
