//! The variational autoencoder of Stable Diffusion (`AutoencoderKL`).
//!
//! Shapes: pixels `[B, 3, H, W]`, posterior means and log variances `[B, C, H/f, W/f]`.
//! Source: Rombach et al. 2022, appendix G; layout of weights as in diffusers.

use super::Encoded;
use crate::{
    config::{VaeConfig, unsupported},
    error::{LoadError, Result},
    ops::{self, Conv2d, GroupNorm, Linear},
    unet::resnet::{Resnet, ResnetStyle, Upsample},
    weights::Scope,
};
use candle_core::Tensor;

/// An `AutoencoderKL`.
pub(crate) struct AutoencoderKl {
    encoder: Encoder,
    quant: Option<Conv2d>,
    post_quant: Option<Conv2d>,
    decoder: Decoder,
}

impl AutoencoderKl {
    pub(crate) fn load(scope: &Scope, config: &VaeConfig, label: &str) -> Result<Self, LoadError> {
        let latent = config.latent_channels;
        if !["", "silu", "swish"].contains(&config.act_fn.as_str()) {
            return Err(unsupported(label, "act_fn", &config.act_fn));
        }
        if config.block_out_channels.is_empty()
            || config.norm_num_groups == 0
            || config.block_out_channels.iter().any(|channels| channels % config.norm_num_groups != 0)
        {
            let channels = format!("{:?}", config.block_out_channels);
            return Err(unsupported(label, "block_out_channels", &channels));
        }
        let conv = |used: bool, name: &str, channels: usize| match used {
            true => Conv2d::load(&scope.at(name), channels, channels, 1).map(Some),
            false => Ok(None),
        };
        Ok(Self {
            encoder: Encoder::load(&scope.at("encoder"), config)?,
            quant: conv(config.use_quant_conv, "quant_conv", 2 * latent)?,
            post_quant: conv(config.use_post_quant_conv, "post_quant_conv", latent)?,
            decoder: Decoder::load(&scope.at("decoder"), config)?,
        })
    }

    pub(crate) fn encode(&self, pixels: &Tensor) -> Result<Encoded> {
        let moments = self.encoder.forward(pixels)?;
        let moments = match &self.quant {
            Some(conv) => conv.forward(&moments)?,
            None => moments,
        };
        // [B, 2·C, h, w] -> two of [B, C, h, w]
        let halves = moments.chunk(2, 1)?;
        // -30 to 20: the bounds of diffusers' DiagonalGaussianDistribution.
        let log_variance = halves[1].clamp(-30f32, 20f32)?;
        Ok(Encoded::Posterior { mean: halves[0].contiguous()?, log_variance })
    }

    pub(crate) fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        match &self.post_quant {
            Some(conv) => self.decoder.forward(&conv.forward(latents)?),
            None => self.decoder.forward(latents),
        }
    }
}

fn style(config: &VaeConfig) -> ResnetStyle {
    // 1e-6: fixed in diffusers' Encoder and Decoder.
    ResnetStyle { groups: config.norm_num_groups, epsilon: 1e-6, time: None }
}

/// Residual blocks at one resolution.
fn load_resnets(
    scope: &Scope,
    count: usize,
    inputs: usize,
    outputs: usize,
    style: ResnetStyle,
) -> Result<Vec<Resnet>, LoadError> {
    (0..count)
        .map(|index| {
            let inputs = if index == 0 { inputs } else { outputs };
            Resnet::load(&scope.at("resnets").at(index), inputs, outputs, style)
        })
        .collect()
}

struct Encoder {
    conv_in: Conv2d,
    levels: Vec<(Vec<Resnet>, Option<Conv2d>)>,
    middle: Middle,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Encoder {
    fn load(scope: &Scope, config: &VaeConfig) -> Result<Self, LoadError> {
        let channels = &config.block_out_channels;
        let style = style(config);
        let mut levels = Vec::with_capacity(channels.len());
        let mut inputs = channels[0];
        for (level, outputs) in channels.iter().copied().enumerate() {
            let scope = scope.at("down_blocks").at(level);
            let resnets = load_resnets(&scope, config.layers_per_block, inputs, outputs, style)?;
            let downsample = if level + 1 < channels.len() {
                let conv = Conv2d::load(&scope.at("downsamplers.0.conv"), outputs, outputs, 3)?;
                Some(conv.halving_bottom_right())
            } else {
                None
            };
            levels.push((resnets, downsample));
            inputs = outputs;
        }
        Ok(Self {
            conv_in: Conv2d::load(&scope.at("conv_in"), config.in_channels, channels[0], 3)?,
            levels,
            middle: Middle::load(&scope.at("mid_block"), inputs, config)?,
            norm_out: GroupNorm::load(&scope.at("conv_norm_out"), style.groups, inputs, style.epsilon)?,
            conv_out: Conv2d::load(&scope.at("conv_out"), inputs, 2 * config.latent_channels, 3)?,
        })
    }

    fn forward(&self, pixels: &Tensor) -> Result<Tensor> {
        let mut x = self.conv_in.forward(pixels)?;
        for (resnets, downsample) in &self.levels {
            for resnet in resnets {
                x = resnet.forward(&x, None)?;
            }
            if let Some(conv) = downsample {
                x = conv.forward(&x)?;
            }
        }
        let x = self.middle.forward(&x)?;
        self.conv_out.forward(&self.norm_out.forward_silu(&x)?)
    }
}

struct Decoder {
    conv_in: Conv2d,
    middle: Middle,
    levels: Vec<(Vec<Resnet>, Option<Upsample>)>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Decoder {
    fn load(scope: &Scope, config: &VaeConfig) -> Result<Self, LoadError> {
        let channels = &config.block_out_channels;
        let style = style(config);
        let deepest = channels[channels.len() - 1];
        let mut levels = Vec::with_capacity(channels.len());
        let mut inputs = deepest;
        for (level, outputs) in channels.iter().rev().copied().enumerate() {
            let scope = scope.at("up_blocks").at(level);
            let resnets = load_resnets(&scope, config.layers_per_block + 1, inputs, outputs, style)?;
            let upsample =
                if level + 1 < channels.len() { Some(Upsample::load(&scope, outputs)?) } else { None };
            levels.push((resnets, upsample));
            inputs = outputs;
        }
        Ok(Self {
            conv_in: Conv2d::load(&scope.at("conv_in"), config.latent_channels, deepest, 3)?,
            middle: Middle::load(&scope.at("mid_block"), deepest, config)?,
            levels,
            norm_out: GroupNorm::load(&scope.at("conv_norm_out"), style.groups, inputs, style.epsilon)?,
            conv_out: Conv2d::load(&scope.at("conv_out"), inputs, config.out_channels, 3)?,
        })
    }

    fn forward(&self, latents: &Tensor) -> Result<Tensor> {
        let mut x = self.middle.forward(&self.conv_in.forward(latents)?)?;
        for (resnets, upsample) in &self.levels {
            for resnet in resnets {
                x = resnet.forward(&x, None)?;
            }
            if let Some(upsample) = upsample {
                x = upsample.forward(&x, None)?;
            }
        }
        self.conv_out.forward(&self.norm_out.forward_silu(&x)?)
    }
}

/// Two residual blocks with attention between them.
struct Middle {
    first: Resnet,
    attention: Option<PixelAttention>,
    last: Resnet,
}

impl Middle {
    fn load(scope: &Scope, channels: usize, config: &VaeConfig) -> Result<Self, LoadError> {
        let style = style(config);
        let attention = match config.mid_block_add_attention {
            true => Some(PixelAttention::load(&scope.at("attentions.0"), channels, style)?),
            false => None,
        };
        Ok(Self {
            first: Resnet::load(&scope.at("resnets.0"), channels, channels, style)?,
            attention,
            last: Resnet::load(&scope.at("resnets.1"), channels, channels, style)?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.first.forward(x, None)?;
        let x = match &self.attention {
            Some(attention) => attention.forward(&x)?,
            None => x,
        };
        self.last.forward(&x, None)
    }
}

/// Single-head attention between all pixels, around a shortcut.
struct PixelAttention {
    norm: GroupNorm,
    query: Linear,
    key: Linear,
    value: Linear,
    out: Linear,
}

impl PixelAttention {
    fn load(scope: &Scope, channels: usize, style: ResnetStyle) -> Result<Self, LoadError> {
        // Checkpoints saved before diffusers 0.16 use the older names.
        let linear = |name: &str, old_name: &str| {
            let scope = if scope.at(name).contains("weight") { scope.at(name) } else { scope.at(old_name) };
            Linear::load(&scope, channels, channels)
        };
        Ok(Self {
            norm: GroupNorm::load(&scope.at("group_norm"), style.groups, channels, style.epsilon)?,
            query: linear("to_q", "query")?,
            key: linear("to_k", "key")?,
            value: linear("to_v", "value")?,
            out: linear("to_out.0", "proj_attn")?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, channels, height, width) = x.dims4()?;
        // [B, C, H, W] -> [B, H·W, C]
        let y = self.norm.forward(x)?.reshape((batch, channels, height * width))?;
        let y = y.transpose(1, 2)?.contiguous()?;
        let (q, k, v) = (self.query.forward(&y)?, self.key.forward(&y)?, self.value.forward(&y)?);
        let y = self.out.forward(&ops::attention(&q, &k, &v, 1)?)?;
        // [B, H·W, C] -> [B, C, H, W]
        x + y.transpose(1, 2)?.contiguous()?.reshape((batch, channels, height, width))?
    }
}
