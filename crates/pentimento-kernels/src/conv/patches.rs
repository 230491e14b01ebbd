//! Gathers the patches under output pixels into the right factor of a product: `[group][step][16 pixels]`.
//!
//! The inner index `k` is `(channel, kernel row, kernel column)`, as the weights' layout has it.

use super::{ConvOptions, Upsample};
use crate::bf16::round_to_bf16;
use crate::gemm::STEPS;
use crate::pack::Precision;
use crate::scratch::{LANES, Line};

/// The pixels of one register tile: `width` pixels of an image from `pixel` on, in reading order.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spot {
    pub(super) image: usize,
    pub(super) pixel: usize,
    pub(super) width: usize,
}

/// The input of a convolution and how it is walked.
pub(super) struct Patches<'a> {
    x: &'a [f32],
    /// `[batch, channels, height, width]` as stored.
    shape: [usize; 4],
    kernel: (usize, usize),
    stride: usize,
    top: usize,
    left: usize,
    upsample: Upsample,
    out_width: usize,
}

/// A run of lanes whose outputs lie in one row.
#[derive(Clone, Copy, Default)]
struct Run {
    lane: usize,
    len: usize,
    /// First output of the run.
    y: usize,
    x: usize,
}

impl<'a> Patches<'a> {
    pub(super) fn new(
        x: &'a [f32],
        shape: [usize; 4],
        kernel: (usize, usize),
        options: &ConvOptions,
        (_, out_width): (usize, usize),
    ) -> Self {
        let (stride, padding, upsample) = (options.stride, options.padding, options.upsample);
        Patches { x, shape, kernel, stride, top: padding.top, left: padding.left, upsample, out_width }
    }

    /// Fills `lines`, `[groups][STEPS]`, with the spot's patches for a range of steps.
    pub(super) fn gather(
        &self,
        spot: &Spot,
        steps: std::ops::Range<usize>,
        precision: Precision,
        lines: &mut [Line],
    ) {
        for (group, lines) in lines.chunks_exact_mut(STEPS).take(spot.width.div_ceil(LANES)).enumerate() {
            let first = group * LANES;
            let width = LANES.min(spot.width - first);
            let mut runs = [Run::default(); LANES];
            let runs = self.runs(spot.pixel + first, width, &mut runs);
            for (step, line) in steps.clone().zip(lines) {
                *line = match precision {
                    Precision::F32 => Line(self.pixels(spot.image, step, runs).map(f32::to_bits)),
                    Precision::Bf16 => self.pairs(spot.image, step, runs),
                };
            }
        }
    }

    /// Splits pixels `[first, first + width)` into runs within rows.
    fn runs<'r>(&self, first: usize, width: usize, runs: &'r mut [Run; LANES]) -> &'r [Run] {
        let (mut lane, mut count) = (0, 0);
        while lane < width {
            let (y, x) = ((first + lane) / self.out_width, (first + lane) % self.out_width);
            let len = (width - lane).min(self.out_width - x);
            runs[count] = Run { lane, len, y, x };
            (lane, count) = (lane + len, count + 1);
        }
        &runs[..count]
    }

    fn pairs(&self, image: usize, step: usize, runs: &[Run]) -> Line {
        let low = self.pixels(image, 2 * step, runs);
        let has_high = 2 * step + 1 < self.shape[1] * self.kernel.0 * self.kernel.1;
        let high = if has_high { self.pixels(image, 2 * step + 1, runs) } else { [0.0; LANES] };
        let mut line = Line::ZERO;
        for lane in 0..LANES {
            line.0[lane] = u32::from(round_to_bf16(low[lane])) | u32::from(round_to_bf16(high[lane])) << 16;
        }
        line
    }

    /// The input values under the runs' outputs at one `(channel, kernel row, kernel column)`.
    #[inline]
    fn pixels(&self, image: usize, k: usize, runs: &[Run]) -> [f32; LANES] {
        let [_, channels, height, width] = self.shape;
        let (taps, across) = (self.kernel.0 * self.kernel.1, self.kernel.1);
        let (channel, tap) = (k / taps, k % taps);
        let (tap_y, tap_x) = (tap / across, tap % across);
        let plane = &self.x[(image * channels + channel) * height * width..][..height * width];
        let mut values = [0.0; LANES];
        for run in runs {
            let out = &mut values[run.lane..run.lane + run.len];
            match self.upsample {
                Upsample::None => {
                    let y = (run.y * self.stride + tap_y).wrapping_sub(self.top);
                    if y < height {
                        self.row(&plane[y * width..][..width], run.x, tap_x, out);
                    }
                }
                Upsample::Nearest2 => {
                    let y = (run.y * self.stride + tap_y).wrapping_sub(self.top);
                    if y < 2 * height {
                        self.enlarged_row(&plane[y / 2 * width..][..width], run.x, tap_x, out);
                    }
                }
            }
        }
        values
    }

    /// `out[i] = row[(x + i)·stride + tap - left]`, zero outside; `out` comes zeroed.
    #[inline]
    fn row(&self, row: &[f32], x: usize, tap: usize, out: &mut [f32]) {
        if self.stride == 1 {
            // Output i reads index x + tap + i - left: cut off what lies before and after the row.
            let before = self.left.saturating_sub(x + tap).min(out.len());
            let from = (x + tap + before).saturating_sub(self.left).min(row.len());
            let len = (out.len() - before).min(row.len() - from);
            if len == LANES {
                out.copy_from_slice(&row[from..from + LANES]);
            } else {
                out[before..before + len].copy_from_slice(&row[from..from + len]);
            }
            return;
        }
        for (i, out) in out.iter_mut().enumerate() {
            let at = ((x + i) * self.stride + tap).wrapping_sub(self.left);
            if at < row.len() {
                *out = row[at];
            }
        }
    }

    /// As `row`, with each value of `row` standing for two.
    #[inline]
    fn enlarged_row(&self, row: &[f32], x: usize, tap: usize, out: &mut [f32]) {
        for (i, out) in out.iter_mut().enumerate() {
            let at = ((x + i) * self.stride + tap).wrapping_sub(self.left);
            if at < 2 * row.len() {
                *out = row[at / 2];
            }
        }
    }
}
