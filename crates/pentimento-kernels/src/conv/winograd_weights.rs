//! Weights of a 3×3 convolution for Winograd's algorithm: kept as their nine taps, `[c_out][9][c_in]`, and made into the
//! values of a tile's transform when they are used.
//!
//! The values would take up to four times the memory of the taps and their bandwidth; to make them costs about
//! as much as to widen them from half precision. Channels are lanes.

#[cfg(target_arch = "x86_64")]
mod avx512;

use half::f16;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;
use std::ops::Range;

use super::winograd::{A, B, FLAT, Form, IN, SQUARE, values_in};
use crate::bf16::round_slice;
use crate::int8::Column;
use crate::isa::{Arith, Isa, per_isa};
use crate::lanes::interleave;
use crate::pack::{WeightsRef, fits_f16, zero_halves};
use crate::scratch::{LANES, Line, bits, floats_mut, halves_mut, prefetch};

/// Taps of a kernel.
const TAPS: usize = 9;

/// Input channels whose values are made at once at most, in either form.
const PANEL_STEPS: usize = 224;

/// Where the values of some weights lie: `[value][value_stride lines, of which output channel and row_lines]`.
#[derive(Clone, Copy)]
pub(super) struct PanelShape {
    /// Lines of an output channel.
    pub(super) row_lines: usize,
    /// Lines from one of a tile's values to the next.
    pub(super) value_stride: usize,
}

/// Some of a layer's weights, whose values fill a panel.
pub(super) struct PanelPart {
    /// Input channels of the layer.
    pub(super) c_in: usize,
    pub(super) channels: Range<usize>,
    /// Input channels whose values are made, at most [`Form::panel_steps`].
    pub(super) steps: Range<usize>,
    pub(super) shape: PanelShape,
}

/// The taps, and the tiles that they are for.
#[derive(Clone, Debug)]
pub(super) struct WinogradWeights {
    form: Form,
    taps: Taps,
}

/// The taps, by storage.
#[derive(Clone, Debug)]
enum Taps {
    F32(Vec<f32>),
    F16(Vec<f16>),
    /// In steps, and what a step means in each output channel.
    Int8(Vec<i8>, Vec<f32>),
}

impl WinogradWeights {
    /// Taps in f16 where products are in bf16 or f16 holds the weights exactly, in f32 otherwise.
    pub(super) fn new(form: Form, weights: WeightsRef, c_out: usize, c_in: usize) -> WinogradWeights {
        let len = c_out * TAPS * c_in;
        let taps = if form == Form::FlatPairs || fits_f16(weights) {
            let mut taps = zero_halves(len);
            match weights {
                WeightsRef::F16(kernels) => halves_by_taps(kernels, c_in, &mut taps),
                _ => by_taps(weights, c_in, &mut taps, |row, out| out.convert_from_f32_slice(row)),
            }
            Taps::F16(taps)
        } else {
            let mut taps = vec![0.0; len];
            by_taps(weights, c_in, &mut taps, |row, out| out.copy_from_slice(row));
            Taps::F32(taps)
        };
        WinogradWeights { form, taps }
    }

    /// Taps of eight bits, for tiles of any form.
    pub(super) fn new_int8(form: Form, weights: WeightsRef, c_out: usize, c_in: usize) -> WinogradWeights {
        let (mut taps, mut scales) = (vec![0; c_out * TAPS * c_in], vec![0.0; c_out]);
        let channels = taps.par_chunks_mut((TAPS * c_in).max(1)).zip(&mut scales).enumerate();
        let isa = Isa::current();
        channels.for_each_init(
            || (vec![0.0; TAPS * c_in], vec![0; TAPS * c_in]),
            |(kernels, steps), (channel, (taps, scale))| {
                weights.read(channel * TAPS * c_in, kernels);
                *scale = Column::quantise(isa, kernels, steps).scale;
                for (tap, taps) in taps.chunks_exact_mut(c_in).enumerate() {
                    taps.iter_mut().zip(steps.chunks_exact(TAPS)).for_each(|(to, steps)| *to = steps[tap]);
                }
            },
        );
        WinogradWeights { form, taps: Taps::Int8(taps, scales) }
    }

    pub(super) fn form(&self) -> Form {
        self.form
    }

    pub(super) fn bytes(&self) -> usize {
        match &self.taps {
            Taps::F32(taps) => size_of_val(&taps[..]),
            Taps::F16(taps) => size_of_val(&taps[..]),
            Taps::Int8(taps, scales) => size_of_val(&taps[..]) + size_of_val(&scales[..]),
        }
    }

    /// Makes the values of some input channels for some output channels.
    pub(super) fn expand(&self, isa: Isa, part: &PanelPart, panel: &mut [Line]) {
        #[cfg(target_arch = "x86_64")]
        if avx512::knows(self.form, isa) {
            // SAFETY: the level was checked when it became current.
            return unsafe { avx512::expand(self, part, panel) };
        }
        self.expand_plainly(isa, part, panel);
    }

    /// The same in code that the compiler vectorises.
    fn expand_plainly(&self, isa: Isa, part: &PanelPart, panel: &mut [Line]) {
        let PanelPart { c_in, ref channels, ref steps, shape } = *part;
        let mut wide = [[0.0_f32; PANEL_STEPS]; TAPS];
        let mut values = [Line::ZERO; values_in(FLAT) * VALUE_LINES];
        let count = steps.len();
        for (row, channel) in channels.clone().enumerate() {
            for (tap, wide) in wide.iter_mut().enumerate() {
                let from = (channel * TAPS + tap) * c_in + steps.start;
                // The same channels of the next row: each weight comes from far away and is used once per task.
                let next = from + TAPS * c_in;
                match &self.taps {
                    Taps::F32(taps) => {
                        ask(&taps[..], next, count);
                        wide[..count].copy_from_slice(&taps[from..from + count]);
                    }
                    Taps::F16(taps) => {
                        ask(&taps[..], next, count);
                        taps[from..from + count].convert_to_f32_slice(&mut wide[..count]);
                    }
                    Taps::Int8(taps, scales) => {
                        ask(&taps[..], next, count);
                        widen_steps(isa, &taps[from..from + count], scales[channel], &mut wide[..count]);
                    }
                }
            }
            let panel = &mut panel[row * shape.row_lines..];
            match self.form {
                Form::Square => values_of_taps::<SQUARE>(isa, &wide, count, panel, shape.value_stride),
                Form::Flat => values_of_taps::<FLAT>(isa, &wide, count, panel, shape.value_stride),
                Form::FlatPairs => {
                    values_of_taps::<FLAT>(isa, &wide, count, &mut values, VALUE_LINES);
                    let count = count.next_multiple_of(2);
                    for (at, values) in values.chunks_exact_mut(VALUE_LINES).enumerate() {
                        let row = &mut panel[at * shape.value_stride..][..shape.row_lines];
                        round_slice(isa, &floats_mut(values)[..count], &mut halves_mut(row)[..count]);
                    }
                }
            }
        }
    }
}

/// Asks for `count` elements from index `from` on, if there are such.
fn ask<T>(values: &[T], from: usize, count: usize) {
    for at in (0..count).step_by(64 / size_of::<T>()) {
        prefetch(values.as_ptr().wrapping_add(from + at).cast());
    }
}

per_isa!(fn widen_steps(steps: &[i8], scale: f32, to: &mut [f32]) = widen_steps_body);

#[inline(always)]
fn widen_steps_body<A: Arith>(steps: &[i8], scale: f32, to: &mut [f32]) {
    to.iter_mut().zip(steps).for_each(|(to, steps)| *to = f32::from(*steps) * scale);
}

/// As [`by_taps`], where nothing is converted.
fn halves_by_taps(kernels: &[f16], c_in: usize, out: &mut [f16]) {
    let channel = (TAPS * c_in).max(1);
    out.par_chunks_mut(channel).zip(kernels.par_chunks(channel)).for_each(|(out, kernels)| {
        for (tap, row) in out.chunks_exact_mut(c_in.max(1)).enumerate() {
            row.iter_mut().zip(kernels.as_chunks::<TAPS>().0).for_each(|(to, kernel)| *to = kernel[tap]);
        }
    });
}

/// Parts each output channel's kernels into nine rows over the input channels; `store` converts such a row.
fn by_taps<T: Send>(
    weights: WeightsRef,
    c_in: usize,
    out: &mut [T],
    store: impl Fn(&[f32], &mut [T]) + Sync,
) {
    let isa = Isa::current();
    out.par_chunks_mut((TAPS * c_in).max(1)).enumerate().for_each_init(
        || (Vec::new(), vec![0.0; TAPS * c_in]),
        |(buffer, planes), (channel, out)| {
            let kernels = weights.rows(channel * TAPS * c_in, TAPS * c_in, buffer);
            for (group, kernels) in kernels.chunks(TAPS * LANES).enumerate() {
                let count = kernels.len() / TAPS;
                // In the last group the last kernel stands for those that are missing.
                let kernel = |lane: usize| bits(&kernels[lane.min(count - 1) * TAPS..][..TAPS]);
                let mut lines = [Line::ZERO; TAPS];
                interleave(isa, &std::array::from_fn(kernel), &mut lines);
                let planes = planes.chunks_exact_mut(c_in);
                for (plane, values) in planes.zip(floats_mut(&mut lines).chunks_exact(LANES)) {
                    plane[group * LANES..][..count].copy_from_slice(&values[..count]);
                }
            }
            for (plane, out) in planes.chunks_exact(c_in.max(1)).zip(out.chunks_exact_mut(c_in.max(1))) {
                store(plane, out);
            }
        },
    );
}

/// Lines of one value of [`PANEL_STEPS`] channels in f32.
const VALUE_LINES: usize = PANEL_STEPS / LANES;

per_isa!(
    fn values_of_taps<const H: usize>(
        taps: &[[f32; PANEL_STEPS]; TAPS],
        count: usize,
        panel: &mut [Line],
        value_stride: usize,
    ) = values_of_taps_body
);

type Lanes = [f32; LANES];

/// The values of `count` kernels, [`LANES`] at a time, for tiles with H rows of pixels.
#[inline(always)]
fn values_of_taps_body<R: Arith, const H: usize>(
    taps: &[[f32; PANEL_STEPS]; TAPS],
    count: usize,
    panel: &mut [Line],
    value_stride: usize,
) {
    for (line, from) in (0..count).step_by(LANES).enumerate() {
        let mut columns = [[[0.0; LANES]; IN]; 3];
        for x in 0..3 {
            let mut column = [[0.0; LANES]; 3];
            for y in 0..3 {
                column[y].copy_from_slice(&taps[3 * y + x][from..from + LANES]);
            }
            columns[x] =
                if H == FLAT { transform_weights_down(&column) } else { transform_weights::<R>(&column) };
        }
        for y in 0..H + 2 {
            let mut row = [[0.0; LANES]; 3];
            for x in 0..3 {
                row[x] = columns[x][y];
            }
            let row = transform_weights::<R>(&row);
            for x in 0..IN {
                let out = floats_mut(&mut panel[(y * IN + x) * value_stride + line..][..1]);
                out.copy_from_slice(&row[x]);
            }
        }
    }
}

/// One over the product of zero's distances to the other points.
const ZERO: f32 = (1.0 / (A * A * B * B)) as f32;

/// The same for the points A and B, of which the pair gives two terms.
const AT_A: f64 = 0.5 / (A * A * (A * A - B * B));
const AT_B: f64 = 0.5 / (B * B * (B * B - A * A));

/// The polynomial with coefficients `g` at each point, divided by the product of its distances to the others.
#[inline(always)]
fn transform_weights<R: Arith>(g: &[Lanes; 3]) -> [Lanes; IN] {
    const EVEN_A: [f32; 2] = [AT_A as f32, (AT_A * A * A) as f32];
    const EVEN_B: [f32; 2] = [AT_B as f32, (AT_B * B * B) as f32];
    const ODD_A: f32 = (AT_A * A) as f32;
    const ODD_B: f32 = (AT_B * B) as f32;
    let mut out = [[0.0; LANES]; IN];
    for l in 0..LANES {
        let (even_a, odd_a) = (R::fma(EVEN_A[1], g[2][l], EVEN_A[0] * g[0][l]), ODD_A * g[1][l]);
        let (even_b, odd_b) = (R::fma(EVEN_B[1], g[2][l], EVEN_B[0] * g[0][l]), ODD_B * g[1][l]);
        out[0][l] = ZERO * g[0][l];
        out[1][l] = even_a + odd_a;
        out[2][l] = even_a - odd_a;
        out[3][l] = even_b + odd_b;
        out[4][l] = even_b - odd_b;
        out[5][l] = g[2][l];
    }
    out
}

/// The same for the points 0, ±1 and ∞ alone. The last two stay zero.
#[inline(always)]
fn transform_weights_down(g: &[Lanes; 3]) -> [Lanes; IN] {
    let mut out = [[0.0; LANES]; IN];
    for l in 0..LANES {
        let ends = g[0][l] + g[2][l];
        out[0][l] = g[0][l];
        out[1][l] = 0.5 * (ends + g[1][l]);
        out[2][l] = 0.5 * (ends - g[1][l]);
        out[3][l] = g[2][l];
    }
    out
}

const _: () = assert!(PANEL_STEPS.is_multiple_of(LANES), "rows of a panel are whole lines");
