//! Residual blocks of the UNet and the autoencoder, and their resampling layers.
//!
//! Shapes: `[B, C, H, W]`; the time embedding is `[B, T]`.

use crate::{
    error::{LoadError, Result},
    ops::{self, Conv2d, GroupNorm, Linear},
    weights::Scope,
};
use candle_core::Tensor;

/// Norm, SiLU, convolution, twice, with the time embedding added between, around a shortcut.
pub(crate) struct Resnet {
    norm1: GroupNorm,
    conv1: Conv2d,
    time: Option<Linear>,
    norm2: GroupNorm,
    conv2: Conv2d,
    shortcut: Option<Conv2d>,
}

/// What all residual blocks of a network share.
#[derive(Clone, Copy)]
pub(crate) struct ResnetStyle {
    /// Groups of the norms.
    pub(crate) groups: usize,
    /// Added to the variance.
    pub(crate) epsilon: f64,
    /// Width of the time embedding; `None` in an autoencoder.
    pub(crate) time: Option<usize>,
    /// Whether the last convolution multiplies in f32 whatever the precision: in the last block of a network its rounding reaches
    /// the result, since no layer behind it evens it out.
    pub(crate) exact_end: bool,
}

impl Resnet {
    pub(crate) fn load(
        scope: &Scope,
        inputs: usize,
        outputs: usize,
        style: ResnetStyle,
    ) -> Result<Self, LoadError> {
        let time = match style.time {
            Some(width) => Some(Linear::load(&scope.at("time_emb_proj").in_floats(), width, outputs)?),
            None => None,
        };
        let shortcut = if inputs == outputs {
            None
        } else {
            Some(Conv2d::load(&scope.at("conv_shortcut"), inputs, outputs, 1)?)
        };
        let second = if style.exact_end { scope.at("conv2").in_f32() } else { scope.at("conv2") };
        Ok(Self {
            norm1: GroupNorm::load(&scope.at("norm1"), style.groups, inputs, style.epsilon)?,
            conv1: Conv2d::load(&scope.at("conv1"), inputs, outputs, 3)?,
            time,
            norm2: GroupNorm::load(&scope.at("norm2"), style.groups, outputs, style.epsilon)?,
            conv2: Conv2d::load(&second, outputs, outputs, 3)?,
            shortcut,
        })
    }

    /// `time` is the time embedding behind its SiLU.
    pub(crate) fn forward(&self, x: &Tensor, time: Option<&Tensor>) -> Result<Tensor> {
        let y = self.norm1.forward_silu(x)?;
        let y = match (&self.time, time) {
            // [B, T] -> [B, C], added to every pixel
            (Some(layer), Some(time)) => {
                self.conv1.forward_shift(&y, &per_item(&layer.forward(time)?, x)?)?
            }
            _ => self.conv1.forward(&y)?,
        };
        let y = self.norm2.forward_silu(&y)?;
        match &self.shortcut {
            Some(shortcut) => self.conv2.forward_add(&y, &shortcut.forward(x)?),
            None => self.conv2.forward_add(&y, x),
        }
    }
}

/// One embedding `[1, C]` for each item of `x`'s batch: `[B, C]`.
fn per_item(embedding: &Tensor, x: &Tensor) -> Result<Tensor> {
    embedding.broadcast_as((x.dim(0)?, embedding.dim(1)?))?.contiguous()
}

/// Doubles the height and width (or brings them to a given size), then a convolution.
pub(crate) struct Upsample(Conv2d);

impl Upsample {
    pub(crate) fn load(scope: &Scope, channels: usize) -> Result<Self, LoadError> {
        let doubled = scope.at("upsamplers.0.conv").drawing(scope.pixels().saturating_mul(4));
        Ok(Self(Conv2d::load(&doubled, channels, channels, 3)?))
    }

    /// `size` is the height and width of the result; `None` doubles.
    pub(crate) fn forward(&self, x: &Tensor, size: Option<(usize, usize)>) -> Result<Tensor> {
        let (_, _, height, width) = x.dims4()?;
        match size {
            Some(size) if size != (2 * height, 2 * width) => {
                self.0.forward(&ops::upsample_nearest(x, size.0, size.1)?)
            }
            _ => self.0.forward_doubled(x),
        }
    }
}
