//! Resampling of 8-bit rasters by a separable filter, first along the rows, then along the columns.
//!
//! Shapes: `height × width × N` bytes. Channels do not mix. Shrinking widens the filter with the scale, so that every
//! pixel of the source counts (no aliasing).
//! Source: Pillow's `Resample.c`, with the same fixed-point weights and roundings: equal bytes for equal input.

use pentimento_request::Size;
use std::f64::consts::PI;

/// Fractional bits of a weight: 8 bits are the sample's, 2 are headroom for overshoot (Pillow, PRECISION_BITS).
const FRACTION_BITS: u32 = 32 - 8 - 2;

/// The shape of the filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Linear interpolation; never overshoots (Pillow's `BILINEAR`).
    Triangle,
    /// Keys' cubic with a = -0.5 (Pillow's `BICUBIC`).
    Cubic,
    /// Sinc windowed by its own main lobe, three lobes; sharp, overshoots at edges (Pillow's `LANCZOS`).
    Lanczos3,
}

impl Filter {
    /// Distance from the centre beyond which the filter is 0, in pixels of the coarser raster.
    fn support(self) -> f64 {
        match self {
            Self::Triangle => 1.0,
            Self::Cubic => 2.0,
            Self::Lanczos3 => 3.0,
        }
    }

    /// The filter's value at this distance from its centre.
    fn at(self, distance: f64) -> f64 {
        match self {
            Self::Triangle => (1.0 - distance.abs()).max(0.0),
            Self::Cubic => cubic(distance.abs()),
            Self::Lanczos3 if (-3.0..3.0).contains(&distance) => sinc(distance) * sinc(distance / 3.0),
            Self::Lanczos3 => 0.0,
        }
    }
}

/// The raster at another size.
pub(crate) fn resample<const N: usize>(source: &[u8], from: Size, to: Size, filter: Filter) -> Vec<u8> {
    let wide = if from.width() == to.width() {
        source.to_vec()
    } else {
        along_rows::<N>(source, from.width() as usize, &windows(from.width(), to.width(), filter))
    };
    if from.height() == to.height() {
        return wide;
    }
    along_columns(&wide, to.width() as usize * N, &windows(from.height(), to.height(), filter))
}

/// The pixels of the source that one pixel of the result is the weighted sum of.
struct Window {
    start: usize,
    weights: Vec<i32>,
}

/// The windows of all pixels along one side.
fn windows(from: u32, to: u32, filter: Filter) -> Vec<Window> {
    let scale = f64::from(from) / f64::from(to);
    let stretch = scale.max(1.0);
    let reach = filter.support() * stretch;
    let window = |target: u32| {
        let center = (f64::from(target) + 0.5) * scale;
        let start = (center - reach + 0.5).max(0.0) as usize;
        let end = ((center + reach + 0.5) as usize).min(from as usize);
        let distance = |pixel: usize| (pixel as f64 - center + 0.5) * (1.0 / stretch);
        let weights: Vec<f64> = (start..end).map(|pixel| filter.at(distance(pixel))).collect();
        Window { start, weights: to_fixed_point(&weights) }
    };
    (0..to).map(window).collect()
}

/// Scales the weights to a sum of 1 in fixed point.
fn to_fixed_point(weights: &[f64]) -> Vec<i32> {
    let sum: f64 = weights.iter().sum();
    let one = f64::from(1 << FRACTION_BITS);
    // `round` goes half away from zero, as Pillow's ±0.5 and cut does.
    weights.iter().map(|weight| (weight / sum * one).round() as i32).collect()
}

// [H, from, N] -> [H, to, N]
fn along_rows<const N: usize>(source: &[u8], width: usize, windows: &[Window]) -> Vec<u8> {
    let mut result = Vec::with_capacity(source.len() / width * windows.len());
    for row in source.chunks_exact(width * N) {
        for window in windows {
            let mut sums = [HALF; N];
            let pixels = row[window.start * N..].chunks_exact(N);
            for (weight, pixel) in window.weights.iter().zip(pixels) {
                for (sum, &sample) in sums.iter_mut().zip(pixel) {
                    *sum += weight * i32::from(sample);
                }
            }
            result.extend(sums.map(to_byte));
        }
    }
    result
}

// [from, W·N] -> [to, W·N]
fn along_columns(source: &[u8], row_length: usize, windows: &[Window]) -> Vec<u8> {
    let mut result = Vec::with_capacity(row_length * windows.len());
    let mut sums = vec![HALF; row_length];
    for window in windows {
        sums.fill(HALF);
        let rows = source[window.start * row_length..].chunks_exact(row_length);
        for (weight, row) in window.weights.iter().zip(rows) {
            for (sum, &sample) in sums.iter_mut().zip(row) {
                *sum += weight * i32::from(sample);
            }
        }
        result.extend(sums.iter().copied().map(to_byte));
    }
    result
}

/// What a sum starts from, so that cutting off its fraction rounds to nearest.
const HALF: i32 = 1 << (FRACTION_BITS - 1);

fn to_byte(sum: i32) -> u8 {
    (sum >> FRACTION_BITS).clamp(0, 255) as u8
}

/// Keys 1981, "Cubic Convolution Interpolation for Digital Image Processing", equation 4.
fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    match x {
        x if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
        x if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
        _ => 0.0,
    }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 { 1.0 } else { (PI * x).sin() / (PI * x) }
}
