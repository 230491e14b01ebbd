//! Scaled dot-product attention without a score matrix: `softmax(q · kᵀ · scale) · v` for each head.
//!
//! Tensors are `[batch, tokens, heads · head_dim]`: heads are read where they lie. A task is a run of queries of one
//! head. It walks the keys in blocks of [`BLOCK`], each of which it packs once, and passes its queries over them in strips of
//! [`STRIP`] that lie side by side in lanes: scores are keys times queries, results values times weights, so that no size of a
//! head leaves lanes empty. Weights of [`KEPT`] steps are held at once, relative to a running shift for each query (see
//! [`weights`]). Keys are cut up from the first one on whatever the queries, so a query's bytes depend on nothing but its row.

mod pack;
mod weights;

use rayon::prelude::*;

use crate::gemm::{ROWS, Tile};
use crate::isa::Isa;
use crate::pack::Precision;
use crate::rows::{Rows, RowsMut, SharedRows};
use crate::scratch::{self, LANES, Line, floats_mut, words_mut};
use pack::Tokens;
use weights::{Looked, STRIP, Strip, Weigher};

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

/// Steps whose weights are held at once: keys in f32, pairs of keys in bf16. Results depend on it: changing it changes bytes.
const KEPT: usize = 48;

/// Keys that are packed at once.
const BLOCK: usize = 480;

/// Strips of queries in a task at most: half of 64×64, so that packing keys costs little beside the products.
const TASK_STRIPS: usize = 32;

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
    let weigher = Weigher::new(isa, precision);
    let attention =
        Attention { isa, precision, weigher, q, k, v, shape, scale, mask, out: SharedRows::new(out) };
    let items = batch * heads;
    let strips = queries.div_ceil(STRIP);
    let wanted = (4 * rayon::current_num_threads()).div_ceil(items);
    let runs = strips.div_ceil(TASK_STRIPS).max(wanted.min(strips));
    let run = strips.div_ceil(runs) * STRIP;
    let runs = queries.div_ceil(run);
    (0..items * runs).into_par_iter().with_max_len(1).for_each(|task| {
        let first = task % runs * run;
        attention.queries(task / runs / heads, task / runs % heads, first..(first + run).min(queries));
    });
}

struct Attention<'a> {
    isa: Isa,
    precision: Precision,
    weigher: Weigher,
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
    /// `[queries / 16][steps of head_dim][16 queries]`.
    queries: &'a mut [Line],
    /// `[BLOCK][steps of head_dim]`.
    keys: &'a mut [u32],
    /// `[steps of BLOCK][head_dim]`.
    values: &'a mut [u32],
    /// `[STRIP / 16][KEPT][16 queries]`.
    weights: &'a mut [Line],
    /// `[strips][head_dim][STRIP]`.
    sums: &'a mut [f32],
}

type Range = std::ops::Range<usize>;

impl Attention<'_> {
    /// One task: a run of queries of one head.
    fn queries(&self, item: usize, head: usize, queries: Range) {
        let (steps, head_dim) = (self.steps(), self.shape.head_dim);
        let query_lines = queries.len().div_ceil(LANES) * steps;
        let key_lines = (BLOCK * steps).div_ceil(LANES);
        let value_lines = (self.precision.steps(BLOCK) * head_dim).div_ceil(LANES);
        let weight_lines = STRIP / LANES * KEPT;
        let sum_lines = queries.len().div_ceil(STRIP) * head_dim * STRIP / LANES;
        let lines = query_lines + key_lines + value_lines + weight_lines + sum_lines;
        scratch::with(lines * LANES, |lines| {
            let (queries_packed, rest) = lines.split_at_mut(query_lines);
            let (keys, rest) = rest.split_at_mut(key_lines);
            let (values, rest) = rest.split_at_mut(value_lines);
            let (weights, sums) = rest.split_at_mut(weight_lines);
            let (keys, values, sums) = (words_mut(keys), words_mut(values), floats_mut(sums));
            self.run(item, head, queries, Buffers { queries: queries_packed, keys, values, weights, sums });
        });
    }

    fn run(&self, item: usize, head: usize, queries: Range, mut buffers: Buffers) {
        let mut strips = [Strip::EMPTY; TASK_STRIPS];
        let first_of = |strip: usize| queries.start + strip * STRIP;
        let strips = &mut strips[..queries.len().div_ceil(STRIP)];
        for (at, strip) in strips.iter_mut().enumerate() {
            *strip = Strip::new(|lane| self.seen((first_of(at) + lane).min(queries.end - 1)));
        }
        self.pack_queries(item, head, queries.clone(), buffers.queries);
        let seen = self.seen(queries.end - 1);
        for first in (0..seen).step_by(BLOCK) {
            let block = first..(first + BLOCK).min(seen);
            self.pack_keys(item, head, &block, buffers.keys);
            self.pack_values(item, head, &block, buffers.values);
            for (at, strip) in strips.iter_mut().enumerate() {
                self.attend(at, strip, &block, &mut buffers);
            }
        }
        for (at, strip) in strips.iter().enumerate() {
            let queries = first_of(at)..queries.end.min(first_of(at) + STRIP);
            let held = self.shape.head_dim * STRIP;
            self.store(item, head, queries, strip, &mut buffers.sums[at * held..][..held]);
        }
    }

    /// Passes a strip of queries over a block of keys.
    fn attend(&self, at: usize, strip: &mut Strip, block: &Range, buffers: &mut Buffers) {
        let (steps, head_dim) = (self.steps(), self.shape.head_dim);
        let groups = STRIP / LANES * steps;
        let queries = &buffers.queries[at * groups..];
        let queries = &queries[..groups.min(queries.len())];
        let sums = &mut buffers.sums[at * head_dim * STRIP..][..head_dim * STRIP];
        let kept = KEPT * self.precision.per_word();
        let scale = self.scale * std::f32::consts::LOG2_E;
        for from in (block.start..block.end).step_by(kept) {
            let held = from..(from + kept).min(block.end);
            for first in held.clone().step_by(ROWS) {
                let keys = &buffers.keys[(first - block.start) * steps..][..ROWS * steps];
                let before = self.precision.steps(first - from);
                let looked = Looked { keys, first, queries, steps, scale };
                if self.weigher.weigh(&looked, strip, &mut buffers.weights[before..]) {
                    // Of the first keys there are no sums yet.
                    let sums = if from > 0 { &mut *sums } else { &mut [] };
                    strip.correct(self.weigher, buffers.weights, before, sums);
                }
            }
            let values = &buffers.values[(from - block.start) / self.precision.per_word() * head_dim..];
            let columns = queries.len() / steps * LANES;
            self.sum(values, self.precision.steps(held.len()), buffers.weights, columns, from > 0, sums);
        }
    }

    /// `sums (+)= valuesᵀ · weights`.
    fn sum(
        &self,
        values: &[u32],
        steps: usize,
        weights: &[Line],
        columns: usize,
        add: bool,
        sums: &mut [f32],
    ) {
        let head_dim = self.shape.head_dim;
        assert!(values.len() >= steps * head_dim && weights.len() >= columns / LANES * KEPT && steps <= KEPT);
        assert!(sums.len() == head_dim * STRIP && columns <= STRIP);
        let tiles = head_dim.div_ceil(ROWS);
        for at in 0..tiles {
            // Tiles of about as many rows each: few rows leave the arithmetic waiting.
            let (row, end) = (at * head_dim / tiles, (at + 1) * head_dim / tiles);
            let tile = Tile {
                steps,
                a: values[row..].as_ptr(),
                a_stride: 1,
                a_step: head_dim,
                b: weights.as_ptr(),
                b_stride: KEPT,
                c: sums[row * STRIP..].as_mut_ptr(),
                c_stride: STRIP,
                add,
                next: weights.as_ptr(),
            };
            // SAFETY: values, weights and sums hold these rows, steps and columns by the assertions.
            unsafe { self.weigher.kernel.run(end - row, columns, &tile) };
        }
    }

    /// Keys that a query sees, from the first one on.
    fn seen(&self, query: usize) -> usize {
        match self.mask {
            Mask::None => self.shape.keys,
            Mask::Causal => self.shape.keys.min(query + 1),
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
}
