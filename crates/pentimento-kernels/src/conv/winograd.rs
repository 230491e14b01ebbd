//! Winograd's algorithm F(4×4, 3×3): a 3×3 convolution of stride 1 with a quarter of the multiplications.
//!
//! Outputs are cut into tiles of 4×4 pixels. Each sees 6×6 inputs, which become 36 values; for each of the 36 a
//! product over the channels follows, and the 36 sums of a tile become its 16 pixels. Lanes are tiles: 16 tiles that
//! follow each other in reading order are a group, and a task takes up to [`TASK_GROUPS`] groups of one image.
//!
//! Errors, root mean square relative to the output's deviation at 640 channels: 1.4e-6 (the direct sum has 2.9e-7);
//! 1.1e-3 with f16 weights (bf16 factors have 2.3e-3). Memory: 4 times the direct weights in f32, 2 times in f16, and
//! some 6 MB of scratch per thread at 320 channels.
//! Source: Lavin and Gray 2016; the points are 0, ±1/√2, ±√2 and ∞, which round less than the usual 0, ±1, ±2 and ∞.

use std::ops::Range;

use rayon::prelude::*;

use super::Layer;
use super::patches::Window;
use super::winograd_weights::WinogradWeights;
use crate::gemm::{GROUPS, ROWS, STEPS, Tile};
use crate::isa::{Arith, per_isa};
use crate::scratch::{self, LANES, Line, floats_mut, prefetch};

/// The two pairs of points; everything below follows from them.
pub(super) const A: f64 = std::f64::consts::FRAC_1_SQRT_2;
pub(super) const B: f64 = std::f64::consts::SQRT_2;

/// Pixels along a tile, and values along its transform.
const OUT: usize = 4;
pub(super) const IN: usize = 6;

/// Groups of 16 tiles in a task: as many as a register tile has.
const TASK_GROUPS: usize = GROUPS;

/// Output channels in a task at least; the inputs are transformed anew for each such part.
const TASK_CHANNELS: usize = 160;

/// How many lines ahead the transforms ask for: 36 streams are more than the hardware follows by itself.
const AHEAD: usize = 4;

type Lanes = [f32; LANES];

/// Whether the algorithm is faster than the direct sum and its memory reasonable: large pictures, enough channels.
pub(super) fn pays(c_out: usize, c_in: usize, pixels: usize) -> bool {
    // Transforming costs as much per channel as some 32 channels' products.
    c_in.min(c_out) >= 32 && pixels >= 32 * 32
}

/// The convolution of a whole batch.
pub(super) fn run(layer: &Layer, weights: &WinogradWeights, batch: usize, (height, width): (usize, usize)) {
    let plan = Plan { layer, weights, height, width, across: width.div_ceil(OUT) };
    let tiles = plan.across * height.div_ceil(OUT);
    let (c_in, c_out) = (layer.w.c_in(), layer.w.c_out());
    // Few channels: two groups' values and sums fit into the second-level cache.
    let groups = if c_in + c_out <= 256 { TASK_GROUPS / 2 } else { TASK_GROUPS };
    let blocks = tiles.div_ceil(groups * LANES);
    let wanted = (3 * rayon::current_num_threads()).div_ceil(batch * blocks);
    let parts = wanted.min(c_out / TASK_CHANNELS).max(1);
    let part = c_out.div_ceil(parts).next_multiple_of(ROWS);
    (0..batch * blocks * parts).into_par_iter().with_max_len(1).for_each(|task| {
        let first = task / parts % blocks * groups * LANES;
        let channel = (task % parts * part).min(c_out);
        let channels = channel..(channel + part).min(c_out);
        plan.block(task / parts / blocks, first..(first + groups * LANES).min(tiles), channels);
    });
}

struct Plan<'a> {
    layer: &'a Layer<'a>,
    weights: &'a WinogradWeights,
    height: usize,
    width: usize,
    /// Tiles in a row.
    across: usize,
}

impl Plan<'_> {
    /// One task: some tiles of an image by some output channels.
    fn block(&self, image: usize, tiles: Range<usize>, channels: Range<usize>) {
        let (c_in, groups) = (self.layer.w.c_in(), tiles.len().div_ceil(LANES));
        let group =
            |group: usize| tiles.start + group * LANES..tiles.end.min(tiles.start + (group + 1) * LANES);
        // Inputs: [group][36][c_in][16 tiles]. Sums: [36][channel][group][16 tiles].
        scratch::with(groups * IN * IN * c_in * LANES, |inputs| {
            for (at, inputs) in inputs.chunks_exact_mut(IN * IN * c_in).enumerate() {
                self.transform_inputs(image, group(at), inputs);
            }
            scratch::with(IN * IN * channels.len() * groups * LANES, |sums| {
                let plane = channels.len() * groups;
                for (at, sums) in sums.chunks_exact_mut(plane).enumerate() {
                    self.multiply(at, &channels, groups, inputs, sums);
                }
                for (c, channel) in channels.clone().enumerate() {
                    for at in 0..groups {
                        let mut rows = [[0.0; OUT * LANES]; OUT];
                        outputs(self.layer.isa, &sums[c * groups + at..], plane, &mut rows);
                        self.store(image, channel, group(at), &mut rows);
                    }
                }
            });
        });
    }

    /// Transforms the inputs of a group of tiles, channel by channel.
    fn transform_inputs(&self, image: usize, tiles: Range<usize>, inputs: &mut [Line]) {
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
                self.layer.patches.stage(image, channel..channel + 1, &window, stage);
                self.layer.patches.prefetch(image, channel + 2, &window);
                inputs_of_channel(self.layer.isa, stage, &at, window.columns, &mut inputs[channel..], c_in);
            }
        });
    }

    /// The product over the channels for one of the 36 values.
    fn multiply(
        &self,
        at: usize,
        channels: &Range<usize>,
        groups: usize,
        inputs: &[Line],
        sums: &mut [Line],
    ) {
        let (c_out, c_in) = (self.layer.w.c_out(), self.layer.w.c_in());
        let mut panel = [0.0; ROWS * STEPS];
        assert!(inputs.len() >= ((groups - 1) * IN * IN + at + 1) * c_in, "transformed inputs");
        assert!(sums.len() >= channels.len() * groups, "sums");
        for step in (0..c_in.max(1)).step_by(STEPS) {
            for channel in channels.clone().step_by(ROWS) {
                let (rows, steps) = (ROWS.min(channels.end - channel), STEPS.min(c_in - step));
                let from = (at * c_out + channel) * c_in + step;
                let (a, a_stride) = self.weights.panel(self.layer.isa, from, c_in, rows, steps, &mut panel);
                let tile = Tile {
                    steps,
                    a,
                    a_stride,
                    b: inputs.as_ptr().wrapping_add(at * c_in + step),
                    b_stride: IN * IN * c_in,
                    c: sums[(channel - channels.start) * groups..].as_mut_ptr().cast(),
                    c_stride: groups * LANES,
                    add: step > 0,
                };
                // SAFETY: the operands hold these channels and groups by the assertions above.
                unsafe { self.layer.kernel.run(rows, groups * LANES, &tile) };
            }
        }
    }

    /// Writes a group's pixels, cropped to the picture, with bias and additions.
    fn store(&self, image: usize, channel: usize, tiles: Range<usize>, rows: &mut [[f32; OUT * LANES]; OUT]) {
        let mut tile = tiles.start;
        while tile < tiles.end {
            let (y, x) = (tile / self.across * OUT, tile % self.across * OUT);
            let run = (tiles.end - tile).min(self.across - tile % self.across);
            let width = (run * OUT).min(self.width - x);
            for (row, values) in rows.iter_mut().enumerate().take(self.height - y) {
                let from = (image * self.layer.w.c_out() + channel) * self.height * self.width
                    + (y + row) * self.width
                    + x;
                // SAFETY: this task alone writes these pixels of this channel.
                let out = unsafe { self.layer.out.slice(from, width) };
                let values = &mut values[(tile - tiles.start) * OUT..][..width];
                self.layer.finish(image, channel, from, values);
                out.copy_from_slice(values);
            }
            tile += run;
        }
    }
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

/// The 36 values of 16 tiles in one channel, written `stride` lines apart.
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

/// The pixels of 16 tiles in one channel, from 36 lines `stride` apart.
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
