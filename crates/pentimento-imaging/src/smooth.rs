//! Edge-preserving smoothing: takes a picture's fine texture away and leaves its structure.
//!
//! The guided filter with the picture's own luma as the guide: in every window the colours become a linear function of the
//! luma, steep where it varies much (edges stay) and flat where it varies little (texture goes). Its cost does not depend on
//! the radius, and it rings at no edge, which a bilateral filter does. Run twice, because one pass leaves coarse grain.
//! Source: He, Sun & Tang 2010, "Guided Image Filtering".

use pentimento_request::Picture;

/// Half the side of a window, as a share of the picture's shorter side: 4 pixels of 512.
const RADIUS: f64 = 1.0 / 128.0;

/// Variance below which a window counts as texture: (0.08)² of luma from 0 to 1.
const TEXTURE: f64 = 0.0064;

/// Passes of the filter.
const PASSES: usize = 2;

/// The picture without its fine texture. Alpha stays as it is.
pub fn smooth(picture: &Picture) -> Picture {
    let (width, height) = (picture.size().width() as usize, picture.size().height() as usize);
    let count = picture.channels().count();
    let radius = ((width.min(height) as f64 * RADIUS).round() as usize).max(1);
    let mut planes: Vec<Vec<f64>> = (0..3)
        .map(|channel| {
            picture.pixels().chunks_exact(count).map(|pixel| f64::from(pixel[channel]) / 255.0).collect()
        })
        .collect();
    let window = Window { width, height, radius };
    for _ in 0..PASSES {
        let luma = luma(&planes);
        planes = window.guided(&luma, &planes);
    }
    let mut smoothed = picture.clone();
    for (index, pixel) in smoothed.pixels_mut().chunks_exact_mut(count).enumerate() {
        for (channel, plane) in planes.iter().enumerate() {
            pixel[channel] = (plane[index].clamp(0.0, 1.0) * 255.0).round() as u8;
        }
    }
    smoothed
}

/// Luma of ITU-R BT.601.
fn luma(planes: &[Vec<f64>]) -> Vec<f64> {
    let pixels = planes[0].iter().zip(&planes[1]).zip(&planes[2]);
    pixels.map(|((red, green), blue)| 0.299 * red + 0.587 * green + 0.114 * blue).collect()
}

/// Square windows around every pixel, cut off at the picture's edges.
struct Window {
    width: usize,
    height: usize,
    radius: usize,
}

impl Window {
    /// The planes, each a linear function of the guide in every window.
    fn guided(&self, guide: &[f64], planes: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let product = |a: &[f64], b: &[f64]| -> Vec<f64> { a.iter().zip(b).map(|(a, b)| a * b).collect() };
        let mean = self.mean(guide);
        let squares = self.mean(&product(guide, guide));
        let filter = |plane: &Vec<f64>| {
            let (own, joint) = (self.mean(plane), self.mean(&product(guide, plane)));
            let mut slopes = Vec::with_capacity(plane.len());
            let mut offsets = Vec::with_capacity(plane.len());
            for at in 0..plane.len() {
                let variance = squares[at] - mean[at] * mean[at];
                let slope = (joint[at] - mean[at] * own[at]) / (variance + TEXTURE);
                slopes.push(slope);
                offsets.push(own[at] - slope * mean[at]);
            }
            let (slopes, offsets) = (self.mean(&slopes), self.mean(&offsets));
            guide
                .iter()
                .zip(slopes)
                .zip(offsets)
                .map(|((guide, slope), offset)| slope * guide + offset)
                .collect()
        };
        planes.iter().map(filter).collect()
    }

    /// The mean over each pixel's window, by running sums along the rows and then the columns.
    fn mean(&self, plane: &[f64]) -> Vec<f64> {
        let Self { width, height, radius } = *self;
        let mut rows = vec![0.0; plane.len()];
        for (row, out) in plane.chunks_exact(width).zip(rows.chunks_exact_mut(width)) {
            running_means(radius, width, |at| row[at], |at, mean| out[at] = mean);
        }
        let mut means = vec![0.0; plane.len()];
        for column in 0..width {
            running_means(
                radius,
                height,
                |at| rows[at * width + column],
                |at, mean| means[at * width + column] = mean,
            );
        }
        means
    }
}

/// The mean of the values within `radius` of each of `count` places.
fn running_means(
    radius: usize,
    count: usize,
    value: impl Fn(usize) -> f64,
    mut keep: impl FnMut(usize, f64),
) {
    // Sums of all values before each place: differences of them are sums over windows.
    let mut sums = Vec::with_capacity(count + 1);
    sums.push(0.0);
    for at in 0..count {
        sums.push(sums[at] + value(at));
    }
    for at in 0..count {
        let (from, to) = (at.saturating_sub(radius), (at + radius + 1).min(count));
        keep(at, (sums[to] - sums[from]) / (to - from) as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pentimento_request::{Channels, Size};

    fn picture(value: impl Fn(usize, usize) -> u8) -> Picture {
        let pixels = (0..64 * 64).flat_map(|at| [value(at % 64, at / 64), 0, 200, 77]).collect();
        Picture::new(Size::new(64, 64).expect("a size"), Channels::Rgba, pixels).expect("a picture")
    }

    #[test]
    fn texture_goes_and_edges_stay() {
        let grain = |x: usize, y: usize| if (x + y).is_multiple_of(2) { 20 } else { 0 };
        let before = picture(|x, y| grain(x, y) + if x < 32 { 20 } else { 200 });
        let after = smooth(&before);
        let red = |x: usize| i32::from(after.pixels()[4 * (32 * 64 + x)]);
        assert!((red(10) - red(11)).abs() <= 6, "grain of 20 became {}", (red(10) - red(11)).abs());
        assert!(red(36) - red(27) > 150, "the edge of 180 became {}", red(36) - red(27));
    }

    #[test]
    fn a_flat_picture_and_alpha_stay_as_they_are() {
        let before = picture(|_, _| 123);
        assert_eq!(smooth(&before), before);
    }
}
