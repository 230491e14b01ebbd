//! The running softmax of attention: scores of a few keys become weights, with queries side by side in lanes.
//!
//! A weight is a power of two: `2^(score · scale - shift)`. A query's shift is an integer near its greatest score, which it
//! leaves alone until a score passes it by more than [`HEADROOM`]: then it is raised, and what was relative to the old one is
//! multiplied by a power of two, which rounds nothing. So the passes over scores that other forms spend on maxima and
//! corrections (Milakov and Gimelshein 2018) fall away, and nothing of a query depends on its neighbours.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

use super::KEPT;
use crate::activation::exp2;
use crate::gemm::{GROUPS, Kernel, ROWS, Tile};
use crate::isa::{Arith, Isa, per_isa};
use crate::lanes::pair;
use crate::pack::Precision;
use crate::scratch::{LANES, Line};

/// Queries side by side: the columns of a register tile.
pub(super) const STRIP: usize = GROUPS * LANES;

/// Binary orders of magnitude by which a score may pass its query's shift. Results depend on it: changing it changes bytes.
const HEADROOM: f32 = 16.0;

/// What is kept of a strip of queries from keys to keys.
#[derive(Clone, Copy)]
pub(super) struct Strip {
    /// Keys that each query sees, from the first one on.
    seen: [u32; STRIP],
    least_seen: usize,
    /// Integers, as floats; less than any score where there was none.
    shift: [f32; STRIP],
    /// Sums of the weights so far.
    sum: [f32; STRIP],
    /// What all that came before must be multiplied by, since the last scores raised a shift.
    factor: [f32; STRIP],
}

impl Strip {
    pub(super) const EMPTY: Strip = Strip {
        seen: [0; STRIP],
        least_seen: 0,
        shift: [f32::MIN; STRIP],
        sum: [0.0; STRIP],
        factor: [1.0; STRIP],
    };

    /// Of queries that see so many keys each.
    pub(super) fn new(seen: impl Fn(usize) -> usize) -> Strip {
        let seen = std::array::from_fn(|lane| seen(lane) as u32);
        let least_seen = seen.iter().copied().min().unwrap_or(0) as usize;
        Strip { seen, least_seen, ..Strip::EMPTY }
    }

    /// Scores of keys from `first` on that a query does not see become minus infinity.
    #[cold]
    fn hide(&self, scores: &mut [f32; ROWS * STRIP], first: usize) {
        for (key, row) in (first as u32..).zip(scores.as_chunks_mut::<STRIP>().0) {
            for (score, seen) in row.iter_mut().zip(&self.seen) {
                *score = if key < *seen { *score } else { f32::NEG_INFINITY };
            }
        }
    }

    /// Raises those shifts of a group that are `passed`, a bit for each lane, to the greatest score.
    #[cold]
    fn raise(&mut self, group: usize, passed: u32, greatest: &[f32; LANES], scale: f32) {
        for (at, greatest) in greatest.iter().enumerate().filter(|(at, _)| passed >> at & 1 == 1) {
            let lane = group * LANES + at;
            let shift = (greatest * scale).round();
            self.factor[lane] = power_of_two(self.shift[lane] - shift);
            self.sum[lane] *= self.factor[lane];
            self.shift[lane] = shift;
        }
    }

    /// Divides sums of weighted values, `[rows][STRIP]`, by the sums of their weights.
    pub(super) fn divide(&self, isa: Isa, sums: &mut [f32]) {
        multiply_rows(isa, &self.sum.map(|sum| 1.0 / sum), sums);
    }

    /// Brings what came before the last raise up to it: so many lines of each group's weights, and sums, `[rows][STRIP]`, of
    /// weighted values.
    pub(super) fn correct(&mut self, weigher: Weigher, weights: &mut [Line], lines: usize, sums: &mut [f32]) {
        let Weigher { isa, precision, .. } = weigher;
        for (factor, weights) in self.factor.as_chunks().0.iter().zip(weights.chunks_exact_mut(KEPT)) {
            match precision {
                Precision::F32 => multiply_lines(isa, factor, &mut weights[..lines]),
                _ => multiply_pairs(isa, factor, &mut weights[..lines]),
            }
        }
        multiply_rows(isa, &self.factor, sums);
        self.factor = [1.0; STRIP];
    }
}

/// `2^n` for an integer `n <= 0`; below the normal numbers it is 0.
fn power_of_two(n: f32) -> f32 {
    f32::from_bits(((n.max(-127.0) + 127.0) as u32) << 23)
}

per_isa!(fn multiply_rows(factor: &[f32; STRIP], rows: &mut [f32]) = multiply_rows_body);
per_isa!(fn multiply_lines(factor: &[f32; LANES], lines: &mut [Line]) = multiply_lines_body);
per_isa!(fn multiply_pairs(factor: &[f32; LANES], lines: &mut [Line]) = multiply_pairs_body);

#[inline(always)]
fn multiply_rows_body<A: Arith>(factor: &[f32; STRIP], rows: &mut [f32]) {
    for row in rows.as_chunks_mut::<STRIP>().0 {
        row.iter_mut().zip(factor).for_each(|(value, factor)| *value *= factor);
    }
}

#[inline(always)]
fn multiply_lines_body<A: Arith>(factor: &[f32; LANES], lines: &mut [Line]) {
    for line in lines {
        for (word, factor) in line.0.iter_mut().zip(factor) {
            *word = (f32::from_bits(*word) * factor).to_bits();
        }
    }
}

#[inline(always)]
fn multiply_pairs_body<A: Arith>(factor: &[f32; LANES], lines: &mut [Line]) {
    for line in lines {
        for (word, factor) in line.0.iter_mut().zip(factor) {
            let [low, high] = [*word << 16, *word & 0xffff_0000].map(|bits| f32::from_bits(bits) * factor);
            *word = pair(low, high);
        }
    }
}

/// Keys of a register tile, and the queries that look at them.
pub(super) struct Looked<'a> {
    /// `[ROWS][steps]` words, zeros for keys that are missing.
    pub(super) keys: &'a [u32],
    /// Index of the first one.
    pub(super) first: usize,
    /// `[groups][steps]`.
    pub(super) queries: &'a [Line],
    pub(super) steps: usize,
    /// Scores are multiplied by it: `scale / ln 2`.
    pub(super) scale: f32,
}

/// Makes weights of a tile's scores without storing these: of so many groups, see [`Weigher::weigh`].
#[cfg(target_arch = "x86_64")]
type Fused = unsafe fn(usize, &Looked, &mut Strip, &mut [Line]) -> bool;

/// How scores become weights in one instruction set and precision.
#[derive(Clone, Copy)]
pub(super) struct Weigher {
    isa: Isa,
    precision: Precision,
    pub(super) kernel: Kernel,
}

impl Weigher {
    pub(super) fn new(isa: Isa, precision: Precision) -> Weigher {
        Weigher { isa, precision, kernel: Kernel::new(isa, precision) }
    }

    /// Writes the weights of [`ROWS`] keys to the front of each group of `weights`, which are [`KEPT`] lines apart: a line for a
    /// key in f32, for two in bf16. Returns whether a shift was raised.
    ///
    /// # Panics
    /// If a slice does not fit.
    pub(super) fn weigh(self, looked: &Looked, strip: &mut Strip, weights: &mut [Line]) -> bool {
        let groups = looked.queries.len() / looked.steps;
        let lines = self.precision.steps(ROWS);
        assert!(looked.keys.len() >= ROWS * looked.steps, "keys of a register tile");
        assert!(
            (1..=GROUPS).contains(&groups) && weights.len() >= (groups - 1) * KEPT + lines,
            "lines of weights"
        );
        #[cfg(target_arch = "x86_64")]
        {
            let fused = match (self.isa, self.precision) {
                (Isa::Avx512Bf16, Precision::Bf16) => Some(avx512::weigh_pairs as Fused),
                (Isa::Avx512 | Isa::Avx512Bf16, Precision::F32) => Some(avx512::weigh as Fused),
                (Isa::Avx2, Precision::F32) => Some(avx2::weigh as Fused),
                _ => None,
            };
            if let Some(fused) = fused {
                // SAFETY: the level was checked when it became current; the assertions hold.
                return unsafe { fused(groups, looked, strip, weights) };
            }
        }
        let mut scores = [0.0; ROWS * STRIP];
        let tile = Tile {
            steps: looked.steps,
            a: looked.keys.as_ptr(),
            a_stride: looked.steps,
            a_step: 1,
            b: looked.queries.as_ptr(),
            b_stride: looked.steps,
            c: scores.as_mut_ptr(),
            c_stride: STRIP,
            add: false,
            next: looked.queries.as_ptr(),
        };
        // SAFETY: keys, queries and scores hold one whole tile.
        unsafe { self.kernel.run(ROWS, groups * LANES, &tile) };
        if looked.first + ROWS > strip.least_seen {
            strip.hide(&mut scores, looked.first);
        }
        let in_pairs = self.precision == Precision::Bf16;
        weigh_plainly(self.isa, &scores, groups, looked, strip, in_pairs, weights)
    }
}

per_isa!(
    fn weigh_plainly(
        scores: &[f32; ROWS * STRIP],
        groups: usize,
        looked: &Looked,
        strip: &mut Strip,
        in_pairs: bool,
        weights: &mut [Line],
    ) -> bool = weigh_body
);

#[inline(always)]
fn weigh_body<A: Arith>(
    scores: &[f32; ROWS * STRIP],
    groups: usize,
    looked: &Looked,
    strip: &mut Strip,
    in_pairs: bool,
    weights: &mut [Line],
) -> bool {
    let rows = scores.as_chunks::<STRIP>().0;
    let mut raised = false;
    for group in 0..groups {
        let from = group * LANES;
        let part = |row: &[f32]| -> [f32; LANES] { std::array::from_fn(|lane| row[from + lane]) };
        let mut greatest = [f32::NEG_INFINITY; LANES];
        for row in rows.iter() {
            let row = part(row);
            for lane in 0..LANES {
                greatest[lane] = if row[lane] > greatest[lane] { row[lane] } else { greatest[lane] };
            }
        }
        let (shift, mut passed) = (part(&strip.shift), 0);
        for lane in 0..LANES {
            passed |= u32::from(A::fma(greatest[lane], looked.scale, -shift[lane]) > HEADROOM) << lane;
        }
        if passed != 0 {
            raised = true;
            strip.raise(group, passed, &greatest, looked.scale);
        }
        let (shift, mut sum) = (part(&strip.shift), part(&strip.sum));
        let lines = &mut weights[group * KEPT..];
        for at in (0..ROWS).step_by(2) {
            let mut powers = [part(&rows[at]), part(&rows[at + 1])];
            for power in &mut powers {
                for lane in 0..LANES {
                    power[lane] = exp2::<A>(A::fma(power[lane], looked.scale, -shift[lane]));
                }
            }
            let [low, high] = powers;
            if in_pairs {
                // The sum is of the rounded weights, so that those which count add up to 1.
                for lane in 0..LANES {
                    let word = pair(low[lane], high[lane]);
                    sum[lane] += f32::from_bits(word << 16) + f32::from_bits(word & 0xffff_0000);
                    lines[at / 2].0[lane] = word;
                }
            } else {
                for lane in 0..LANES {
                    sum[lane] += low[lane] + high[lane];
                    lines[at].0[lane] = low[lane].to_bits();
                    lines[at + 1].0[lane] = high[lane].to_bits();
                }
            }
        }
        strip.sum[from..][..LANES].copy_from_slice(&sum);
    }
    raised
}
