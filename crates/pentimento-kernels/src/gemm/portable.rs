//! The register tile in plain Rust: one row by 16 columns at a time, which any compiler keeps in registers.

use super::Tile;
use crate::scratch::LANES;

/// f32 factors.
///
/// # Safety
/// See `Kernel::run`.
pub(super) unsafe fn f32(rows: usize, groups: usize, tile: &Tile) {
    // SAFETY: the caller's promise.
    unsafe { each_row(rows, groups, tile, |sum, a, b| *sum += f32::from_bits(a) * f32::from_bits(b)) }
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

/// # Safety
/// See `Kernel::run`.
#[inline(always)]
unsafe fn each_row(rows: usize, groups: usize, tile: &Tile, step: impl Fn(&mut f32, u32, u32)) {
    for row in 0..rows {
        for g in 0..groups {
            // SAFETY: A holds `steps` words in each row, B `steps` lines in each group, C 16 columns per group.
            let (a, b, c) = unsafe {
                (
                    std::slice::from_raw_parts(tile.a.add(row * tile.a_stride), tile.steps),
                    std::slice::from_raw_parts(tile.b.add(g * tile.b_stride), tile.steps),
                    std::slice::from_raw_parts_mut(tile.c.add(row * tile.c_stride + g * LANES), LANES),
                )
            };
            let mut sums = [0.0_f32; LANES];
            for (a, b) in a.iter().zip(b) {
                for lane in 0..LANES {
                    step(&mut sums[lane], *a, b.0[lane]);
                }
            }
            for (out, sum) in c.iter_mut().zip(sums) {
                *out = if tile.add { *out + sum } else { sum };
            }
        }
    }
}
