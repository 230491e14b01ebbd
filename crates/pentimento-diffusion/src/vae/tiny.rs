//! The small autoencoder (`AutoencoderTiny`, "TAESD").
//!
//! Shapes: pixels `[1, 3, H, W]` in -1 to 1, latents `[1, C, H/f, W/f]`. It has no posterior: encoding draws
//! nothing.
//! Source: Ollin Boer Bohan's TAESD as diffusers' `EncoderTiny` and `DecoderTiny` lay it out: one list of
//! layers each, whose numbers count the layers without weights too.

use super::planes::Budget;
use crate::{
    config::{VaeConfig, unsupported},
    error::{LoadError, Result},
    ops::{self, Activation, Conv2d, Padding},
    weights::Scope,
};
use candle_core::Tensor;

/// An `AutoencoderTiny`.
pub(crate) struct AutoencoderTiny {
    encoder: Vec<Layer>,
    decoder: Vec<Layer>,
}

enum Layer {
    Conv(Conv2d),
    Block(Box<Block>),
    Activation(Activation),
    Upsample(usize),
}

impl AutoencoderTiny {
    pub(crate) fn load(scope: &Scope, config: &VaeConfig, label: &str) -> Result<Self, LoadError> {
        let name = if config.act_fn.is_empty() { "relu" } else { &config.act_fn };
        let activation = Activation::from_name(name).ok_or_else(|| unsupported(label, "act_fn", name))?;
        for (name, blocks, channels) in [
            ("num_encoder_blocks", &config.num_encoder_blocks, &config.encoder_block_out_channels),
            ("num_decoder_blocks", &config.num_decoder_blocks, &config.decoder_block_out_channels),
        ] {
            // diffusers builds every layer with the channels of its own level, so all levels must agree.
            let uniform = channels.windows(2).all(|pair| pair[0] == pair[1]);
            if blocks.is_empty() || blocks.len() != channels.len() || !uniform {
                return Err(unsupported(label, name, &format!("{blocks:?} with channels {channels:?}")));
            }
        }
        if config.num_encoder_blocks.len() != config.num_decoder_blocks.len() {
            return Err(unsupported(label, "num_decoder_blocks", "another length than the encoder's"));
        }
        Ok(Self {
            encoder: load_encoder(&scope.at("encoder.layers"), config, activation)?,
            decoder: load_decoder(&scope.at("decoder.layers"), config, activation)?,
        })
    }

    pub(crate) fn encode(&self, pixels: &Tensor, budget: Budget) -> Result<Tensor> {
        // -1..1 -> 0..1
        in_bands(&self.encoder, &((pixels + 1.0)? / 2.0)?, budget)
    }

    pub(crate) fn decode(&self, latents: &Tensor, budget: Budget) -> Result<Tensor> {
        let clamped = ((latents / 3.0)?.tanh()? * 3.0)?;
        // 0..1 -> -1..1
        (in_bands(&self.decoder, &clamped, budget)? * 2.0)? - 1.0
    }
}

/// Runs layers over a picture `[1, C, H, W]`, some rows at a time with all those that can have a say in them. There is
/// no norm, so nothing else has: the result is that of the whole picture at once.
fn in_bands(layers: &[Layer], x: &Tensor, budget: Budget) -> Result<Tensor> {
    let (_, _, height, width) = x.dims4()?;
    let Extent { reach, unit, widest, scale } = Extent::of(layers);
    // A layer's bands may have as many bytes as what the larger autoencoder holds at once.
    let rows = budget.rows_at_once(widest * width).next_multiple_of(unit).max(2 * reach);
    if height <= rows + 2 * reach {
        return run(layers, x.clone());
    }
    let mut bands = Vec::new();
    for start in (0..height).step_by(rows) {
        let end = (start + rows).min(height);
        let (from, to) = (start.saturating_sub(reach), (end + reach).min(height));
        let band = run(layers, x.narrow(2, from, to - from)?.contiguous()?)?;
        bands.push(band.narrow(2, scale.apply(start - from), scale.apply(end - start))?);
    }
    Tensor::cat(&bands, 2)
}

/// What a list of layers does to sizes.
struct Extent {
    /// Rows on each side that have a say in a row, in whole units.
    reach: usize,
    /// Rows of the input that make whole rows everywhere.
    unit: usize,
    /// Values of the largest layer for each value of a plane of the input.
    widest: usize,
    scale: Scale,
}

/// Height of the result.
enum Scale {
    Times(usize),
    Part(usize),
}

impl Scale {
    fn apply(&self, rows: usize) -> usize {
        match self {
            Self::Times(factor) => rows * factor,
            Self::Part(factor) => rows / factor,
        }
    }
}

impl Extent {
    fn of(layers: &[Layer]) -> Self {
        let (mut reach, mut up, mut down, mut widest) = (0.0, 1, 1, 1);
        for layer in layers {
            let row = f64::from(down) / f64::from(up);
            let channels = match layer {
                Layer::Conv(conv) => {
                    reach += row;
                    down *= conv.stride() as u32;
                    conv.outputs()
                }
                Layer::Block(block) => {
                    reach += 3.0 * row;
                    block.convs[2].outputs()
                }
                Layer::Upsample(factor) => {
                    up *= *factor as u32;
                    continue;
                }
                Layer::Activation(_) => continue,
            };
            widest = widest.max(channels * (up * up / (down * down)).max(1) as usize);
        }
        let unit = down as usize;
        let scale = if down > 1 { Scale::Part(unit) } else { Scale::Times(up as usize) };
        Self { reach: (reach.ceil() as usize).next_multiple_of(unit), unit, widest, scale }
    }
}

fn run(layers: &[Layer], x: Tensor) -> Result<Tensor> {
    layers.iter().try_fold(x, |x, layer| layer.forward(&x))
}

fn load_encoder(scope: &Scope, config: &VaeConfig, activation: Activation) -> Result<Vec<Layer>, LoadError> {
    let mut layers: Vec<Layer> = Vec::new();
    let mut channels = config.in_channels;
    let levels = config.encoder_block_out_channels.iter().copied().zip(&config.num_encoder_blocks);
    for (level, (width, blocks)) in levels.enumerate() {
        let scope_here = scope.at(layers.len());
        layers.push(Layer::Conv(match level {
            0 => Conv2d::load(&scope_here, channels, width, 3)?,
            _ => Conv2d::halving_without_bias(&scope_here, channels, width, Padding::all(1))?,
        }));
        channels = width;
        for _ in 0..*blocks {
            layers.push(Layer::Block(Box::new(Block::load(&scope.at(layers.len()), width, activation)?)));
        }
    }
    layers.push(Layer::Conv(Conv2d::load(&scope.at(layers.len()), channels, config.latent_channels, 3)?));
    Ok(layers)
}

fn load_decoder(scope: &Scope, config: &VaeConfig, activation: Activation) -> Result<Vec<Layer>, LoadError> {
    let first = config.decoder_block_out_channels[0];
    let mut layers = vec![
        Layer::Conv(Conv2d::load(&scope.at(0), config.latent_channels, first, 3)?),
        Layer::Activation(activation),
    ];
    let last = config.num_decoder_blocks.len() - 1;
    let levels = config.decoder_block_out_channels.iter().copied().zip(&config.num_decoder_blocks);
    for (level, (width, blocks)) in levels.enumerate() {
        for _ in 0..*blocks {
            layers.push(Layer::Block(Box::new(Block::load(&scope.at(layers.len()), width, activation)?)));
        }
        if level < last {
            layers.push(Layer::Upsample(config.upsampling_scaling_factor));
            layers.push(Layer::Conv(Conv2d::without_bias(&scope.at(layers.len()), width, width, 3)?));
        } else {
            layers.push(Layer::Conv(Conv2d::load(&scope.at(layers.len()), width, config.out_channels, 3)?));
        }
    }
    Ok(layers)
}

impl Layer {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Conv(conv) => conv.forward(x),
            Self::Block(block) => block.forward(x),
            Self::Activation(activation) => activation.forward(x),
            Self::Upsample(scale) => {
                let (_, _, height, width) = x.dims4()?;
                ops::upsample_nearest(x, height * scale, width * scale)
            }
        }
    }
}

/// Three convolutions around a shortcut, with an activation between them and ReLU at the end.
struct Block {
    convs: [Conv2d; 3],
    activation: Activation,
}

impl Block {
    fn load(scope: &Scope, channels: usize, activation: Activation) -> Result<Self, LoadError> {
        let scope = scope.at("conv");
        // Numbers 1 and 3 of the list are activations.
        let conv = |index: usize| Conv2d::load(&scope.at(index), channels, channels, 3);
        Ok(Self { convs: [conv(0)?, conv(2)?, conv(4)?], activation })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.activation.forward(&self.convs[0].forward(x)?)?;
        let y = self.activation.forward(&self.convs[1].forward(&y)?)?;
        Activation::Relu.forward(&self.convs[2].forward_add(&y, x)?)
    }
}
