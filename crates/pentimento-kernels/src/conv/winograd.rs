//! Winograd's algorithm for 3×3 convolutions of stride 1: F(4×4, 3×3) in f32, a quarter of the multiplications, and
//! F(2×4, 3×3) in bf16, a third of them.
//!
//! Outputs are cut into tiles, 4 pixels wide and 4 or 2 high. Each sees 6×6 or 4×6 inputs, which become as many values; for
//! each of these a product over the channels follows, and the sums of a tile become its pixels. Lanes are tiles: 16 tiles
//! of one image are a group, and a task takes some groups that lie below one another.
//!
//! A task works on [`PANEL_ROWS`] output channels at a time: it makes their weights' values for some input channels
//! (they are kept as nine taps), multiplies each value, goes on with the next input channels, and turns the sums
//! into pixels. Weights' values and sums stay in the second-level cache; the inputs' values pass through it once per
//! panel. Of few weights the values are made once, for all tasks.
//!
//! Errors, root mean square relative to the output's deviation at 640 channels: in f32 1.1e-6 (the direct sum has 2.9e-7); in
//! bf16 6.5e-3 (the direct sum has 2.4e-3; 4×4 tiles would have 1.1e-2, and make one UNet call worse than PyTorch's in bf16).
//! Source: Lavin and Gray 2016; the points are 0, ±1/√2, ±√2 and ∞, which round less than the usual 0, ±1, ±2 and ∞, and
//! along two pixels 0, ±1 and ∞.

#[cfg(target_arch = "x86_64")]
mod avx512;

use std::ops::Range;

use rayon::prelude::*;

use super::Layer;
use super::patches::Window;
use super::winograd_weights::{PanelShape, WinogradWeights};
use crate::gemm::{GROUPS, ROWS, Tile};
use crate::isa::{Arith, Isa, per_isa};
use crate::lanes::pair;
use crate::pack::Precision;
use crate::scratch::{self, LANES, Line, floats_mut, prefetch, prefetch_far};

/// The two pairs of points; everything below follows from them.
pub(super) const A: f64 = std::f64::consts::FRAC_1_SQRT_2;
pub(super) const B: f64 = std::f64::consts::SQRT_2;

/// Pixels across a tile, and values across its transform.
const OUT: usize = 4;
pub(super) const IN: usize = 6;

/// The tiles and the precision of their values' products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Four by four pixels, in f32.
    Square,
    /// Two rows of four pixels, in bf16: the values of two neighbouring input channels lie in one word.
    Flat,
}

impl Form {
    /// Rows of a tile's pixels.
    fn rows(self) -> usize {
        match self {
            Form::Square => SQUARE,
            Form::Flat => FLAT,
        }
    }

    /// Values of a tile's transform.
    pub(super) fn values(self) -> usize {
        values_in(self.rows())
    }

    /// How values are multiplied.
    pub(super) fn precision(self) -> Precision {
        match self {
            Form::Square => Precision::F32,
            Form::Flat => Precision::Bf16,
        }
    }

    /// Input channels in a word.
    pub(super) fn per_word(self) -> usize {
        self.precision().per_word()
    }

    /// Input channels whose weights' values are made at once at most: some 570 KiB for a panel.
    pub(super) fn panel_steps(self) -> usize {
        match self {
            Form::Square => 112,
            Form::Flat => 224,
        }
    }

    /// Groups of 16 tiles in a task at most.
    fn task_groups(self) -> usize {
        match self {
            Form::Square => GROUPS,
            Form::Flat => MOST_GROUPS,
        }
    }
}

/// Rows of pixels in a tile of each form: what the transforms are compiled for.
pub(super) const SQUARE: usize = 4;
pub(super) const FLAT: usize = 2;

/// Values of the transform of a tile with so many rows of pixels.
pub(super) const fn values_in(rows: usize) -> usize {
    (rows + 2) * IN
}

/// Values of any tile's transform at most.
pub(super) const MOST_VALUES: usize = values_in(SQUARE);

/// Groups of 16 tiles in a task at most, in either form.
const MOST_GROUPS: usize = 2 * GROUPS;

/// Output channels whose weights are made and used at once.
const PANEL_ROWS: usize = 6 * ROWS;

/// Output channels in a task at least: with fewer the inputs would pass through the cache for too little work.
const TASK_CHANNELS: usize = 4 * PANEL_ROWS;

/// Lines that the values of all weights may take to be made once for all tasks: 10 MiB, which the third-level cache holds.
const SHARED_LINES: usize = (10 << 20) / size_of::<Line>();

/// How many lines ahead the transforms ask for: so many streams are more than the hardware follows by itself.
const AHEAD: usize = 4;

type Lanes = [f32; LANES];

/// Whether the algorithm is faster than the direct sum and its memory reasonable: large pictures, enough channels.
pub(super) fn pays(c_out: usize, c_in: usize, pixels: usize) -> bool {
    // Transforming costs as much per channel as some 32 channels' products; a group has 16 tiles of 16 pixels.
    c_in.min(c_out) >= 32 && pixels >= 16 * 16
}

/// The convolution of a whole batch.
pub(super) fn run(layer: &Layer, weights: &WinogradWeights, batch: usize, (height, width): (usize, usize)) {
    let (c_in, c_out, form) = (layer.w.c_in(), layer.w.c_out(), weights.form());
    let (across, down) = (width.div_ceil(OUT), height.div_ceil(form.rows()));
    // Parts of the sum of the same size, as far as whole lines allow; without inputs one part of none, whose sums are zero.
    let in_line = LANES * form.per_word();
    let parts = c_in.div_ceil(form.panel_steps()).max(1);
    let part = c_in.div_ceil(parts).next_multiple_of(in_line).max(in_line);
    let row_lines = part / in_line;
    let panel = PanelShape { row_lines, value_stride: apart(PANEL_ROWS * row_lines) };
    let stride = apart(c_in.div_ceil(form.per_word()));
    let plan = Plan { layer, weights, form, height, width, across, down, stride, part, panel };
    // Few channels: half as many groups' values and sums fit into the second-level cache.
    let most = if c_in + c_out <= 256 { form.task_groups() / 2 } else { form.task_groups() };
    let in_image = (across * down).div_ceil(LANES);
    let groups = batch * in_image;
    let blocks = groups.div_ceil(most);
    let block = |at: usize| at * most..groups.min((at + 1) * most);
    let wanted = (3 * rayon::current_num_threads()).div_ceil(blocks);
    let parts = wanted.min(c_out / TASK_CHANNELS).max(1);
    let part = c_out.div_ceil(parts).next_multiple_of(ROWS);
    let channels = |task: usize| (task * part).min(c_out)..((task + 1) * part).min(c_out);
    let group_lines = form.values() * plan.stride;
    if parts == 1 {
        plan.with_shared_panels(|shared| {
            (0..blocks).into_par_iter().with_max_len(1).for_each(|at| {
                let groups = block(at);
                scratch::with(groups.len() * group_lines * LANES, |inputs| {
                    plan.transform_inputs(groups.clone(), inputs);
                    plan.block(groups, channels(0), inputs, shared);
                });
            });
        });
        return;
    }
    // Several tasks read the same inputs: those are transformed before.
    scratch::with(groups * group_lines * LANES, |inputs| {
        let pairs = inputs.par_chunks_mut(2 * group_lines).with_max_len(1).enumerate();
        pairs.for_each(|(at, inputs)| plan.transform_inputs(2 * at..groups.min(2 * at + 2), inputs));
        (0..blocks * parts).into_par_iter().with_max_len(1).for_each(|task| {
            let groups = block(task / parts);
            let inputs = &inputs[groups.start * group_lines..groups.end * group_lines];
            plan.block(groups, channels(task % parts), inputs, None);
        });
    });
}

/// Lines from one of a tile's values to the next: an odd number, so that they do not all fall into one set of the cache.
fn apart(lines: usize) -> usize {
    lines | 1
}

struct Plan<'a> {
    layer: &'a Layer<'a>,
    weights: &'a WinogradWeights,
    form: Form,
    height: usize,
    width: usize,
    /// Tiles in a row of an image.
    across: usize,
    /// Tiles in a column.
    down: usize,
    /// Lines from one of a group's values to the next, each for all input channels.
    stride: usize,
    /// Input channels whose weights' values are made at once.
    part: usize,
    /// Where these lie.
    panel: PanelShape,
}

impl Plan<'_> {
    /// Groups in an image.
    fn groups(&self) -> usize {
        (self.across * self.down).div_ceil(LANES)
    }

    /// The image and the tiles of a group.
    fn group(&self, group: usize) -> (usize, Range<usize>) {
        let first = group % self.groups() * LANES;
        (group / self.groups(), first..(self.across * self.down).min(first + LANES))
    }

    /// Row and column of a tile, and the column where its strip ends. Tiles follow each other in strips of 16 (the last may be
    /// narrower), strip by strip from left to right and in each in reading order: so groups that follow each other share inputs.
    fn place(&self, tile: usize) -> (usize, usize, usize) {
        let strip = tile / (LANES * self.down);
        let (left, within) = (strip * LANES, tile % (LANES * self.down));
        let end = self.across.min(left + LANES);
        (within / (end - left), left + within % (end - left), end)
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
        self.form.values() * self.panel.value_stride
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

    /// One task: some groups by some output channels. Inputs: `[group][value][stride, of which c_in][16 tiles]`. Shared are the
    /// values of all weights, where they are made; the channels are then all of them.
    fn block(&self, groups: Range<usize>, channels: Range<usize>, inputs: &[Line], shared: Option<&[Line]>) {
        // Sums: [value][plane, of which channel and group][16 tiles].
        let plane = apart(PANEL_ROWS * groups.len());
        let mut pixels = [[0.0; OUT * LANES]; SQUARE];
        let pixels = &mut pixels[..self.form.rows()];
        scratch::with(self.form.values() * plane * LANES, |sums| {
            for first in channels.clone().step_by(PANEL_ROWS) {
                let rows = first..channels.end.min(first + PANEL_ROWS);
                self.multiply(&rows, groups.len(), inputs, sums, plane, shared);
                for (row, channel) in rows.enumerate() {
                    for (at, group) in groups.clone().enumerate() {
                        let sums = &sums[row * groups.len() + at..];
                        pixels_of(self.layer.isa, sums, plane, pixels);
                        self.store(group, channel, pixels);
                    }
                }
            }
        });
    }

    /// Transforms the inputs of some groups: `[group][value][stride, of which c_in][16 tiles]`.
    fn transform_inputs(&self, groups: Range<usize>, inputs: &mut [Line]) {
        let (mut from, group_lines) = (groups.start, self.form.values() * self.stride);
        while from < groups.end {
            // Groups of one strip: all its rows that they see are staged at once.
            let (image, tiles) = self.group(from);
            let (_, _, strip) = self.place(tiles.start);
            let in_strip = |group: &usize| {
                let (same, tiles) = self.group(*group);
                same == image && self.place(tiles.start).2 == strip
            };
            let run = from..(from..groups.end).find(|group| !in_strip(group)).unwrap_or(groups.end);
            let at = (from - groups.start) * group_lines;
            self.transform_strip(run.clone(), &mut inputs[at..at + run.len() * group_lines]);
            from = run.end;
        }
    }

    /// The same for groups of one image and one strip, at most [`MOST_GROUPS`].
    fn transform_strip(&self, groups: Range<usize>, inputs: &mut [Line]) {
        let (image, tiles) = self.group(groups.start);
        let (top, left, right) = self.place(tiles.start);
        let (bottom, ..) = self.place(self.group(groups.end - 1).1.end - 1);
        let (left, rows) = (left - left % LANES, self.form.rows());
        let window = Window {
            row: top * rows,
            column: left * OUT,
            rows: (bottom - top + 1) * rows + 2,
            columns: (right - left) * OUT + 2,
        };
        let plane = window.rows * window.columns;
        let c_in = self.layer.w.c_in();
        let per_word = self.form.per_word();
        // Where each group's tiles lie in the window. A tile that is not there is taken for the first of its group.
        let mut offsets = [[0_u32; LANES]; MOST_GROUPS];
        for (group, at) in groups.clone().zip(&mut offsets) {
            let tiles = self.group(group).1;
            for (lane, at) in at.iter_mut().enumerate() {
                let (y, x, _) = self.place(tiles.start + if lane < tiles.len() { lane } else { 0 });
                *at = ((y - top) * rows * window.columns + (x - left) * OUT) as u32;
            }
        }
        scratch::with(per_word * plane, |stage| {
            let stage = &mut floats_mut(stage)[..per_word * plane];
            for channel in (0..c_in).step_by(per_word) {
                let channels = channel..c_in.min(channel + per_word);
                if channels.len() < per_word {
                    stage[plane..].fill(0.0);
                }
                self.layer.patches.stage(image, channels, &window, 2, stage);
                let of_groups = inputs.chunks_exact_mut(self.form.values() * self.stride);
                for (at, inputs) in offsets.iter().zip(of_groups) {
                    let inputs = &mut inputs[channel / per_word..];
                    values_of(self.layer.isa, self.form, stage, at, window.columns, inputs, self.stride);
                }
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
        let (values, per_word) = (self.form.values(), self.form.per_word());
        assert!(inputs.len() >= groups * values * self.stride, "transformed inputs");
        assert!(sums.len() >= values * plane && plane >= channels * groups, "sums");
        assert!(panel.len() >= self.panel_lines() && channels <= PANEL_ROWS, "weights' values");
        let (first, words) = (steps.start / per_word, steps.len().div_ceil(per_word));
        for at in 0..values {
            for row in (0..channels).step_by(ROWS) {
                let a = panel[at * self.panel.value_stride + row * self.panel.row_lines..].as_ptr();
                let rows = ROWS.min(channels - row);
                let next = inputs.as_ptr().wrapping_add((at + 1) * self.stride + first);
                for group in 0..groups {
                    for line in (row / ROWS..words).step_by(PANEL_ROWS / ROWS) {
                        prefetch_far(next.wrapping_add(group * values * self.stride + line).cast());
                    }
                }
                for group in (0..groups).step_by(GROUPS) {
                    let tile = Tile {
                        steps: words,
                        a: a.cast(),
                        a_stride: self.panel.row_lines * LANES,
                        b: inputs.as_ptr().wrapping_add((group * values + at) * self.stride + first),
                        b_stride: values * self.stride,
                        c: sums[at * plane + row * groups + group..].as_mut_ptr().cast(),
                        c_stride: groups * LANES,
                        add: steps.start > 0,
                    };
                    // SAFETY: the operands hold these channels and groups by the assertions above.
                    unsafe { self.layer.kernel.run(rows, GROUPS.min(groups - group) * LANES, &tile) };
                }
            }
        }
    }

    /// Writes a group's pixels, cropped to the picture, with bias and additions.
    fn store(&self, group: usize, channel: usize, rows: &[[f32; OUT * LANES]]) {
        let (image, tiles) = self.group(group);
        let mut tile = tiles.start;
        while tile < tiles.end {
            let (y, x, end) = self.place(tile);
            let run = (tiles.end - tile).min(end - x);
            let (y, x) = (y * rows.len(), x * OUT);
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

/// The values of 16 tiles in the channels of a word, written `stride` lines apart. The stage holds those channels' planes.
fn values_of(
    isa: Isa,
    form: Form,
    stage: &[f32],
    at: &[u32; LANES],
    columns: usize,
    inputs: &mut [Line],
    stride: usize,
) {
    match form {
        Form::Square => {
            #[cfg(target_arch = "x86_64")]
            if isa >= Isa::Avx512 && avx512::fits(at) {
                // SAFETY: the level was checked when it became current.
                return unsafe { avx512::inputs_of_channel(stage, at, columns, inputs, stride) };
            }
            inputs_of_channel::<SQUARE>(isa, stage, at, columns, inputs, stride);
        }
        Form::Flat => {
            let (low, high) = stage.split_at(stage.len() / 2);
            #[cfg(target_arch = "x86_64")]
            if isa == Isa::Avx512Bf16 && avx512::fits(at) {
                // SAFETY: the level was checked when it became current.
                return unsafe { avx512::inputs_of_pair([low, high], at, columns, inputs, stride) };
            }
            let mut of_each = [[Line::ZERO; values_in(FLAT)]; 2];
            for (stage, lines) in [low, high].into_iter().zip(&mut of_each) {
                inputs_of_channel::<FLAT>(isa, stage, at, columns, lines, 1);
            }
            pairs(isa, &of_each, inputs, stride);
        }
    }
}

/// The pixels of 16 tiles in one channel, from lines `stride` apart.
fn pixels_of(isa: Isa, sums: &[Line], stride: usize, rows: &mut [[f32; OUT * LANES]]) {
    if let Some(rows) = rows.as_mut_array::<SQUARE>() {
        #[cfg(target_arch = "x86_64")]
        if isa >= Isa::Avx512 {
            // SAFETY: the level was checked when it became current.
            return unsafe { avx512::outputs(sums, stride, rows) };
        }
        outputs(isa, sums, stride, rows);
    } else if let Some(rows) = rows.as_mut_array::<FLAT>() {
        #[cfg(target_arch = "x86_64")]
        if isa >= Isa::Avx512 {
            // SAFETY: as above.
            return unsafe { avx512::outputs(sums, stride, rows) };
        }
        outputs(isa, sums, stride, rows);
    }
}

per_isa!(
    fn inputs_of_channel<const H: usize>(
        stage: &[f32],
        at: &[u32; LANES],
        columns: usize,
        inputs: &mut [Line],
        stride: usize,
    ) = inputs_of_channel_body
);
per_isa!(fn pairs(of_each: &[[Line; values_in(FLAT)]; 2], inputs: &mut [Line], stride: usize) = pairs_body);
per_isa!(
    fn outputs<const H: usize>(sums: &[Line], stride: usize, rows: &mut [[f32; OUT * LANES]; H]) = outputs_body
);

/// Values of two channels, in pairs of bf16.
#[inline(always)]
fn pairs_body<R: Arith>(of_each: &[[Line; values_in(FLAT)]; 2], inputs: &mut [Line], stride: usize) {
    for value in 0..values_in(FLAT) {
        let (low, high) = (&of_each[0][value].0, &of_each[1][value].0);
        let line = &mut inputs[value * stride].0;
        for lane in 0..LANES {
            line[lane] = pair(f32::from_bits(low[lane]), f32::from_bits(high[lane]));
        }
    }
}

#[inline(always)]
fn inputs_of_channel_body<R: Arith, const H: usize>(
    stage: &[f32],
    at: &[u32; LANES],
    columns: usize,
    inputs: &mut [Line],
    stride: usize,
) {
    // Of a tile with H rows of pixels the first H + 2 rows and values of columns are used.
    let mut rows = [[[0.0; LANES]; IN]; IN];
    let in_a_row = at[LANES - 1] == at[0] + (OUT * (LANES - 1)) as u32;
    for (y, row) in rows.iter_mut().enumerate().take(H + 2) {
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
        for y in 0..H + 2 {
            column[y] = rows[y][x];
        }
        let column = if H == FLAT { transform_input_down(&column) } else { transform_input::<R>(&column) };
        for y in 0..H + 2 {
            prefetch(inputs.as_ptr().wrapping_add((y * IN + x) * stride + AHEAD).cast());
            let line = &mut inputs[(y * IN + x) * stride].0;
            for lane in 0..LANES {
                line[lane] = column[y][lane].to_bits();
            }
        }
    }
}

#[inline(always)]
fn outputs_body<R: Arith, const H: usize>(sums: &[Line], stride: usize, rows: &mut [[f32; OUT * LANES]; H]) {
    let mut half = [[[0.0; LANES]; IN]; H];
    for x in 0..IN {
        let mut column = [[0.0; LANES]; IN];
        for y in 0..H + 2 {
            prefetch(sums.as_ptr().wrapping_add((y * IN + x) * stride + AHEAD).cast());
            let line = &sums[(y * IN + x) * stride].0;
            for lane in 0..LANES {
                column[y][lane] = f32::from_bits(line[lane]);
            }
        }
        let column = if H == FLAT { transform_output_down(&column) } else { transform_output::<R>(&column) };
        for y in 0..H {
            half[y][x] = column[y];
        }
    }
    for y in 0..H {
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

/// The same for the points 0, ±1 and ∞ alone: a column of a flat tile. The last two stay zero.
#[inline(always)]
fn transform_input_down(d: &[Lanes; IN]) -> [Lanes; IN] {
    let mut out = [[0.0; LANES]; IN];
    for l in 0..LANES {
        out[0][l] = d[0][l] - d[2][l];
        out[1][l] = d[1][l] + d[2][l];
        out[2][l] = d[2][l] - d[1][l];
        out[3][l] = d[1][l] - d[3][l];
    }
    out
}

/// The sums of a flat tile's column as its two pixels.
#[inline(always)]
fn transform_output_down(m: &[Lanes; IN]) -> [Lanes; OUT] {
    let mut out = [[0.0; LANES]; OUT];
    for l in 0..LANES {
        out[0][l] = (m[0][l] + m[1][l]) + m[2][l];
        out[1][l] = (m[1][l] - m[2][l]) - m[3][l];
    }
    out
}
