//! Queries, keys and values of one head, packed for the register tile.
//!
//! A token's part of a head lies `heads · head_dim` values from the next token's: each token is asked for some time
//! before it is read.

use super::{Attention, BLOCK, Range};
use crate::bf16::round_pairs;
use crate::isa::{Arith, per_isa};
use crate::lanes::{interleave, interleave_pairs, pair};
use crate::scratch::{LANES, Line, prefetch};

impl Attention<'_> {
    /// Queries are the rows of a left factor, one behind the other.
    pub(super) fn pack_queries(&self, item: usize, head: usize, queries: Range, words: &mut [u32]) {
        for (query, words) in queries.zip(words.chunks_exact_mut(self.steps())) {
            let from = self.at(item, self.shape.queries, query, head);
            let next = self.at(item, self.shape.queries, query + LANES, head);
            prefetch_token(self.q, next, self.shape.head_dim);
            let row = &self.q[from..][..self.shape.head_dim];
            match self.in_pairs() {
                false => words.iter_mut().zip(row).for_each(|(word, value)| *word = value.to_bits()),
                true => round_pairs(self.isa, row, words),
            }
        }
    }

    /// Keys become the columns of a right factor. In the last group the first key stands for those that are missing;
    /// their scores are masked.
    pub(super) fn pack_keys(&self, item: usize, head: usize, block: &Range, lines: &mut [Line]) {
        let (steps, head_dim) = (self.steps(), self.shape.head_dim);
        let key = |key: usize| self.at(item, self.shape.keys, key, head);
        for (group, lines) in lines.chunks_exact_mut(steps).take(block.len().div_ceil(LANES)).enumerate() {
            let first = block.start + group * LANES;
            let mut keys = [&self.k[key(first)..][..head_dim]; LANES];
            for (row, at) in keys.iter_mut().zip(first..block.end) {
                *row = &self.k[key(at)..][..head_dim];
            }
            for ahead in first + LANES..first + 2 * LANES {
                prefetch_token(self.k, key(ahead), head_dim);
            }
            match self.in_pairs() {
                false => interleave(self.isa, &keys, lines),
                true => interleave_pairs(self.isa, &keys, lines),
            }
        }
    }

    /// Values are a right factor as they lie, in groups of 16; in bf16 two tokens share a line.
    pub(super) fn pack_values(&self, item: usize, head: usize, block: &Range, lines: &mut [Line]) {
        let head_dim = self.shape.head_dim;
        let value = |key: usize| self.at(item, self.shape.keys, key, head);
        let per_line = if self.in_pairs() { 2 } else { 1 };
        for (step, key) in block.clone().step_by(per_line).enumerate() {
            for ahead in key + LANES..key + LANES + per_line {
                prefetch_token(self.v, value(ahead), head_dim);
            }
            let row = &self.v[value(key)..][..head_dim];
            match self.in_pairs() {
                false => copy_value(self.isa, row, &mut lines[step..]),
                true => {
                    let next = if key + 1 < block.end { &self.v[value(key + 1)..][..head_dim] } else { &[] };
                    pair_values(self.isa, row, next, &mut lines[step..]);
                }
            }
        }
    }
}

/// Asks for one head's part of a token.
fn prefetch_token(tokens: &[f32], from: usize, head_dim: usize) {
    for at in (from..from + head_dim + LANES - 1).step_by(LANES) {
        prefetch(tokens.as_ptr().wrapping_add(at));
    }
}

per_isa!(fn copy_value(value: &[f32], lines: &mut [Line]) = copy_value_body);
per_isa!(fn pair_values(value: &[f32], next: &[f32], lines: &mut [Line]) = pair_values_body);

/// A value's groups of 16, BLOCK lines apart, the last one filled with zeros.
#[inline(always)]
fn copy_value_body<A: Arith>(value: &[f32], lines: &mut [Line]) {
    for (group, chunk) in value.chunks(LANES).enumerate() {
        let line = &mut lines[group * BLOCK].0;
        let mut values = [0.0_f32; LANES];
        copy_lanes(chunk, &mut values);
        for lane in 0..LANES {
            line[lane] = values[lane].to_bits();
        }
    }
}

/// As `copy_value`, for two tokens; `next` is empty when there is no second one.
#[inline(always)]
fn pair_values_body<A: Arith>(value: &[f32], next: &[f32], lines: &mut [Line]) {
    for (group, chunk) in value.chunks(LANES).enumerate() {
        let line = &mut lines[group * BLOCK].0;
        let (mut low, mut high) = ([0.0_f32; LANES], [0.0_f32; LANES]);
        copy_lanes(chunk, &mut low);
        if !next.is_empty() {
            copy_lanes(&next[group * LANES..][..chunk.len()], &mut high);
        }
        for lane in 0..LANES {
            line[lane] = pair(low[lane], high[lane]);
        }
    }
}

/// Copies up to 16 values; the common lengths without a call.
#[inline(always)]
fn copy_lanes(from: &[f32], to: &mut [f32; LANES]) {
    match from.len() {
        LANES => to.copy_from_slice(from),
        8 => to[..8].copy_from_slice(from),
        len => to[..len].copy_from_slice(from),
    }
}
