//! Winograd's algorithm F(4×4, 3×3): a 3×3 convolution of stride 1 with a quarter of the multiplications.
//!
//! Outputs are cut into tiles of 4×4 pixels. Each sees 6×6 inputs, which become 36 values; for each of the 36 a
//! product over the channels follows, and the 36 sums of a tile become its 16 pixels. Lanes are tiles: 16 tiles of one
//! image that follow each other in reading order are a group, and a task takes up to [`TASK_GROUPS`] groups.
//!
//! A task works on [`PANEL_ROWS`] output channels at a time: it makes their weights' values for some input channels
//! (they are kept as nine taps), multiplies each of the 36, goes on with the next input channels, and turns the sums
//! into pixels. Weights' values and sums stay in the second-level cache; the inputs' values pass through it once per
//! panel. Of few weights the values are made once, for all tasks.
//!
//! Errors, root mean square relative to the output's deviation at 640 channels: 1.1e-6 (the direct sum has 2.9e-7);
//! with taps stored in f16 2e-4 (bf16 factors have 2.3e-3).
//! Source: Lavin and Gray 2016; the points are 0, ±1/√2, ±√2 and ∞, which round less than the usual 0, ±1, ±2 and ∞.

#[cfg(target_arch = "x86_64")]
mod avx512;

use std::ops::Range;

use rayon::prelude::*;

use super::Layer;
use super::patches::Window;
use super::winograd_weights::{PANEL_STEPS, PanelShape, WinogradWeights};
use crate::gemm::{GROUPS, ROWS, Tile};
use crate::isa::{Arith, Isa, per_isa};
use crate::scratch::{self, LANES, Line, floats_mut, prefetch, prefetch_far};

/// The two pairs of points; everything below follows from them.
pub(super) const A: f64 = std::f64::consts::FRAC_1_SQRT_2;
pub(super) const B: f64 = std::f64::consts::SQRT_2;

/// Pixels along a tile, and values along its transform.
const OUT: usize = 4;
pub(super) const IN: usize = 6;

/// Values of a tile's transform.
pub(super) const VALUES: usize = IN * IN;

/// Groups of 16 tiles in a task: as many as a register tile has.
const TASK_GROUPS: usize = GROUPS;

/// Output channels whose weights are made and used at once: with [`PANEL_STEPS`] input channels 570 KiB.
const PANEL_ROWS: usize = 6 * ROWS;

/// Output channels in a task at least: with fewer the inputs would pass through the cache for too little work.
const TASK_CHANNELS: usize = 4 * PANEL_ROWS;

/// Lines that the values of all weights may take to be made once for all tasks: 10 MiB, which the third-level cache holds.
const SHARED_LINES: usize = (10 << 20) / size_of::<Line>();

/// How many lines ahead the transforms ask for: 36 streams are more than the hardware follows by itself.
const AHEAD: usize = 4;

type Lanes = [f32; LANES];

/// Whether the algorithm is faster than the direct sum and its memory reasonable: large pictures, enough channels.
pub(super) fn pays(c_out: usize, c_in: usize, pixels: usize) -> bool {
    // Transforming costs as much per channel as some 32 channels' products; a group has 16 tiles of 16 pixels.
    c_in.min(c_out) >= 32 && pixels >= 16 * 16
}

/// The convolution of a whole batch.
pub(super) fn run(layer: &Layer, weights: &WinogradWeights, batch: usize, (height, width): (usize, usize)) {
    let (c_in, c_out) = (layer.w.c_in(), layer.w.c_out());
    let across = width.div_ceil(OUT);
    let tiles = across * height.div_ceil(OUT);
    // Parts of the sum of the same size, as far as whole lines allow; without inputs one part of none, whose sums are zero.
    let part = c_in.div_ceil(c_in.div_ceil(PANEL_STEPS).max(1)).next_multiple_of(LANES).max(LANES);
    let panel = PanelShape { row_lines: part / LANES, value_stride: apart(PANEL_ROWS * part / LANES) };
    let stride = apart(c_in);
    let plan = Plan { layer, weights, height, width, across, tiles, stride, part, panel };
    // Few channels: two groups' values and sums fit into the second-level cache.
    let most = if c_in + c_out <= 256 { TASK_GROUPS / 2 } else { TASK_GROUPS };
    let groups = batch * tiles.div_ceil(LANES);
    let blocks = groups.div_ceil(most);
    let block = |at: usize| at * most..groups.min((at + 1) * most);
    let wanted = (3 * rayon::current_num_threads()).div_ceil(blocks);
    let parts = wanted.min(c_out / TASK_CHANNELS).max(1);
    let part = c_out.div_ceil(parts).next_multiple_of(ROWS);
    let channels = |task: usize| (task * part).min(c_out)..((task + 1) * part).min(c_out);
    let group_lines = VALUES * plan.stride;
    if parts == 1 {
        plan.with_shared_panels(|shared| {
            (0..blocks).into_par_iter().with_max_len(1).for_each(|at| {
                let groups = block(at);
                scratch::with(groups.len() * group_lines * LANES, |inputs| {
                    for (group, inputs) in groups.clone().zip(inputs.chunks_exact_mut(group_lines)) {
                        plan.transform_inputs(group, inputs);
                    }
                    plan.block(groups, channels(0), inputs, shared);
                });
            });
        });
        return;
    }
    // Several tasks read the same inputs: those are transformed before.
    scratch::with(groups * group_lines * LANES, |inputs| {
        let each_group = inputs.par_chunks_exact_mut(group_lines).with_max_len(1).enumerate();
        each_group.for_each(|(group, inputs)| plan.transform_inputs(group, inputs));
        (0..blocks * parts).into_par_iter().with_max_len(1).for_each(|task| {
            let groups = block(task / parts);
            let inputs = &inputs[groups.start * group_lines..groups.end * group_lines];
            plan.block(groups, channels(task % parts), inputs, None);
        });
    });
}

/// Lines from one of the 36 values to the next: an odd number, so that they do not all fall into one set of the cache.
fn apart(lines: usize) -> usize {
    lines | 1
}

struct Plan<'a> {
    layer: &'a Layer<'a>,
    weights: &'a WinogradWeights,
    height: usize,
    width: usize,
    /// Tiles in a row.
    across: usize,
    /// Tiles in an image.
    tiles: usize,
    /// Lines from one of a group's 36 values to the next, each for all input channels.
    stride: usize,
    /// Input channels whose weights' values are made at once.
    part: usize,
    /// Where these lie.
    panel: PanelShape,
}

impl Plan<'_> {
    /// The image and the tiles of a group.
    fn group(&self, group: usize) -> (usize, Range<usize>) {
        let groups = self.tiles.div_ceil(LANES);
        let first = group % groups * LANES;
        (group / groups, first..self.tiles.min(first + LANES))
    }

    /// Calls `body` with the values of all weights, `[panel of output channels][part of the input channels]`, or with none
    /// where they are too many to be kept for all tasks.
    fn with_shared_panels(&self, body: impl FnOnce(Option<&[Line]>)) {
        let (parts, panels) = (self.parts(), self.layer.w.c_out().div_ceil(PANEL_ROWS));
        let (each, lines) = (self.panel_lines(), panels * parts * self.panel_lines());
        if lines > SHARED_LINES {
            return body(None);
        }
        scratch::with(lines * LANES, |lines| {
            lines.par_chunks_exact_mut(each).enumerate().for_each(|(at, panel)| {
                let first = at / parts * PANEL_ROWS;
                let channels = first..self.layer.w.c_out().min(first + PANEL_ROWS);
                self.expand(channels, &self.steps(at % parts), panel);
            });
            body(Some(lines));
        });
    }

    /// Lines of a panel's values.
    fn panel_lines(&self) -> usize {
        VALUES * self.panel.value_stride
    }

    /// Parts of the sum over the input channels, at least one.
    fn parts(&self) -> usize {
        self.layer.w.c_in().div_ceil(self.part).max(1)
    }

    /// Input channels of a part.
    fn steps(&self, part: usize) -> Range<usize> {
        part * self.part..self.layer.w.c_in().min((part + 1) * self.part)
    }

    fn expand(&self, channels: Range<usize>, steps: &Range<usize>, panel: &mut [Line]) {
        self.weights.expand(self.layer.isa, self.layer.w.c_in(), channels, steps, panel, self.panel);
    }

    /// One task: some groups by some output channels. Inputs: `[group][36][stride, of which c_in][16 tiles]`. Shared are the
    /// values of all weights, where they are made; the channels are then all of them.
    fn block(&self, groups: Range<usize>, channels: Range<usize>, inputs: &[Line], shared: Option<&[Line]>) {
        // Sums: [36][plane, of which channel and group][16 tiles].
        let plane = apart(PANEL_ROWS * groups.len());
        let mut pixels = [[0.0; OUT * LANES]; OUT];
        scratch::with(VALUES * plane * LANES, |sums| {
            for first in channels.clone().step_by(PANEL_ROWS) {
                let rows = first..channels.end.min(first + PANEL_ROWS);
                self.multiply(&rows, groups.len(), inputs, sums, plane, shared);
                for (row, channel) in rows.enumerate() {
                    for (at, group) in groups.clone().enumerate() {
                        let sums = &sums[row * groups.len() + at..];
                        pixels_of(self.layer.isa, sums, plane, &mut pixels);
                        self.store(group, channel, &pixels);
                    }
                }
            }
        });
    }

    /// Transforms the inputs of a group of tiles, channel by channel: `[36][stride, of which c_in][16 tiles]`.
    fn transform_inputs(&self, group: usize, inputs: &mut [Line]) {
        let (image, tiles) = self.group(group);
        let (first, last) = (tiles.start, tiles.end - 1);
        let (top, bottom) = (first / self.across, last / self.across);
        let (left, right) = match top == bottom {
            true => (first % self.across, last % self.across),
            false => (0, self.across - 1),
        };
        let window = Window {
            row: top * OUT,
            column: left * OUT,
            rows: (bottom - top) * OUT + IN,
            columns: (right - left) * OUT + IN,
        };
        let mut at = [0_u32; LANES];
        for (tile, at) in tiles.zip(&mut at) {
            let (y, x) = (tile / self.across - top, tile % self.across - left);
            *at = (y * OUT * window.columns + x * OUT) as u32;
        }
        let c_in = self.layer.w.c_in();
        scratch::with(window.rows * window.columns, |stage| {
            let stage = floats_mut(stage);
            for channel in 0..c_in {
                self.layer.patches.stage(image, channel..channel + 1, &window, 2, stage);
                values_of(self.layer.isa, stage, &at, window.columns, &mut inputs[channel..], self.stride);
            }
        });
    }

    /// The products over the channels for a panel of output channels.
    fn multiply(
        &self,
        channels: &Range<usize>,
        groups: usize,
        inputs: &[Line],
        sums: &mut [Line],
        plane: usize,
        shared: Option<&[Line]>,
    ) {
        let each = self.panel_lines();
        let own = if shared.is_some() { 0 } else { each };
        scratch::with(own * LANES, |own| {
            for part in 0..self.parts() {
                let steps = self.steps(part);
                let panel = match shared {
                    Some(panels) => {
                        &panels[(channels.start / PANEL_ROWS * self.parts() + part) * each..][..each]
                    }
                    None => {
                        self.expand(channels.clone(), &steps, own);
                        &*own
                    }
                };
                self.multiply_part(channels.len(), groups, &steps, panel, inputs, sums, plane);
            }
        });
    }

    /// The part of these products over some input channels, whose weights' values are in `panel`.
    fn multiply_part(
        &self,
        channels: usize,
        groups: usize,
        steps: &Range<usize>,
        panel: &[Line],
        inputs: &[Line],
        sums: &mut [Line],
        plane: usize,
    ) {
        assert!(inputs.len() >= groups * VALUES * self.stride, "transformed inputs");
        assert!(sums.len() >= VALUES * plane && plane >= channels * groups, "sums");
        assert!(panel.len() >= self.panel_lines() && channels <= PANEL_ROWS, "weights' values");
        for at in 0..VALUES {
            for row in (0..channels).step_by(ROWS) {
                let a = panel[at * self.panel.value_stride + row * self.panel.row_lines..].as_ptr();
                let tile = Tile {
                    steps: steps.len(),
                    a: a.cast(),
                    a_stride: self.panel.row_lines * LANES,
                    b: inputs.as_ptr().wrapping_add(at * self.stride + steps.start),
                    b_stride: VALUES * self.stride,
                    c: sums[at * plane + row * groups..].as_mut_ptr().cast(),
                    c_stride: groups * LANES,
                    add: steps.start > 0,
                };
                let rows = ROWS.min(channels - row);
                let next = inputs.as_ptr().wrapping_add((at + 1) * self.stride + steps.start);
                for group in 0..groups {
                    for line in (row / ROWS..steps.len()).step_by(PANEL_ROWS / ROWS) {
                        prefetch_far(next.wrapping_add(group * VALUES * self.stride + line).cast());
                    }
                }
                // SAFETY: the operands hold these channels and groups by the assertions above.
                unsafe { self.layer.kernel.run(rows, groups * LANES, &tile) };
            }
        }
    }

    /// Writes a group's pixels, cropped to the picture, with bias and additions.
    fn store(&self, group: usize, channel: usize, rows: &[[f32; OUT * LANES]; OUT]) {
        let (image, tiles) = self.group(group);
        let mut tile = tiles.start;
        while tile < tiles.end {
            let (y, x) = (tile / self.across * OUT, tile % self.across * OUT);
            let run = (tiles.end - tile).min(self.across - tile % self.across);
            let width = (run * OUT).min(self.width - x);
            for (row, values) in rows.iter().enumerate().take(self.height - y) {
                let from = (image * self.layer.w.c_out() + channel) * self.height * self.width
                    + (y + row) * self.width
                    + x;
                // SAFETY: this task alone writes these pixels of this channel.
                let out = unsafe { self.layer.out.slice(from, width) };
                let values = &values[(tile - tiles.start) * OUT..][..width];
                self.layer.finish_from(image, channel, from, values, out);
            }
            tile += run;
        }
    }
}

/// The 36 values of 16 tiles in one channel, written `stride` lines apart.
fn values_of(isa: Isa, stage: &[f32], at: &[u32; LANES], columns: usize, inputs: &mut [Line], stride: usize) {
    #[cfg(target_arch = "x86_64")]
    if isa >= Isa::Avx512 && avx512::fits(at) {
        // SAFETY: the level was checked when it became current.
        return unsafe { avx512::inputs_of_channel(stage, at, columns, inputs, stride) };
    }
    inputs_of_channel(isa, stage, at, columns, inputs, stride);
}

/// The pixels of 16 tiles in one channel, from 36 lines `stride` apart.
fn pixels_of(isa: Isa, sums: &[Line], stride: usize, rows: &mut [[f32; OUT * LANES]; OUT]) {
    #[cfg(target_arch = "x86_64")]
    if isa >= Isa::Avx512 {
        // SAFETY: the level was checked when it became current.
        return unsafe { avx512::outputs(sums, stride, rows) };
    }
    outputs(isa, sums, stride, rows);
}

per_isa!(
    fn inputs_of_channel(
        stage: &[f32],
        at: &[u32; LANES],
        columns: usize,
        inputs: &mut [Line],
        stride: usize,
    ) = inputs_of_channel_body
);
per_isa!(fn outputs(sums: &[Line], stride: usize, rows: &mut [[f32; OUT * LANES]; OUT]) = outputs_body);

#[inline(always)]
fn inputs_of_channel_body<R: Arith>(
    stage: &[f32],
    at: &[u32; LANES],
    columns: usize,
    inputs: &mut [Line],
    stride: usize,
) {
    let mut rows = [[[0.0; LANES]; IN]; IN];
    let in_a_row = at[LANES - 1] == at[0] + (OUT * (LANES - 1)) as u32;
    for (y, row) in rows.iter_mut().enumerate() {
        let mut values = [[0.0; LANES]; IN];
        if in_a_row {
            let from = &stage[at[0] as usize + y * columns..][..OUT * LANES + 2];
            for x in 0..IN {
                for lane in 0..LANES {
                    values[x][lane] = from[OUT * lane + x];
                }
            }
        } else {
            for lane in 0..LANES {
                let from = &stage[at[lane] as usize + y * columns..][..IN];
                for x in 0..IN {
                    values[x][lane] = from[x];
                }
            }
        }
        *row = transform_input::<R>(&values);
    }
    for x in 0..IN {
        // Plain loops: the standard library's array functions would not be compiled for this instruction set.
        let mut column = [[0.0; LANES]; IN];
        for y in 0..IN {
            column[y] = rows[y][x];
        }
        let column = transform_input::<R>(&column);
        for y in 0..IN {
            prefetch(inputs.as_ptr().wrapping_add((y * IN + x) * stride + AHEAD).cast());
            let line = &mut inputs[(y * IN + x) * stride].0;
            for lane in 0..LANES {
                line[lane] = column[y][lane].to_bits();
            }
        }
    }
}

#[inline(always)]
fn outputs_body<R: Arith>(sums: &[Line], stride: usize, rows: &mut [[f32; OUT * LANES]; OUT]) {
    let mut half = [[[0.0; LANES]; IN]; OUT];
    for x in 0..IN {
        let mut column = [[0.0; LANES]; IN];
        for y in 0..IN {
            prefetch(sums.as_ptr().wrapping_add((y * IN + x) * stride + AHEAD).cast());
            let line = &sums[(y * IN + x) * stride].0;
            for lane in 0..LANES {
                column[y][lane] = f32::from_bits(line[lane]);
            }
        }
        let column = transform_output::<R>(&column);
        for y in 0..OUT {
            half[y][x] = column[y];
        }
    }
    for y in 0..OUT {
        let pixels = transform_output::<R>(&half[y]);
        for lane in 0..LANES {
            for x in 0..OUT {
                rows[y][OUT * lane + x] = pixels[x][lane];
            }
        }
    }
}

/// The coefficients of x·(x² - A²)·(x² - B²), divided by each point's factor.
#[inline(always)]
fn transform_input<R: Arith>(d: &[Lanes; IN]) -> [Lanes; IN] {
    const A1: f32 = A as f32;
    const A2: f32 = (A * A) as f32;
    const B1: f32 = B as f32;
    const B2: f32 = (B * B) as f32;
    const A2B2: f32 = (A * A * B * B) as f32;
    const A2_B2: f32 = (A * A + B * B) as f32;
    let mut out = [[0.0; LANES]; IN];
    for l in 0..LANES {
        let [d0, d1, d2, d3, d4, d5] = [d[0][l], d[1][l], d[2][l], d[3][l], d[4][l], d[5][l]];
        let (even_a, odd_a) = (R::fma(-B2, d2, d4), A1 * R::fma(-B2, d1, d3));
        let (even_b, odd_b) = (R::fma(-A2, d2, d4), B1 * R::fma(-A2, d1, d3));
        out[0][l] = R::fma(A2B2, d0, R::fma(-A2_B2, d2, d4));
        out[1][l] = even_a + odd_a;
        out[2][l] = even_a - odd_a;
        out[3][l] = even_b + odd_b;
        out[4][l] = even_b - odd_b;
        out[5][l] = R::fma(A2B2, d1, R::fma(-A2_B2, d3, d5));
    }
    out
}

/// The values of the polynomial's coefficients: powers of the points.
#[inline(always)]
fn transform_output<R: Arith>(m: &[Lanes; IN]) -> [Lanes; OUT] {
    const A1: f32 = A as f32;
    const A2: f32 = (A * A) as f32;
    const A3: f32 = (A * A * A) as f32;
    const B1: f32 = B as f32;
    const B2: f32 = (B * B) as f32;
    const B3: f32 = (B * B * B) as f32;
    let mut out = [[0.0; LANES]; OUT];
    for l in 0..LANES {
        let (sum_a, difference_a) = (m[1][l] + m[2][l], m[1][l] - m[2][l]);
        let (sum_b, difference_b) = (m[3][l] + m[4][l], m[3][l] - m[4][l]);
        out[0][l] = m[0][l] + sum_a + sum_b;
        out[1][l] = R::fma(A1, difference_a, B1 * difference_b);
        out[2][l] = R::fma(A2, sum_a, B2 * sum_b);
        out[3][l] = R::fma(A3, difference_a, R::fma(B3, difference_b, m[5][l]));
    }
    out
}
