//! Scaled dot-product attention without a score matrix: `softmax(q · kᵀ · scale) · v` for each head.
//!
//! Tensors are `[batch, tokens, heads · head_dim]`: heads are read where they lie. A task is a run of queries of one
//! head. It walks the keys in blocks of [`BLOCK`]; for each it packs keys and values once, and passes its queries
//! over them six at a time, with a running maximum and sum for each query (Milakov and Gimelshein 2018; Dao et al.
//! 2022). The blocks start at the first key whatever the queries, so a query's bytes depend on nothing but its row.

mod pack;
mod softmax;

use rayon::prelude::*;

use crate::gemm::{GROUPS, Kernel, ROWS, Tile};
use crate::isa::{Arith, Isa, per_isa};
use crate::pack::Precision;
use crate::rows::{Rows, RowsMut, SharedRows};
use crate::scratch::{self, LANES, Line, floats_mut, words_mut};
use pack::Tokens;
use softmax::{Running, softmax_block, softmax_pairs};

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
const BLOCK: usize = 512;

/// Queries in a task at most: half of 64×64, since packing a block of keys costs about as much as six queries' products with it.
const TASK_QUERIES: usize = 342 * ROWS;

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
    let [q, k, v] = [q, k, v].map(Rows::F32);
    attention_in(Precision::F32, q, k, v, shape, scale, mask, RowsMut::F32(out));
}

/// [`attention`] with both products in the given precision, one of [`Precision::FLOATS`], and tensors in f32 or bf16; the softmax
/// between the products is f32 in either case.
///
/// # Panics
/// As [`attention`], and for [`Precision::Int8`].
pub fn attention_in(
    precision: Precision,
    q: Rows,
    k: Rows,
    v: Rows,
    shape: AttentionShape,
    scale: f32,
    mask: Mask,
    out: RowsMut,
) {
    let AttentionShape { batch, heads, head_dim, queries, keys } = shape;
    let width = heads * head_dim;
    assert!(Precision::FLOATS.contains(&precision), "attention multiplies activations, not in {precision:?}");
    assert_eq!(q.len(), batch * queries * width, "queries of {shape:?}");
    assert_eq!(k.len(), batch * keys * width, "keys of {shape:?}");
    assert_eq!(v.len(), batch * keys * width, "values of {shape:?}");
    assert_eq!(out.len(), q.len(), "output of {shape:?}");
    assert!(scale > 0.0 && (keys > 0 || out.is_empty()), "attention needs keys and a positive scale");
    if out.is_empty() {
        return;
    }
    let mut wide = [const { Vec::new() }; 3];
    let [wide_q, wide_k, wide_v] = &mut wide;
    let tokens = |rows, wide| Tokens::of(rows, head_dim, precision, wide);
    let (q, k, v) = (tokens(q, wide_q), tokens(k, wide_k), tokens(v, wide_v));
    let isa = Isa::current();
    let kernel = Kernel::new(isa, precision);
    let attention =
        Attention { isa, precision, kernel, q, k, v, shape, scale, mask, out: SharedRows::new(out) };
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
    precision: Precision,
    kernel: Kernel,
    q: Tokens<'a>,
    k: Tokens<'a>,
    v: Tokens<'a>,
    shape: AttentionShape,
    scale: f32,
    mask: Mask,
    out: SharedRows,
}

/// The buffers of a task. A step is a value in f32, a pair of values in bf16.
struct Buffers<'a> {
    /// `[queries][steps of head_dim]`.
    queries: &'a mut [u32],
    /// `[BLOCK / 16][steps of head_dim][16 keys]`.
    keys: &'a mut [Line],
    /// `[head_dim / 16][BLOCK][16 values]`, of whose BLOCK lines bf16 uses half.
    values: &'a mut [Line],
    /// `[ROWS][BLOCK]`.
    scores: &'a mut [f32],
    /// `[ROWS][BLOCK]`, of whose BLOCK words bf16 uses half; f32 multiplies the scores where they are.
    weights: &'a mut [u32],
    /// `[queries][head_dim, whole lines]`.
    sums: &'a mut [f32],
}

type Range = std::ops::Range<usize>;

per_isa!(fn scale(values: &mut [f32], factor: f32) = scale_body);

#[inline(always)]
fn scale_body<A: Arith>(values: &mut [f32], factor: f32) {
    values.iter_mut().for_each(|value| *value *= factor);
}

impl Attention<'_> {
    /// One task: a run of queries of one head.
    fn queries(&self, item: usize, head: usize, queries: Range) {
        let (steps, groups) = (self.steps(), self.shape.head_dim.div_ceil(LANES));
        let query_lines = (queries.len() * steps).div_ceil(LANES);
        let (key_lines, value_lines) = (BLOCK / LANES * steps, groups * BLOCK);
        let score_lines = ROWS * BLOCK / LANES;
        let lines = query_lines + key_lines + value_lines + 2 * score_lines + queries.len() * groups;
        scratch::with(lines * LANES, |lines| {
            let (query_lines, rest) = lines.split_at_mut(query_lines);
            let (keys, rest) = rest.split_at_mut(key_lines);
            let (values, rest) = rest.split_at_mut(value_lines);
            let (scores, rest) = rest.split_at_mut(score_lines);
            let (weights, sums) = rest.split_at_mut(score_lines);
            let (words, weights) = (words_mut(query_lines), words_mut(weights));
            let (scores, sums) = (floats_mut(scores), floats_mut(sums));
            self.run(item, head, queries, Buffers { queries: words, keys, values, scores, weights, sums });
        });
    }

    fn run(&self, item: usize, head: usize, queries: Range, mut buffers: Buffers) {
        let mut running = [Running::START; TASK_QUERIES];
        let seen = match self.mask {
            Mask::None => self.shape.keys,
            Mask::Causal => self.shape.keys.min(queries.end),
        };
        self.pack_queries(item, head, queries.clone(), buffers.queries);
        for first in (0..seen).step_by(BLOCK) {
            let block = first..(first + BLOCK).min(seen);
            self.pack_keys(item, head, &block, buffers.keys);
            self.pack_values(item, head, &block, buffers.values);
            for query in (0..queries.len()).step_by(ROWS) {
                let rows = query..(query + ROWS).min(queries.len());
                self.score(&rows, block.len(), &mut buffers);
                self.mask(queries.start + rows.start, &block, buffers.scores);
                let running = &mut running[rows.clone()];
                let (isa, scale, scores) = (self.isa, self.scale, &mut *buffers.scores);
                match self.in_pairs() {
                    false => softmax_block(isa, scores, block.len(), scale, running),
                    true => softmax_pairs(isa, scores, block.len(), scale, running, buffers.weights),
                }
                self.weigh(running, &rows, block.len(), first == 0, &mut buffers);
            }
        }
        let sum_stride = self.shape.head_dim.next_multiple_of(LANES);
        for (at, query) in queries.enumerate() {
            let from = self.at(item, self.shape.queries, query, head);
            let sums = &mut buffers.sums[at * sum_stride..][..self.shape.head_dim];
            scale(self.isa, sums, 1.0 / running[at].sum);
            // SAFETY: this task alone writes this head of these queries.
            unsafe { self.out.store(self.isa, from, sums) };
        }
    }

    /// Whether two values share a word.
    fn in_pairs(&self) -> bool {
        self.precision == Precision::Bf16
    }

    /// Words that hold one head's part of a token.
    fn steps(&self) -> usize {
        self.precision.steps(self.shape.head_dim)
    }

    /// Index of a token's first value in a head.
    fn at(&self, item: usize, tokens: usize, token: usize, head: usize) -> usize {
        ((item * tokens + token) * self.shape.heads + head) * self.shape.head_dim
    }

    /// `scores[rows, keys] = q · kᵀ`.
    fn score(&self, rows: &Range, keys: usize, buffers: &mut Buffers) {
        let steps = self.steps();
        let queries = &buffers.queries[rows.start * steps..rows.end * steps];
        for column in (0..keys).step_by(GROUPS * LANES) {
            let width = (keys - column).min(GROUPS * LANES).next_multiple_of(LANES);
            let tile = Tile {
                steps,
                a: queries.as_ptr(),
                a_stride: steps,
                b: buffers.keys[column / LANES * steps..].as_ptr(),
                b_stride: steps,
                c: buffers.scores[column..].as_mut_ptr(),
                c_stride: BLOCK,
                add: false,
            };
            // SAFETY: the queries hold these rows; keys and scores hold whole groups.
            unsafe { self.kernel.run(rows.len(), width, &tile) };
        }
    }

    /// Scores that do not count become minus infinity: those past the block up to whole lines, and future keys.
    fn mask(&self, first_row: usize, block: &Range, scores: &mut [f32]) {
        let end = block.len().next_multiple_of(LANES);
        for (row, scores) in (first_row..).zip(scores.chunks_exact_mut(BLOCK)) {
            let seen = match self.mask {
                Mask::None => block.len(),
                Mask::Causal => (row + 1).clamp(block.start, block.end) - block.start,
            };
            scores[seen..end].fill(f32::NEG_INFINITY);
        }
    }

    /// `sums = sums · correction + weights · values`, for the rows of one register tile.
    fn weigh(&self, running: &[Running], rows: &Range, keys: usize, first: bool, buffers: &mut Buffers) {
        let stride = self.shape.head_dim.next_multiple_of(LANES);
        let sums = &mut buffers.sums[rows.start * stride..rows.end * stride];
        if !first {
            for (row, running) in sums.chunks_exact_mut(stride).zip(running) {
                if running.correction != 1.0 {
                    scale(self.isa, row, running.correction);
                }
            }
        }
        let weights = match self.in_pairs() {
            false => buffers.scores.as_ptr().cast(),
            true => buffers.weights.as_ptr(),
        };
        for column in (0..stride).step_by(GROUPS * LANES) {
            let tile = Tile {
                steps: self.precision.steps(keys),
                a: weights,
                a_stride: BLOCK,
                b: buffers.values[column / LANES * BLOCK..].as_ptr(),
                b_stride: BLOCK,
                c: sums[column..].as_mut_ptr(),
                c_stride: stride,
                add: !first,
            };
            // SAFETY: weights hold BLOCK words per row, values and sums whole groups; all are this task's own.
            unsafe { self.kernel.run(running.len(), (stride - column).min(GROUPS * LANES), &tile) };
        }
    }
}
