//! Linear layers: `out[rows, n] = epilogue(x[rows, k] · wᵀ + bias)`.
//!
//! Tasks are blocks of rows by blocks of columns. A task walks its part of the sum in blocks of steps; for each it
//! keeps 64 columns of weights in the cache and passes all its rows over them.

use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

use crate::activation::{gelu_of, quick_gelu_of, silu_of};
use crate::bf16::round_pairs;
use crate::gemm::{GROUPS, ROWS, STEPS, Tile, signs_apart};
use crate::int8::{QUAD, Quantiser, Sums, dequantise_tile, extent, part_signs, quantise};
use crate::isa::{Arith, Isa, per_isa};
use crate::pack::{PackedWeights, Precision};
use crate::rows::{Rows, RowsMut, SharedRows, pairs};
use crate::scratch::{self, LANES, Line, bytes_mut, floats_mut, prefetch_row, words_mut};

pub(crate) type Range = std::ops::Range<usize>;

/// What happens to a product after the bias, before it is stored.
#[derive(Clone, Copy, Debug)]
pub enum Epilogue<'a> {
    /// Nothing.
    None,
    /// `x · sigmoid(x)`.
    Silu,
    /// Exact (erf) GELU.
    Gelu,
    /// `x · sigmoid(1.702 x)`.
    QuickGelu,
    /// Adds a tensor of the output's shape.
    Add(&'a [f32]),
}

/// A low rank beside a layer's weights, whose product is added to the layer's before the bias.
#[derive(Clone, Copy, Debug)]
pub struct LowRank<'a> {
    /// What the way down made of the input, `[rows, rank]`.
    pub low: &'a [f32],
    /// The way up, `[n, rank]`.
    pub up: &'a PackedWeights,
}

/// Rows in a task: 26 register tiles; 156 rows of 320 steps are 195 KiB, which stay in the second-level cache beside
/// the weights. Two texts of 77 tokens are one task, so that weights are read once for both. With 96 the weights of a layer of 128
/// rows were read twice, and it was a fifth slower.
const TASK_ROWS: usize = 26 * ROWS;

/// Columns in a register tile.
pub(crate) const TILE_COLUMNS: usize = GROUPS * LANES;

/// A linear layer: `out[rows, n] = epilogue(x[rows, k] · wᵀ + bias)`. Row `i` of the result has the same bytes
/// whatever the number of rows and threads.
///
/// # Panics
/// If `x`, `bias`, `out` or the added tensor do not fit `w`'s shape.
pub fn linear(x: &[f32], w: &PackedWeights, bias: Option<&[f32]>, out: &mut [f32], epilogue: Epilogue) {
    linear_beside(Rows::F32(x), w, None, bias, RowsMut::F32(out), epilogue);
}

/// The same with a low rank beside the weights: `epilogue(x · wᵀ + low · upᵀ + bias)`, and with input and output in f32 or bf16.
/// Nothing of the output's size is stored in between.
///
/// # Panics
/// As [`linear`], and if the low rank does not fit.
pub fn linear_beside(
    x: Rows,
    w: &PackedWeights,
    side: Option<LowRank>,
    bias: Option<&[f32]>,
    out: RowsMut,
    epilogue: Epilogue,
) {
    let (n, k) = (w.n(), w.k());
    if n == 0 || out.is_empty() {
        return;
    }
    let rows = out.len() / n;
    assert_eq!(out.len(), rows * n, "output of a linear layer with {n} outputs");
    assert_eq!(x.len(), rows * k, "input of a linear layer: {rows} rows of {k}");
    assert!(bias.is_none_or(|bias| bias.len() == n), "bias of a linear layer with {n} outputs");
    if let Epilogue::Add(added) = epilogue {
        assert_eq!(added.len(), out.len(), "tensor added to a linear layer's output");
    }
    check_side(side, rows, n);
    let isa = Isa::current();
    let layer = Layer { isa, x, w, side, bias, epilogue, out: SharedRows::new(out) };
    let (task_rows, task_columns) = task_shape(rows, n, rayon::current_num_threads());
    let column_tasks = n.div_ceil(task_columns);
    (0..rows.div_ceil(task_rows) * column_tasks).into_par_iter().with_max_len(1).for_each(|task| {
        let (row, column) = (task / column_tasks * task_rows, task % column_tasks * task_columns);
        layer.block(row..(row + task_rows).min(rows), column..(column + task_columns).min(n));
    });
}

/// # Panics
/// If a low rank does not fit a layer of `n` outputs, or is not in floats: its products are added to the layer's.
pub(crate) fn check_side(side: Option<LowRank>, rows: usize, n: usize) {
    if let Some(LowRank { low, up }) = side {
        assert_eq!(up.n(), n, "outputs of a low rank beside a linear layer with {n}");
        assert_eq!(low.len(), rows * up.k(), "input of a low rank: {rows} rows of {}", up.k());
        assert!(Precision::FLOATS.contains(&up.precision()), "a low rank in {:?}", up.precision());
    }
}

/// Rows and columns of a task, so that every thread gets several. Does not influence the results.
pub(crate) fn task_shape(rows: usize, n: usize, threads: usize) -> (usize, usize) {
    let row_tasks = rows.div_ceil(TASK_ROWS);
    let task_rows = rows.div_ceil(row_tasks).next_multiple_of(ROWS);
    let column_tasks = (4 * threads).div_ceil(row_tasks).min(n.div_ceil(TILE_COLUMNS)).max(1);
    (task_rows, n.div_ceil(column_tasks).next_multiple_of(TILE_COLUMNS))
}

struct Layer<'a> {
    isa: Isa,
    x: Rows<'a>,
    w: &'a PackedWeights,
    side: Option<LowRank<'a>>,
    bias: Option<&'a [f32]>,
    epilogue: Epilogue<'a>,
    out: SharedRows,
}

impl Layer<'_> {
    /// One task. Sums are taken in the output where it is f32; otherwise in scratch for one register tile's columns at a time.
    fn block(&self, rows: Range, columns: Range) {
        let n = self.w.n();
        with_words(self.isa, self.x, self.w, &rows, |words| {
            crate::fault::point();
            with_beside(self.isa, self.side, &rows, |beside| match self.out {
                SharedRows::F32(out) => {
                    let c = out.at(rows.start * n + columns.start);
                    // SAFETY: rows and columns lie inside the tensors, and this task alone writes this block of the output.
                    unsafe { self.sum(words, beside, &rows, columns, c, n) };
                }
                SharedRows::Bf16(_) => scratch::with(rows.len() * TILE_COLUMNS, |lines| {
                    let c = floats_mut(lines).as_mut_ptr();
                    for column in columns.clone().step_by(TILE_COLUMNS) {
                        let width = TILE_COLUMNS.min(columns.end - column);
                        // SAFETY: as above, and the scratch holds these columns of the rows.
                        unsafe { self.sum(words, beside, &rows, column..column + width, c, TILE_COLUMNS) };
                    }
                }),
            });
        });
    }

    /// A block of the output in `c`, of which each register tile is finished while it is in the first-level cache, and rounded
    /// from there where the output is bf16.
    ///
    /// # Safety
    /// The words, the low rank and `c` must be valid for these rows and columns, `c` and this block of the output not be
    /// accessed by anyone else meanwhile.
    unsafe fn sum(
        &self,
        words: Words,
        beside: Option<&Beside>,
        rows: &Range,
        columns: Range,
        c: *mut f32,
        c_stride: usize,
    ) {
        let (isa, first) = (self.isa, columns.start);
        let product = Product { isa, w: self.w, words, c, c_stride };
        let finish = |block: Range, column: usize, width: usize| {
            let c = c.wrapping_add(block.start * c_stride + column - first);
            if let Some(beside) = beside {
                // SAFETY: as below; the tile is the one that was just written.
                unsafe { beside.add(block.clone(), column, width, c, c_stride) };
            }
            let of_output = rows.start + block.start..rows.start + block.end;
            let tile = Finished { c, c_stride, n: self.w.n(), rows: of_output, column, width };
            finish_tile(isa, &tile, self.bias, self.epilogue);
            if let SharedRows::Bf16(_) = self.out {
                for (at, row) in tile.rows.clone().enumerate() {
                    // SAFETY: as below; this task alone writes this block of the output.
                    unsafe { self.out.store(isa, row * tile.n + column, tile.row(at)) };
                }
            }
        };
        let ask = |block: Range, column: usize, width: usize| {
            for row in block {
                let from = (rows.start + row) * self.w.n() + column;
                if let Epilogue::Add(added) = self.epilogue {
                    prefetch_row(added.as_ptr().wrapping_add(from), width);
                }
                if let SharedRows::Bf16(_) = self.out {
                    self.out.prefetch(from, width);
                }
            }
        };
        // SAFETY: the caller's promise.
        unsafe { product.sum(rows.len(), columns, ask, finish) };
    }
}

/// Rows of a left factor in the form that the register tile takes.
#[derive(Clone, Copy)]
pub(crate) struct Words<'a> {
    /// The first row's first word, and words from row to row.
    at: *const u32,
    stride: usize,
    /// How each row was quantised; empty but in int8.
    quantisers: &'a [Quantiser],
}

impl Words<'_> {
    /// A row's word of a step.
    fn step(&self, row: usize, step: usize) -> *const u32 {
        self.at.wrapping_add(row * self.stride + step)
    }

    /// A register tile of rows from one on and so many steps from one on, with a block of weights ([`PackedWeights::block`]); `c` is
    /// the first row of the result, and elements from row to row.
    fn tile(
        &self,
        row: usize,
        step: usize,
        steps: usize,
        (b, b_stride): (*const Line, usize),
        (c, c_stride): (*mut f32, usize),
        add: bool,
    ) -> Tile {
        let (a, a_stride) = (self.step(row, step), self.stride);
        Tile { steps, a, a_stride, a_step: 1, b, b_stride, c, c_stride, add, next: b }
    }
}

/// Calls `body` with the words of some rows of `x` in the weights' precision: where they lie if they have it, otherwise rounded,
/// quantised or widened into scratch.
pub(crate) fn with_words(isa: Isa, x: Rows, w: &PackedWeights, rows: &Range, body: impl FnOnce(Words)) {
    let (k, steps) = (w.k(), w.steps());
    let words = |at: *const u32, stride| Words { at, stride, quantisers: &[] };
    let x = match x.part(rows.start * k..rows.end * k) {
        Rows::F32(x) => x,
        Rows::Bf16(x) => {
            let in_pairs = w.precision() == Precision::Bf16 && k.is_multiple_of(2);
            if let Some(x) = pairs(x).filter(|_| in_pairs) {
                return body(words(x.as_ptr(), steps));
            }
            return scratch::with(x.len(), |lines| {
                let wide = &mut floats_mut(lines)[..x.len()];
                x.convert_to_f32_slice(wide);
                with_words(isa, Rows::F32(wide), w, &(0..rows.len()), body);
            });
        }
    };
    match w.precision() {
        Precision::F32 => body(words(x.as_ptr().cast(), k)),
        Precision::Bf16 => scratch::with(rows.len() * steps, |lines| {
            let rounded = words_mut(lines);
            for (row, words) in x.chunks_exact(k.max(1)).zip(rounded.chunks_exact_mut(steps.max(1))) {
                round_pairs(isa, row, words);
            }
            body(words(rounded.as_ptr(), steps));
        }),
        Precision::Int8 => {
            let stride = if signs_apart(isa) { 2 * steps } else { steps };
            scratch::with(rows.len() * stride, |lines| {
                let bytes = bytes_mut(lines);
                let mut quantisers = [Quantiser::default(); TASK_ROWS];
                let rows = x.chunks_exact(k.max(1)).zip(bytes.chunks_exact_mut(QUAD * stride.max(1)));
                for ((row, bytes), quantiser) in rows.zip(&mut quantisers) {
                    let (bytes, signs) = bytes.split_at_mut(QUAD * steps);
                    *quantiser = Quantiser::of(&extent(isa, row));
                    quantise(isa, row, *quantiser, &mut bytes[..k]);
                    bytes[k..].fill(0);
                    if signs_apart(isa) {
                        *quantiser = part_signs(isa, *quantiser, bytes, signs);
                    }
                }
                body(Words { at: bytes.as_ptr().cast(), stride, quantisers: &quantisers });
            });
        }
    }
}

/// Calls `body` with a low rank's words for some rows, if there is one.
pub(crate) fn with_beside(isa: Isa, side: Option<LowRank>, rows: &Range, body: impl FnOnce(Option<&Beside>)) {
    match side {
        None => body(None),
        Some(LowRank { low, up }) => with_words(isa, Rows::F32(low), up, rows, |words| {
            body(Some(&Beside { isa, up, words }));
        }),
    }
}

/// A low rank's words for the rows of a task, and its way up.
pub(crate) struct Beside<'a> {
    isa: Isa,
    up: &'a PackedWeights,
    words: Words<'a>,
}

impl Beside<'_> {
    /// Adds the products of these rows of the task to a complete register tile at `c`.
    ///
    /// # Safety
    /// The rows must be among the task's, the columns, which start at a multiple of 16, among the outputs, and `c` valid for
    /// them and not accessed by anyone else meanwhile.
    pub(crate) unsafe fn add(&self, rows: Range, column: usize, width: usize, c: *mut f32, c_stride: usize) {
        let steps = self.up.steps();
        let groups = column / LANES..(column + width).div_ceil(LANES);
        let (kernel, words) = self.up.kernel(self.isa);
        scratch::with(words, |lines| {
            for step in (0..steps).step_by(STEPS) {
                let count = STEPS.min(steps - step);
                let block = self.up.block(groups.clone(), step..step + count, lines);
                let tile = self.words.tile(rows.start, step, count, block, (c, c_stride), true);
                // SAFETY: the way up has these columns and steps, the rest is the caller's promise.
                unsafe { kernel.run(rows.len(), width, &tile) };
            }
        });
    }
}

/// Rows of words times packed weights.
pub(crate) struct Product<'a> {
    pub(crate) isa: Isa,
    pub(crate) w: &'a PackedWeights,
    /// The left factor, from its first row on.
    pub(crate) words: Words<'a>,
    /// The first row's first column of the result, and elements from row to row.
    pub(crate) c: *mut f32,
    pub(crate) c_stride: usize,
}

impl Product<'_> {
    /// Writes the products of `rows` rows with a range of the weights' columns, which starts at a multiple of 16.
    /// `ask(rows, column, width)` is called before a register tile is completed, so that what it will be joined with is on its
    /// way, and `finish` with the same when it is complete.
    ///
    /// # Safety
    /// The words and `c` must be valid for these rows and columns, and `c` not be accessed by anyone else meanwhile.
    pub(crate) unsafe fn sum(
        &self,
        rows: usize,
        columns: Range,
        ask: impl Fn(Range, usize, usize),
        finish: impl Fn(Range, usize, usize),
    ) {
        let steps = self.w.steps();
        assert!(columns.start.is_multiple_of(LANES) && columns.end <= self.w.n(), "columns of the weights");
        let (kernel, words) = self.w.kernel(self.isa);
        scratch::with(words, |lines| {
            for step in (0..steps.max(1)).step_by(STEPS) {
                let count = STEPS.min(steps - step);
                for column in columns.clone().step_by(TILE_COLUMNS) {
                    let width = TILE_COLUMNS.min(columns.end - column);
                    let groups = column / LANES..(column + width).div_ceil(LANES);
                    let weights = self.w.block(groups, step..step + count, lines);
                    for row in (0..rows).step_by(ROWS) {
                        let block = row..rows.min(row + ROWS);
                        let c = self.c.wrapping_add(row * self.c_stride + column - columns.start);
                        let tile = self.words.tile(row, step, count, weights, (c, self.c_stride), step > 0);
                        if column == columns.start {
                            // Later columns find the rows in the second-level cache.
                            for next in block.end..rows.min(block.end + ROWS) {
                                prefetch_row(self.words.step(next, step).cast(), count);
                            }
                        }
                        let is_last = step + count == steps;
                        if is_last {
                            ask(block.clone(), column, width);
                        }
                        // SAFETY: the weights hold these columns by the assertion; the rest is the caller's promise.
                        unsafe { kernel.run(block.len(), width, &tile) };
                        if is_last {
                            // SAFETY: as above; the tile is the one that was just written.
                            unsafe { self.dequantise(block.clone(), column, width, c) };
                            finish(block, column, width);
                        }
                    }
                }
            }
        });
    }

    /// Makes numbers of a complete tile's integers, in int8.
    ///
    /// # Safety
    /// `c` must be valid for these rows and columns and not be accessed by anyone else meanwhile.
    unsafe fn dequantise(&self, rows: Range, column: usize, width: usize, c: *mut f32) {
        if let Some(columns) = self.w.columns() {
            let tile = Sums { at: c, stride: self.c_stride, width };
            // SAFETY: the caller's promise.
            unsafe { dequantise_tile(self.isa, &tile, &self.words.quantisers[rows], columns, column) };
        }
    }
}

/// A tile whose sums are complete. The task that has it is the only one that works on it.
struct Finished {
    /// The tile's first row, and elements from row to row.
    c: *mut f32,
    c_stride: usize,
    /// Columns of the whole output.
    n: usize,
    /// Rows of the whole output.
    rows: Range,
    column: usize,
    width: usize,
}

impl Finished {
    /// A row of the tile.
    #[allow(clippy::mut_from_ref)] // One row at a time, by the one who has the tile.
    fn row(&self, at: usize) -> &mut [f32] {
        debug_assert!(at < self.rows.len(), "row of a tile");
        // SAFETY: `c` is valid for the tile, which its task alone works on.
        unsafe { std::slice::from_raw_parts_mut(self.c.wrapping_add(at * self.c_stride), self.width) }
    }
}

per_isa!(fn finish_tile(tile: &Finished, bias: Option<&[f32]>, epilogue: Epilogue) = finish_tile_body);

#[inline(always)]
fn finish_tile_body<A: Arith>(tile: &Finished, bias: Option<&[f32]>, epilogue: Epilogue) {
    let bias = bias.map(|bias| &bias[tile.column..][..tile.width]);
    for (at, row) in tile.rows.clone().enumerate() {
        let from = row * tile.n + tile.column;
        let out = tile.row(at);
        if let Some(bias) = bias {
            out.iter_mut().zip(bias).for_each(|(out, bias)| *out += bias);
        }
        match epilogue {
            Epilogue::None => {}
            Epilogue::Silu => out.iter_mut().for_each(|out| *out = silu_of::<A>(*out)),
            Epilogue::Gelu => out.iter_mut().for_each(|out| *out = gelu_of::<A>(*out)),
            Epilogue::QuickGelu => out.iter_mut().for_each(|out| *out = quick_gelu_of::<A>(*out)),
            Epilogue::Add(added) => {
                out.iter_mut().zip(&added[from..from + tile.width]).for_each(|(out, added)| *out += added)
            }
        }
    }
}
