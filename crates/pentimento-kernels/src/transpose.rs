//! Pictures to tokens and back: transposition of the matrices of a batch.

use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

use crate::bf16::round_slice;
use crate::isa::{Arith, Isa, per_isa};
use crate::lanes::interleave;
use crate::rows::RowsMut;
use crate::scratch::{self, LANES, Line, bits, floats_mut, prefetch};

/// `x`, `[batch, rows, columns]`, to `out`, `[batch, columns, rows]`, with `added` of `out`'s shape added if there is one.
///
/// # Panics
/// If a slice does not fit.
pub fn transpose(x: &[f32], [batch, rows, columns]: [usize; 3], added: Option<&[f32]>, out: RowsMut) {
    assert_eq!(x.len(), batch * rows * columns, "input of a transposition [{batch}, {rows}, {columns}]");
    assert_eq!(out.len(), x.len(), "output of a transposition");
    assert!(added.is_none_or(|added| added.len() == out.len()), "tensor added to a transposition");
    if x.is_empty() {
        return;
    }
    let isa = Isa::current();
    // Up to 16 columns of an image, which lie together in the output.
    let strip = |image: usize, strip: usize, out: &mut [f32]| {
        let x = &x[image * rows * columns..][..rows * columns];
        let from = image * rows * columns + strip * LANES * rows;
        let added = added.map(|added| &added[from..][..out.len()]);
        transpose_strip(isa, x, columns, strip * LANES, added, out);
    };
    match out {
        RowsMut::F32(out) => {
            for (image, out) in out.chunks_exact_mut(rows * columns).enumerate() {
                out.par_chunks_mut(LANES * rows).enumerate().for_each(|(at, out)| strip(image, at, out));
            }
        }
        RowsMut::Bf16(out) => {
            for (image, out) in out.reinterpret_cast_mut().chunks_exact_mut(rows * columns).enumerate() {
                out.par_chunks_mut(LANES * rows).enumerate().for_each(|(at, out)| {
                    scratch::with(out.len(), |lines| {
                        let wide = &mut floats_mut(lines)[..out.len()];
                        strip(image, at, wide);
                        round_slice(isa, wide, out);
                    });
                });
            }
        }
    }
}

/// Up to 16 columns from `first` on, 16 rows at a time.
fn transpose_strip(
    isa: Isa,
    x: &[f32],
    columns: usize,
    first: usize,
    added: Option<&[f32]>,
    out: &mut [f32],
) {
    let (rows, width) = (x.len() / columns, LANES.min(columns - first));
    let mut square = [Line::ZERO; LANES];
    for row in (0..rows).step_by(LANES) {
        // Rows are far apart in memory.
        for ahead in row + LANES..row + 2 * LANES {
            prefetch(x.as_ptr().wrapping_add(ahead * columns + first));
        }
        // In the last square the last row stands for those that are missing.
        let from = |y: usize| bits(&x[(row + y).min(rows - 1) * columns + first..][..width]);
        interleave(isa, &std::array::from_fn(from), &mut square[..width]);
        store_square(isa, &square[..width], rows, row, added, out);
    }
}

per_isa!(
    fn store_square(square: &[Line], rows: usize, row: usize, added: Option<&[f32]>, out: &mut [f32]) =
        store_square_body
);

/// Writes a strip's values for up to 16 rows from `row` on.
#[inline(always)]
fn store_square_body<A: Arith>(
    square: &[Line],
    rows: usize,
    row: usize,
    added: Option<&[f32]>,
    out: &mut [f32],
) {
    let height = LANES.min(rows - row);
    for (lane, line) in square.iter().enumerate() {
        let at = lane * rows + row;
        let to = &mut out[at..at + height];
        let values = line.0[..height].iter().map(|bits| f32::from_bits(*bits));
        match added {
            None => to.iter_mut().zip(values).for_each(|(to, value)| *to = value),
            Some(added) => {
                prefetch(added.as_ptr().wrapping_add(at + LANES));
                let more = added[at..at + height].iter();
                to.iter_mut().zip(values.zip(more)).for_each(|(to, (value, more))| *to = value + more);
            }
        }
    }
}
