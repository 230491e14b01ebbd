//! The levels of the UNet: down, middle, up.
//!
//! Shapes: `[B, C, H, W]`. Every residual block of the way down leaves its result for the way up ("skip").

use super::{
    Told,
    attention::{SpatialTransformer, TransformerStyle},
    resnet::{Resnet, ResnetStyle, Upsample},
};
use crate::{
    error::{LoadError, Result},
    ops::{Conv2d, Padding},
    weights::Scope,
};
use candle_core::Tensor;

/// What a level is made of.
#[derive(Clone, Copy)]
pub(crate) struct LevelStyle {
    /// What it says of the end holds for the last residual block alone.
    pub(crate) resnet: ResnetStyle,
    /// `None` for levels without attention.
    pub(crate) transformer: Option<TransformerStyle>,
    /// Residual blocks.
    pub(crate) layers: usize,
}

/// Residual blocks, each with a transformer where the level has them.
struct Layers {
    resnets: Vec<Resnet>,
    transformers: Vec<SpatialTransformer>,
}

impl Layers {
    /// `inputs` are the channels that each residual block takes.
    fn load(
        scope: &Scope,
        inputs: &[usize],
        outputs: usize,
        style: LevelStyle,
        cross_layers: &mut usize,
    ) -> Result<Self, LoadError> {
        let mut layers = Self { resnets: Vec::new(), transformers: Vec::new() };
        for (index, channels) in inputs.iter().enumerate() {
            let resnet = scope.at("resnets").at(index);
            let exact_end = style.resnet.exact_end && index + 1 == inputs.len();
            let style_here = ResnetStyle { exact_end, ..style.resnet };
            layers.resnets.push(Resnet::load(&resnet, *channels, outputs, style_here)?);
            if let Some(transformer) = style.transformer {
                let scope = scope.at("attentions").at(index);
                layers.transformers.push(SpatialTransformer::load(
                    &scope,
                    outputs,
                    transformer,
                    cross_layers,
                )?);
            }
        }
        Ok(layers)
    }

    fn forward_one(&self, index: usize, x: &Tensor, told: &Told) -> Result<Tensor> {
        let x = self.resnets[index].forward(x, Some(told.time))?;
        match self.transformers.get(index) {
            Some(transformer) => transformer.forward(&x, told),
            None => Ok(x),
        }
    }

    fn collect(&self, context: &Tensor, into: &mut Vec<(Tensor, Tensor)>) -> Result<()> {
        self.transformers.iter().try_for_each(|transformer| transformer.collect(context, into))
    }
}

/// A level on the way down.
pub(crate) struct DownLevel {
    layers: Layers,
    downsample: Option<Conv2d>,
}

impl DownLevel {
    /// `downsample` is the padding of the stride-2 convolution at the end, `None` for the last level.
    pub(crate) fn load(
        scope: &Scope,
        inputs: usize,
        outputs: usize,
        style: LevelStyle,
        downsample: Option<usize>,
        cross_layers: &mut usize,
    ) -> Result<Self, LoadError> {
        let mut layer_inputs = vec![outputs; style.layers];
        if let Some(first) = layer_inputs.first_mut() {
            *first = inputs;
        }
        let layers = Layers::load(scope, &layer_inputs, outputs, style, cross_layers)?;
        let downsample = match downsample {
            Some(padding) => {
                // diffusers' Downsample2D without padding pads below and right alone.
                let padding = if padding == 0 { Padding::BOTTOM_RIGHT } else { Padding::all(padding) };
                Some(Conv2d::halving(&scope.at("downsamplers.0.conv"), outputs, outputs, padding)?)
            }
            None => None,
        };
        Ok(Self { layers, downsample })
    }

    /// Ends where there are `most` skips.
    pub(crate) fn forward(
        &self,
        mut x: Tensor,
        told: &Told,
        skips: &mut Vec<Tensor>,
        most: usize,
    ) -> Result<Tensor> {
        for index in 0..self.layers.resnets.len() {
            if skips.len() == most {
                return Ok(x);
            }
            x = self.layers.forward_one(index, &x, told)?;
            skips.push(x.clone());
        }
        if let Some(downsample) = &self.downsample
            && skips.len() < most
        {
            x = downsample.forward(&x)?;
            skips.push(x.clone());
        }
        Ok(x)
    }

    pub(crate) fn collect(&self, context: &Tensor, into: &mut Vec<(Tensor, Tensor)>) -> Result<()> {
        self.layers.collect(context, into)
    }
}

/// The lowest level: residual blocks with transformers between them.
pub(crate) struct MiddleLevel {
    first: Resnet,
    transformer: SpatialTransformer,
    last: Resnet,
}

impl MiddleLevel {
    pub(crate) fn load(
        scope: &Scope,
        channels: usize,
        resnet: ResnetStyle,
        transformer: TransformerStyle,
        cross_layers: &mut usize,
    ) -> Result<Self, LoadError> {
        let attention = scope.at("attentions.0");
        Ok(Self {
            first: Resnet::load(&scope.at("resnets.0"), channels, channels, resnet)?,
            transformer: SpatialTransformer::load(&attention, channels, transformer, cross_layers)?,
            last: Resnet::load(&scope.at("resnets.1"), channels, channels, resnet)?,
        })
    }

    pub(crate) fn forward(&self, x: &Tensor, told: &Told) -> Result<Tensor> {
        let x = self.first.forward(x, Some(told.time))?;
        let x = self.transformer.forward(&x, told)?;
        self.last.forward(&x, Some(told.time))
    }

    pub(crate) fn collect(&self, context: &Tensor, into: &mut Vec<(Tensor, Tensor)>) -> Result<()> {
        self.transformer.collect(context, into)
    }
}

/// Keeps what comes from below to one layer of the way up.
pub(crate) struct Tap {
    /// Skips that are left when it is that layer's turn; 0 for no layer.
    pub(crate) at: usize,
    pub(crate) seen: Option<Tensor>,
}

impl Tap {
    fn look(&mut self, skips: usize, x: &Tensor) {
        if skips == self.at {
            self.seen = Some(x.clone());
        }
    }
}

/// A level on the way up.
pub(crate) struct UpLevel {
    layers: Layers,
    upsample: Option<Upsample>,
}

impl UpLevel {
    /// `inputs` are the channels that come from below, `skips` those that come from the way down, in the order in
    /// which they are used.
    pub(crate) fn load(
        scope: &Scope,
        inputs: usize,
        skips: &[usize],
        outputs: usize,
        style: LevelStyle,
        upsample: bool,
        cross_layers: &mut usize,
    ) -> Result<Self, LoadError> {
        let below = |index: usize| if index == 0 { inputs } else { outputs };
        let layer_inputs: Vec<usize> =
            skips.iter().enumerate().map(|(index, skip)| below(index) + skip).collect();
        let layers = Layers::load(scope, &layer_inputs, outputs, style, cross_layers)?;
        let upsample = if upsample { Some(Upsample::load(scope, outputs)?) } else { None };
        Ok(Self { layers, upsample })
    }

    /// Number of layers, each of which takes a skip.
    pub(crate) fn layers(&self) -> usize {
        self.layers.resnets.len()
    }

    /// From layer `first` on. Takes its skips from the end of `skips`.
    pub(crate) fn forward(
        &self,
        mut x: Tensor,
        first: usize,
        told: &Told,
        skips: &mut Vec<Tensor>,
        tap: &mut Tap,
    ) -> Result<Tensor> {
        for index in first..self.layers() {
            tap.look(skips.len(), &x);
            let skip = skips.pop().expect("the way down leaves one skip per block of the way up");
            // [B, C, H, W] and [B, C', H, W] -> [B, C + C', H, W]
            let joined = Tensor::cat(&[&x, &skip], 1)?;
            x = self.layers.forward_one(index, &joined, told)?;
        }
        match &self.upsample {
            // A level whose sides were odd was rounded up on the way down: meet the next skip's size exactly.
            Some(upsample) => {
                let size = skips.last().map(|skip| skip.dims4()).transpose()?;
                upsample.forward(&x, size.map(|(_, _, height, width)| (height, width)))
            }
            None => Ok(x),
        }
    }

    pub(crate) fn collect(&self, context: &Tensor, into: &mut Vec<(Tensor, Tensor)>) -> Result<()> {
        self.layers.collect(context, into)
    }
}
