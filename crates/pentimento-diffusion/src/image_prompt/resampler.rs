//! The resampler of the "plus" adapters: a few queries that gather what they need from all tokens of a picture.
//!
//! Shapes: picture tokens `[1, S, E]`, queries `[1, T, H]`, result `[1, T, D]`.
//! Source: Alayrac et al. 2022, "Flamingo: a Visual Language Model for Few-Shot Learning" (Perceiver resampler), in the layout of
//! the published adapters.

use super::project::expect_width;
use crate::{
    error::{LoadError, LoadErrorKind, Result},
    ops::{self, Activation, Heads, LayerNorm, Linear},
    weights::{Scope, Weights},
};
use candle_core::Tensor;

/// Width of an attention head, the same in all published adapters.
const HEAD: usize = 64;

/// Layers that are looked for at most, far above any adapter's.
const MOST_LAYERS: usize = 64;

/// The resampler without its first queries.
pub(crate) struct Resampler {
    proj_in: Linear,
    layers: Vec<Layer>,
    proj_out: Linear,
    norm_out: LayerNorm,
    /// Width of the picture's tokens.
    pub(crate) inputs: usize,
    /// Width of the queries.
    pub(crate) hidden: usize,
    /// Width of the result.
    pub(crate) outputs: usize,
}

struct Layer {
    norm1: LayerNorm,
    norm2: LayerNorm,
    query: Linear,
    /// Keys and values behind one another.
    key_value: Linear,
    out: Linear,
    norm3: LayerNorm,
    ff_in: Linear,
    ff_out: Linear,
    heads: usize,
}

/// The sizes of a matrix of the file.
pub(crate) fn matrix(weights: &Weights, place: &str, label: &str) -> Result<[usize; 2], LoadError> {
    match weights.shape(place) {
        Some([outputs, inputs]) if *outputs > 0 && *inputs > 0 => Ok([*outputs, *inputs]),
        found => Err(LoadError::new(
            LoadErrorKind::Tensor,
            format!("{label}: tensor '{place}' has shape {found:?}, expected is a matrix"),
        )),
    }
}

impl Resampler {
    /// Binds the weights below `scope`, which is the place `prefix` of `weights`.
    pub(crate) fn load(
        scope: &Scope,
        weights: &Weights,
        prefix: &str,
        label: &str,
    ) -> Result<Self, LoadError> {
        let [hidden, inputs] = matrix(weights, &format!("{prefix}.proj_in.weight"), label)?;
        let [outputs, _] = matrix(weights, &format!("{prefix}.proj_out.weight"), label)?;
        let depth = (0..MOST_LAYERS)
            .take_while(|index| scope.contains(&format!("layers.{index}.0.to_q.weight")))
            .count();
        let layer = |index: usize| {
            let [inner, _] = matrix(weights, &format!("{prefix}.layers.{index}.0.to_q.weight"), label)?;
            let [wide, _] = matrix(weights, &format!("{prefix}.layers.{index}.1.1.weight"), label)?;
            if !inner.is_multiple_of(HEAD) {
                let message = format!("{label}: {inner} is no whole number of heads of {HEAD}");
                return Err(LoadError::new(LoadErrorKind::Unsupported, message));
            }
            Layer::load(&scope.at("layers").at(index), hidden, inner, wide)
        };
        Ok(Self {
            proj_in: Linear::load(&scope.at("proj_in"), inputs, hidden)?,
            layers: (0..depth).map(layer).collect::<Result<_, _>>()?,
            proj_out: Linear::load(&scope.at("proj_out"), hidden, outputs)?,
            norm_out: LayerNorm::load(&scope.at("norm_out"), outputs, 1e-5)?,
            inputs,
            hidden,
            outputs,
        })
    }

    /// What the queries `latents` gather from `tokens`.
    pub(crate) fn forward(&self, latents: &Tensor, tokens: &Tensor) -> Result<Tensor> {
        expect_width(tokens, self.inputs)?;
        let tokens = self.proj_in.forward(tokens)?;
        let latents = self
            .layers
            .iter()
            .try_fold(latents.clone(), |latents, layer| layer.forward(&latents, &tokens))?;
        self.norm_out.forward(&self.proj_out.forward(&latents)?)
    }
}

impl Layer {
    fn load(scope: &Scope, hidden: usize, inner: usize, wide: usize) -> Result<Self, LoadError> {
        let (attention, perceptron) = (scope.at(0), scope.at(1));
        // 1e-5: PyTorch's default epsilon.
        let norm = |scope: Scope| LayerNorm::load(&scope, hidden, 1e-5);
        Ok(Self {
            norm1: norm(attention.at("norm1"))?,
            norm2: norm(attention.at("norm2"))?,
            query: Linear::without_bias(&attention.at("to_q"), hidden, inner)?,
            key_value: Linear::without_bias(&attention.at("to_kv"), hidden, 2 * inner)?,
            out: Linear::without_bias(&attention.at("to_out"), inner, hidden)?,
            norm3: norm(perceptron.at(0))?,
            ff_in: Linear::without_bias(&perceptron.at(1), hidden, wide)?,
            ff_out: Linear::without_bias(&perceptron.at(3), wide, hidden)?,
            heads: inner / HEAD,
        })
    }

    fn forward(&self, latents: &Tensor, tokens: &Tensor) -> Result<Tensor> {
        let (seen, asking) = (self.norm1.forward(tokens)?, self.norm2.forward(latents)?);
        let both = self.key_value.forward(&Tensor::cat(&[&seen, &asking], 1)?)?;
        // [1, S + T, 2·inner] -> twice [1, S + T, inner]
        let inner = both.dim(2)? / 2;
        let (key, value) = (both.narrow(2, 0, inner)?, both.narrow(2, inner, inner)?);
        let heads = Heads { count: self.heads, precision: self.query.precision() };
        let found = ops::attention(&self.query.forward(&asking)?, &key, &value, heads)?;
        let latents = self.out.forward_add(&found, latents)?;
        let inner = self.ff_in.forward_act(&self.norm3.forward(&latents)?, Activation::Gelu)?;
        self.ff_out.forward_add(&inner, &latents)
    }
}
