//! Pictures as floats, resampled as the detectors' authors do it.
//!
//! Shapes: `[height, width, 3]`, row-major, red first, values 0 to 255.

use pentimento_request::{Channels, Picture};

/// Colours as floats.
#[derive(Clone)]
pub(crate) struct Raster {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) values: Vec<f32>,
}

impl Raster {
    /// A picture's colours, whatever its opacity.
    pub(crate) fn of(picture: &Picture) -> Self {
        let pixels = picture.pixels().chunks_exact(picture.channels().count());
        let values = pixels.flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).map(f32::from).collect();
        let size = picture.size();
        Self { width: size.width() as usize, height: size.height() as usize, values }
    }

    /// The colours at a place.
    fn at(&self, x: usize, y: usize) -> [f32; 3] {
        let start = 3 * (y * self.width + x);
        [self.values[start], self.values[start + 1], self.values[start + 2]]
    }

    /// The rectangle from (left, top) to before (right, bottom), brought to another size: each pixel is the mean of those
    /// that it covers even in part (torch's adaptive average, which `interpolate(mode="area")` is).
    pub(crate) fn averaged(
        &self,
        [left, top, right, bottom]: [usize; 4],
        width: usize,
        height: usize,
    ) -> Self {
        let ranges = |from: usize, to: usize, count: usize| -> Vec<(usize, usize)> {
            let length = to - from;
            (0..count)
                .map(|index| (from + index * length / count, from + ((index + 1) * length).div_ceil(count)))
                .collect()
        };
        let (columns, rows) = (ranges(left, right, width), ranges(top, bottom, height));
        let mut values = Vec::with_capacity(3 * width * height);
        for (top, bottom) in rows {
            for (left, right) in &columns {
                let mut sums = [0f32; 3];
                for y in top..bottom {
                    for x in *left..*right {
                        let colour = self.at(x, y);
                        (0..3).for_each(|channel| sums[channel] += colour[channel]);
                    }
                }
                let count = ((bottom - top) * (right - left)) as f32;
                values.extend(sums.map(|sum| sum / count));
            }
        }
        Self { width, height, values }
    }

    /// Another size by linear interpolation between the four nearest pixels, as OpenCV's `resize` does it.
    pub(crate) fn interpolated(&self, width: usize, height: usize) -> Self {
        let places = |from: usize, to: usize| -> Vec<f32> {
            let scale = from as f64 / to as f64;
            (0..to)
                .map(|index| ((index as f64 + 0.5) * scale - 0.5).clamp(0.0, (from - 1) as f64) as f32)
                .collect()
        };
        let (xs, ys) = (places(self.width, width), places(self.height, height));
        let mut values = Vec::with_capacity(3 * width * height);
        for y in &ys {
            for x in &xs {
                values.extend(self.between(*x, *y));
            }
        }
        Self { width, height, values }
    }

    /// Colours between pixels; what lies outside is black.
    pub(crate) fn between(&self, x: f32, y: f32) -> [f32; 3] {
        let (left, top) = (x.floor(), y.floor());
        let (right_share, lower_share) = (x - left, y - top);
        let mut colour = [0f32; 3];
        for (dx, dy, share) in [
            (0.0, 0.0, (1.0 - right_share) * (1.0 - lower_share)),
            (1.0, 0.0, right_share * (1.0 - lower_share)),
            (0.0, 1.0, (1.0 - right_share) * lower_share),
            (1.0, 1.0, right_share * lower_share),
        ] {
            let (x, y) = (left + dx, top + dy);
            let inside = x >= 0.0 && y >= 0.0 && x < self.width as f32 && y < self.height as f32;
            if inside && share > 0.0 {
                let here = self.at(x as usize, y as usize);
                (0..3).for_each(|channel| colour[channel] += share * here[channel]);
            }
        }
        colour
    }

    /// The colours in the upper left corner of a larger black raster.
    pub(crate) fn padded(&self, width: usize, height: usize) -> Self {
        let mut values = vec![0f32; 3 * width * height];
        let rows = values.chunks_exact_mut(3 * width).zip(self.values.chunks_exact(3 * self.width));
        rows.for_each(|(wide, row)| wide[..row.len()].copy_from_slice(row));
        Self { width, height, values }
    }

    /// `[1, 3, height, width]`, in the order of `channels`, each value through `normal`.
    pub(crate) fn planes(&self, channels: [usize; 3], normal: impl Fn(f32) -> f32) -> Vec<f32> {
        let plane = |channel: usize| self.values.iter().skip(channel).step_by(3);
        channels.into_iter().flat_map(plane).map(|value| normal(*value)).collect()
    }

    /// The colours as a picture of bytes.
    pub(crate) fn to_picture(&self) -> Option<Picture> {
        let size = pentimento_request::Size::new(self.width as u32, self.height as u32).ok()?;
        let bytes = self.values.iter().map(|value| value.round_ties_even().clamp(0.0, 255.0) as u8).collect();
        Picture::new(size, Channels::Rgb, bytes).ok()
    }
}
