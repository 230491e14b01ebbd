//! The transformer layer that CLIP's text and picture encoders share.
//!
//! Shapes: tokens `[B, T, hidden]`.
//! Source: Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision"; layout of
//! weights as in transformers.

use crate::{
    error::{LoadError, Result},
    ops::{self, Activation, Heads, LayerNorm, Linear, Mask},
    weights::Scope,
};
use candle_core::Tensor;

/// Widths and settings of a layer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LayerShape {
    pub(crate) hidden: usize,
    pub(crate) inner: usize,
    pub(crate) heads: usize,
    pub(crate) epsilon: f64,
    pub(crate) activation: Activation,
}

/// One layer: attention and a two-layer perceptron, each behind a norm and around a shortcut.
pub(crate) struct Layer {
    norm1: LayerNorm,
    query: Linear,
    key: Linear,
    value: Linear,
    out: Linear,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    heads: usize,
    activation: Activation,
    /// Which tokens a token sees.
    mask: Mask,
}

impl Layer {
    pub(crate) fn load(scope: &Scope, shape: LayerShape, mask: Mask) -> Result<Self, LoadError> {
        let LayerShape { hidden, inner, heads, epsilon, activation } = shape;
        let attention = scope.at("self_attn");
        Ok(Self {
            norm1: LayerNorm::load(&scope.at("layer_norm1"), hidden, epsilon)?,
            query: Linear::load(&attention.at("q_proj"), hidden, hidden)?,
            key: Linear::load(&attention.at("k_proj"), hidden, hidden)?,
            value: Linear::load(&attention.at("v_proj"), hidden, hidden)?,
            out: Linear::load(&attention.at("out_proj"), hidden, hidden)?,
            norm2: LayerNorm::load(&scope.at("layer_norm2"), hidden, epsilon)?,
            fc1: Linear::load(&scope.at("mlp.fc1"), hidden, inner)?,
            fc2: Linear::load(&scope.at("mlp.fc2"), inner, hidden)?,
            heads,
            activation,
            mask,
        })
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let heads = Heads { count: self.heads, precision: self.query.precision() };
        let takes = Linear::taken_by([&self.query, &self.key, &self.value]);
        let y = self.norm1.forward_for(x, takes)?;
        let of = |layer: &Linear| layer.forward_for(&y, heads.precision);
        let (q, k, v) = (of(&self.query)?, of(&self.key)?, of(&self.value)?);
        let mixed = ops::attention_for(&q, &k, &v, heads, self.mask, self.out.takes())?;
        let x = self.out.forward_add(&mixed, x)?;
        let y = self.norm2.forward_for(&x, self.fc1.takes())?;
        let y = self.fc1.forward_act_for(&y, self.activation, self.fc2.takes())?;
        self.fc2.forward_add(&y, &x)
    }
}
