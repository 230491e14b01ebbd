//! A linear layer and the GEGLU behind it in one pass, so that its output of twice the width is never stored.

use rayon::prelude::*;

use crate::activation::{geglu_row, near_geglu_row};
use crate::isa::Isa;
use crate::linear::{LowRank, Product, Range, TILE_COLUMNS, check_side, task_shape, with_beside, with_words};
use crate::pack::{PackedWeights, Precision};
use crate::rows::{Rows, RowsMut, SharedRows};
use crate::scratch::{self, LANES, floats_mut};

/// `out[rows, n] = (x · wᵥᵀ + biasᵥ) · gelu(x · wᵧᵀ + biasᵧ)`, where the weights `[2·n, k]` and the bias hold the
/// values' half first and then the gates', with a low rank beside the weights where there is one. In f32 the same bytes as
/// [`crate::linear_beside`] followed by [`crate::geglu`]; in bf16 and int8 the GELU is within 4e-5 of the exact one.
///
/// # Panics
/// If `x`, `side`, `bias` or `out` do not fit `w`'s shape, or half of its outputs are not a multiple of 16.
pub fn linear_geglu(x: Rows, w: &PackedWeights, side: Option<LowRank>, bias: Option<&[f32]>, out: RowsMut) {
    let (n, k) = (w.n() / 2, w.k());
    assert!(
        w.n().is_multiple_of(2 * LANES),
        "outputs of a GEGLU layer come in two halves of whole groups of 16"
    );
    if out.is_empty() {
        return;
    }
    let rows = out.len() / n;
    assert_eq!(out.len(), rows * n, "output of a GEGLU layer with {n} outputs");
    assert_eq!(x.len(), rows * k, "input of a GEGLU layer: {rows} rows of {k}");
    assert!(bias.is_none_or(|bias| bias.len() == 2 * n), "bias of a GEGLU layer with {n} outputs");
    check_side(side, rows, 2 * n);
    let isa = Isa::current();
    let layer = Layer { isa, x, w, side, bias, out: SharedRows::new(out) };
    let (task_rows, task_columns) = task_shape(rows, n, rayon::current_num_threads());
    let column_tasks = n.div_ceil(task_columns);
    (0..rows.div_ceil(task_rows) * column_tasks).into_par_iter().with_max_len(1).for_each(|task| {
        let (row, column) = (task / column_tasks * task_rows, task % column_tasks * task_columns);
        layer.block(row..(row + task_rows).min(rows), column..(column + task_columns).min(n));
    });
}

struct Layer<'a> {
    isa: Isa,
    x: Rows<'a>,
    w: &'a PackedWeights,
    side: Option<LowRank<'a>>,
    bias: Option<&'a [f32]>,
    out: SharedRows,
}

/// Values and gates of one row, side by side.
const STRIDE: usize = 2 * TILE_COLUMNS;

impl Layer<'_> {
    /// One task: for each register tile's columns, values and gates of all its rows, then their products.
    fn block(&self, rows: Range, columns: Range) {
        with_words(self.isa, self.x, self.w, &rows, |words| {
            with_beside(self.isa, self.side, &rows, |beside| {
                scratch::with(rows.len() * STRIDE, |lines| {
                    let buffer = floats_mut(lines);
                    for column in columns.clone().step_by(TILE_COLUMNS) {
                        let width = TILE_COLUMNS.min(columns.end - column);
                        for (half, first) in [column, self.w.n() / 2 + column].into_iter().enumerate() {
                            let c = buffer[half * width..].as_mut_ptr();
                            let (isa, w) = (self.isa, self.w);
                            let product = Product { isa, w, words, c, c_stride: STRIDE };
                            let add = |block: Range, column, width| {
                                if let Some(beside) = beside {
                                    let c = c.wrapping_add(block.start * STRIDE);
                                    // SAFETY: as below; the tile is the one that was just written.
                                    unsafe { beside.add(block, column, width, c, STRIDE) };
                                }
                            };
                            // SAFETY: the buffer holds STRIDE columns of these rows, of which this half is written.
                            unsafe { product.sum(rows.len(), first..first + width, |_, _, _| {}, add) };
                        }
                        self.finish(&rows, column, width, buffer);
                    }
                });
            });
        });
    }

    fn finish(&self, rows: &Range, column: usize, width: usize, buffer: &mut [f32]) {
        let n = self.w.n() / 2;
        for (row, pair) in rows.clone().zip(buffer.chunks_exact_mut(STRIDE)) {
            let pair = &mut pair[..2 * width];
            if let Some(bias) = self.bias {
                let (values, gates) = pair.split_at_mut(width);
                values.iter_mut().zip(&bias[column..]).for_each(|(value, bias)| *value += bias);
                gates.iter_mut().zip(&bias[n + column..]).for_each(|(gate, bias)| *gate += bias);
            }
            let mut gated = [0.0; TILE_COLUMNS];
            let gated = &mut gated[..width];
            match self.w.precision() {
                Precision::F32 => geglu_row(self.isa, pair, gated),
                Precision::Bf16 | Precision::Int8 => near_geglu_row(self.isa, pair, gated),
            }
            // SAFETY: this task alone writes this block of the output.
            unsafe { self.out.store(self.isa, row * n + column, gated) };
        }
    }
}
