//! The values of one picture between two layers of an autoencoder, worked on in bands of rows.
//!
//! Shapes: planes are `[C, H, W]`, a band of them `[C, rows, W]`. Large pictures are not cut into tiles that know nothing
//! of each other, which would show as seams: every layer runs over the whole picture, some rows at a time with those that
//! the kernel reaches beyond them, and every norm takes its mean and variance of the whole picture. What that saves is
//! every copy between layers; the result is that of whole layers but for the order in which the norms' sums are taken.

use crate::{
    error::Result,
    ops::{Conv2d, Edges, Moments, stale, with_values},
};
use candle_core::{Device, Tensor};
use rayon::prelude::*;
use std::{borrow::Cow, ops::Range};

/// How many bytes a band of a layer's values may have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget(usize);

impl Budget {
    /// 256 MiB: the largest layer of Stable Diffusion at 512x512, whose layers are then worked on at once.
    pub(crate) const USUAL: Self = Self(256 << 20);

    /// So many bytes.
    #[cfg(test)]
    pub(crate) const fn of(bytes: usize) -> Self {
        Self(bytes)
    }

    /// Whether values of this shape are few enough to be held beside others without a thought.
    pub(super) fn holds(self, channels: usize, height: usize, width: usize) -> bool {
        channels * height * width * size_of::<f32>() <= self.0
    }

    /// Rows of `row` values each that make up what is held of the largest layers at once.
    pub(super) fn rows_at_once(self, row: usize) -> usize {
        (self.0 / (row * size_of::<f32>()).max(1)).max(1)
    }

    /// Runs of rows, all of one length but for the last, of `height` rows of `row` values.
    pub(super) fn bands(self, height: usize, row: usize) -> impl Iterator<Item = Range<usize>> {
        // Under 8 rows more is spent on the rows around a band than on its own. Fours are the rows of Winograd's tiles: a
        // band that starts with one has the bytes of the whole.
        let rows = (self.0 / (row * size_of::<f32>()).max(1)).max(8) & !3;
        (0..height).step_by(rows).map(move |start| start..(start + rows).min(height))
    }
}

/// The values of one picture.
pub(crate) struct Planes {
    values: Vec<f32>,
    pub(crate) channels: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
}

impl Planes {
    /// Planes to be written band by band. A first band that is not the whole takes the memory of all of them.
    pub(super) fn unwritten(channels: usize, height: usize, width: usize) -> Self {
        Self { values: Vec::new(), channels, height, width }
    }

    /// One item of `[B, C, H, W]`.
    pub(super) fn of_item(tensor: &Tensor, item: usize) -> Result<Self> {
        let (_, channels, height, width) = tensor.dims4()?;
        let values = with_values(&tensor.narrow(0, item, 1)?, <[f32]>::to_vec)?;
        Ok(Self { values, channels, height, width })
    }

    /// `[1, C, H, W]`
    pub(super) fn into_tensor(self) -> Result<Tensor> {
        let Self { values, channels, height, width } = self;
        Tensor::from_vec(values, (1, channels, height, width), &Device::Cpu)
    }

    /// Some rows of every plane.
    pub(super) fn rows(&self, rows: Range<usize>) -> Cow<'_, [f32]> {
        if rows == (0..self.height) {
            return Cow::Borrowed(&self.values);
        }
        let (plane, from, length) =
            (self.height * self.width, rows.start * self.width, rows.len() * self.width);
        let mut copy = stale(self.channels * length);
        copy.par_chunks_mut(length.max(1))
            .zip(self.values.par_chunks(plane.max(1)))
            .for_each(|(copy, values)| copy.copy_from_slice(&values[from..from + length]));
        Cow::Owned(copy)
    }

    /// Overwrites some rows of every plane.
    pub(super) fn put(&mut self, rows: Range<usize>, band: Vec<f32>) {
        if rows == (0..self.height) {
            self.values = band;
            return;
        }
        if self.values.is_empty() {
            self.values = stale(self.channels * self.height * self.width);
        }
        let (plane, from, length) =
            (self.height * self.width, rows.start * self.width, rows.len() * self.width);
        self.values
            .par_chunks_mut(plane.max(1))
            .zip(band.par_chunks(length.max(1)))
            .for_each(|(values, band)| values[from..from + length].copy_from_slice(band));
    }

    /// What a norm needs to know of all of them.
    pub(super) fn moments(&self) -> Moments {
        let mut moments = Moments::none(self.channels);
        moments.add(&self.values);
        moments
    }
}

/// A band with the rows around it that a kernel of 3 by 3 reaches, and where of them the picture ends.
pub(super) struct Reach {
    /// The rows to be read.
    pub(super) rows: Range<usize>,
    /// Whether the picture ends with them.
    pub(super) edges: Edges,
    /// How many of them lie before the band.
    pub(super) above: usize,
}

impl Reach {
    /// Around `band` of a picture of `height` rows.
    pub(super) fn of(band: &Range<usize>, height: usize) -> Self {
        let rows = band.start.saturating_sub(1)..(band.end + 1).min(height);
        let edges = Edges { top: band.start == 0, bottom: band.end == height };
        Self { above: band.start - rows.start, rows, edges }
    }
}

/// Rows of a band `[C, rows, W]`.
pub(super) fn rows_of_band(
    band: Cow<'_, [f32]>,
    channels: usize,
    width: usize,
    rows: Range<usize>,
) -> Cow<'_, [f32]> {
    let plane = (band.len() / channels).max(1);
    let cut = rows.start * width..rows.end * width;
    if cut == (0..plane) {
        return band;
    }
    let mut copy = stale(channels * cut.len());
    copy.par_chunks_mut(cut.len().max(1))
        .zip(band.par_chunks(plane))
        .for_each(|(copy, plane)| copy.copy_from_slice(&plane[cut.clone()]));
    Cow::Owned(copy)
}

/// Planes as a layer reads them: as they are, or doubled by a convolution each time they are read, where the doubled
/// ones would be the largest of the whole network.
pub(super) enum Source<'a> {
    /// As they are.
    Whole(Planes),
    /// Doubled in height and width, then convolved.
    Doubled {
        /// Half as high and wide.
        x: Planes,
        /// The convolution.
        conv: &'a Conv2d,
    },
}

impl Source<'_> {
    /// Channels, height and width of what is read.
    pub(super) fn shape(&self) -> [usize; 3] {
        match self {
            Self::Whole(planes) => [planes.channels, planes.height, planes.width],
            Self::Doubled { x, conv } => [conv.outputs(), 2 * x.height, 2 * x.width],
        }
    }

    /// The planes themselves.
    pub(super) fn into_planes(self, budget: Budget) -> Planes {
        let [channels, height, width] = self.shape();
        match self {
            Self::Whole(planes) => planes,
            Self::Doubled { .. } => {
                let mut planes = Planes::unwritten(channels, height, width);
                for band in budget.bands(height, channels * width) {
                    planes.put(band.clone(), self.rows(band).into_owned());
                }
                planes
            }
        }
    }

    /// Some rows.
    pub(super) fn rows(&self, rows: Range<usize>) -> Cow<'_, [f32]> {
        match self {
            Self::Whole(planes) => planes.rows(rows),
            Self::Doubled { x, conv } => doubled_rows(x, conv, rows),
        }
    }
}

fn doubled_rows(x: &Planes, conv: &Conv2d, rows: Range<usize>) -> Cow<'static, [f32]> {
    // The kernel reads one doubled row above and one below.
    let from = rows.start.saturating_sub(1) / 2;
    let to = (rows.end / 2 + 1).min(x.height);
    let edges = Edges { top: from == 0, bottom: to == x.height };
    let band = conv.forward_rows_doubled(&x.rows(from..to), x.width, edges);
    // Without the zeros above, the first row that comes out is the second one of what went in.
    let first = if edges.top { 0 } else { 2 * from + 1 };
    rows_of_band(Cow::Owned(band), conv.outputs(), 2 * x.width, rows.start - first..rows.end - first)
}
