//! Rows that lie side by side in the lanes of lines: how the right factor of a product is packed.

use crate::bf16::round_to_bf16;
use crate::isa::{Arith, Isa, per_isa};
use crate::scratch::{LANES, Line};

#[cfg(target_arch = "x86_64")]
mod avx512;

/// `lines[d][lane] = rows[lane][d]`.
///
/// # Panics
/// If a row is shorter than the lines are many.
pub(crate) fn interleave(isa: Isa, rows: &[&[u32]; LANES], lines: &mut [Line]) {
    #[cfg(target_arch = "x86_64")]
    if isa >= Isa::Avx512 {
        // SAFETY: the level was checked when it became current.
        return unsafe { avx512::interleave(rows, lines) };
    }
    interleave_plainly(isa, rows, lines);
}

per_isa!(fn interleave_plainly(rows: &[&[u32]; LANES], lines: &mut [Line]) = interleave_body);

#[inline(always)]
fn interleave_body<A: Arith>(rows: &[&[u32]; LANES], lines: &mut [Line]) {
    let len = lines.len();
    let mut cut = [&[][..]; LANES];
    for lane in 0..LANES {
        cut[lane] = &rows[lane][..len];
    }
    for (at, line) in lines.iter_mut().enumerate() {
        for lane in 0..LANES {
            line.0[lane] = cut[lane][at];
        }
    }
}

/// `lines[s][lane] = (rows[lane][2·s], rows[lane][2·s + 1])`, zero past the end.
///
/// # Panics
/// If there are not two values of each row for a line, the last of which may be missing.
pub(crate) fn interleave_pairs(isa: Isa, rows: &[&[f32]; LANES], lines: &mut [Line]) {
    #[cfg(target_arch = "x86_64")]
    if isa == Isa::Avx512Bf16 {
        // SAFETY: the level was checked when it became current.
        return unsafe { avx512::interleave_pairs(rows, lines) };
    }
    interleave_pairs_plainly(isa, rows, lines);
}

per_isa!(fn interleave_pairs_plainly(rows: &[&[f32]; LANES], lines: &mut [Line]) = interleave_pairs_body);

#[inline(always)]
fn interleave_pairs_body<A: Arith>(rows: &[&[f32]; LANES], lines: &mut [Line]) {
    for (step, line) in lines.iter_mut().enumerate() {
        let (mut low, mut high) = ([0.0; LANES], [0.0; LANES]);
        for lane in 0..LANES {
            low[lane] = rows[lane][2 * step];
        }
        if 2 * step + 1 < rows[0].len() {
            for lane in 0..LANES {
                high[lane] = rows[lane][2 * step + 1];
            }
        }
        for lane in 0..LANES {
            line.0[lane] = pair(low[lane], high[lane]);
        }
    }
}

#[inline(always)]
pub(crate) fn pair(low: f32, high: f32) -> u32 {
    u32::from(round_to_bf16(low)) | u32::from(round_to_bf16(high)) << 16
}
