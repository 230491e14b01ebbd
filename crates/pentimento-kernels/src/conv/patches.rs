//! Gathers the patches under output pixels into the right factor of a product: `[group][step][16 pixels]`.
//!
//! The inner index `k` is `(channel, kernel row, kernel column)`, as the weights' layout has it; in int8, where four channels
//! share a word, `(four channels, kernel row, kernel column, channel)`. For a block of steps
//! the part of each channel that the pixels can see is staged first: a small plane with its padding and enlargement
//! written out. From there each step of a group of pixels is a copy at an offset, without any edge.

use std::ops::Range;

use rayon::prelude::*;

use super::{ConvOptions, Upsample};
#[cfg(target_arch = "x86_64")]
use crate::bf16::pair_vectors;
use crate::bf16::round_slice;
use crate::gemm::STEPS;
use crate::int8::{Extent, QUAD, Quantiser, extent, quantise_planes};
use crate::isa::{Arith, Isa, per_isa};
use crate::lanes::pair;
use crate::norm::ChannelNorm;
use crate::pack::Precision;
use crate::scratch::{self, LANES, Line, floats_mut, halves_mut, prefetch, words_mut};

/// The pixels of one register tile: `width` pixels of an image from `pixel` on, in reading order.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spot {
    pub(super) image: usize,
    pub(super) pixel: usize,
    pub(super) width: usize,
}

/// How many channels before its turn a window is asked for that is staged with many others.
const AHEAD: usize = 4;

/// The same in steps, for pixels that are read as they lie.
const PIXELS_AHEAD: usize = 2;

/// Channels whose values at a pixel lie in one word.
pub(super) fn channels_in_word(precision: Precision) -> usize {
    match precision {
        Precision::F32 | Precision::Bf16 => 1,
        Precision::Int8 => QUAD,
    }
}

/// The input of a convolution and how it is walked.
pub(super) struct Patches<'a> {
    isa: Isa,
    x: &'a [f32],
    norm: Option<&'a ChannelNorm>,
    /// `[batch, channels, height, width]` as stored, or one row of all pixels for a kernel of a single pixel.
    shape: [usize; 4],
    kernel: (usize, usize),
    stride: usize,
    top: usize,
    left: usize,
    /// Enlargement of the stored picture.
    factor: usize,
    out_width: usize,
    /// Whether an output sees one pixel as it is stored, and the shape is that of one row.
    is_pointwise: bool,
}

/// The window of the padded, enlarged input under a spot.
pub(super) struct Window {
    /// First row and column in the padded picture: `row - top` is the enlarged picture's row.
    pub(super) row: usize,
    pub(super) column: usize,
    pub(super) rows: usize,
    pub(super) columns: usize,
}

/// Where a group of 16 pixels lies in a staged plane.
struct Group {
    /// Offset of each pixel's first tap.
    at: [u32; LANES],
    /// Pixels that follow each other: 16, 8 (in each half) or 1.
    run: usize,
}

impl<'a> Patches<'a> {
    pub(super) fn new(
        isa: Isa,
        x: &'a [f32],
        shape: [usize; 4],
        kernel: (usize, usize),
        options: &ConvOptions<'a>,
        out_width: usize,
    ) -> Self {
        let (stride, padding) = (options.stride, options.padding);
        let factor = options.upsample.factor();
        let [batch, channels, height, width] = shape;
        let is_pointwise = kernel == (1, 1)
            && stride == 1
            && padding == Default::default()
            && options.upsample == Upsample::None;
        let (shape, out_width) = if is_pointwise {
            ([batch, channels, 1, height * width], height * width)
        } else {
            (shape, out_width)
        };
        let norm = options.norm;
        Patches {
            isa,
            x,
            norm,
            shape,
            kernel,
            stride,
            top: padding.top,
            left: padding.left,
            factor,
            out_width,
            is_pointwise,
        }
    }

    /// Whether patches are pixels as they are stored, so that they need no staging.
    pub(super) fn are_pixels(&self) -> bool {
        self.is_pointwise && self.norm.is_none()
    }

    /// Fills `lines`, `[groups][STEPS]`, with a range of steps of `width` pixels of an image, where patches
    /// [are pixels](Self::are_pixels), in floats. A last group that is not whole ends in zeros.
    pub(super) fn gather_pixels(
        &self,
        image: usize,
        pixels: Range<usize>,
        steps: Range<usize>,
        precision: Precision,
        lines: &mut [Line],
    ) {
        let [_, channels, _, plane] = self.shape;
        let row = |channel: usize| &self.x[(image * channels + channel) * plane..][pixels.clone()];
        let per_step = precision.per_word();
        for (at, step) in steps.enumerate() {
            for ahead in (step + PIXELS_AHEAD) * per_step..(step + PIXELS_AHEAD + 1) * per_step {
                for pixel in pixels.clone().step_by(LANES) {
                    prefetch(self.x.as_ptr().wrapping_add((image * channels + ahead) * plane + pixel));
                }
            }
            let (low, high) = (row(step * per_step), step * per_step + 1);
            match precision {
                Precision::F32 => copy_pixels(self.isa, low, &mut lines[at..]),
                _ => pair_pixels(
                    self.isa,
                    low,
                    if high < channels { row(high) } else { &[] },
                    &mut lines[at..],
                ),
            }
        }
    }

    /// How the values of each image are quantised, by what the convolution reads of them.
    pub(super) fn quantisers(&self) -> Vec<Quantiser> {
        let [_, channels, height, width] = self.shape;
        let plane = height * width;
        // Larger pictures are looked at in parts, so that each stays in the first-level cache.
        let part = plane.clamp(1, 4096);
        let extent_of = |image: usize, channel: usize| {
            let values = &self.x[(image * channels + channel) * plane..][..plane];
            let Some(norm) = self.norm else { return extent(self.isa, values) };
            scratch::with(part, |lines| {
                let normed = &mut floats_mut(lines)[..part];
                values.chunks(part).fold(Extent::default(), |whole, values| {
                    let normed = &mut normed[..values.len()];
                    normed.copy_from_slice(values);
                    norm.apply_to_channel(self.isa, channel, normed);
                    whole.union(extent(self.isa, normed))
                })
            })
        };
        let images = (0..self.shape[0]).map(|image| {
            let extents = (0..channels).into_par_iter().map(|channel| extent_of(image, channel));
            Quantiser::of(&extents.reduce(Extent::default, Extent::union))
        });
        images.collect()
    }

    /// Fills `lines`, `[groups][STEPS]`, with the spot's patches for a range of steps. `quantiser` is used in int8 only.
    pub(super) fn gather(
        &self,
        spot: &Spot,
        steps: Range<usize>,
        precision: Precision,
        quantiser: Quantiser,
        lines: &mut [Line],
    ) {
        let isa = self.isa;
        let taps = self.kernel.0 * self.kernel.1;
        let (sharing, per_step) =
            (channels_in_word(precision), if precision == Precision::Bf16 { 2 } else { 1 });
        let inputs = self.shape[1].div_ceil(sharing) * taps;
        let last = (steps.end * per_step).min(inputs);
        let planes = steps.start * per_step / taps..last.div_ceil(taps);
        let window = self.window(spot);
        let plane = window.rows * window.columns;
        // One plane more, of zeros, for the missing half of an odd pair.
        let (staged, slack) = (planes.len() * plane, plane + LANES);
        let mut offsets = [0_u32; 2 * STEPS];
        let offsets = &mut offsets[..steps.len() * per_step];
        self.offsets(steps.start * per_step, planes.start, &window, (inputs, staged), offsets);
        let groups = lines.chunks_exact_mut(STEPS).take(spot.width.div_ceil(LANES)).enumerate();
        let channels = planes.start * sharing..(planes.end * sharing).min(self.shape[1]);
        let values = channels.len() * plane;
        scratch::with(values + slack, |lines| {
            let stage = &mut floats_mut(lines)[..values + slack];
            self.stage(spot.image, channels, &window, AHEAD, stage);
            stage[values..].fill(0.0);
            match precision {
                Precision::F32 => {
                    let words = words_mut(lines);
                    for (group, lines) in groups {
                        copy_group(isa, words, &self.group(spot, group, &window), offsets, lines);
                    }
                }
                Precision::Bf16 => scratch::with((staged + slack).div_ceil(2), |rounded| {
                    let rounded = &mut halves_mut(rounded)[..staged + slack];
                    round_slice(isa, stage, rounded);
                    for (group, lines) in groups {
                        pair_group(isa, rounded, &self.group(spot, group, &window), offsets, lines);
                    }
                }),
                Precision::Int8 => scratch::with(staged + slack, |quads| {
                    let quads = &mut words_mut(quads)[..staged + slack];
                    for (quad, values) in quads.chunks_mut(plane).zip(stage[..values].chunks(QUAD * plane)) {
                        quantise_planes(isa, values, quantiser, quad);
                    }
                    for (group, lines) in groups {
                        copy_group(isa, quads, &self.group(spot, group, &window), offsets, lines);
                    }
                }),
            }
        });
    }

    fn window(&self, spot: &Spot) -> Window {
        let last = spot.pixel + spot.width - 1;
        let (top, bottom) = (spot.pixel / self.out_width, last / self.out_width);
        let (left, right) = match top == bottom {
            true => (spot.pixel % self.out_width, last % self.out_width),
            false => (0, self.out_width - 1),
        };
        Window {
            row: top * self.stride,
            column: left * self.stride,
            rows: (bottom - top) * self.stride + self.kernel.0,
            columns: (right - left) * self.stride + self.kernel.1,
        }
    }

    /// Writes the window of each channel, normalised, padding and enlargement included, and asks for that of the channel
    /// that comes `ahead`: its rows are far apart in memory. With up to a line to spare behind the last one a norm runs in
    /// whole vectors.
    pub(super) fn stage(
        &self,
        image: usize,
        channels: Range<usize>,
        window: &Window,
        ahead: usize,
        stage: &mut [f32],
    ) {
        let [_, all_channels, height, width] = self.shape;
        let plane = window.rows * window.columns;
        for (at, channel) in channels.enumerate() {
            self.prefetch(image, channel + ahead, window);
            let from = &self.x[(image * all_channels + channel) * height * width..][..height * width];
            let staged = at * plane..(at + 1) * plane;
            self.each_row(window, &mut stage[staged.clone()], |row, first, inside| {
                let row = &from[row * width..][..width];
                if self.factor == 1 {
                    inside.copy_from_slice(&row[first..first + inside.len()]);
                } else {
                    enlarge(self.isa, row, first, inside);
                }
            });
            if let Some(norm) = self.norm {
                // What lies behind is another channel's, written after.
                let end = (staged.start + plane.next_multiple_of(LANES)).min(stage.len());
                norm.apply_to_channel(self.isa, channel, &mut stage[staged.start..end]);
                if !self.is_inside(window) {
                    self.each_row(window, &mut stage[staged], |_, _, _| ());
                }
            }
        }
    }

    /// Whether a window sees no padding.
    fn is_inside(&self, window: &Window) -> bool {
        let [_, _, height, width] = self.shape;
        window.row >= self.top
            && window.column >= self.left
            && window.row + window.rows <= self.top + height * self.factor
            && window.column + window.columns <= self.left + width * self.factor
    }

    /// Calls `inside` for each row of a window that lies in the picture: with the stored row, the first column of the enlarged
    /// picture, and the values that lie inside. All others become zero.
    #[inline(always)]
    fn each_row(
        &self,
        window: &Window,
        staged: &mut [f32],
        mut inside: impl FnMut(usize, usize, &mut [f32]),
    ) {
        let [_, _, height, width] = self.shape;
        // Columns of the window before, in and after the enlarged picture.
        let before = self.left.saturating_sub(window.column).min(window.columns);
        let first = (window.column + before).saturating_sub(self.left).min(width * self.factor);
        let count = (window.columns - before).min(width * self.factor - first);
        let rows = window.row..window.row + window.rows;
        for (row, staged) in rows.zip(staged.chunks_exact_mut(window.columns)) {
            let row = row.wrapping_sub(self.top);
            if row >= height * self.factor {
                staged.fill(0.0);
                continue;
            }
            if before > 0 {
                staged[..before].fill(0.0);
            }
            if before + count < window.columns {
                staged[before + count..].fill(0.0);
            }
            inside(row / self.factor, first, &mut staged[before..before + count]);
        }
    }

    /// Asks for the window of a channel that will be staged soon: its rows are far apart in memory.
    fn prefetch(&self, image: usize, channel: usize, window: &Window) {
        let [_, channels, height, width] = self.shape;
        let plane = (image * channels + channel) * height * width;
        for row in window.row..window.row + window.rows {
            let row = plane + row.saturating_sub(self.top) / self.factor * width;
            let first = row + window.column.saturating_sub(self.left) / self.factor;
            for at in (first..first + window.columns / self.factor + LANES).step_by(LANES) {
                prefetch(self.x.as_ptr().wrapping_add(at));
            }
        }
    }

    /// Offset in the stage of each factor from `first` on, for a pixel at the window's origin. What lies past the last of
    /// `inputs` is sent to the zeros at `staged`.
    fn offsets(
        &self,
        first: usize,
        plane: usize,
        window: &Window,
        (inputs, staged): (usize, usize),
        offsets: &mut [u32],
    ) {
        let taps = self.kernel.0 * self.kernel.1;
        for (k, offset) in (first..).zip(offsets) {
            let (y, x) = (k % taps / self.kernel.1, k % taps % self.kernel.1);
            let at = ((k / taps - plane) * window.rows + y) * window.columns + x;
            *offset = if k < inputs { at as u32 } else { staged as u32 };
        }
    }

    fn group(&self, spot: &Spot, group: usize, window: &Window) -> Group {
        let mut at = [0_u32; LANES];
        for (pixel, at) in (spot.pixel + group * LANES..spot.pixel + spot.width).zip(&mut at) {
            let (y, x) = (pixel / self.out_width * self.stride, pixel % self.out_width * self.stride);
            *at = ((y - window.row) * window.columns + x - window.column) as u32;
        }
        let follow = |lanes: &[u32]| lanes.windows(2).all(|pair| pair[1] == pair[0] + 1);
        let run = match () {
            () if follow(&at) => LANES,
            () if follow(&at[..8]) && follow(&at[8..]) => 8,
            () => 1,
        };
        Group { at, run }
    }
}

/// Pixels of two channels in pairs of bf16, a group's line every [`STEPS`] lines. `high` may be empty, for zeros.
fn pair_pixels(isa: Isa, low: &[f32], high: &[f32], lines: &mut [Line]) {
    #[cfg(target_arch = "x86_64")]
    if isa == Isa::Avx512Bf16 && low.len() == high.len() {
        let whole = low.len() / LANES;
        // SAFETY: the level was checked when it became current.
        unsafe { pair_whole_groups(low.as_chunks().0, high.as_chunks().0, lines) };
        if low.len() > whole * LANES {
            pair_groups(isa, &low[whole * LANES..], &high[whole * LANES..], &mut lines[whole * STEPS..]);
        }
        return;
    }
    pair_groups(isa, low, high, lines);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn pair_whole_groups(low: &[[f32; LANES]], high: &[[f32; LANES]], lines: &mut [Line]) {
    use std::arch::x86_64::{_mm512_loadu_ps, _mm512_store_si512};
    for ((low, high), line) in low.iter().zip(high).zip(lines.iter_mut().step_by(STEPS)) {
        // SAFETY: all three are as long as a register, and a line is aligned as such.
        unsafe {
            let pairs = pair_vectors(_mm512_loadu_ps(low.as_ptr()), _mm512_loadu_ps(high.as_ptr()));
            _mm512_store_si512(line.0.as_mut_ptr().cast(), pairs);
        }
    }
}

per_isa!(fn copy_pixels(pixels: &[f32], lines: &mut [Line]) = copy_pixels_body);
per_isa!(fn pair_groups(low: &[f32], high: &[f32], lines: &mut [Line]) = pair_groups_body);
per_isa!(fn enlarge(row: &[f32], first: usize, out: &mut [f32]) = enlarge_body);
per_isa!(fn copy_group(stage: &[u32], group: &Group, offsets: &[u32], lines: &mut [Line]) = copy_group_body);
per_isa!(fn pair_group(stage: &[u16], group: &Group, offsets: &[u32], lines: &mut [Line]) = pair_group_body);

/// Pixels of a channel, a group's line every [`STEPS`] lines.
#[inline(always)]
fn copy_pixels_body<A: Arith>(pixels: &[f32], lines: &mut [Line]) {
    for (pixels, line) in pixels.chunks(LANES).zip(lines.iter_mut().step_by(STEPS)) {
        *line = Line::ZERO;
        line.0.iter_mut().zip(pixels).for_each(|(word, pixel)| *word = pixel.to_bits());
    }
}

/// See [`pair_pixels`].
#[inline(always)]
fn pair_groups_body<A: Arith>(low: &[f32], high: &[f32], lines: &mut [Line]) {
    for (at, (low, line)) in low.chunks(LANES).zip(lines.iter_mut().step_by(STEPS)).enumerate() {
        let mut both = [[0.0; LANES]; 2];
        both[0][..low.len()].copy_from_slice(low);
        if let Some(high) = high.get(at * LANES..at * LANES + low.len()) {
            both[1][..low.len()].copy_from_slice(high);
        }
        for lane in 0..LANES {
            line.0[lane] = pair(both[0][lane], both[1][lane]);
        }
    }
}

/// A row of which each value stands twice, from the enlarged row's column `first` on.
#[inline(always)]
fn enlarge_body<A: Arith>(row: &[f32], first: usize, out: &mut [f32]) {
    if out.is_empty() {
        return;
    }
    let (start, pairs) = out.split_at_mut(first % 2);
    start.fill(row[first / 2]);
    let row = &row[first.div_ceil(2)..];
    let (pairs, last) = pairs.as_chunks_mut::<2>();
    pairs.iter_mut().zip(row).for_each(|(pair, value)| *pair = [*value; 2]);
    if let [last] = last {
        *last = row[pairs.len()];
    }
}

/// One step of a word for each offset.
#[inline(always)]
fn copy_group_body<A: Arith>(stage: &[u32], group: &Group, offsets: &[u32], lines: &mut [Line]) {
    // Plain loops: the standard library's array functions would not be compiled for this instruction set.
    for (offset, line) in offsets.iter().zip(lines) {
        line.0 = match group.run {
            LANES => *part(stage, group.at[0] + offset),
            _ => load(stage, group, *offset),
        };
    }
}

/// One step of bf16 for each pair of offsets.
#[inline(always)]
fn pair_group_body<A: Arith>(stage: &[u16], group: &Group, offsets: &[u32], lines: &mut [Line]) {
    for (pair, line) in offsets.chunks_exact(2).zip(lines) {
        let (low, high) = match group.run {
            LANES => (*part(stage, group.at[0] + pair[0]), *part(stage, group.at[0] + pair[1])),
            _ => (load(stage, group, pair[0]), load(stage, group, pair[1])),
        };
        for lane in 0..LANES {
            line.0[lane] = u32::from(low[lane]) | u32::from(high[lane]) << 16;
        }
    }
}

/// The group's pixels at an offset, in runs of 8 or one by one.
#[inline(always)]
fn load<T: Copy + Default>(stage: &[T], group: &Group, offset: u32) -> [T; LANES] {
    let mut values = [T::default(); LANES];
    if group.run == 8 {
        values[..8].copy_from_slice(part::<T, 8>(stage, group.at[0] + offset));
        values[8..].copy_from_slice(part::<T, 8>(stage, group.at[8] + offset));
    } else {
        for (value, at) in values.iter_mut().zip(group.at) {
            *value = stage[(at + offset) as usize];
        }
    }
    values
}

#[inline(always)]
fn part<T, const N: usize>(stage: &[T], from: u32) -> &[T; N] {
    stage[from as usize..].first_chunk().expect("the stage ends with a line to spare")
}
