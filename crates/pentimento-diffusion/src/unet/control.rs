//! Control networks (`ControlNetModel`): copies of the UNet's way down that are shown a picture and say what the UNet's skips
//! should be.
//!
//! Shapes: hints `[1, 3, H, W]` from 0 to 1, embedded once per request to `[1, C, h, w]`; residuals have the shapes of the
//! UNet's skips and of its middle.
//! Source: Zhang et al. 2023, "Adding Conditional Control to Text-to-Image Diffusion Models"; layout of weights as in diffusers.

use super::{
    ALL_SKIPS, Levels, Told,
    attention::Context,
    blocks::{DownLevel, MiddleLevel},
    load_down, load_middle,
    time::{Added, AddedInputs, TimeEmbedding},
    way_down,
};
use crate::{
    config::UnetConfig,
    error::{LoadError, Result},
    ops::{Activation, Conv2d, Padding},
    weights::Scope,
};
use candle_core::Tensor;

/// What is added to a UNet's skips and to its middle.
pub(crate) struct Residuals {
    /// In the order in which the skips arise.
    pub(crate) down: Vec<Tensor>,
    /// Of the lowest level; `None` where the way down was not walked to its end.
    pub(crate) middle: Option<Tensor>,
}

impl Residuals {
    /// Both together.
    pub(crate) fn sum(&self, other: &Self) -> Result<Self> {
        let down = self.down.iter().zip(&other.down).map(|(ours, theirs)| ours + theirs);
        let middle = self.middle.as_ref().zip(other.middle.as_ref()).map(|(ours, theirs)| ours + theirs);
        Ok(Self { down: down.collect::<Result<_>>()?, middle: middle.transpose()? })
    }

    /// `weight` times as much.
    pub(crate) fn times(self, weight: f64) -> Result<Self> {
        let Self { down, middle } = self;
        let down = down.into_iter().map(|residual| residual * weight).collect::<Result<_>>()?;
        Ok(Self { down, middle: middle.map(|residual| residual * weight).transpose()? })
    }

    /// Adds those of the skips.
    pub(super) fn add_to(&self, skips: &mut [Tensor]) -> Result<()> {
        for (skip, residual) in skips.iter_mut().zip(&self.down) {
            *skip = (&*skip + residual)?;
        }
        Ok(())
    }
}

/// A control network with its weights bound.
pub(crate) struct ControlNet {
    hint: HintEmbedding,
    conv_in: Conv2d,
    time: TimeEmbedding,
    down: Vec<DownLevel>,
    middle: MiddleLevel,
    down_out: Vec<Conv2d>,
    middle_out: Conv2d,
}

impl ControlNet {
    /// Binds the weights. `config` is that of the UNet whose copy this is; `hint_widths` are the channels of the hint's
    /// embedding, from the picture's size to the latent's.
    pub(crate) fn load(
        scope: &Scope,
        config: &UnetConfig,
        hint_widths: &[usize],
        label: &str,
    ) -> Result<Self, LoadError> {
        config.check(label)?;
        let levels = Levels::resolve(config, label)?;
        let mut cross_layers = 0;
        let exact = scope.in_floats();
        let (first, last) = (levels.channels[0], levels.channels[levels.channels.len() - 1]);
        let down = load_down(scope, config, &levels, label, &mut cross_layers)?;
        let middle = load_middle(scope, &levels, &mut cross_layers)?;
        let skips = skip_channels(&levels);
        let out = |(index, channels): (usize, &usize)| {
            Conv2d::load(&exact.at("controlnet_down_blocks").at(index), *channels, *channels, 1)
        };
        Ok(Self {
            hint: HintEmbedding::load(&exact.at("controlnet_cond_embedding"), hint_widths, first)?,
            conv_in: Conv2d::load(&exact.at("conv_in"), config.in_channels, first, 3)?,
            time: TimeEmbedding::load(&exact, config, label)?,
            down,
            middle,
            down_out: skips.iter().enumerate().map(out).collect::<Result<_, _>>()?,
            middle_out: Conv2d::load(&exact.at("controlnet_mid_block"), last, last, 1)?,
        })
    }

    /// The keys and values of `context` `[B, S, D]` for all layers.
    pub(crate) fn context(&self, context: &Tensor) -> Result<Context> {
        let mut keys_values = Vec::new();
        self.down.iter().try_for_each(|level| level.collect(context, &mut keys_values))?;
        self.middle.collect(context, &mut keys_values)?;
        Ok(Context { layers: keys_values, streams: Vec::new() })
    }

    /// The embedding of what else the network is told, for all steps; `None` where that is nothing.
    pub(crate) fn added(&self, inputs: &AddedInputs) -> Result<Option<Added>> {
        self.time.added(inputs)
    }

    /// A hint `[1, 3, H, W]` as the network adds it to its latent.
    pub(crate) fn embed_hint(&self, hint: &Tensor) -> Result<Tensor> {
        self.hint.forward(hint)
    }

    /// The residuals for `x` `[B, C, h, w]` at `timestep`: those of the first `most` skips, or of all and the middle.
    pub(crate) fn forward(
        &self,
        x: &Tensor,
        timestep: f64,
        context: &Context,
        added: Option<&Added>,
        hint: &Tensor,
        most: usize,
    ) -> Result<Residuals> {
        let time = &self.time.forward(timestep, added)?;
        let told = Told { time, context, merging: None };
        let x = self.conv_in.forward(x)?.broadcast_add(hint)?;
        let (x, skips) = way_down(&self.down, x, &told, most)?;
        let down = skips.iter().zip(&self.down_out).map(|(skip, out)| out.forward(skip));
        let down = down.collect::<Result<_>>()?;
        let middle = match most {
            ALL_SKIPS => Some(self.middle_out.forward(&self.middle.forward(&x, &told)?)?),
            _ => None,
        };
        Ok(Residuals { down, middle })
    }
}

/// Channels of the skips that the way down leaves.
fn skip_channels(levels: &Levels) -> Vec<usize> {
    let mut skips = vec![levels.channels[0]];
    for (level, channels) in levels.channels.iter().enumerate() {
        let downsample = usize::from(level + 1 < levels.channels.len());
        skips.extend(std::iter::repeat_n(*channels, levels.layers[level] + downsample));
    }
    skips
}

/// Convolutions that bring a picture to the latent's size, with SiLU between them.
struct HintEmbedding {
    conv_in: Conv2d,
    blocks: Vec<Conv2d>,
    conv_out: Conv2d,
}

impl HintEmbedding {
    fn load(scope: &Scope, widths: &[usize], outputs: usize) -> Result<Self, LoadError> {
        let mut blocks = Vec::new();
        for (index, pair) in widths.windows(2).enumerate() {
            let place = |index: usize| scope.at("blocks").at(index);
            blocks.push(Conv2d::load(&place(2 * index), pair[0], pair[0], 3)?);
            blocks.push(Conv2d::halving(&place(2 * index + 1), pair[0], pair[1], Padding::all(1))?);
        }
        let (first, last) = (widths.first().copied().unwrap_or(1), widths.last().copied().unwrap_or(1));
        Ok(Self {
            conv_in: Conv2d::load(&scope.at("conv_in"), 3, first, 3)?,
            blocks,
            conv_out: Conv2d::load(&scope.at("conv_out"), last, outputs, 3)?,
        })
    }

    fn forward(&self, hint: &Tensor) -> Result<Tensor> {
        let mut x = Activation::Silu.forward(&self.conv_in.forward(hint)?)?;
        for conv in &self.blocks {
            x = Activation::Silu.forward(&conv.forward(&x)?)?;
        }
        self.conv_out.forward(&x)
    }
}
