//! Batched products of two f32 tensors, for what is neither a layer nor attention.

use rayon::prelude::*;

use crate::gemm::{GROUPS, Kernel, ROWS, STEPS, Tile};
use crate::isa::Isa;
use crate::pack::Precision;
use crate::scratch::{self, LANES, Line, SharedOut, words_mut};

/// How a matrix lies in its slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Row-major, as the product reads it.
    Plain,
    /// Row-major after a transposition.
    Transposed,
}

/// Rows in a task: the right factor is packed once per task, so blocks are large.
const TASK_ROWS: usize = 32 * ROWS;

/// Columns in a register tile.
const TILE_COLUMNS: usize = GROUPS * LANES;

/// `out[batch, m, n] = a[batch, m, k] · b[batch, k, n]`. With [`Layout::Transposed`] `a` is stored as
/// `[batch, k, m]`, `b` as `[batch, n, k]`.
///
/// # Panics
/// If a slice does not fit.
pub fn matmul(
    (a, a_layout): (&[f32], Layout),
    (b, b_layout): (&[f32], Layout),
    [batch, m, n, k]: [usize; 4],
    out: &mut [f32],
) {
    assert_eq!(a.len(), batch * m * k, "left factor of a product");
    assert_eq!(b.len(), batch * k * n, "right factor of a product");
    assert_eq!(out.len(), batch * m * n, "output of a product");
    if out.is_empty() {
        return;
    }
    let kernel = Kernel::new(Isa::current(), Precision::F32);
    let product = Product { kernel, a, a_layout, b, b_layout, m, n, k, out: SharedOut::new(out) };
    let (row_tasks, column_tasks) = (m.div_ceil(TASK_ROWS), n.div_ceil(TILE_COLUMNS));
    (0..batch * row_tasks * column_tasks).into_par_iter().for_each(|task| {
        let row = task / column_tasks % row_tasks * TASK_ROWS;
        product.block(
            task / column_tasks / row_tasks,
            row..(row + TASK_ROWS).min(m),
            task % column_tasks * TILE_COLUMNS,
        );
    });
}

struct Product<'a> {
    kernel: Kernel,
    a: &'a [f32],
    a_layout: Layout,
    b: &'a [f32],
    b_layout: Layout,
    m: usize,
    n: usize,
    k: usize,
    out: SharedOut,
}

impl Product<'_> {
    /// One task: a block of rows by the columns of one register tile.
    fn block(&self, item: usize, rows: std::ops::Range<usize>, column: usize) {
        let width = TILE_COLUMNS.min(self.n - column);
        scratch::with((GROUPS * STEPS * LANES) + TASK_ROWS * STEPS, |lines| {
            let (b_lines, a_lines) = lines.split_at_mut(GROUPS * STEPS);
            for step in (0..self.k.max(1)).step_by(STEPS) {
                let count = STEPS.min(self.k - step);
                self.pack_b(item, step..step + count, column..column + width, b_lines);
                let (a, a_stride) = self.left(item, &rows, step..step + count, words_mut(a_lines));
                for row in rows.clone().step_by(ROWS) {
                    let tile = Tile {
                        steps: count,
                        a: a.wrapping_add((row - rows.start) * a_stride),
                        a_stride,
                        a_step: 1,
                        b: b_lines.as_ptr(),
                        b_stride: STEPS,
                        c: self.out.at((item * self.m + row) * self.n + column),
                        c_stride: self.n,
                        add: step > 0,
                        next: b_lines.as_ptr(),
                    };
                    // SAFETY: the ranges lie inside the operands, and this task alone writes this block.
                    unsafe { self.kernel.run(ROWS.min(rows.end - row), width, &tile) };
                }
            }
        });
    }

    /// The left factor's block: where it lies, or turned into `scratch`.
    fn left(
        &self,
        item: usize,
        rows: &std::ops::Range<usize>,
        steps: std::ops::Range<usize>,
        scratch: &mut [u32],
    ) -> (*const u32, usize) {
        let a = &self.a[item * self.m * self.k..][..self.m * self.k];
        match self.a_layout {
            Layout::Plain => {
                (a.as_ptr().cast::<u32>().wrapping_add(rows.start * self.k + steps.start), self.k)
            }
            Layout::Transposed => {
                for (at, step) in steps.enumerate() {
                    for (row, value) in a[step * self.m..][rows.clone()].iter().enumerate() {
                        scratch[row * STEPS + at] = value.to_bits();
                    }
                }
                (scratch.as_ptr(), STEPS)
            }
        }
    }

    /// Packs a block of the right factor into groups of 16 columns; columns past the width are zero.
    fn pack_b(
        &self,
        item: usize,
        steps: std::ops::Range<usize>,
        columns: std::ops::Range<usize>,
        lines: &mut [Line],
    ) {
        let b = &self.b[item * self.k * self.n..][..self.k * self.n];
        for (group, lines) in lines.chunks_exact_mut(STEPS).enumerate() {
            let first = columns.start + group * LANES;
            let columns = first..columns.end.clamp(first, first + LANES);
            for (step, line) in steps.clone().zip(lines) {
                *line = Line::ZERO;
                for (word, column) in line.0.iter_mut().zip(columns.clone()) {
                    let at = match self.b_layout {
                        Layout::Plain => step * self.n + column,
                        Layout::Transposed => column * self.k + step,
                    };
                    *word = b[at].to_bits();
                }
            }
        }
    }
}
