//! Convolutions over NCHW pictures, as implicit products: `out[c_out, pixels] = w[c_out, c_in·kh·kw] · patches`.
//!
//! The patches of a few register tiles are gathered into a buffer of the second-level cache, block of steps by block
//! of steps; the whole matrix of patches never exists. Zero padding and nearest upsampling happen in that gathering.

mod patches;
mod winograd;
mod winograd_weights;

use rayon::prelude::*;

use crate::gemm::{GROUPS, Kernel, ROWS, STEPS, Tile, Weights};
use crate::int8::{Column, QUAD, Quantiser, scale_sums, shifted};
use crate::isa::{Arith, Isa, per_isa};
use crate::norm::ChannelNorm;
use crate::pack::{Precision, WeightsRef, check_inputs, pack_rows};
use crate::scratch::{self, LANES, Line, SharedOut, prefetch};
use crate::speed::{bytes_lead, fastest_precision};
use patches::{Patches, Spot};
use winograd::Form;
use winograd_weights::WinogradWeights;

/// The weights of a convolution, packed for [`conv2d`].
#[derive(Clone, Debug)]
pub struct PackedConv {
    shape: [usize; 4],
    precision: Precision,
    words: Words,
}

/// The weights, by algorithm.
#[derive(Clone, Debug)]
enum Words {
    /// `[c_out][steps]`, and how each output was quantised, in int8.
    Direct(Vec<u32>, Vec<Column>),
    /// As taps, whose values are multiplied in the precision of their tiles.
    Winograd(WinogradWeights),
}

impl PackedConv {
    /// Packs weights of shape `[c_out, c_in, kernel_height, kernel_width]`.
    ///
    /// # Panics
    /// If `weights` does not hold that many elements, the kernel is empty, or an output has more than 65 536 inputs in int8.
    pub fn pack<'a>(
        weights: impl Into<WeightsRef<'a>>,
        shape: [usize; 4],
        precision: Precision,
    ) -> PackedConv {
        let weights = weights.into();
        let [c_out, c_in, height, width] = shape;
        let k = c_in * height * width;
        assert!(height > 0 && width > 0, "a convolution's kernel is {height} by {width}");
        assert_eq!(weights.len(), c_out * k, "weights of a convolution {shape:?}");
        let (words, columns) = match precision {
            Precision::F32 | Precision::Bf16 => (pack_rows(weights, c_out, k, precision), Vec::new()),
            Precision::Int8 => pack_quads(weights, c_out, c_in, height * width),
        };
        PackedConv { shape, precision, words: Words::Direct(words, columns) }
    }

    /// Packs weights of shape `[c_out, c_in, 3, 3]` for Winograd's algorithm in f32: a quarter of the multiplications
    /// and more than twice the speed, for an error (root mean square) of about 1.1e-6 of the output's standard
    /// deviation, against 3e-7 of the direct sum. Where output pictures have fewer than 16×16 `pixels` it is a third of the
    /// multiplications. Such a convolution has stride 1. [`PackedConv::winograd_pays`] tells where it is worth it.
    ///
    /// # Panics
    /// If `weights` does not hold `c_out · c_in · 9` elements.
    pub fn pack_winograd<'a>(
        weights: impl Into<WeightsRef<'a>>,
        c_out: usize,
        c_in: usize,
        pixels: usize,
    ) -> PackedConv {
        let form = Form::of(Precision::F32, pixels);
        PackedConv::winograd(WinogradWeights::new, form, weights.into(), c_out, c_in)
    }

    /// The same with values rounded to bf16 before their products, whose sums are in f32: a third of the multiplications. The
    /// error is about 6.5e-3, against 2.4e-3 of the direct sum in bf16. Weights are stored in f16.
    ///
    /// # Panics
    /// As [`PackedConv::pack_winograd`].
    pub fn pack_winograd_bf16<'a>(
        weights: impl Into<WeightsRef<'a>>,
        c_out: usize,
        c_in: usize,
    ) -> PackedConv {
        PackedConv::winograd(WinogradWeights::new, Form::FlatPairs, weights.into(), c_out, c_in)
    }

    /// As [`PackedConv::pack_winograd`] or [`PackedConv::pack_winograd_bf16`], by the precision of the products, with weights in eight
    /// bits with a scale for each output: for [`Precision::Int8`] where a quarter or a third of the products in floats takes less time
    /// than all of them in bytes. The input stays more exact.
    ///
    /// # Panics
    /// As [`PackedConv::pack_winograd`], and if the products are not in one of [`Precision::FLOATS`].
    pub fn pack_winograd_int8<'a>(
        weights: impl Into<WeightsRef<'a>>,
        c_out: usize,
        c_in: usize,
        products: Precision,
        pixels: usize,
    ) -> PackedConv {
        let form = Form::of(products, pixels);
        PackedConv::winograd(WinogradWeights::new_int8, form, weights.into(), c_out, c_in)
    }

    fn winograd(
        pack: fn(Form, WeightsRef, usize, usize) -> WinogradWeights,
        form: Form,
        weights: WeightsRef,
        c_out: usize,
        c_in: usize,
    ) -> PackedConv {
        assert_eq!(weights.len(), c_out * c_in * 9, "weights of a convolution [{c_out}, {c_in}, 3, 3]");
        let words = Words::Winograd(pack(form, weights, c_out, c_in));
        PackedConv { shape: [c_out, c_in, 3, 3], precision: form.precision(), words }
    }

    /// Packs weights of shape `[c_out, c_in, kernel_height, kernel_width]` for a convolution of stride 1 by the algorithm
    /// that is fastest for output pictures of about `pixels` pixels. It works for pictures of any size.
    /// [`Precision::Int8`] is the direct sum where the machine multiplies bytes much faster than floats, as [`bytes_lead`] finds it.
    ///
    /// # Panics
    /// As [`PackedConv::pack`].
    pub fn pack_for<'a>(
        weights: impl Into<WeightsRef<'a>>,
        shape: [usize; 4],
        precision: Precision,
        pixels: usize,
    ) -> PackedConv {
        if !PackedConv::winograd_pays(shape, pixels) {
            return PackedConv::pack(weights, shape, precision);
        }
        let [c_out, c_in, ..] = shape;
        match precision {
            Precision::F32 => PackedConv::pack_winograd(weights, c_out, c_in, pixels),
            Precision::Bf16 => PackedConv::pack_winograd_bf16(weights, c_out, c_in),
            Precision::Int8 if bytes_lead(pixels) => PackedConv::pack(weights, shape, precision),
            Precision::Int8 => {
                PackedConv::pack_winograd_int8(weights, c_out, c_in, fastest_precision(), pixels)
            }
        }
    }

    /// Whether [`PackedConv::pack_winograd`] is faster than [`PackedConv::pack`] in f32 for a convolution of stride 1
    /// with these weights and output pictures of `pixels` pixels.
    pub fn winograd_pays([c_out, c_in, height, width]: [usize; 4], pixels: usize) -> bool {
        (height, width) == (3, 3) && winograd::pays(c_out, c_in, pixels)
    }

    /// Output channels.
    pub fn c_out(&self) -> usize {
        self.shape[0]
    }

    /// Input channels.
    pub fn c_in(&self) -> usize {
        self.shape[1]
    }

    /// Kernel height and width.
    pub fn kernel(&self) -> (usize, usize) {
        (self.shape[2], self.shape[3])
    }

    /// The factors' precision.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Bytes of memory held.
    pub fn bytes(&self) -> usize {
        match &self.words {
            Words::Direct(words, columns) => size_of_val(&words[..]) + size_of_val(&columns[..]),
            Words::Winograd(weights) => weights.bytes(),
        }
    }

    /// Words of one output's weights, where they are summed up directly.
    fn steps(&self) -> usize {
        let [_, c_in, height, width] = self.shape;
        match self.precision {
            Precision::F32 | Precision::Bf16 => self.precision.steps(c_in * height * width),
            Precision::Int8 => c_in.div_ceil(QUAD) * height * width,
        }
    }
}

/// Weights `[c_out, c_in, taps]` in int8 as the left factor of a product, `[c_out][c_in / 4][taps]` words of four channels, and
/// how each output was quantised.
fn pack_quads(weights: WeightsRef, c_out: usize, c_in: usize, taps: usize) -> (Vec<u32>, Vec<Column>) {
    check_inputs(c_in * taps);
    let steps = c_in.div_ceil(QUAD) * taps;
    let (mut words, mut columns) = (vec![0; c_out * steps], vec![Column::default(); c_out]);
    let isa = Isa::current();
    words.par_chunks_mut(steps.max(1)).zip(&mut columns).enumerate().for_each_init(
        || (vec![0.0_f32; c_in * taps], vec![0_i8; c_in * taps]),
        |(row, bytes), (output, (words, column))| {
            weights.read(output * c_in * taps, row);
            *column = Column::quantise(isa, row, bytes);
            for (channel, bytes) in bytes.chunks_exact(taps).enumerate() {
                for (word, byte) in words[channel / QUAD * taps..].iter_mut().zip(bytes) {
                    *word |= shifted(byte.cast_unsigned(), channel);
                }
            }
        },
    );
    (words, columns)
}

/// Zeros around a picture, in pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Padding {
    /// Rows above.
    pub top: usize,
    /// Columns before.
    pub left: usize,
    /// Rows below.
    pub bottom: usize,
    /// Columns after.
    pub right: usize,
}

impl Padding {
    /// The same on all sides.
    pub fn all(pixels: usize) -> Padding {
        Padding { top: pixels, left: pixels, bottom: pixels, right: pixels }
    }

    /// One row below and one column after, as the Stable Diffusion VAE's downsampler pads.
    pub const BOTTOM_RIGHT: Padding = Padding { top: 0, left: 0, bottom: 1, right: 1 };
}

/// Nearest-neighbour enlargement of the input, folded into the reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Upsample {
    /// The input as it is.
    #[default]
    None,
    /// Each pixel becomes two by two.
    Nearest2,
}

impl Upsample {
    fn factor(self) -> usize {
        match self {
            Upsample::None => 1,
            Upsample::Nearest2 => 2,
        }
    }
}

/// How a convolution is applied.
#[derive(Clone, Copy, Debug)]
pub struct ConvOptions<'a> {
    /// Step between outputs, in both directions.
    pub stride: usize,
    /// Zeros around the (enlarged) input.
    pub padding: Padding,
    /// A norm of the input's channels with SiLU behind it, applied to each value as it is read: the zeros of the padding
    /// come after it.
    pub norm: Option<&'a ChannelNorm>,
    /// Enlargement of the input before padding.
    pub upsample: Upsample,
    /// `[c_out]`.
    pub bias: Option<&'a [f32]>,
    /// `[batch, c_out]`, added to each pixel: the time embedding.
    pub channel_add: Option<&'a [f32]>,
    /// A tensor of the output's shape, added last.
    pub residual: Option<&'a [f32]>,
}

impl Default for ConvOptions<'_> {
    fn default() -> Self {
        let (padding, upsample) = (Padding::default(), Upsample::None);
        ConvOptions {
            stride: 1,
            padding,
            norm: None,
            upsample,
            bias: None,
            channel_add: None,
            residual: None,
        }
    }
}

/// Height and width of the output of a convolution over pictures of `height` by `width`.
///
/// # Panics
/// If the stride is zero or the padded picture is smaller than the kernel.
pub fn conv2d_output_size(
    height: usize,
    width: usize,
    w: &PackedConv,
    options: &ConvOptions,
) -> (usize, usize) {
    let (padding, factor) = (options.padding, options.upsample.factor());
    let along = |size: usize, padding: usize, kernel: usize| {
        let room =
            (size * factor + padding).checked_sub(kernel).expect("the padded picture holds the kernel");
        room / options.stride + 1
    };
    (
        along(height, padding.top + padding.bottom, w.kernel().0),
        along(width, padding.left + padding.right, w.kernel().1),
    )
}

/// A convolution: `x` is `[batch, c_in, height, width]` by `shape`, `out` is `[batch, c_out, out_height, out_width]`
/// with [`conv2d_output_size`]. An image's result has the same bytes alone and in a batch.
///
/// # Panics
/// If a slice does not fit its shape, if `w` is packed for Winograd's algorithm and the stride is not 1, or as
/// [`conv2d_output_size`].
pub fn conv2d(x: &[f32], shape: [usize; 4], w: &PackedConv, options: &ConvOptions, out: &mut [f32]) {
    let [batch, c_in, height, width] = shape;
    let (out_height, out_width) = conv2d_output_size(height, width, w, options);
    let (pixels, c_out) = (out_height * out_width, w.c_out());
    assert_eq!(x.len(), shape.iter().product::<usize>(), "input of a convolution {shape:?}");
    assert_eq!(c_in, w.c_in(), "input channels of a convolution");
    assert_eq!(
        out.len(),
        batch * c_out * pixels,
        "output of a convolution [{batch}, {c_out}, {out_height}, {out_width}]"
    );
    assert!(options.bias.is_none_or(|bias| bias.len() == c_out), "bias of a convolution to {c_out} channels");
    assert!(
        options.channel_add.is_none_or(|added| added.len() == batch * c_out),
        "[{batch}, {c_out}] added to channels"
    );
    assert!(options.residual.is_none_or(|added| added.len() == out.len()), "residual of a convolution");
    assert!(
        options.norm.is_none_or(|norm| norm.channels() == c_in),
        "norm of a convolution's {c_in} channels"
    );
    let isa = Isa::current();
    let patches = Patches::new(isa, x, shape, w.kernel(), options, out_width);
    let layer = Layer {
        isa,
        kernel: Kernel::with_weights(Weights::Left, isa, w.precision()),
        quantisers: if w.precision() == Precision::Int8 { patches.quantisers() } else { Vec::new() },
        patches,
        w,
        options,
        pixels,
        out: SharedOut::new(out),
    };
    match &w.words {
        Words::Direct(words, columns) => layer.run(words, columns, batch),
        Words::Winograd(weights) => {
            assert_eq!(options.stride, 1, "stride of a convolution by Winograd's algorithm");
            winograd::run(&layer, weights, batch, (out_height, out_width));
        }
    }
}

/// Columns of a register tile: pixels of one image.
const TILE_PIXELS: usize = GROUPS * LANES;

/// Register tiles in a task at most: 128 pixels of 256 steps are 128 KiB of patches.
const TASK_TILES: usize = 2;

/// The same where patches are pixels as they lie, of which longer runs come faster from memory.
const TASK_PIXEL_TILES: usize = 8;

/// Output channels in a task at most: 320 channels of 128 pixels are 160 KiB, which stay in the second-level cache
/// from one block of steps to the next. The patches are gathered anew for each such block.
const TASK_CHANNELS: usize = 320;

struct Layer<'a> {
    isa: Isa,
    kernel: Kernel,
    patches: Patches<'a>,
    /// Of each image in int8, none otherwise.
    quantisers: Vec<Quantiser>,
    w: &'a PackedConv,
    options: &'a ConvOptions<'a>,
    pixels: usize,
    out: SharedOut,
}

impl Layer<'_> {
    fn run(&self, words: &[u32], columns: &[Column], batch: usize) {
        let tiles_per_image = self.pixels.div_ceil(TILE_PIXELS);
        let tiles = batch * tiles_per_image;
        let threads = rayon::current_num_threads();
        let most = match self.are_pixels() {
            true => (tiles / (4 * threads)).clamp(TASK_TILES, TASK_PIXEL_TILES),
            false => TASK_TILES,
        };
        let (task_tiles, task_channels) = task_shape(tiles, most, self.w.c_out(), threads);
        let channel_tasks = self.w.c_out().div_ceil(task_channels.max(1));
        (0..tiles.div_ceil(task_tiles.max(1)) * channel_tasks).into_par_iter().with_max_len(1).for_each(
            |task| {
                let first = task / channel_tasks * task_tiles;
                let mut spots = [Spot { image: 0, pixel: 0, width: 0 }; TASK_PIXEL_TILES];
                let count = task_tiles.min(tiles - first);
                for (spot, tile) in spots.iter_mut().zip(first..first + count) {
                    let pixel = tile % tiles_per_image * TILE_PIXELS;
                    *spot = Spot {
                        image: tile / tiles_per_image,
                        pixel,
                        width: TILE_PIXELS.min(self.pixels - pixel),
                    };
                }
                let channel = task % channel_tasks * task_channels;
                let channels = channel..(channel + task_channels).min(self.w.c_out());
                self.block(words, columns, &spots[..count], channels);
            },
        );
    }

    /// One task: some register tiles of pixels by a range of output channels.
    fn block(&self, words: &[u32], columns: &[Column], spots: &[Spot], channels: std::ops::Range<usize>) {
        let steps = self.w.steps();
        scratch::with(spots.len() * GROUPS * STEPS * LANES, |lines| {
            for step in (0..steps.max(1)).step_by(STEPS) {
                let count = STEPS.min(steps - step);
                self.gather(spots, step..step + count, lines);
                for channel in channels.clone().step_by(ROWS) {
                    let rows = ROWS.min(channels.end - channel);
                    let a = words[channel * steps + step..].as_ptr();
                    for (spot, lines) in spots.iter().zip(lines.chunks_exact(GROUPS * STEPS)) {
                        if step + count == steps {
                            self.prefetch_residual(spot, channel..channel + rows);
                        }
                        self.tile(spot, channel, rows, lines, a, step, count);
                        if step + count == steps {
                            self.finish_tile(columns, spot, channel..channel + rows);
                        }
                    }
                }
            }
        });
    }

    /// Whether patches are pixels as they lie, in floats.
    fn are_pixels(&self) -> bool {
        self.patches.are_pixels() && self.w.precision() != Precision::Int8
    }

    /// The patches of each spot for some steps: `[spot][groups][STEPS]`.
    fn gather(&self, spots: &[Spot], steps: std::ops::Range<usize>, lines: &mut [Line]) {
        if self.are_pixels() {
            // Those of one image follow each other.
            let mut from = 0;
            for spots in spots.chunk_by(|one, next| one.image == next.image) {
                let pixels =
                    spots[0].pixel..spots[0].pixel + spots.iter().map(|spot| spot.width).sum::<usize>();
                let lines = &mut lines[from * GROUPS * STEPS..];
                self.patches.gather_pixels(spots[0].image, pixels, steps.clone(), self.w.precision(), lines);
                from += spots.len();
            }
            return;
        }
        for (spot, lines) in spots.iter().zip(lines.chunks_exact_mut(GROUPS * STEPS)) {
            let quantiser = self.quantisers.get(spot.image).copied().unwrap_or_default();
            self.patches.gather(spot, steps.clone(), self.w.precision(), quantiser, lines);
        }
    }

    fn tile(
        &self,
        spot: &Spot,
        channel: usize,
        rows: usize,
        lines: &[Line],
        a: *const u32,
        step: usize,
        count: usize,
    ) {
        let tile = Tile {
            steps: count,
            a,
            a_stride: self.w.steps(),
            a_step: 1,
            b: lines.as_ptr(),
            b_stride: STEPS,
            c: self.out.at(self.at(spot, channel)),
            c_stride: self.pixels,
            add: step > 0,
            next: lines.as_ptr(),
        };
        // SAFETY: channels, pixels and steps lie inside the operands, `gather` filled the lines, and this task alone
        // writes these pixels of these channels.
        unsafe { self.kernel.run(rows, spot.width, &tile) };
    }

    /// Asks for what will be added to a tile: its rows are far apart in memory.
    fn prefetch_residual(&self, spot: &Spot, channels: std::ops::Range<usize>) {
        let Some(residual) = self.options.residual else { return };
        for channel in channels {
            let from = self.at(spot, channel);
            for at in (from..from + spot.width).step_by(LANES) {
                prefetch(residual.as_ptr().wrapping_add(at));
            }
        }
    }

    /// Index in the output of a spot's first pixel in a channel.
    fn at(&self, spot: &Spot, channel: usize) -> usize {
        (spot.image * self.w.c_out() + channel) * self.pixels + spot.pixel
    }

    /// Bias and additions on a finished tile, while it is in the first-level cache.
    fn finish_tile(&self, columns: &[Column], spot: &Spot, channels: std::ops::Range<usize>) {
        for channel in channels {
            let from = self.at(spot, channel);
            // SAFETY: this task alone works on these pixels of this channel.
            let out = unsafe { self.out.slice(from, spot.width) };
            if let (Some(image), Some(column)) = (self.quantisers.get(spot.image), columns.get(channel)) {
                scale_sums(self.isa, out, *image, *column);
            }
            self.finish(spot.image, channel, from, out);
        }
    }

    /// Bias and additions on some pixels of a channel, from index `from` of the output on.
    fn finish(&self, image: usize, channel: usize, from: usize, out: &mut [f32]) {
        finish_row(self.isa, out, self.additions(image, channel, from, out.len()));
    }

    /// The same on sums that lie elsewhere.
    fn finish_from(&self, image: usize, channel: usize, from: usize, sums: &[f32], out: &mut [f32]) {
        finish_row_from(self.isa, sums, out, self.additions(image, channel, from, sums.len()));
    }

    fn additions(&self, image: usize, channel: usize, from: usize, len: usize) -> Additions<'_> {
        let options = self.options;
        Additions {
            bias: options.bias.map_or(0.0, |bias| bias[channel]),
            channel: options.channel_add.map_or(0.0, |added| added[image * self.w.c_out() + channel]),
            residual: options.residual.map(|residual| &residual[from..from + len]),
        }
    }
}

/// Register tiles and output channels of a task, so that every thread gets several. Does not influence the results.
fn task_shape(tiles: usize, task_tiles: usize, c_out: usize, threads: usize) -> (usize, usize) {
    let tile_tasks = tiles.div_ceil(task_tiles).max(1);
    let most = (c_out / 96).max(1); // Below some 100 channels gathering would be a large part of the work.
    let wanted = (4 * threads).div_ceil(tile_tasks).min(most);
    let channel_tasks = wanted.max(c_out.div_ceil(TASK_CHANNELS)).max(1);
    (task_tiles, c_out.div_ceil(channel_tasks).next_multiple_of(ROWS))
}

/// What is added to some pixels of a channel, in this order.
#[derive(Clone, Copy)]
struct Additions<'a> {
    bias: f32,
    channel: f32,
    residual: Option<&'a [f32]>,
}

per_isa!(fn finish_row(out: &mut [f32], more: Additions) = finish_row_body);
per_isa!(fn finish_row_from(sums: &[f32], out: &mut [f32], more: Additions) = finish_row_from_body);

#[inline(always)]
fn finish_row_body<A: Arith>(out: &mut [f32], Additions { bias, channel, residual }: Additions) {
    match residual {
        None => out.iter_mut().for_each(|out| *out = (*out + bias) + channel),
        Some(residual) => {
            out.iter_mut().zip(residual).for_each(|(out, more)| *out = ((*out + bias) + channel) + more)
        }
    }
}

#[inline(always)]
fn finish_row_from_body<A: Arith>(sums: &[f32], out: &mut [f32], more: Additions) {
    let Additions { bias, channel, residual } = more;
    match residual {
        None => out.iter_mut().zip(sums).for_each(|(out, sum)| *out = (sum + bias) + channel),
        Some(residual) => {
            let sums = sums.iter().zip(residual);
            out.iter_mut().zip(sums).for_each(|(out, (sum, more))| *out = ((sum + bias) + channel) + more)
        }
    }
}
