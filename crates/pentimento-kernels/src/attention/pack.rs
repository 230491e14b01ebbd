//! Queries, keys and values of one head, packed for the register tile.
//!
//! A token's part of a head lies `heads · head_dim` values from the next token's: each token is asked for some time
//! before it is read.

use half::slice::HalfFloatSliceExt;

use super::{Attention, BLOCK, Range};
use crate::bf16::round_pairs;
use crate::isa::{Arith, per_isa};
use crate::lanes::{interleave, interleave_pairs, pair};
use crate::pack::Precision;
use crate::rows::{Rows, pairs};
use crate::scratch::{LANES, Line, bits, prefetch};

/// Queries, keys or values as they are packed from.
#[derive(Clone, Copy)]
pub(super) enum Tokens<'a> {
    F32(&'a [f32]),
    /// Pairs of bf16, for products of such pairs.
    Pairs(&'a [u32]),
}

impl<'a> Tokens<'a> {
    /// Of rows, which are widened where they are bf16 but not whole pairs to multiply.
    pub(super) fn of(rows: Rows<'a>, head_dim: usize, precision: Precision, wide: &'a mut Vec<f32>) -> Self {
        let values = match rows {
            Rows::F32(values) => return Tokens::F32(values),
            Rows::Bf16(values) => values,
        };
        let in_pairs = precision == Precision::Bf16 && head_dim.is_multiple_of(2);
        match pairs(values).filter(|_| in_pairs) {
            Some(words) => Tokens::Pairs(words),
            None => {
                wide.resize(values.len(), 0.0);
                values.convert_to_f32_slice(wide);
                Tokens::F32(wide)
            }
        }
    }

    /// `head_dim` values of a token from its index on.
    fn head(self, from: usize, head_dim: usize) -> Tokens<'a> {
        match self {
            Tokens::F32(values) => Tokens::F32(&values[from..][..head_dim]),
            Tokens::Pairs(words) => Tokens::Pairs(&words[from / 2..][..head_dim / 2]),
        }
    }

    /// Asks for the same, which may lie behind the end.
    fn ask(self, from: usize, head_dim: usize) {
        let (start, from, words) = match self {
            Tokens::F32(values) => (values.as_ptr(), from, head_dim),
            Tokens::Pairs(words) => (words.as_ptr().cast(), from / 2, head_dim / 2),
        };
        for at in (from..from + words + LANES - 1).step_by(LANES) {
            prefetch(start.wrapping_add(at));
        }
    }
}

impl Attention<'_> {
    /// Queries are the rows of a left factor, one behind the other.
    pub(super) fn pack_queries(&self, item: usize, head: usize, queries: Range, words: &mut [u32]) {
        let head_dim = self.shape.head_dim;
        for (query, words) in queries.zip(words.chunks_exact_mut(self.steps())) {
            let from = self.at(item, self.shape.queries, query, head);
            self.q.ask(self.at(item, self.shape.queries, query + LANES, head), head_dim);
            match self.q.head(from, head_dim) {
                Tokens::Pairs(pairs) => words.copy_from_slice(pairs),
                Tokens::F32(row) if self.in_pairs() => round_pairs(self.isa, row, words),
                Tokens::F32(row) => words.copy_from_slice(bits(row)),
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
            for ahead in first + LANES..first + 2 * LANES {
                self.k.ask(key(ahead), head_dim);
            }
            let from = |lane: usize| if first + lane < block.end { key(first + lane) } else { key(first) };
            match self.k {
                Tokens::Pairs(words) => {
                    let keys = std::array::from_fn(|lane| &words[from(lane) / 2..][..steps]);
                    interleave(self.isa, &keys, lines);
                }
                Tokens::F32(values) => {
                    let keys = std::array::from_fn(|lane| &values[from(lane)..][..head_dim]);
                    match self.in_pairs() {
                        false => interleave(self.isa, &keys.map(bits), lines),
                        true => interleave_pairs(self.isa, &keys, lines),
                    }
                }
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
                self.v.ask(value(ahead), head_dim);
            }
            let lines = &mut lines[step..];
            let next = (key + 1 < block.end).then(|| value(key + 1));
            match self.v {
                Tokens::Pairs(words) => {
                    let row = |from: usize| &words[from / 2..][..head_dim / 2];
                    pair_words(self.isa, row(value(key)), next.map_or(&[], row), lines);
                }
                Tokens::F32(values) => {
                    let row = |from: usize| &values[from..][..head_dim];
                    match self.in_pairs() {
                        false => copy_value(self.isa, row(value(key)), lines),
                        true => pair_values(self.isa, row(value(key)), next.map_or(&[], row), lines),
                    }
                }
            }
        }
    }
}

per_isa!(fn copy_value(value: &[f32], lines: &mut [Line]) = copy_value_body);
per_isa!(fn pair_values(value: &[f32], next: &[f32], lines: &mut [Line]) = pair_values_body);
per_isa!(fn pair_words(value: &[u32], next: &[u32], lines: &mut [Line]) = pair_words_body);

/// A value's groups of 16, BLOCK lines apart, the last one filled with zeros.
#[inline(always)]
fn copy_value_body<A: Arith>(value: &[f32], lines: &mut [Line]) {
    for (group, chunk) in value.chunks(LANES).enumerate() {
        let line = &mut lines[group * BLOCK].0;
        let mut values = [0.0_f32; LANES];
        copy_part(chunk, &mut values);
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
        copy_part(chunk, &mut low);
        if !next.is_empty() {
            copy_part(&next[group * LANES..][..chunk.len()], &mut high);
        }
        for lane in 0..LANES {
            line[lane] = pair(low[lane], high[lane]);
        }
    }
}

/// As `pair_values`, for tokens that are pairs already.
#[inline(always)]
fn pair_words_body<A: Arith>(value: &[u32], next: &[u32], lines: &mut [Line]) {
    const HALF: usize = LANES / 2;
    for (group, chunk) in value.chunks(HALF).enumerate() {
        let line = &mut lines[group * BLOCK].0;
        let (mut low, mut high) = ([0; HALF], [0; HALF]);
        copy_part(chunk, &mut low);
        if !next.is_empty() {
            copy_part(&next[group * HALF..][..chunk.len()], &mut high);
        }
        for at in 0..HALF {
            line[2 * at] = low[at] & 0xffff | high[at] << 16;
            line[2 * at + 1] = low[at] >> 16 | high[at] & 0xffff_0000;
        }
    }
}

/// Copies up to `N` values; the common lengths, all and half, without a call.
#[inline(always)]
fn copy_part<T: Copy, const N: usize>(from: &[T], to: &mut [T; N]) {
    match from.len() {
        len if len == N => to.copy_from_slice(from),
        len if len == N / 2 => to[..N / 2].copy_from_slice(from),
        len => to[..len].copy_from_slice(from),
    }
}
