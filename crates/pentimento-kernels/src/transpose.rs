//! Pictures to tokens and back: transposition of the matrices of a batch.

use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

use crate::bf16::round_slice;
use crate::isa::{Arith, Isa, per_isa};
use crate::rows::RowsMut;
use crate::scratch::{self, LANES, floats_mut};

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

per_isa!(
    fn transpose_strip(x: &[f32], columns: usize, first: usize, added: Option<&[f32]>, out: &mut [f32]) =
        transpose_strip_body
);

/// Up to 16 columns from `first` on, 16 rows at a time.
#[inline(always)]
fn transpose_strip_body<A: Arith>(
    x: &[f32],
    columns: usize,
    first: usize,
    added: Option<&[f32]>,
    out: &mut [f32],
) {
    let (rows, width) = (x.len() / columns, LANES.min(columns - first));
    for row in (0..rows).step_by(LANES) {
        let height = LANES.min(rows - row);
        let mut tile = [[0.0_f32; LANES]; LANES];
        for y in 0..height {
            let from = &x[(row + y) * columns + first..][..width];
            for lane in 0..width {
                tile[lane][y] = from[lane];
            }
        }
        for lane in 0..width {
            let at = lane * rows + row;
            let to = &mut out[at..at + height];
            match added {
                None => to.copy_from_slice(&tile[lane][..height]),
                Some(added) => {
                    for ((to, value), more) in to.iter_mut().zip(&tile[lane]).zip(&added[at..at + height]) {
                        *to = value + more;
                    }
                }
            }
        }
    }
}
