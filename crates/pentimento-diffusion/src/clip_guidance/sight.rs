//! How far a latent looks like a text, and which way it would look more so: the decoder and CLIP's picture encoder, with the
//! slope of all they do.
//!
//! The latent is brought to the encoder's size before it is decoded, which makes a gradient cheaper; it still takes as long as some
//! steps (docs/performance.md).
//! Only the values between stages are kept on the way there; on the way back each stage runs once more with a tape of its
//! own, so that memory is that of one stage.
//! Shapes: latents `[1, C, h, w]` as the network sees them, tokens `[T, hidden]`, embeddings `[1, E]`.
//! Source: Radford et al. 2021 (CLIP); Crowson 2021 (guidance by CLIP's gradient); layouts of diffusers and transformers.

use crate::{
    config::{VaeConfig, unsupported},
    error::{LoadError, Result},
    interruption,
    ops::{
        Activation,
        tape::{Conv, Linear, Norm, activate, attention, resize},
    },
    vision::{VisionConfig, model_scope},
    weights::{Scope, Weights},
};
use candle_core::{Device, Tensor, Var};
use pentimento_kernels::Precision;

/// CLIP's mean and deviation of red, green and blue: transformers' OPENAI_CLIP_MEAN and OPENAI_CLIP_STD.
const MEAN: [f64; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const DEVIATION: [f64; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

/// Decoder and picture encoder, behind one another.
pub(super) struct ClipSight {
    stages: Vec<Stage>,
    norm: Norm,
    projection: Linear,
}

/// What is done between two places where values are kept.
enum Stage {
    /// To at most so many cells a side, and to the decoder's units.
    Shrink {
        most: usize,
        scale: f64,
        shift: f64,
    },
    Conv(Conv),
    Residual {
        norms: [Norm; 2],
        convs: [Conv; 2],
        shortcut: Option<Conv>,
    },
    PixelAttention(Attention),
    Doubled(Conv),
    Out(Norm, Conv),
    /// The picture as the encoder takes it.
    Square(usize),
    Patches {
        size: usize,
        linear: Linear,
        class: Tensor,
        positions: Tensor,
        norm: Norm,
    },
    Layer {
        attention: Attention,
        norm: Norm,
        inner: Linear,
        outer: Linear,
        activation: Activation,
    },
}

/// Attention behind a norm and around a shortcut.
struct Attention {
    norm: Norm,
    query: Linear,
    key: Linear,
    value: Linear,
    out: Linear,
    heads: usize,
}

impl ClipSight {
    /// Binds an `AutoencoderKL`'s decoder and a picture encoder with a projection.
    pub(super) fn load(
        (vae, vae_config, vae_label): (&Weights, &VaeConfig, &str),
        (clip, clip_config, clip_label): (&Weights, &VisionConfig, &str),
    ) -> Result<Self, LoadError> {
        if vae_config.class_name != "AutoencoderKL" {
            return Err(unsupported(vae_label, "_class_name", &vae_config.class_name));
        }
        clip_config.check(clip_label)?;
        let mut stages = Vec::new();
        let cells = clip_config.image_size.div_ceil(vae_config.factor().max(1));
        // 0.18215: the default of the class in diffusers.
        let scale = 1.0 / vae_config.scaling_factor.unwrap_or(0.18215);
        stages.push(Stage::Shrink { most: cells, scale, shift: vae_config.shift_factor.unwrap_or(0.0) });
        decoder(&Scope::root(vae, Precision::F32), vae_config, &mut stages)?;
        stages.push(Stage::Square(clip_config.image_size));
        let root = Scope::root(clip, Precision::F32);
        encoder(&model_scope(&root), clip_config, clip_label, &mut stages)?;
        let (hidden, outputs) = (clip_config.hidden_size, clip_config.projection_dim);
        let projection = root.at("visual_projection").values("weight", &[outputs, hidden])?;
        Ok(Self {
            stages,
            norm: Norm::tokens(&model_scope(&root).at("post_layernorm"), hidden, clip_config.layer_norm_eps)?,
            projection: Linear::of(&projection, hidden, outputs, None),
        })
    }

    /// The cosine of what is seen and `target` `[1, E]` of length 1, and its gradient with respect to the latents.
    pub(super) fn gradient(&self, latents: &Tensor, target: &Tensor) -> Result<(f64, Tensor)> {
        let mut inputs = Vec::with_capacity(self.stages.len());
        let mut x = latents.detach();
        for stage in &self.stages {
            interruption::check()?;
            let y = stage.forward(&x)?;
            inputs.push(std::mem::replace(&mut x, y));
        }
        let tokens = Var::from_tensor(&x)?;
        let cosine = self.cosine(&tokens, target)?;
        let mut slope = slope_at(&cosine, &tokens)?;
        for (stage, input) in self.stages.iter().zip(inputs).rev() {
            interruption::check()?;
            let input = Var::from_tensor(&input)?;
            slope = slope_at(&(stage.forward(&input)? * slope)?.sum_all()?, &input)?;
        }
        Ok((f64::from(cosine.to_scalar::<f32>()?), slope))
    }

    fn cosine(&self, tokens: &Tensor, target: &Tensor) -> Result<Tensor> {
        let seen = self.projection.forward(&self.norm.forward(&tokens.narrow(0, 0, 1)?)?)?;
        (&seen * target)?.sum_all()? / seen.sqr()?.sum_all()?.sqrt()?
    }
}

/// The slope of one number with respect to a variable.
fn slope_at(number: &Tensor, variable: &Var) -> Result<Tensor> {
    let slopes = number.backward()?;
    let slope =
        slopes.get(variable).ok_or_else(|| candle_core::Error::Msg("nothing leads back".to_owned()))?;
    Ok(slope.detach())
}

fn decoder(root: &Scope, config: &VaeConfig, stages: &mut Vec<Stage>) -> Result<(), LoadError> {
    let (channels, latent) = (&config.block_out_channels, config.latent_channels);
    let deepest = channels.last().copied().unwrap_or_default();
    let groups = config.norm_num_groups;
    if config.use_post_quant_conv {
        stages.push(Stage::Conv(Conv::load(&root.at("post_quant_conv"), latent, latent, 1)?));
    }
    let scope = root.at("decoder");
    stages.push(Stage::Conv(Conv::load(&scope.at("conv_in"), latent, deepest, 3)?));
    let middle = scope.at("mid_block");
    stages.push(residual(&middle.at("resnets.0"), deepest, deepest, groups)?);
    if config.mid_block_add_attention {
        stages.push(Stage::PixelAttention(pixel_attention(&middle.at("attentions.0"), deepest, groups)?));
    }
    stages.push(residual(&middle.at("resnets.1"), deepest, deepest, groups)?);
    let mut inputs = deepest;
    for (level, outputs) in channels.iter().rev().copied().enumerate() {
        let scope = scope.at("up_blocks").at(level);
        for block in 0..=config.layers_per_block {
            stages.push(residual(&scope.at("resnets").at(block), inputs, outputs, groups)?);
            inputs = outputs;
        }
        if level + 1 < channels.len() {
            stages.push(Stage::Doubled(Conv::load(&scope.at("upsamplers.0.conv"), outputs, outputs, 3)?));
        }
    }
    let norm = Norm::groups_silu(&scope.at("conv_norm_out"), groups, inputs, EPSILON)?;
    stages.push(Stage::Out(norm, Conv::load(&scope.at("conv_out"), inputs, config.out_channels, 3)?));
    Ok(())
}

/// Fixed in diffusers' decoder.
const EPSILON: f64 = 1e-6;

fn residual(scope: &Scope, inputs: usize, outputs: usize, groups: usize) -> Result<Stage, LoadError> {
    let norm = |name: &str, channels| Norm::groups_silu(&scope.at(name), groups, channels, EPSILON);
    let shortcut = match inputs == outputs {
        true => None,
        false => Some(Conv::load(&scope.at("conv_shortcut"), inputs, outputs, 1)?),
    };
    Ok(Stage::Residual {
        norms: [norm("norm1", inputs)?, norm("norm2", outputs)?],
        convs: [
            Conv::load(&scope.at("conv1"), inputs, outputs, 3)?,
            Conv::load(&scope.at("conv2"), outputs, outputs, 3)?,
        ],
        shortcut,
    })
}

fn pixel_attention(scope: &Scope, channels: usize, groups: usize) -> Result<Attention, LoadError> {
    // Checkpoints saved before diffusers 0.16 use the older names.
    let linear = |name: &str, old_name: &str| {
        let scope = if scope.at(name).contains("weight") { scope.at(name) } else { scope.at(old_name) };
        Linear::load(&scope, channels, channels)
    };
    Ok(Attention {
        norm: Norm::groups(&scope.at("group_norm"), groups, channels, EPSILON)?,
        query: linear("to_q", "query")?,
        key: linear("to_k", "key")?,
        value: linear("to_v", "value")?,
        out: linear("to_out.0", "proj_attn")?,
        heads: 1,
    })
}

fn encoder(
    scope: &Scope,
    config: &VisionConfig,
    label: &str,
    stages: &mut Vec<Stage>,
) -> Result<(), LoadError> {
    let activation = Activation::from_name(&config.hidden_act)
        .ok_or_else(|| unsupported(label, "hidden_act", &config.hidden_act))?;
    let (hidden, epsilon, size) = (config.hidden_size, config.layer_norm_eps, config.patch_size);
    let embeddings = scope.at("embeddings");
    let patch = embeddings.at("patch_embedding").values("weight", &[hidden, 3, size, size])?;
    stages.push(Stage::Patches {
        size,
        linear: Linear::of(&patch, 3 * size * size, hidden, None),
        class: embeddings.tensor("class_embedding", &[hidden])?,
        positions: embeddings.tensor("position_embedding.weight", &[config.tokens(), hidden])?,
        // The name is misspelt in every checkpoint.
        norm: Norm::tokens(&scope.at("pre_layrnorm"), hidden, epsilon)?,
    });
    for index in 0..config.num_hidden_layers {
        let scope = scope.at("encoder.layers").at(index);
        let linear = |name: &str| Linear::load(&scope.at("self_attn").at(name), hidden, hidden);
        stages.push(Stage::Layer {
            attention: Attention {
                norm: Norm::tokens(&scope.at("layer_norm1"), hidden, epsilon)?,
                query: linear("q_proj")?,
                key: linear("k_proj")?,
                value: linear("v_proj")?,
                out: linear("out_proj")?,
                heads: config.num_attention_heads,
            },
            norm: Norm::tokens(&scope.at("layer_norm2"), hidden, epsilon)?,
            inner: Linear::load(&scope.at("mlp.fc1"), hidden, config.intermediate_size)?,
            outer: Linear::load(&scope.at("mlp.fc2"), config.intermediate_size, hidden)?,
            activation,
        });
    }
    Ok(())
}

impl Stage {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Shrink { most, scale, shift } => {
                let (_, _, height, width) = x.dims4()?;
                resize(x, height.min(*most), width.min(*most))?.affine(*scale, *shift)
            }
            Self::Conv(conv) => conv.forward(x),
            Self::Residual { norms, convs, shortcut } => {
                let y = convs[0].forward(&norms[0].forward(x)?)?;
                let y = convs[1].forward(&norms[1].forward(&y)?)?;
                match shortcut {
                    Some(shortcut) => shortcut.forward(x)? + y,
                    None => x + y,
                }
            }
            Self::PixelAttention(attention) => {
                let (_, channels, height, width) = x.dims4()?;
                // [1, C, H, W] -> [H·W, C]
                let y = attention.norm.forward(x)?.reshape((channels, height * width))?.t()?.contiguous()?;
                let y = attention.mix(&y)?.t()?.contiguous()?.reshape((1, channels, height, width))?;
                x + y
            }
            Self::Doubled(conv) => {
                let (_, _, height, width) = x.dims4()?;
                conv.forward(&x.upsample_nearest2d(2 * height, 2 * width)?)
            }
            Self::Out(norm, conv) => conv.forward(&norm.forward(x)?),
            Self::Square(side) => normalised(&resize(x, *side, *side)?),
            Self::Patches { size, linear, class, positions, norm } => {
                let (_, _, height, width) = x.dims4()?;
                let (rows, columns) = (height / size, width / size);
                let x = x.narrow(2, 0, rows * size)?.narrow(3, 0, columns * size)?.contiguous()?;
                // [1, 3, S, S] -> [3, S/P, P, S/P, P] -> [S/P, S/P, 3, P, P] -> [(S/P)², 3·P·P]
                let patches =
                    x.reshape(vec![3, rows, *size, columns, *size])?.permute(vec![1, 3, 0, 2, 4])?;
                let patches = patches.contiguous()?.reshape((rows * columns, 3 * size * size))?;
                let tokens = Tensor::cat(&[&class.unsqueeze(0)?, &linear.forward(&patches)?], 0)?;
                norm.forward(&(tokens + positions)?)
            }
            Self::Layer { attention, norm, inner, outer, activation } => {
                let x = (x + attention.mix(&attention.norm.forward(x)?)?)?;
                let y = activate(&inner.forward(&norm.forward(&x)?)?, *activation)?;
                x + outer.forward(&y)?
            }
        }
    }
}

impl Attention {
    /// `[T, C]` behind the norm -> what is added to the shortcut
    fn mix(&self, y: &Tensor) -> Result<Tensor> {
        let (q, k, v) = (self.query.forward(y)?, self.key.forward(y)?, self.value.forward(y)?);
        self.out.forward(&attention(&q, &k, &v, self.heads)?)
    }
}

/// A picture of -1 to 1 in the encoder's units.
fn normalised(x: &Tensor) -> Result<Tensor> {
    let per_channel = |values: [f64; 3]| {
        let values: Vec<f32> = values.iter().map(|value| *value as f32).collect();
        Tensor::from_vec(values, (1, 3, 1, 1), &Device::Cpu)
    };
    let share = ((x * 0.5)? + 0.5)?;
    share.broadcast_sub(&per_channel(MEAN)?)?.broadcast_div(&per_channel(DEVIATION)?)
}
