//! The CLIP text encoder (`CLIPTextModel`): token ids to one state per token.
//!
//! Shapes: ids `[77]`, states `[1, 77, hidden]`. The state is the last layer's, after the final layer norm.
//! Source: Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision";
//! layout of weights as in transformers.

use crate::{
    config::{TextConfig, unsupported},
    error::{LoadError, LoadErrorKind, Result},
    ops::{self, Activation, LayerNorm, Linear},
    weights::Scope,
};
use candle_core::{Device, Tensor};

/// A CLIP text encoder.
pub(crate) struct TextEncoder {
    tokens: Tensor,
    positions: Tensor,
    layers: Vec<Layer>,
    final_norm: LayerNorm,
    length: usize,
}

impl TextEncoder {
    /// Binds the weights.
    pub(crate) fn load(root: &Scope, config: &TextConfig, label: &str) -> Result<Self, LoadError> {
        let activation = Activation::from_name(&config.hidden_act)
            .ok_or_else(|| unsupported(label, "hidden_act", &config.hidden_act))?;
        config.check(label)?;
        // Checkpoints keep the model below `text_model`; newer transformers may drop that level.
        let scope = if root.contains("embeddings.token_embedding.weight") {
            root.clone()
        } else {
            root.at("text_model")
        };
        let (length, hidden) = (config.max_position_embeddings, config.hidden_size);
        let embeddings = scope.at("embeddings");
        let layers = (0..config.num_hidden_layers)
            .map(|index| Layer::load(&scope.at("encoder.layers").at(index), config, activation))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            tokens: embeddings.tensor("token_embedding.weight", &[config.vocab_size, hidden])?,
            positions: embeddings.tensor("position_embedding.weight", &[length, hidden])?,
            layers,
            final_norm: LayerNorm::load(&scope.at("final_layer_norm"), hidden, config.layer_norm_eps)?,
            length,
        })
    }

    /// Number of tokens that are encoded together, start and end included.
    pub(crate) fn length(&self) -> usize {
        self.length
    }

    /// Refuses a tokenizer whose ids have no embedding.
    pub(crate) fn check_vocabulary(&self, largest_id: u32, label: &str) -> Result<(), LoadError> {
        let known = self.tokens.dim(0).unwrap_or_default();
        if (largest_id as usize) < known {
            return Ok(());
        }
        Err(LoadError::new(
            LoadErrorKind::Malformed,
            format!("{label} gives ids up to {largest_id}, the text encoder knows {known} tokens"),
        ))
    }

    /// `[77]` ids -> `[1, 77, hidden]`
    pub(crate) fn forward(&self, ids: &[u32]) -> Result<Tensor> {
        let ids = Tensor::new(ids, &Device::Cpu)?;
        let mut x = (self.tokens.embedding(&ids)? + &self.positions)?.unsqueeze(0)?;
        for layer in &self.layers {
            x = layer.forward(&x)?;
        }
        self.final_norm.forward(&x)
    }
}

/// One layer: attention and a two-layer perceptron, each behind a norm and around a shortcut.
struct Layer {
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
}

impl Layer {
    fn load(scope: &Scope, config: &TextConfig, activation: Activation) -> Result<Self, LoadError> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let attention = scope.at("self_attn");
        Ok(Self {
            norm1: LayerNorm::load(&scope.at("layer_norm1"), hidden, config.layer_norm_eps)?,
            query: Linear::load(&attention.at("q_proj"), hidden, hidden)?,
            key: Linear::load(&attention.at("k_proj"), hidden, hidden)?,
            value: Linear::load(&attention.at("v_proj"), hidden, hidden)?,
            out: Linear::load(&attention.at("out_proj"), hidden, hidden)?,
            norm2: LayerNorm::load(&scope.at("layer_norm2"), hidden, config.layer_norm_eps)?,
            fc1: Linear::load(&scope.at("mlp.fc1"), hidden, inner)?,
            fc2: Linear::load(&scope.at("mlp.fc2"), inner, hidden)?,
            heads: config.num_attention_heads,
            activation,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.norm1.forward(x)?;
        let (q, k, v) = (self.query.forward(&y)?, self.key.forward(&y)?, self.value.forward(&y)?);
        let mixed = ops::causal_attention(&q, &k, &v, self.heads)?;
        let x = self.out.forward_add(&mixed, x)?;
        let y = self.fc1.forward_act(&self.norm2.forward(&x)?, self.activation)?;
        self.fc2.forward_add(&y, &x)
    }
}
