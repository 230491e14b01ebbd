//! A linear layer and the GEGLU behind it in one pass, so that its output of twice the width is never stored.

use rayon::prelude::*;

use crate::activation::{gelu_of, near_gelu_of};
use crate::gemm::ROWS;
use crate::isa::{Arith, Isa, per_isa};
use crate::linear::{LowRank, Product, Range, TILE_COLUMNS, check_side, task_shape, with_beside, with_words};
use crate::pack::{PackedWeights, Precision};
use crate::rows::{Rows, RowsMut, SharedRows};
use crate::scratch::{self, LANES, floats_mut, prefetch_row};

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
    /// One task: for each register tile's columns the values of all its rows, then tile by tile their gates, each of which
    /// leaves for the output while it is in the first-level cache.
    fn block(&self, rows: Range, columns: Range) {
        let (isa, w, n) = (self.isa, self.w, self.w.n() / 2);
        with_words(isa, self.x, w, &rows, |words| {
            with_beside(isa, self.side, &rows, |beside| {
                scratch::with(rows.len() * STRIDE, |lines| {
                    let buffer = floats_mut(lines).as_mut_ptr();
                    for column in columns.clone().step_by(TILE_COLUMNS) {
                        let width = TILE_COLUMNS.min(columns.end - column);
                        let add = |c: *mut f32, block: &Range, column| {
                            if let Some(beside) = beside {
                                let c = c.wrapping_add(block.start * STRIDE);
                                // SAFETY: as below; the tile is the one that was just written.
                                unsafe { beside.add(block.clone(), column, width, c, STRIDE) };
                            }
                        };
                        let c = buffer;
                        let product = Product { isa, w, words, c, c_stride: STRIDE };
                        let finish = |block: Range, column, _| add(c, &block, column);
                        // SAFETY: the buffer holds STRIDE columns of these rows, of which this half is written.
                        unsafe { product.sum(rows.len(), column..column + width, |_, _, _| {}, finish) };
                        let c = buffer.wrapping_add(width);
                        let product = Product { isa, w, words, c, c_stride: STRIDE };
                        let ask = |block: Range, _, _| {
                            for row in block {
                                prefetch_row(buffer.wrapping_add(row * STRIDE), width);
                                self.out.prefetch((rows.start + row) * n + column, width);
                            }
                        };
                        let finish = |block: Range, gates, _| {
                            add(c, &block, gates);
                            let tile = buffer.wrapping_add(block.start * STRIDE);
                            // SAFETY: the buffer holds these rows, and nobody writes to them meanwhile.
                            let pairs = unsafe { std::slice::from_raw_parts(tile, block.len() * STRIDE) };
                            self.finish(rows.start + block.start, column, width, pairs);
                        };
                        // SAFETY: as above.
                        unsafe { product.sum(rows.len(), n + column..n + column + width, ask, finish) };
                    }
                });
            });
        });
    }

    /// Writes the output's tile from a row and a column on, of values and gates side by side.
    fn finish(&self, first: usize, column: usize, width: usize, pairs: &[f32]) {
        let n = self.w.n() / 2;
        let bias = self.bias.map(|bias| [&bias[column..][..width], &bias[n + column..][..width]]);
        let mut gated = [[0.0; TILE_COLUMNS]; ROWS];
        let gated = &mut gated[..pairs.len() / STRIDE];
        let is_near = self.w.precision() != Precision::F32;
        gate_tile(self.isa, pairs, width, bias, is_near, gated);
        for (row, gated) in (first..).zip(gated) {
            // SAFETY: this task alone writes this block of the output.
            unsafe { self.out.store(self.isa, row * n + column, &gated[..width]) };
        }
    }
}

per_isa!(
    fn gate_tile(
        pairs: &[f32],
        width: usize,
        bias: Option<[&[f32]; 2]>,
        is_near: bool,
        gated: &mut [[f32; TILE_COLUMNS]],
    ) = gate_tile_body
);

/// Values times their gates' GELU, the nearly exact one or the exact one.
#[inline(always)]
fn gate_tile_body<A: Arith>(
    pairs: &[f32],
    width: usize,
    bias: Option<[&[f32]; 2]>,
    is_near: bool,
    gated: &mut [[f32; TILE_COLUMNS]],
) {
    const NONE: [f32; TILE_COLUMNS] = [0.0; TILE_COLUMNS];
    let [value_bias, gate_bias] = bias.unwrap_or([&NONE[..width], &NONE[..width]]);
    for (pair, gated) in pairs.chunks_exact(STRIDE).zip(gated) {
        let (values, gates) = pair[..2 * width].split_at(width);
        let values = values.as_chunks::<LANES>().0.iter().zip(value_bias.as_chunks::<LANES>().0);
        let gates = gates.as_chunks::<LANES>().0.iter().zip(gate_bias.as_chunks::<LANES>().0);
        for (((value, value_bias), (gate, gate_bias)), out) in
            values.zip(gates).zip(gated.as_chunks_mut::<LANES>().0)
        {
            for lane in 0..LANES {
                let gate = gate[lane] + gate_bias[lane];
                let gelu = if is_near { near_gelu_of::<A>(gate) } else { gelu_of::<A>(gate) };
                out[lane] = (value[lane] + value_bias[lane]) * gelu;
            }
        }
    }
}
