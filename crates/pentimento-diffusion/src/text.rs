//! The CLIP text encoder (`CLIPTextModel`): token ids to one state per token.
//!
//! Shapes: ids `[77]`, states `[1, 77, hidden]`. The state is the last layer's, after the final layer norm.
//! Source: Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision";
//! layout of weights as in transformers.

use crate::{
    clip::{Layer, LayerShape, Sight},
    config::{TextConfig, unsupported},
    error::{LoadError, LoadErrorKind, Result},
    ops::{Activation, LayerNorm},
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
        let shape = LayerShape {
            hidden,
            inner: config.intermediate_size,
            heads: config.num_attention_heads,
            epsilon: config.layer_norm_eps,
            activation,
        };
        let layers = (0..config.num_hidden_layers)
            .map(|index| Layer::load(&scope.at("encoder.layers").at(index), shape, Sight::Back))
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
