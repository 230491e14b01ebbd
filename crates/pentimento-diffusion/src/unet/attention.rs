//! Transformer blocks of the UNet.
//!
//! Shapes: tokens `[B, T, C]` with `T = H·W`; the context (text states) is `[B, S, D]`. The keys and values
//! that the context gives depend on no step, so they are computed once per request: see [`Context`].
//! Source: Vaswani et al. 2017; Rombach et al. 2022, appendix E.2.1 (GEGLU: Shazeer 2020).

use super::{Told, merging::Merged};
use crate::{
    error::{LoadError, Result},
    ops::{self, GroupNorm, Heads, LayerNorm, Linear, Mask, Precision},
    weights::Scope,
};
use candle_core::Tensor;

/// What the cross-attention layers look at, in the order in which the layers were loaded.
#[derive(Clone)]
pub(crate) struct Context {
    /// Keys and values of the texts, one pair a layer.
    pub(crate) layers: Vec<(Tensor, Tensor)>,
    /// What is looked at beside the texts.
    pub(crate) streams: Vec<Stream>,
}

/// Keys and values beside those of the texts: what queries find there is added, `scale` times, to what they find in the texts.
#[derive(Clone)]
pub(crate) struct Stream {
    /// One pair a layer, in the order of the layers.
    pub(crate) layers: Vec<(Tensor, Tensor)>,
    pub(crate) scale: f64,
}

impl Context {
    /// That of the last item of a batch alone.
    pub(crate) fn of_last_item(&self) -> Result<Self> {
        let last = |x: &Tensor| x.narrow(0, x.dim(0)? - 1, 1);
        let pairs = |layers: &[(Tensor, Tensor)]| {
            layers.iter().map(|(key, value)| Ok((last(key)?, last(value)?))).collect::<Result<Vec<_>>>()
        };
        let streams = self.streams.iter().map(|stream| {
            let Stream { layers, scale } = stream;
            Ok(Stream { layers: pairs(layers)?, scale: *scale })
        });
        Ok(Self { layers: pairs(&self.layers)?, streams: streams.collect::<Result<_>>()? })
    }

    /// The keys and values of one layer: the texts', then those of each stream with its scale.
    fn of_layer(&self, layer: usize) -> impl Iterator<Item = (&(Tensor, Tensor), f64)> {
        let streams = self.streams.iter().map(move |stream| (&stream.layers[layer], stream.scale));
        std::iter::once((&self.layers[layer], 1.0)).chain(streams)
    }
}

/// What the transformers of one level share.
#[derive(Clone, Copy)]
pub(crate) struct TransformerStyle {
    /// Number of heads.
    pub(crate) heads: usize,
    /// Transformer blocks behind one another.
    pub(crate) depth: usize,
    /// Width of the context's states.
    pub(crate) context: usize,
    /// Groups of the norm.
    pub(crate) groups: usize,
    /// Whether tokens may be merged here.
    pub(crate) merges: bool,
    /// Whether the projections in and out are stored as linear layers (SD 2.x) or as 1×1 convolutions (SD 1.x).
    pub(crate) linear_projection: bool,
}

/// A picture as a sequence of tokens through some transformer blocks, around a shortcut.
pub(crate) struct SpatialTransformer {
    norm: GroupNorm,
    proj_in: Linear,
    blocks: Vec<Block>,
    proj_out: Linear,
}

impl SpatialTransformer {
    /// `cross_layers` counts the cross-attention layers loaded so far.
    pub(crate) fn load(
        scope: &Scope,
        channels: usize,
        style: TransformerStyle,
        cross_layers: &mut usize,
    ) -> Result<Self, LoadError> {
        let projection = |name: &str| {
            let scope = scope.at(name);
            match style.linear_projection {
                true => Linear::load(&scope, channels, channels),
                false => Linear::from_conv1x1(&scope, channels, channels),
            }
        };
        let mut blocks = Vec::with_capacity(style.depth);
        for index in 0..style.depth {
            let scope = scope.at("transformer_blocks").at(index);
            blocks.push(Block::load(&scope, channels, style, cross_layers)?);
        }
        Ok(Self {
            // 1e-6: fixed in diffusers' Transformer2DModel, whatever the UNet's norm_eps.
            norm: GroupNorm::load(&scope.at("norm"), style.groups, channels, 1e-6)?,
            proj_in: projection("proj_in")?,
            blocks,
            proj_out: projection("proj_out")?,
        })
    }

    /// `[B, C, H, W] -> [B, C, H, W]`
    pub(crate) fn forward(&self, x: &Tensor, told: &Told) -> Result<Tensor> {
        let (_, _, height, width) = x.dims4()?;
        let pixels = ops::tokens_for(&self.norm.forward(x)?, self.proj_in.takes())?;
        let mut tokens = self.proj_in.forward(&pixels)?;
        for (index, block) in self.blocks.iter().enumerate() {
            // What the last block gives is only projected.
            let is_last = index + 1 == self.blocks.len();
            let product = if is_last { self.proj_out.takes() } else { Precision::F32 };
            tokens = block.forward(&tokens, (height, width), told, product)?;
        }
        ops::add_tokens(x, &self.proj_out.forward(&tokens)?)
    }

    /// Appends the keys and values of `context` for each block.
    pub(crate) fn collect(&self, context: &Tensor, into: &mut Vec<(Tensor, Tensor)>) -> Result<()> {
        for block in &self.blocks {
            into.push(block.attn2.pair(context)?);
        }
        Ok(())
    }
}

/// Self-attention, cross-attention, and a gated perceptron, each behind a norm and around a shortcut.
struct Block {
    norm1: LayerNorm,
    attn1: Attention,
    norm2: LayerNorm,
    attn2: Attention,
    norm3: LayerNorm,
    ff_in: Linear,
    ff_out: Linear,
    cross_layer: usize,
    merges: bool,
}

impl Block {
    fn load(
        scope: &Scope,
        width: usize,
        style: TransformerStyle,
        cross_layers: &mut usize,
    ) -> Result<Self, LoadError> {
        let cross_layer = *cross_layers;
        *cross_layers += 1;
        // 1e-5: PyTorch's default epsilon of LayerNorm, which diffusers keeps here.
        let norm = |name: &str| LayerNorm::load(&scope.at(name), width, 1e-5);
        let (own, cross) = (scope.at("attn1"), scope.at("attn2"));
        Ok(Self {
            norm1: norm("norm1")?,
            attn1: Attention::load(&own, &own, width, width, style.heads)?,
            norm2: norm("norm2")?,
            // Keys and values of the words are computed once per request.
            attn2: Attention::load(&cross, &cross.in_floats(), width, style.context, style.heads)?,
            norm3: norm("norm3")?,
            // GEGLU: twice four times the width, one half gates the other.
            ff_in: Linear::load(&scope.at("ff.net.0.proj"), width, 8 * width)?,
            ff_out: Linear::load(&scope.at("ff.net.2"), 4 * width, width)?,
            cross_layer,
            merges: style.merges,
        })
    }

    /// `x` are the tokens of a picture of this height and width; the result is to be multiplied in `product`.
    fn forward(&self, x: &Tensor, size: (usize, usize), told: &Told, product: Precision) -> Result<Tensor> {
        let x = match self.merged(x, size, told)? {
            None => {
                let y = self.norm1.forward_for(x, self.attn1.takes())?;
                self.attn1.forward_add(&y, std::iter::once((&self.attn1.pair(&y)?, 1.0)), x)?
            }
            Some(merged) => {
                let y = merged.means(&self.norm1.forward(x)?)?;
                let found = self.attn1.find(&y, std::iter::once((&self.attn1.pair(&y)?, 1.0)))?;
                merged.spread_onto(&self.attn1.out.forward(&found)?, x)?
            }
        };
        let seen = told.context.of_layer(self.cross_layer);
        let x = self.attn2.forward_add(&self.norm2.forward_for(&x, self.attn2.query.takes())?, seen, &x)?;
        let y = self.norm3.forward_for(&x, self.ff_in.takes())?;
        let y = self.ff_in.forward_geglu_for(&y, self.ff_out.takes())?;
        self.ff_out.forward_add_for(&y, &x, product)
    }

    /// Which tokens are one while they look at each other.
    fn merged(&self, x: &Tensor, size: (usize, usize), told: &Told) -> Result<Option<Merged>> {
        match told.merging {
            Some(merging) if self.merges => merging.of(x, size, self.cross_layer, self.attn1.precision()),
            Some(_) | None => Ok(None),
        }
    }
}

/// Multi-head attention with its projections.
struct Attention {
    query: Linear,
    key: Linear,
    value: Linear,
    out: Linear,
    heads: usize,
}

impl Attention {
    /// `seen` is the same place, for what makes keys and values of the context.
    fn load(
        scope: &Scope,
        seen: &Scope,
        width: usize,
        context: usize,
        heads: usize,
    ) -> Result<Self, LoadError> {
        Ok(Self {
            query: Linear::without_bias(&scope.at("to_q"), width, width)?,
            key: Linear::without_bias(&seen.at("to_k"), context, width)?,
            value: Linear::without_bias(&seen.at("to_v"), context, width)?,
            out: Linear::load(&scope.at("to_out.0"), width, width)?,
            heads,
        })
    }

    /// In which tokens that look at each other are multiplied: in f32 where not all of the layers agree.
    fn takes(&self) -> Precision {
        Linear::taken_by([&self.query, &self.key, &self.value])
    }

    /// In which queries, keys and values are multiplied with one another.
    fn precision(&self) -> Precision {
        self.query.precision()
    }

    /// The keys and values of the tokens `x`.
    fn pair(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        let product = self.precision();
        Ok((self.key.forward_for(x, product)?, self.value.forward_for(x, product)?))
    }

    /// What the tokens `x` find in each pair of keys and values, with its scale, added to `residual`.
    fn forward_add<'c>(
        &self,
        x: &Tensor,
        seen: impl Iterator<Item = (&'c (Tensor, Tensor), f64)>,
        residual: &Tensor,
    ) -> Result<Tensor> {
        self.out.forward_add(&self.find(x, seen)?, residual)
    }

    /// The same before the projection out.
    fn find<'c>(
        &self,
        x: &Tensor,
        seen: impl Iterator<Item = (&'c (Tensor, Tensor), f64)>,
    ) -> Result<Tensor> {
        let heads = Heads { count: self.heads, precision: self.precision() };
        let query = self.query.forward_for(x, heads.precision)?;
        let mut seen = seen.peekable();
        let Some(((key, value), _)) = seen.next() else {
            candle_core::bail!("attention without keys");
        };
        if seen.peek().is_none() {
            return ops::attention_for(&query, key, value, heads, Mask::None, self.out.takes());
        }
        let mut sum = ops::attention(&query, key, value, heads)?;
        for ((key, value), scale) in seen {
            sum = (sum + (ops::attention(&query, key, value, heads)? * scale)?)?;
        }
        Ok(sum)
    }
}
