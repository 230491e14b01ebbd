//! Scaled dot-product attention without a score matrix: `softmax(q · kᵀ · scale) · v` for each head.
//!
//! Tensors are `[batch, tokens, heads · head_dim]`: heads are read where they lie. A task is a run of queries of one
//! head. It walks the keys in blocks of [`BLOCK`]; for each it packs keys and values once, and passes its queries
//! over them six at a time, with a running maximum and sum for each query (Milakov and Gimelshein 2018; Dao et al.
//! 2022). The blocks start at the first key whatever the queries, so a query's bytes depend on nothing but its row.

use rayon::prelude::*;

use crate::gemm::{GROUPS, Kernel, ROWS, Tile};
use crate::isa::{Arith, Isa, per_isa};
use crate::pack::Precision;
use crate::scratch::{self, LANES, Line, SharedOut, floats_mut};

/// Which keys a query sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mask {
    /// All of them.
    None,
    /// Those at its own position and before, as a text encoder's.
    Causal,
}

/// Sizes of an attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionShape {
    /// Independent items.
    pub batch: usize,
    /// Heads side by side in a token.
    pub heads: usize,
    /// Values per head.
    pub head_dim: usize,
    /// Queries per item.
    pub queries: usize,
    /// Keys and values per item.
    pub keys: usize,
}

/// Keys in a block of the sum. Results depend on it: changing it changes bytes.
const BLOCK: usize = 256;

/// Queries in a task at most; packing a block of keys costs about as much as six queries' products with it.
const TASK_QUERIES: usize = 80 * ROWS;

/// Attention of `q`, `[batch, queries, heads · head_dim]`, to `k` and `v`, `[batch, keys, heads · head_dim]`, with
/// scores multiplied by `scale` (`1/√head_dim` as a rule). `out` has `q`'s shape.
///
/// # Panics
/// If a slice does not fit, there are no keys, or `scale` is not positive.
pub fn attention(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    shape: AttentionShape,
    scale: f32,
    mask: Mask,
    out: &mut [f32],
) {
    let AttentionShape { batch, heads, head_dim, queries, keys } = shape;
    let width = heads * head_dim;
    assert_eq!(q.len(), batch * queries * width, "queries of {shape:?}");
    assert_eq!(k.len(), batch * keys * width, "keys of {shape:?}");
    assert_eq!(v.len(), batch * keys * width, "values of {shape:?}");
    assert_eq!(out.len(), q.len(), "output of {shape:?}");
    assert!(scale > 0.0 && (keys > 0 || out.is_empty()), "attention needs keys and a positive scale");
    if out.is_empty() {
        return;
    }
    let isa = Isa::current();
    let kernel = Kernel::new(isa, Precision::F32);
    let attention = Attention { isa, kernel, q, k, v, shape, scale, mask, out: SharedOut::new(out) };
    let items = batch * heads;
    let wanted = (4 * rayon::current_num_threads()).div_ceil(items);
    let runs = queries.div_ceil(TASK_QUERIES).max(wanted.min(queries.div_ceil(8 * ROWS)));
    let run = queries.div_ceil(runs).next_multiple_of(ROWS);
    let runs = queries.div_ceil(run);
    (0..items * runs).into_par_iter().with_max_len(1).for_each(|task| {
        let first = task % runs * run;
        attention.queries(task / runs / heads, task / runs % heads, first..(first + run).min(queries));
    });
}

struct Attention<'a> {
    isa: Isa,
    kernel: Kernel,
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    shape: AttentionShape,
    scale: f32,
    mask: Mask,
    out: SharedOut,
}

/// What is kept of a query between blocks of keys.
#[derive(Clone, Copy)]
struct Running {
    /// Greatest score so far, before scaling.
    max: f32,
    /// Sum of the exponentials so far, relative to `max`.
    sum: f32,
    /// What the sums before the last block must be multiplied with.
    correction: f32,
}

/// The buffers of a task.
struct Buffers<'a> {
    /// `[BLOCK / 16][head_dim][16 keys]`.
    keys: &'a mut [Line],
    /// `[head_dim / 16][BLOCK][16 values]`.
    values: &'a mut [Line],
    /// `[ROWS][BLOCK]`.
    scores: &'a mut [f32],
    /// `[queries][head_dim, whole lines]`.
    sums: &'a mut [f32],
}

impl Attention<'_> {
    /// One task: a run of queries of one head.
    fn queries(&self, item: usize, head: usize, queries: std::ops::Range<usize>) {
        let groups = self.shape.head_dim.div_ceil(LANES);
        let (key_lines, value_lines) = (BLOCK / LANES * self.shape.head_dim, groups * BLOCK);
        let score_lines = ROWS * BLOCK / LANES;
        let lines = key_lines + value_lines + score_lines + queries.len() * groups;
        scratch::with(lines * LANES, |lines| {
            let (keys, rest) = lines.split_at_mut(key_lines);
            let (values, rest) = rest.split_at_mut(value_lines);
            let (scores, sums) = rest.split_at_mut(score_lines);
            let (scores, sums) = (floats_mut(scores), floats_mut(sums));
            self.run(item, head, queries, Buffers { keys, values, scores, sums });
        });
    }

    fn run(&self, item: usize, head: usize, queries: std::ops::Range<usize>, mut buffers: Buffers) {
        let mut running = [Running { max: f32::NEG_INFINITY, sum: 0.0, correction: 0.0 }; TASK_QUERIES];
        let sum_stride = self.shape.head_dim.next_multiple_of(LANES);
        let seen = match self.mask {
            Mask::None => self.shape.keys,
            Mask::Causal => self.shape.keys.min(queries.end),
        };
        for first in (0..seen).step_by(BLOCK) {
            let block = first..(first + BLOCK).min(seen);
            self.pack_keys(item, head, &block, buffers.keys);
            self.pack_values(item, head, &block, buffers.values);
            for query in queries.clone().step_by(ROWS) {
                let rows = query..(query + ROWS).min(queries.end);
                let running = &mut running[query - queries.start..rows.end - queries.start];
                self.score(item, head, &rows, &block, &mut buffers);
                self.mask(&rows, &block, buffers.scores);
                softmax_block(self.isa, buffers.scores, block.len(), self.scale, running);
                let sums =
                    &mut buffers.sums[(query - queries.start) * sum_stride..][..rows.len() * sum_stride];
                self.weigh(running, block.len(), first == 0, buffers.scores, buffers.values, sums);
            }
        }
        for (at, query) in queries.enumerate() {
            let from = self.at(item, self.shape.queries, query, head);
            // SAFETY: this task alone writes this head of these queries.
            let out = unsafe { self.out.slice(from, self.shape.head_dim) };
            let scale = 1.0 / running[at].sum;
            out.iter_mut().zip(&buffers.sums[at * sum_stride..]).for_each(|(out, sum)| *out = sum * scale);
        }
    }

    /// Index of a token's first value in a head.
    fn at(&self, item: usize, tokens: usize, token: usize, head: usize) -> usize {
        ((item * tokens + token) * self.shape.heads + head) * self.shape.head_dim
    }

    /// Keys become the columns of a right factor; those past the block are zero.
    fn pack_keys(&self, item: usize, head: usize, block: &std::ops::Range<usize>, lines: &mut [Line]) {
        let head_dim = self.shape.head_dim;
        for (group, lines) in lines.chunks_exact_mut(head_dim).take(block.len().div_ceil(LANES)).enumerate() {
            for lane in 0..LANES {
                let key = block.start + group * LANES + lane;
                if key < block.end {
                    let key = &self.k[self.at(item, self.shape.keys, key, head)..][..head_dim];
                    lines.iter_mut().zip(key).for_each(|(line, value)| line.0[lane] = value.to_bits());
                } else {
                    lines.iter_mut().for_each(|line| line.0[lane] = 0);
                }
            }
        }
    }

    /// Values are a right factor as they lie, in groups of 16.
    fn pack_values(&self, item: usize, head: usize, block: &std::ops::Range<usize>, lines: &mut [Line]) {
        for (at, key) in block.clone().enumerate() {
            let value = &self.v[self.at(item, self.shape.keys, key, head)..][..self.shape.head_dim];
            for (group, value) in value.chunks(LANES).enumerate() {
                let line = &mut lines[group * BLOCK + at].0;
                line.iter_mut().zip(value).for_each(|(word, value)| *word = value.to_bits());
                line[value.len()..].fill(0);
            }
        }
    }

    /// `scores[rows, block] = q · kᵀ`.
    fn score(
        &self,
        item: usize,
        head: usize,
        rows: &std::ops::Range<usize>,
        block: &std::ops::Range<usize>,
        buffers: &mut Buffers,
    ) {
        let (head_dim, stride) = (self.shape.head_dim, self.shape.heads * self.shape.head_dim);
        let q = &self.q[self.at(item, self.shape.queries, rows.start, head)..];
        assert!(q.len() >= (rows.len() - 1) * stride + head_dim, "queries in the tensor");
        for column in (0..block.len()).step_by(GROUPS * LANES) {
            let width = (block.len() - column).min(GROUPS * LANES).next_multiple_of(LANES);
            let tile = Tile {
                steps: head_dim,
                a: q.as_ptr().cast(),
                a_stride: stride,
                b: buffers.keys[column / LANES * head_dim..].as_ptr(),
                b_stride: head_dim,
                c: buffers.scores[column..].as_mut_ptr(),
                c_stride: BLOCK,
                add: false,
            };
            // SAFETY: the queries' rows are in bounds by the assertion; keys and scores hold whole groups.
            unsafe { self.kernel.run(rows.len(), width, &tile) };
        }
    }

    /// Scores that do not count become minus infinity: those past the block up to whole lines, and future keys.
    fn mask(&self, rows: &std::ops::Range<usize>, block: &std::ops::Range<usize>, scores: &mut [f32]) {
        let end = block.len().next_multiple_of(LANES);
        for (row, scores) in rows.clone().zip(scores.chunks_exact_mut(BLOCK)) {
            let seen = match self.mask {
                Mask::None => block.len(),
                Mask::Causal => (row + 1).clamp(block.start, block.end) - block.start,
            };
            scores[seen..end].fill(f32::NEG_INFINITY);
        }
    }

    /// `sums = sums · correction + weights · values`, for the rows of one register tile.
    fn weigh(
        &self,
        running: &[Running],
        keys: usize,
        first: bool,
        weights: &[f32],
        values: &[Line],
        sums: &mut [f32],
    ) {
        let stride = self.shape.head_dim.next_multiple_of(LANES);
        if !first {
            for (row, running) in sums.chunks_exact_mut(stride).zip(running) {
                if running.correction != 1.0 {
                    row.iter_mut().for_each(|sum| *sum *= running.correction);
                }
            }
        }
        for column in (0..stride).step_by(GROUPS * LANES) {
            let tile = Tile {
                steps: keys,
                a: weights.as_ptr().cast(),
                a_stride: BLOCK,
                b: values[column / LANES * BLOCK..].as_ptr(),
                b_stride: BLOCK,
                c: sums[column..].as_mut_ptr(),
                c_stride: stride,
                add: !first,
            };
            // SAFETY: weights hold BLOCK columns per row, values and sums whole groups; all are this task's own.
            unsafe { self.kernel.run(running.len(), (stride - column).min(GROUPS * LANES), &tile) };
        }
    }
}

per_isa!(fn softmax_block(scores: &mut [f32], keys: usize, scale: f32, running: &mut [Running]) = softmax_block_body);

/// Turns the rows' scores into exponentials relative to the new running maximum, and brings sums up to date.
#[inline(always)]
fn softmax_block_body<A: Arith>(scores: &mut [f32], keys: usize, scale: f32, running: &mut [Running]) {
    let scale = scale * std::f32::consts::LOG2_E;
    for (row, running) in scores.chunks_exact_mut(BLOCK).zip(running) {
        let row = &mut row[..keys.next_multiple_of(LANES)];
        let mut lanes = [f32::NEG_INFINITY; LANES];
        for chunk in row.chunks_exact(LANES) {
            for lane in 0..LANES {
                lanes[lane] = if chunk[lane] > lanes[lane] { chunk[lane] } else { lanes[lane] };
            }
        }
        let max = lanes.iter().fold(running.max, |max, lane| if *lane > max { *lane } else { max });
        // A causal block may hold nothing for this row: then nothing is to be subtracted.
        let shift = if max == f32::NEG_INFINITY { 0.0 } else { max * scale };
        let mut lanes = [0.0_f32; LANES];
        for chunk in row.chunks_exact_mut(LANES) {
            for lane in 0..LANES {
                chunk[lane] = exp2::<A>(A::fma(chunk[lane], scale, -shift));
                lanes[lane] += chunk[lane];
            }
        }
        // The shift that the earlier sums are relative to, with the rounding it had.
        let correction = exp2::<A>(running.max * scale - shift);
        let sum = running.sum * correction + sum_of(lanes);
        *running = Running { max, sum, correction };
    }
}

#[inline(always)]
fn sum_of(mut lanes: [f32; LANES]) -> f32 {
    for width in [8, 4, 2, 1] {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
    }
    lanes[0]
}

/// `2^x` for `x <= 0` (or NaN), to 1 ulp; below -126 it is 0. The polynomial is our own Chebyshev fit.
#[inline(always)]
fn exp2<A: Arith>(x: f32) -> f32 {
    const SHIFTER: f32 = 12_582_912.0; // 1.5 · 2^23: adding it rounds to an integer held in the low bits.
    let clamped = if x < -126.0 { -126.0 } else { x };
    let shifted = clamped + SHIFTER;
    let r = clamped - (shifted - SHIFTER);
    let mut p = A::fma(1.546_144_5e-4, r, 1.340_042_8e-3);
    p = A::fma(p, r, 9.618_057e-3);
    p = A::fma(p, r, 5.550_327e-2);
    p = A::fma(p, r, 0.240_226_5);
    p = A::fma(p, r, std::f32::consts::LN_2);
    p = A::fma(p, r, 1.0);
    let scale = (shifted.to_bits() << 23).wrapping_add(0x3f80_0000); // 2^n: the integer, biased, as exponent.
    // A product, unlike an addition to the exponent, keeps NaN.
    if x < -126.0 { 0.0 } else { p * f32::from_bits(scale) }
}
