//! Winograd's algorithm for 3×3 convolutions of stride 1: F(4×4, 3×3) in f32, a quarter of the multiplications, and
//! F(2×4, 3×3) in bf16, a third of them.
//!
//! Outputs are cut into tiles, 4 pixels wide and 4 or 2 high. Each sees 6×6 or 4×6 inputs, which become as many values; for
//! each of these a product over the channels follows, and the sums of a tile become its pixels. Lanes are tiles: 16 tiles
//! are a group, of one image or of several small ones, and a task takes some groups that lie below one another.
//!
//! A task works on [`PANEL_ROWS`] output channels at a time: it makes their weights' values for some input channels
//! (they are kept as nine taps), multiplies each value, goes on with the next input channels, and turns the sums
//! into pixels. Weights' values and sums stay in the second-level cache; the inputs' values pass through it once per
//! panel. Of few weights the values are made once, for all tasks.
//!
//! Errors, root mean square relative to the output's deviation at 640 channels: in f32 1.1e-6 (the direct sum has 2.9e-7); in
//! bf16 6.5e-3 (the direct sum has 2.4e-3; 4×4 tiles would have 1.1e-2, and make one UNet call worse than PyTorch's in bf16).
//! Source: Lavin and Gray 2016; the points are 0, ±0.65, ±1.5 and ∞, which round less than the usual 0, ±1, ±2 and ∞, and
//! along two pixels 0, ±1 and ∞.

mod transforms;

use std::ops::Range;

use rayon::prelude::*;

use super::Layer;
use super::patches::Window;
use super::winograd_weights::{PanelPart, PanelShape, WinogradWeights};
use crate::gemm::{GROUPS, ROWS, Tile};
use crate::pack::Precision;
use crate::scratch::{self, LANES, Line, floats_mut};
pub(super) use transforms::{A, B, FLAT, IN, SQUARE, values_in};
use transforms::{OUT, pixels_of, values_of};

/// The tiles and the precision of their values' products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Four by four pixels, in f32.
    Square,
    /// Two rows of four pixels, in f32: for pictures so small that square tiles would not fill the lanes.
    Flat,
    /// Two rows of four pixels, in bf16: the values of two neighbouring input channels lie in one word.
    FlatPairs,
}

impl Form {
    /// The form for products in one of [`Precision::FLOATS`]; in f32 tiles are square where there are at least 16 of them.
    ///
    /// # Panics
    /// If the products are not in floats.
    pub(super) fn of(products: Precision, pixels: usize) -> Form {
        match products {
            Precision::F32 if pixels >= SQUARE * OUT * LANES => Form::Square,
            Precision::F32 => Form::Flat,
            Precision::Bf16 => Form::FlatPairs,
            Precision::Int8 => panic!("values are multiplied in floats, not in bytes"),
        }
    }

    /// Rows of a tile's pixels.
    fn rows(self) -> usize {
        match self {
            Form::Square => SQUARE,
            Form::Flat | Form::FlatPairs => FLAT,
        }
    }

    /// Values of a tile's transform.
    pub(super) fn values(self) -> usize {
        values_in(self.rows())
    }

    /// How values are multiplied.
    pub(super) fn precision(self) -> Precision {
        match self {
            Form::Square | Form::Flat => Precision::F32,
            Form::FlatPairs => Precision::Bf16,
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
            Form::Flat => 160,
            Form::FlatPairs => 224,
        }
    }

    /// Groups of 16 tiles in a task at most.
    fn task_groups(self) -> usize {
        match self {
            Form::Square | Form::Flat => GROUPS,
            Form::FlatPairs => MOST_GROUPS,
        }
    }
}

/// How many channels before its turn a window is asked for.
const STAGED_AHEAD: usize = 2;

/// Groups of 16 tiles in a task at most, in either form.
const MOST_GROUPS: usize = 2 * GROUPS;

/// Output channels whose weights are made and used at once.
const PANEL_ROWS: usize = 6 * ROWS;

/// Output channels in a task at least: with fewer the inputs would pass through the cache for too little work.
const TASK_CHANNELS: usize = 4 * PANEL_ROWS;

/// Lines that the values of all weights may take to be made once for all tasks: 10 MiB, which the third-level cache holds.
const SHARED_LINES: usize = (10 << 20) / size_of::<Line>();

/// Whether the algorithm is faster than the direct sum and its memory reasonable: pictures not too small, enough channels.
pub(super) fn pays(c_out: usize, c_in: usize, pixels: usize) -> bool {
    // Transforming costs as much per channel as some 32 channels' products; two pictures of 8 by 8 fill a group of flat tiles.
    c_in.min(c_out) >= 32 && pixels >= 8 * 8
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
    let plan = Plan { layer, weights, form, batch, height, width, across, down, stride, part, panel };
    // Few channels: half as many groups' values and sums fit into the second-level cache.
    let most = if c_in + c_out <= 256 { form.task_groups() / 2 } else { form.task_groups() };
    let groups = plan.groups();
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
    batch: usize,
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

/// Where a tile lies: its image, and its row and column in that.
struct Place {
    image: usize,
    row: usize,
    column: usize,
    /// The column where its strip ends.
    end: usize,
}

/// Tiles that lie side by side.
#[derive(Clone, Copy, Default)]
struct Run {
    /// Number of the first one among those that were asked for.
    first: usize,
    tiles: usize,
    image: usize,
    row: usize,
    /// Of the first one.
    column: usize,
}

impl Plan<'_> {
    /// Tiles of an image.
    fn tiles_in_image(&self) -> usize {
        self.across * self.down
    }

    /// Whether a group may have tiles of several images: where images are so small that many lanes would else do nothing.
    fn spans_images(&self) -> bool {
        self.across <= LANES
    }

    /// Tiles that are cut into groups one behind the other: all, or an image's where groups do not span images.
    fn sequence(&self) -> usize {
        self.tiles_in_image() * if self.spans_images() { self.batch } else { 1 }
    }

    /// Groups in the batch.
    fn groups(&self) -> usize {
        self.sequence().div_ceil(LANES) * if self.spans_images() { 1 } else { self.batch }
    }

    /// The tiles of a group, counted through the whole batch.
    fn group(&self, group: usize) -> Range<usize> {
        let groups = self.sequence().div_ceil(LANES);
        let first = group / groups * self.sequence();
        let start = first + group % groups * LANES;
        start..(first + self.sequence()).min(start + LANES)
    }

    /// Where a tile lies. Tiles follow each other image by image, in each in strips of 16 (the last may be narrower), strip by
    /// strip from left to right and in each in reading order: so groups that follow each other share inputs.
    fn place(&self, tile: usize) -> Place {
        let (image, tile) = (tile / self.tiles_in_image(), tile % self.tiles_in_image());
        let strip = tile / (LANES * self.down);
        let (left, within) = (strip * LANES, tile % (LANES * self.down));
        let end = self.across.min(left + LANES);
        Place { image, row: within / (end - left), column: left + within % (end - left), end }
    }

    /// Some tiles, as runs of such that lie side by side.
    fn runs(&self, tiles: Range<usize>) -> impl Iterator<Item = Run> {
        let mut tile = tiles.start;
        std::iter::from_fn(move || {
            let left = tiles.end.checked_sub(tile).filter(|left| *left > 0)?;
            let Place { image, row, column, end } = self.place(tile);
            let run = Run { first: tile - tiles.start, tiles: left.min(end - column), image, row, column };
            tile += run.tiles;
            Some(run)
        })
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
                self.expand(channels, self.steps(at % parts), panel);
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

    fn expand(&self, channels: Range<usize>, steps: Range<usize>, panel: &mut [Line]) {
        let part = PanelPart { c_in: self.layer.w.c_in(), channels, steps, shape: self.panel };
        self.weights.expand(self.layer.isa, &part, panel);
    }

    /// One task: some groups by some output channels. Inputs: `[group][value][stride, of which c_in][16 tiles]`. Shared are the
    /// values of all weights, where they are made; the channels are then all of them.
    fn block(&self, groups: Range<usize>, channels: Range<usize>, inputs: &[Line], shared: Option<&[Line]>) {
        // Sums: [value][plane, of which channel and group][16 tiles].
        let plane = apart(PANEL_ROWS * groups.len());
        let mut pixels = [[0.0; OUT * LANES]; SQUARE];
        let pixels = &mut pixels[..self.form.rows()];
        // Each group's runs: the same for all channels.
        let mut runs = [([Run::default(); LANES], 0); MOST_GROUPS];
        for (group, (runs, count)) in groups.clone().zip(&mut runs) {
            for (run, slot) in self.runs(self.group(group)).zip(runs) {
                (*slot, *count) = (run, *count + 1);
            }
        }
        scratch::with(self.form.values() * plane * LANES, |sums| {
            for first in channels.clone().step_by(PANEL_ROWS) {
                let rows = first..channels.end.min(first + PANEL_ROWS);
                self.multiply(&rows, groups.len(), inputs, sums, plane, shared);
                for (row, channel) in rows.enumerate() {
                    for (at, (runs, count)) in runs[..groups.len()].iter().enumerate() {
                        let sums = &sums[row * groups.len() + at..];
                        pixels_of(self.layer.isa, sums, plane, pixels);
                        self.store(&runs[..*count], channel, pixels);
                    }
                }
            }
        });
    }

    /// Transforms the inputs of some groups: `[group][value][stride, of which c_in][16 tiles]`.
    fn transform_inputs(&self, groups: Range<usize>, inputs: &mut [Line]) {
        let (mut from, group_lines) = (groups.start, self.form.values() * self.stride);
        while from < groups.end {
            // Groups of one strip, or of images of one strip: all rows that they see are staged at once.
            let first = self.place(self.group(from).start);
            let in_strip = |group: &usize| {
                let place = self.place(self.group(*group).start);
                self.spans_images() || (place.image, place.end) == (first.image, first.end)
            };
            let run = from..(from..groups.end).find(|group| !in_strip(group)).unwrap_or(groups.end);
            let at = (from - groups.start) * group_lines;
            self.transform_strip(run.clone(), &mut inputs[at..at + run.len() * group_lines]);
            from = run.end;
        }
    }

    /// The windows that the tiles from one to another see, image by image; all lie in one strip, or in images of one strip.
    fn windows(&self, tiles: Range<usize>) -> impl Iterator<Item = (usize, Window)> {
        let rows = self.form.rows();
        let (first, last) = (self.place(tiles.start), self.place(tiles.end - 1));
        let left = first.column - first.column % LANES;
        (first.image..last.image + 1).map(move |image| {
            let top = if image == first.image { first.row } else { 0 };
            let bottom = if image == last.image { last.row } else { self.down - 1 };
            let window = Window {
                row: top * rows,
                column: left * OUT,
                rows: (bottom - top + 1) * rows + 2,
                columns: (first.end - left) * OUT + 2,
            };
            (image, window)
        })
    }

    /// The same for groups of one strip, or of images of one strip, at most [`MOST_GROUPS`].
    fn transform_strip(&self, groups: Range<usize>, inputs: &mut [Line]) {
        let tiles = self.group(groups.start).start..self.group(groups.end - 1).end;
        let columns = self.windows(tiles.clone()).next().map_or(0, |(_, window)| window.columns);
        // Where each group's tiles lie in the windows. A tile that is not there is taken for the first of its group.
        let mut offsets = [[0_u32; LANES]; MOST_GROUPS];
        let (mut plane, mut runs) = (0, self.runs(tiles.clone()).peekable());
        for (image, window) in self.windows(tiles.clone()) {
            while let Some(run) = runs.next_if(|run| run.image == image) {
                let y = run.row * self.form.rows() - window.row;
                for tile in 0..run.tiles {
                    let x = (run.column + tile) * OUT - window.column;
                    let at = run.first + tile;
                    offsets[at / LANES][at % LANES] = (plane + y * columns + x) as u32;
                }
            }
            plane += window.rows * window.columns;
        }
        if !tiles.len().is_multiple_of(LANES) {
            let last = &mut offsets[tiles.len() / LANES];
            let first = last[0];
            last[tiles.len() % LANES..].fill(first);
        }
        let c_in = self.layer.w.c_in();
        let per_word = self.form.per_word();
        scratch::with(per_word * plane, |stage| {
            let stage = &mut floats_mut(stage)[..per_word * plane];
            for channel in (0..c_in).step_by(per_word) {
                let channels = channel..c_in.min(channel + per_word);
                if channels.len() < per_word {
                    stage[plane..].fill(0.0);
                }
                let mut from = 0;
                for channel in channels {
                    for (image, window) in self.windows(tiles.clone()) {
                        let stage = &mut stage[from..];
                        self.layer.patches.stage(image, channel..channel + 1, &window, STAGED_AHEAD, stage);
                        from += window.rows * window.columns;
                    }
                }
                let of_groups = inputs.chunks_exact_mut(self.form.values() * self.stride);
                for (at, inputs) in offsets.iter().zip(of_groups) {
                    let inputs = &mut inputs[channel / per_word..];
                    values_of(self.layer.isa, self.form, stage, at, columns, inputs, self.stride);
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
                        self.expand(channels.clone(), steps.clone(), own);
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
        // Where the part behind this one begins: after the last one the next panel's first.
        let following = if steps.end < self.layer.w.c_in() { first + words } else { 0 };
        for at in 0..values {
            // A register tile's inputs stay in the first-level cache for all of the panel's channels.
            for group in (0..groups).step_by(GROUPS) {
                let width = GROUPS.min(groups - group);
                // What is multiplied after them: further groups in this value, then the first ones in the next.
                let (next_group, next_value, next_first) = match (group + width < groups, at + 1 < values) {
                    (true, _) => (group + width, at, first),
                    (false, true) => (0, at + 1, first),
                    (false, false) => (0, 0, following),
                };
                for (tile, rows) in self.register_tiles(channels, width, words).enumerate() {
                    let b = inputs.as_ptr().wrapping_add((group * values + at) * self.stride + first);
                    // Each of the first tiles asks for a group of these.
                    let next = (next_group + tile) * values + next_value;
                    let next = match tile < GROUPS.min(groups - next_group) {
                        true => inputs.as_ptr().wrapping_add(next * self.stride + next_first),
                        false => b,
                    };
                    let a = &panel[at * self.panel.value_stride + rows.start * self.panel.row_lines..];
                    let tile = Tile {
                        steps: words,
                        a: a.as_ptr().cast(),
                        a_stride: self.panel.row_lines * LANES,
                        a_step: 1,
                        b,
                        b_stride: values * self.stride,
                        c: sums[at * plane + rows.start * groups + group..].as_mut_ptr().cast(),
                        c_stride: groups * LANES,
                        add: steps.start > 0,
                        next,
                    };
                    // SAFETY: the operands hold these channels and groups by the assertions above.
                    unsafe { self.layer.kernel.run(rows.len(), width * LANES, &tile) };
                }
            }
        }
    }

    /// A panel's channels by register tiles, each of so many groups and steps.
    fn register_tiles(
        &self,
        channels: usize,
        groups: usize,
        steps: usize,
    ) -> impl Iterator<Item = Range<usize>> {
        let mut row = 0;
        std::iter::from_fn(move || {
            let left = channels.checked_sub(row).filter(|left| *left > 0)?;
            let rows = row..row + self.layer.kernel.rows_in_tile(left, groups, steps);
            row = rows.end;
            Some(rows)
        })
    }

    /// Writes a group's pixels in a channel, cropped to the picture, with bias and additions.
    fn store(&self, runs: &[Run], channel: usize, rows: &[[f32; OUT * LANES]]) {
        for run in runs {
            let (y, x) = (run.row * rows.len(), run.column * OUT);
            let width = (run.tiles * OUT).min(self.width - x);
            let plane = (run.image * self.layer.w.c_out() + channel) * self.height * self.width;
            for (row, values) in rows.iter().enumerate().take(self.height - y) {
                let from = plane + (y + row) * self.width + x;
                // SAFETY: this task alone writes these pixels of this channel.
                let out = unsafe { self.layer.out.slice(from, width) };
                let values = &values[run.first * OUT..][..width];
                self.layer.finish_from(run.image, channel, from, values, out);
            }
        }
    }
}
