//! The variational autoencoder of Stable Diffusion (`AutoencoderKL`).
//!
//! Shapes: pixels `[1, 3, H, W]`, posterior means and log variances `[1, C, H/f, W/f]`; between layers `[C, H, W]`.
//! Everything runs in bands of rows ([`planes`](super::planes)): at its widest, behind the last upsampling, decoding holds
//! two layers' values and half of a third's, of `4 · channels` bytes a pixel each.
//! Source: Rombach et al. 2022, appendix G; layout of weights as in diffusers.

use super::{
    Encoded,
    planes::{Budget, Planes, Reach, Source},
    resnet::{NormStyle, Resnet},
};
use crate::{
    config::{VaeConfig, unsupported},
    error::{LoadError, Result},
    interruption,
    ops::{self, Conv2d, Edges, GroupNorm, Heads, Linear, Padding, pages},
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

    /// One picture.
    pub(crate) fn encode(&self, pixels: Planes, budget: Budget) -> Result<Encoded> {
        let moments = self.encoder.forward(pixels, budget)?.into_tensor()?;
        let moments = match &self.quant {
            Some(conv) => conv.forward(&moments)?,
            None => moments,
        };
        // [1, 2·C, h, w] -> two of [1, C, h, w]
        let halves = moments.chunk(2, 1)?;
        // -30 to 20: the bounds of diffusers' DiagonalGaussianDistribution.
        let log_variance = halves[1].clamp(-30f32, 20f32)?;
        Ok(Encoded::Posterior { mean: halves[0].contiguous()?, log_variance })
    }

    /// One picture: `[1, C, h, w] -> [3, H, W]`
    pub(crate) fn decode(&self, latents: &Tensor, budget: Budget) -> Result<Planes> {
        let latents = match &self.post_quant {
            Some(conv) => conv.forward(latents)?,
            None => latents.clone(),
        };
        self.decoder.forward(Planes::of_item(&latents, 0)?, budget)
    }
}

fn style(config: &VaeConfig) -> NormStyle {
    // 1e-6: fixed in diffusers' Encoder and Decoder.
    NormStyle { groups: config.norm_num_groups, epsilon: 1e-6 }
}

/// Pixels of a picture that was doubled in height and width so many times.
fn enlarged(pixels: usize, times: usize) -> usize {
    (0..times).fold(pixels, |pixels, _| pixels.saturating_mul(4))
}

/// A convolution of 3 by 3 over the whole picture.
fn convolve(conv: &Conv2d, x: &Planes, budget: Budget) -> Planes {
    let Planes { height, width, .. } = *x;
    let mut result = Planes::unwritten(conv.outputs(), height, width);
    for band in budget.bands(height, x.channels.max(conv.outputs()) * width) {
        let Reach { rows, edges, .. } = Reach::of(&band, height);
        result.put(band, conv.forward_rows(&x.rows(rows), width, edges));
    }
    result
}

/// The same behind a norm and SiLU.
fn convolve_normed(norm: &GroupNorm, conv: &Conv2d, x: &Planes, budget: Budget) -> Planes {
    let norm = norm.of_moments(&x.moments());
    let Planes { height, width, .. } = *x;
    let mut result = Planes::unwritten(conv.outputs(), height, width);
    for band in budget.bands(height, x.channels * width) {
        let Reach { rows, edges, .. } = Reach::of(&band, height);
        result.put(band, conv.forward_rows_normed(&norm, &x.rows(rows), width, edges));
    }
    result
}

/// A convolution of stride 2 that sees zeros below and right of the picture.
fn halve(conv: &Conv2d, x: &Planes, budget: Budget) -> Planes {
    let (height, width) = (x.height / 2, x.width / 2);
    let mut result = Planes::unwritten(conv.outputs(), height, width);
    for band in budget.bands(height, 2 * x.channels * x.width) {
        let rows = 2 * band.start..(2 * band.end + 1).min(x.height);
        let edges = Edges { top: band.start == 0, bottom: rows.end < 2 * band.end + 1 };
        result.put(band, conv.forward_rows(&x.rows(rows), x.width, edges));
    }
    result
}

/// The convolution of a doubled picture. The largest one, behind the last doubling, is made anew each time it is read.
fn doubled<'a>(conv: &'a Conv2d, x: Planes, is_last: bool, budget: Budget) -> Source<'a> {
    let [channels, height, width] = [conv.outputs(), 2 * x.height, 2 * x.width];
    let doubled = Source::Doubled { x, conv };
    match is_last && !budget.holds(channels, height, width) {
        true => doubled,
        false => Source::Whole(doubled.into_planes(budget)),
    }
}

/// Residual blocks at one resolution.
fn load_resnets(
    scope: &Scope,
    count: usize,
    inputs: usize,
    outputs: usize,
    style: NormStyle,
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
        let pixels = |level: usize| enlarged(scope.pixels(), channels.len() - 1 - level);
        for (level, outputs) in channels.iter().copied().enumerate() {
            let scope = scope.at("down_blocks").at(level).drawing(pixels(level));
            let resnets = load_resnets(&scope, config.layers_per_block, inputs, outputs, style)?;
            let downsample = if level + 1 < channels.len() {
                let scope = scope.at("downsamplers.0.conv");
                Some(Conv2d::halving(&scope, outputs, outputs, Padding::BOTTOM_RIGHT)?)
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

    fn forward(&self, pixels: Planes, budget: Budget) -> Result<Planes> {
        let mut x = convolve(&self.conv_in, &pixels, budget);
        for (resnets, downsample) in &self.levels {
            for resnet in resnets {
                interruption::check()?;
                x = resnet.forward(Source::Whole(x), budget);
            }
            if let Some(conv) = downsample {
                x = halve(conv, &x, budget);
            }
        }
        let x = self.middle.forward(x, budget)?;
        Ok(convolve_normed(&self.norm_out, &self.conv_out, &x, budget))
    }
}

struct Decoder {
    conv_in: Conv2d,
    middle: Middle,
    levels: Vec<(Vec<Resnet>, Option<Conv2d>)>,
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
        let pixels = |level: usize| enlarged(scope.pixels(), level);
        for (level, outputs) in channels.iter().rev().copied().enumerate() {
            let scope = scope.at("up_blocks").at(level).drawing(pixels(level));
            let resnets = load_resnets(&scope, config.layers_per_block + 1, inputs, outputs, style)?;
            let upsample = match level + 1 < channels.len() {
                true => {
                    let doubled = scope.at("upsamplers.0.conv").drawing(pixels(level + 1));
                    Some(Conv2d::load(&doubled, outputs, outputs, 3)?)
                }
                false => None,
            };
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

    fn forward(&self, latents: Planes, budget: Budget) -> Result<Planes> {
        let x = convolve(&self.conv_in, &latents, budget);
        let mut source = Source::Whole(self.middle.forward(x, budget)?);
        let last = self.levels.len().saturating_sub(2);
        for (level, (resnets, upsample)) in self.levels.iter().enumerate() {
            for resnet in resnets {
                interruption::check()?;
                source = Source::Whole(resnet.forward(source, budget));
            }
            source = match (upsample, source) {
                (Some(conv), Source::Whole(x)) => {
                    // Smaller blocks are of no use to the layers that follow.
                    let channels = self.levels[level + 1].0.last().map_or(0, Resnet::outputs);
                    pages::release_below(size_of::<f32>() * channels * enlarged(x.height * x.width, 1));
                    doubled(conv, x, level == last, budget)
                }
                (_, source) => source,
            };
        }
        let x = source.into_planes(budget);
        Ok(convolve_normed(&self.norm_out, &self.conv_out, &x, budget))
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

    fn forward(&self, x: Planes, budget: Budget) -> Result<Planes> {
        let x = self.first.forward(Source::Whole(x), budget);
        let x = match &self.attention {
            Some(attention) => Planes::of_item(&attention.forward(&x.into_tensor()?)?, 0)?,
            None => x,
        };
        Ok(self.last.forward(Source::Whole(x), budget))
    }
}

/// Single-head attention between all pixels, around a shortcut. The scores are never held: see the kernel.
struct PixelAttention {
    norm: GroupNorm,
    query: Linear,
    key: Linear,
    value: Linear,
    out: Linear,
}

impl PixelAttention {
    fn load(scope: &Scope, channels: usize, style: NormStyle) -> Result<Self, LoadError> {
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
        let y = ops::tokens(&self.norm.forward(x)?)?;
        let (q, k, v) = (self.query.forward(&y)?, self.key.forward(&y)?, self.value.forward(&y)?);
        let heads = Heads { count: 1, precision: self.query.precision() };
        let y = self.out.forward(&ops::attention(&q, &k, &v, heads)?)?;
        ops::add_tokens(x, &y)
    }
}
