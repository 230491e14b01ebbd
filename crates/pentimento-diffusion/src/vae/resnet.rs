//! The residual block of the autoencoder, band by band.
//!
//! Shapes: `[C, H, W]`. Beside its input and its result it holds one layer's values: the first convolution's. Where the
//! input is the doubled picture of a level below, it is never held as a whole.
//! Source: diffusers' `ResnetBlock2D` without a time embedding.

use super::planes::{Budget, Planes, Reach, Source, rows_of_band};
use crate::{
    error::LoadError,
    ops::{Conv2d, GroupNorm, Moments, pages},
    weights::Scope,
};
use std::borrow::Cow;

/// Norm, SiLU, convolution, twice, around a shortcut.
pub(super) struct Resnet {
    norm1: GroupNorm,
    conv1: Conv2d,
    norm2: GroupNorm,
    conv2: Conv2d,
    shortcut: Option<Conv2d>,
}

/// Groups of the norms, and what is added to their variance.
#[derive(Clone, Copy)]
pub(super) struct NormStyle {
    pub(super) groups: usize,
    pub(super) epsilon: f64,
}

impl Resnet {
    pub(super) fn load(
        scope: &Scope,
        inputs: usize,
        outputs: usize,
        style: NormStyle,
    ) -> Result<Self, LoadError> {
        let shortcut = match inputs == outputs {
            true => None,
            false => Some(Conv2d::load(&scope.at("conv_shortcut"), inputs, outputs, 1)?),
        };
        Ok(Self {
            norm1: GroupNorm::load(&scope.at("norm1"), style.groups, inputs, style.epsilon)?,
            conv1: Conv2d::load(&scope.at("conv1"), inputs, outputs, 3)?,
            norm2: GroupNorm::load(&scope.at("norm2"), style.groups, outputs, style.epsilon)?,
            conv2: Conv2d::load(&scope.at("conv2"), outputs, outputs, 3)?,
            shortcut,
        })
    }

    /// Channels of the result.
    pub(super) fn outputs(&self) -> usize {
        self.conv2.outputs()
    }

    pub(super) fn forward(&self, x: Source, budget: Budget) -> Planes {
        let (mut result, inner, moments) = self.first_half(x, budget);
        let norm = self.norm2.of_moments(&moments);
        let Planes { channels, height, width, .. } = inner;
        for band in budget.bands(height, channels * width) {
            let Reach { rows, edges, .. } = Reach::of(&band, height);
            let (inner, residual) = (inner.rows(rows), result.rows(band.clone()));
            let y = self.conv2.forward_rows_normed_add(&norm, &inner, width, edges, &residual);
            result.put(band, y);
        }
        result
    }

    /// The shortcut's values, the first convolution's, and what the second norm has to know of these.
    fn first_half(&self, x: Source, budget: Budget) -> (Planes, Planes, Moments) {
        let [channels, height, width] = x.shape();
        let bands = || budget.bands(height, channels * width);
        let mut moments = Moments::none(channels);
        bands().for_each(|band| moments.add(&x.rows(band)));
        let norm = self.norm1.of_moments(&moments);
        let outputs = self.conv1.outputs();
        let mut inner = Planes::unwritten(outputs, height, width);
        let mut shortcut = self.shortcut.as_ref().map(|_| Planes::unwritten(outputs, height, width));
        let mut moments = Moments::none(outputs);
        for band in bands() {
            let Reach { rows, edges, above } = Reach::of(&band, height);
            let y = x.rows(rows);
            if let (Some(conv), Some(shortcut)) = (&self.shortcut, &mut shortcut) {
                let own = rows_of_band(Cow::Borrowed(&y), channels, width, above..above + band.len());
                shortcut.put(band.clone(), conv.forward_rows(&own, width, edges));
            }
            let y = self.conv1.forward_rows_normed(&norm, &y, width, edges);
            moments.add(&y);
            inner.put(band, y);
        }
        let Some(shortcut) = shortcut else { return (x.into_planes(budget), inner, moments) };
        drop(x);
        // Blocks that are larger than these values serve no layer that follows.
        pages::release_above(size_of::<f32>() * outputs * height * width);
        (shortcut, inner, moments)
    }
}
