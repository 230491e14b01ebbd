//! Layers on some rows of a picture at a time, for pictures whose layers' values are too many to hold all at once.
//!
//! Shapes: rows of a picture are `[C, rows, W]`. A convolution is given the rows around its own too, except where the
//! picture ends; a norm first sees all of the picture, part by part, and is then applied part by part.

use super::{Conv2d, GroupNorm, stale};
use crate::profile::{self, LayerKind};
use pentimento_kernels::{
    ChannelNorm, ConvOptions, Padding, Upsample, add_channel_sums, conv2d, conv2d_output_size,
};

/// Whether rows are a picture's first or last ones, beyond which a convolution sees its zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Edges {
    pub(crate) top: bool,
    pub(crate) bottom: bool,
}

impl Conv2d {
    /// Channels of its result.
    pub(crate) fn outputs(&self) -> usize {
        self.weight.c_out()
    }

    /// Rows of its input between two of its result.
    pub(crate) fn stride(&self) -> usize {
        self.stride
    }

    /// `[inputs, rows, W] -> [outputs, rows', W']`
    pub(crate) fn forward_rows(&self, x: &[f32], width: usize, edges: Edges) -> Vec<f32> {
        self.apply_rows(x, width, edges, self.options())
    }

    /// The same behind a norm and SiLU.
    pub(crate) fn forward_rows_normed(
        &self,
        norm: &ChannelNorm,
        x: &[f32],
        width: usize,
        edges: Edges,
    ) -> Vec<f32> {
        self.apply_rows(x, width, edges, ConvOptions { norm: Some(norm), ..self.options() })
    }

    /// The same behind a norm and SiLU, with `residual` `[outputs, rows', W']` added.
    pub(crate) fn forward_rows_normed_add(
        &self,
        norm: &ChannelNorm,
        x: &[f32],
        width: usize,
        edges: Edges,
        residual: &[f32],
    ) -> Vec<f32> {
        let options = ConvOptions { norm: Some(norm), residual: Some(residual), ..self.options() };
        self.apply_rows(x, width, edges, options)
    }

    /// The same on rows that are doubled in height and width.
    pub(crate) fn forward_rows_doubled(&self, x: &[f32], width: usize, edges: Edges) -> Vec<f32> {
        self.apply_rows(x, width, edges, ConvOptions { upsample: Upsample::Nearest2, ..self.options() })
    }

    fn apply_rows(&self, x: &[f32], width: usize, edges: Edges, options: ConvOptions) -> Vec<f32> {
        let at_edge = |edge: bool, padding: usize| if edge { padding } else { 0 };
        let padding = Padding {
            top: at_edge(edges.top, self.padding.top),
            bottom: at_edge(edges.bottom, self.padding.bottom),
            ..self.padding
        };
        let options = ConvOptions { padding, ..options };
        let height = x.len() / (self.weight.c_in() * width);
        let (out_height, out_width) = conv2d_output_size(height, width, &self.weight, &options);
        let mut y = stale(self.outputs() * out_height * out_width);
        let (kind, flops) = self.work(y.len());
        profile::layer(kind, flops, || {
            conv2d(x, [1, self.weight.c_in(), height, width], &self.weight, &options, &mut y);
        });
        y
    }
}

/// What a norm has seen of a picture so far.
pub(crate) struct Moments {
    sums: Vec<[f64; 2]>,
    pixels: usize,
}

impl Moments {
    /// Nothing yet.
    pub(crate) fn none(channels: usize) -> Self {
        Self { sums: vec![[0.0; 2]; channels], pixels: 0 }
    }

    /// Sees rows `[C, rows, W]`, each once.
    pub(crate) fn add(&mut self, rows: &[f32]) {
        let pixels = rows.len() / self.sums.len();
        profile::layer(LayerKind::GroupNorm, 0, || add_channel_sums(rows, pixels, &mut self.sums));
        self.pixels += pixels;
    }
}

impl GroupNorm {
    /// The norm for a picture all of which was seen.
    pub(crate) fn of_moments(&self, moments: &Moments) -> ChannelNorm {
        let Moments { sums, pixels } = moments;
        ChannelNorm::new(sums, *pixels, self.groups, &self.weight, &self.bias, self.epsilon)
    }
}
