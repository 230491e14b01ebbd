//! The denoising network (`UNet2DConditionModel`) of the Stable Diffusion 1.x, 2.x and XL classes.
//!
//! Shapes: latents `[B, C, h, w]` (with a mask and a masked picture behind them for inpainting networks), context `[B, S, D]`, prediction `[B, C, h, w]`. One timestep for the whole
//! batch. Every size is read from the configuration.
//! Source: Rombach et al. 2022; Podell et al. 2023 (XL); layout of weights as in diffusers.

mod attention;
mod blocks;
mod control;
mod merging;
pub(crate) mod resnet;
pub(crate) mod time;

pub(crate) use attention::{Context, Stream};
pub(crate) use control::{ControlNet, Residuals};
pub(crate) use merging::Merging;
pub(crate) use time::{Added, AddedInputs};

use crate::{
    config::{PACKED_FOR, PerLevel, UnetConfig, unsupported},
    error::{LoadError, LoadErrorKind, Result},
    ops::{Conv2d, GroupNorm},
    weights::Scope,
};
use attention::TransformerStyle;
use blocks::{DownLevel, LevelStyle, MiddleLevel, Tap, UpLevel};
use candle_core::Tensor;
use resnet::ResnetStyle;
use time::TimeEmbedding;

/// What steers a prediction beside the latent and its timestep.
#[derive(Clone, Copy)]
pub(crate) struct Conditions<'a> {
    /// Of the texts, bound by [`Unet::context`].
    pub(crate) context: &'a Context,
    /// Of pooled texts, sizes and the guidance scale, bound by [`Unet::added`]; `None` where the network takes none.
    pub(crate) added: Option<&'a Added>,
    /// Of control networks, added to the skips and the middle.
    pub(crate) residuals: Option<&'a Residuals>,
    /// Of tokens that are alike.
    pub(crate) merging: Option<Merging>,
}

/// What every level of a call is told.
#[derive(Clone, Copy)]
pub(crate) struct Told<'a> {
    /// The embedding of the timestep and of what holds for the whole picture.
    time: &'a Tensor,
    context: &'a Context,
    merging: Option<Merging>,
}

#[cfg(test)]
impl<'a> Conditions<'a> {
    /// The texts alone.
    pub(crate) fn of(context: &'a Context) -> Self {
        Self { context, added: None, residuals: None, merging: None }
    }
}

/// A UNet with its weights bound.
pub(crate) struct Unet {
    conv_in: Conv2d,
    time: TimeEmbedding,
    down: Vec<DownLevel>,
    middle: MiddleLevel,
    up: Vec<UpLevel>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

/// The sizes of the levels, resolved from the configuration.
struct Levels {
    channels: Vec<usize>,
    layers: Vec<usize>,
    styles: Vec<TransformerStyle>,
    resnet: ResnetStyle,
    /// For which their convolutions are packed.
    pixels: Vec<usize>,
}

impl Levels {
    fn resolve(config: &UnetConfig, label: &str) -> Result<Self, LoadError> {
        let channels = config.block_out_channels.clone();
        let count = channels.len();
        let per_level = |name: &str, value: &PerLevel| {
            value.levels(count).ok_or_else(|| {
                let message = format!("{label}: {name} has not one entry for each of {count} levels");
                LoadError::new(LoadErrorKind::Malformed, message)
            })
        };
        let heads = config.num_attention_heads.as_ref().unwrap_or(&config.attention_head_dim);
        let heads = per_level("attention_head_dim", heads)?;
        let depths = per_level("transformer_layers_per_block", &config.transformer_layers_per_block)?;
        let contexts = per_level("cross_attention_dim", &config.cross_attention_dim)?;
        let layers = per_level("layers_per_block", &config.layers_per_block)?;
        let groups = config.norm_num_groups.ok_or_else(|| unsupported(label, "norm_num_groups", "null"))?;
        check_divisible(&channels, &heads, groups, label)?;
        let pixels = (0..count).map(|level| (0..level).fold(PACKED_FOR, |pixels, _| pixels / 4));
        let pixels = pixels.collect();
        // Tokens are merged where they are most: at the finest level that attends to itself.
        let finest = config.down_block_types.iter().position(|kind| kind.starts_with("CrossAttn"));
        let styles = (0..count).map(|level| TransformerStyle {
            merges: finest == Some(level),
            heads: heads[level],
            depth: depths[level],
            context: contexts[level],
            groups,
            linear_projection: config.use_linear_projection,
        });
        Ok(Self {
            styles: styles.collect(),
            layers,
            resnet: ResnetStyle {
                groups,
                epsilon: config.norm_eps,
                time: Some(TimeEmbedding::width(channels[0])),
                exact_end: false,
            },
            channels,
            pixels,
        })
    }

    /// The style of a level of this block type.
    fn style(&self, level: usize, kind: &str, layers: usize, label: &str) -> Result<LevelStyle, LoadError> {
        let transformer = match kind {
            "CrossAttnDownBlock2D" | "CrossAttnUpBlock2D" => Some(self.styles[level]),
            "DownBlock2D" | "UpBlock2D" => None,
            other => return Err(unsupported(label, "block type", other)),
        };
        Ok(LevelStyle { resnet: self.resnet, transformer, layers })
    }
}

fn check_divisible(channels: &[usize], heads: &[usize], groups: usize, label: &str) -> Result<(), LoadError> {
    let fits = |parts: usize, whole: &usize| parts > 0 && whole.is_multiple_of(parts);
    let heads_fit = channels.iter().zip(heads).all(|(channels, heads)| fits(*heads, channels));
    if heads_fit && channels.iter().all(|channels| fits(groups, channels)) {
        return Ok(());
    }
    Err(LoadError::new(
        LoadErrorKind::Malformed,
        format!("{label}: block_out_channels cannot be divided into the heads or norm groups given"),
    ))
}

impl Unet {
    /// Binds the weights.
    pub(crate) fn load(scope: &Scope, config: &UnetConfig, label: &str) -> Result<Self, LoadError> {
        config.check(label)?;
        let levels = Levels::resolve(config, label)?;
        let mut cross_layers = 0;
        let first = levels.channels[0];
        let down = load_down(scope, config, &levels, label, &mut cross_layers)?;
        let middle = load_middle(scope, &levels, &mut cross_layers)?;
        let up = load_up(scope, config, &levels, label, &mut cross_layers)?;
        Ok(Self {
            conv_in: Conv2d::load(&scope.at("conv_in").in_floats(), config.in_channels, first, 3)?,
            time: TimeEmbedding::load(&scope.in_floats(), config, label)?,
            down,
            middle,
            up,
            norm_out: GroupNorm::load(
                &scope.at("conv_norm_out"),
                levels.resnet.groups,
                first,
                config.norm_eps,
            )?,
            conv_out: Conv2d::load(&scope.at("conv_out").in_f32(), first, config.out_channels, 3)?,
        })
    }

    /// The keys and values of `context` `[B, S, D]` for all layers.
    pub(crate) fn context(&self, context: &Tensor) -> Result<Context> {
        // The order of loading: down, middle, up.
        let mut keys_values = Vec::new();
        self.down.iter().try_for_each(|level| level.collect(context, &mut keys_values))?;
        self.middle.collect(context, &mut keys_values)?;
        self.up.iter().try_for_each(|level| level.collect(context, &mut keys_values))?;
        Ok(Context { layers: keys_values, streams: Vec::new() })
    }

    /// The embedding of what else the network is told, for all steps; `None` where that is nothing.
    pub(crate) fn added(&self, inputs: &AddedInputs) -> Result<Option<Added>> {
        self.time.added(inputs)
    }

    /// Whether the guidance scale is a condition, and no second half has to be computed.
    pub(crate) fn knows_guidance(&self) -> bool {
        self.time.knows_guidance()
    }

    /// Number of skips that the way down leaves for the way up.
    pub(crate) fn skips(&self) -> usize {
        self.up.iter().map(UpLevel::layers).sum()
    }

    /// What the network predicts for `x` `[B, C, h, w]` at `timestep` (0 to 999, fractions allowed).
    pub(crate) fn forward(&self, x: &Tensor, timestep: f64, conditions: &Conditions) -> Result<Tensor> {
        self.forward_tapped(x, timestep, conditions, &mut Tap { at: 0, seen: None })
    }

    /// The same, and what the layers of the finest `skips` skips take from those below.
    pub(crate) fn forward_keeping(
        &self,
        x: &Tensor,
        timestep: f64,
        conditions: &Conditions,
        skips: usize,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let mut tap = Tap { at: skips, seen: None };
        Ok((self.forward_tapped(x, timestep, conditions, &mut tap)?, tap.seen))
    }

    fn forward_tapped(
        &self,
        x: &Tensor,
        timestep: f64,
        conditions: &Conditions,
        tap: &mut Tap,
    ) -> Result<Tensor> {
        let Conditions { context, added, residuals, merging } = *conditions;
        let time = &self.time.forward(timestep, added)?;
        let told = Told { time, context, merging };
        let (x, mut skips) = way_down(&self.down, self.conv_in.forward(x)?, &told, ALL_SKIPS)?;
        let mut x = self.middle.forward(&x, &told)?;
        if let Some(residuals) = residuals {
            residuals.add_to(&mut skips)?;
            if let Some(middle) = &residuals.middle {
                x = (x + middle)?;
            }
        }
        self.way_up(x, &told, skips, tap)
    }

    /// What it predicts by the layers of the finest `skips` skips alone, where `below` is what those below gave at another time.
    pub(crate) fn forward_shallow(
        &self,
        x: &Tensor,
        timestep: f64,
        conditions: &Conditions,
        skips: usize,
        below: &Tensor,
    ) -> Result<Tensor> {
        let Conditions { context, added, residuals, merging } = *conditions;
        let time = &self.time.forward(timestep, added)?;
        let told = Told { time, context, merging };
        let (_, mut skips) = way_down(&self.down, self.conv_in.forward(x)?, &told, skips)?;
        if let Some(residuals) = residuals {
            residuals.add_to(&mut skips)?;
        }
        self.way_up(below.clone(), &told, skips, &mut Tap { at: 0, seen: None })
    }

    /// The layers that take these skips, and the last ones.
    fn way_up(&self, mut x: Tensor, told: &Told, mut skips: Vec<Tensor>, tap: &mut Tap) -> Result<Tensor> {
        let mut passed = self.skips() - skips.len();
        for level in &self.up {
            let first = passed.min(level.layers());
            passed -= first;
            if first < level.layers() {
                x = level.forward(x, first, told, &mut skips, tap)?;
            }
        }
        self.conv_out.forward(&self.norm_out.forward_silu(&x)?)
    }
}

/// The way down to its end.
pub(crate) const ALL_SKIPS: usize = usize::MAX;

/// The way down until it has left `most` skips, of which `x` is the first: where it came to, and the skips.
fn way_down(levels: &[DownLevel], mut x: Tensor, told: &Told, most: usize) -> Result<(Tensor, Vec<Tensor>)> {
    let mut skips = vec![x.clone()];
    for level in levels {
        x = level.forward(x, told, &mut skips, most)?;
    }
    Ok((x, skips))
}

fn load_down(
    scope: &Scope,
    config: &UnetConfig,
    levels: &Levels,
    label: &str,
    cross_layers: &mut usize,
) -> Result<Vec<DownLevel>, LoadError> {
    let count = levels.channels.len();
    let mut down = Vec::with_capacity(count);
    for (level, kind) in config.down_block_types.iter().enumerate() {
        let inputs = levels.channels[level.saturating_sub(1)];
        let style = levels.style(level, kind, levels.layers[level], label)?;
        let downsample = (level + 1 < count).then_some(config.downsample_padding);
        let scope = scope.at("down_blocks").at(level).drawing(levels.pixels[level]);
        down.push(DownLevel::load(&scope, inputs, levels.channels[level], style, downsample, cross_layers)?);
    }
    Ok(down)
}

fn load_middle(scope: &Scope, levels: &Levels, cross_layers: &mut usize) -> Result<MiddleLevel, LoadError> {
    let last = levels.channels.len() - 1;
    let scope = scope.at("mid_block").drawing(levels.pixels[last]);
    MiddleLevel::load(&scope, levels.channels[last], levels.resnet, levels.styles[last], cross_layers)
}

fn load_up(
    scope: &Scope,
    config: &UnetConfig,
    levels: &Levels,
    label: &str,
    cross_layers: &mut usize,
) -> Result<Vec<UpLevel>, LoadError> {
    let count = levels.channels.len();
    let mut up = Vec::with_capacity(count);
    let mut below = levels.channels[count - 1];
    for (index, kind) in config.up_block_types.iter().enumerate() {
        // The way up walks the levels backwards.
        let level = count - 1 - index;
        let outputs = levels.channels[level];
        let layers = levels.layers[level] + 1;
        // The level's own skips, and last the one that entered it from the level above.
        let mut skips = vec![outputs; layers];
        skips[layers - 1] = levels.channels[level.saturating_sub(1)];
        let mut style = levels.style(level, kind, layers, label)?;
        style.resnet.exact_end = level == 0;
        let scope = scope.at("up_blocks").at(index).drawing(levels.pixels[level]);
        up.push(UpLevel::load(&scope, below, &skips, outputs, style, level > 0, cross_layers)?);
        below = outputs;
    }
    Ok(up)
}
