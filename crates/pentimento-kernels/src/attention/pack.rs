//! Queries, keys and values of one head, packed for the register tile, and results unpacked from it.
//!
//! A token's part of a head lies `heads · head_dim` values from the next token's: each token is asked for some time
//! before it is read.

use half::slice::HalfFloatSliceExt;

use super::{Attention, Range, STRIP, Strip};
use crate::bf16::round_pairs;
use crate::gemm::ROWS;
use crate::isa::{Arith, per_isa};
use crate::lanes::{interleave, interleave_pairs, pair};
use crate::pack::Precision;
use crate::rows::{Rows, pairs};
use crate::scratch::{LANES, Line, bits, floats_mut, prefetch_row};

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
        prefetch_row(start.wrapping_add(from), words + LANES - 1);
    }
}

impl Attention<'_> {
    /// Queries are the columns of a right factor. In the last group the last query stands for those that are missing.
    pub(super) fn pack_queries(&self, item: usize, head: usize, queries: Range, lines: &mut [Line]) {
        let (steps, head_dim) = (self.steps(), self.shape.head_dim);
        let query = |query: usize| self.at(item, self.shape.queries, query, head);
        for (group, lines) in lines.chunks_exact_mut(steps).enumerate() {
            let first = queries.start + group * LANES;
            for ahead in first + LANES..first + 2 * LANES {
                self.q.ask(query(ahead), head_dim);
            }
            let from = |lane: usize| query((first + lane).min(queries.end - 1));
            match self.q {
                Tokens::Pairs(words) => {
                    let queries = std::array::from_fn(|lane| &words[from(lane) / 2..][..steps]);
                    interleave(self.isa, &queries, lines);
                }
                Tokens::F32(values) => {
                    let queries = std::array::from_fn(|lane| &values[from(lane)..][..head_dim]);
                    match self.in_pairs() {
                        false => interleave(self.isa, &queries.map(bits), lines),
                        true => interleave_pairs(self.isa, &queries, lines),
                    }
                }
            }
        }
    }

    /// Keys are the rows of a left factor, one behind the other, with zeros for those that the last register tile lacks.
    pub(super) fn pack_keys(&self, item: usize, head: usize, block: &Range, words: &mut [u32]) {
        let (steps, head_dim) = (self.steps(), self.shape.head_dim);
        let key = |key: usize| self.at(item, self.shape.keys, key, head);
        let (packed, rest) = words.split_at_mut(block.len() * steps);
        for (at, words) in block.clone().zip(packed.chunks_exact_mut(steps)) {
            self.k.ask(key(at + LANES), head_dim);
            match self.k.head(key(at), head_dim) {
                Tokens::Pairs(pairs) => words.copy_from_slice(pairs),
                Tokens::F32(row) if self.in_pairs() => round_pairs(self.isa, row, words),
                Tokens::F32(row) => words.copy_from_slice(bits(row)),
            }
        }
        let missing = block.len().next_multiple_of(ROWS) - block.len();
        rest[..missing * steps].fill(0);
    }

    /// Values are a left factor that lies as its transpose: `[steps of block][head_dim]`; in bf16 two tokens share a step.
    pub(super) fn pack_values(&self, item: usize, head: usize, block: &Range, words: &mut [u32]) {
        let head_dim = self.shape.head_dim;
        let value = |key: usize| self.at(item, self.shape.keys, key, head);
        let per_word = self.precision.per_word();
        let keys = block.clone().step_by(per_word);
        for (key, words) in keys.zip(words.chunks_exact_mut(head_dim)) {
            for ahead in key + LANES..key + LANES + per_word {
                self.v.ask(value(ahead), head_dim);
            }
            let next = (key + 1 < block.end).then(|| value(key + 1));
            match self.v {
                Tokens::Pairs(pairs) => {
                    let row = |from: usize| &pairs[from / 2..][..head_dim / 2];
                    pair_words(self.isa, row(value(key)), next.map_or(&[], row), words);
                }
                Tokens::F32(values) => {
                    let row = |from: usize| &values[from..][..head_dim];
                    match self.in_pairs() {
                        false => words.copy_from_slice(bits(row(value(key)))),
                        true => pair_values(self.isa, row(value(key)), next.map_or(&[], row), words),
                    }
                }
            }
        }
    }

    /// Writes a strip's results: its sums, `[head_dim][STRIP]`, over those of its weights.
    pub(super) fn store(&self, item: usize, head: usize, queries: Range, strip: &Strip, sums: &mut [f32]) {
        let head_dim = self.shape.head_dim;
        strip.divide(self.isa, sums);
        let mut square = [Line::ZERO; LANES];
        for (group, first) in queries.clone().step_by(LANES).enumerate() {
            for at in (0..head_dim).step_by(LANES) {
                // In the last square the last row stands for those that are missing.
                let row = |row: usize| (at + row).min(head_dim - 1) * STRIP + group * LANES;
                let columns = std::array::from_fn(|d| bits(&sums[row(d)..][..LANES]));
                interleave(self.isa, &columns, &mut square);
                let rows = floats_mut(&mut square).chunks_exact(LANES);
                for (query, row) in (first..queries.end).zip(rows) {
                    let from = self.at(item, self.shape.queries, query, head) + at;
                    // SAFETY: this task alone writes this head of these queries.
                    unsafe { self.out.store(self.isa, from, &row[..LANES.min(head_dim - at)]) };
                }
            }
        }
    }
}

per_isa!(fn pair_values(value: &[f32], next: &[f32], words: &mut [u32]) = pair_values_body);
per_isa!(fn pair_words(value: &[u32], next: &[u32], words: &mut [u32]) = pair_words_body);
/// The values of two tokens side by side; `next` is empty when there is no second one.
#[inline(always)]
fn pair_values_body<A: Arith>(value: &[f32], next: &[f32], words: &mut [u32]) {
    if next.is_empty() {
        words.iter_mut().zip(value).for_each(|(word, value)| *word = pair(*value, 0.0));
        return;
    }
    for ((word, value), next) in words.iter_mut().zip(value).zip(next) {
        *word = pair(*value, *next);
    }
}

/// As `pair_values`, for tokens that are pairs already.
#[inline(always)]
fn pair_words_body<A: Arith>(value: &[u32], next: &[u32], words: &mut [u32]) {
    let words = words.as_chunks_mut::<2>().0.iter_mut();
    if next.is_empty() {
        words.zip(value).for_each(|(words, value)| *words = [value & 0xffff, value >> 16]);
        return;
    }
    for ((words, value), next) in words.zip(value).zip(next) {
        *words = [value & 0xffff | next << 16, value >> 16 | next & 0xffff_0000];
    }
}
