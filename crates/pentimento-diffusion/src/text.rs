//! The CLIP text encoder (`CLIPTextModel`, `CLIPTextModelWithProjection`): token ids to one state per token.
//!
//! Shapes: `B` times ids `[77]`, states `[B, 77, hidden]`, pooled `[B, projection]`. SD 1.x and 2.x take the last layer's states
//! behind the final layer norm, SDXL those of the layer before, without it, and the projected state of the end token.
//! Source: Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision";
//! layout of weights as in transformers.

use crate::{
    clip::{Layer, LayerShape},
    config::{TextConfig, unsupported},
    error::{LoadError, LoadErrorKind, Result},
    ops::{Activation, LayerNorm, Linear, Mask},
    weights::Scope,
};
use candle_core::{DType, Device, Tensor};
use std::ops::Range;

/// A CLIP text encoder.
pub(crate) struct TextEncoder {
    tokens: Tensor,
    positions: Tensor,
    layers: Vec<Layer>,
    final_norm: LayerNorm,
    /// Of the end token's state; only encoders of the class with projection have it.
    projection: Option<Linear>,
    length: usize,
    end: u32,
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
            .map(|index| Layer::load(&scope.at("encoder.layers").at(index), shape, Mask::Causal))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            tokens: embeddings.table("token_embedding.weight", &[config.vocab_size, hidden])?,
            positions: embeddings.tensor("position_embedding.weight", &[length, hidden])?,
            layers,
            final_norm: LayerNorm::load(&scope.at("final_layer_norm"), hidden, config.layer_norm_eps)?,
            projection: match root.contains("text_projection.weight") {
                true => {
                    Some(Linear::without_bias(&root.at("text_projection"), hidden, config.projection_dim)?)
                }
                false => None,
            },
            length,
            end: config.eos_token_id,
        })
    }

    /// Number of tokens that are encoded together, start and end included.
    pub(crate) fn length(&self) -> usize {
        self.length
    }

    /// Number of layers.
    pub(crate) fn depth(&self) -> usize {
        self.layers.len()
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

    /// The last states of texts, with so many layers left out at the end: `B` times `[77]` ids -> `[B, 77, hidden]`. A text's have the
    /// same bytes alone and beside others.
    pub(crate) fn forward(&self, texts: &[Vec<u32>], skipped: usize) -> Result<Tensor> {
        let used = self.layers.len().saturating_sub(skipped);
        self.final_norm.forward(&self.run(self.embed(texts)?, 0..used)?)
    }

    /// The states before the last layer, with so many more left out, and the projected states of the end tokens, which
    /// have passed them all: `B` times `[77]` ids -> `[B, 77, hidden]` and `[B, projection]`
    pub(crate) fn penultimate(&self, texts: &[Vec<u32>], skipped: usize) -> Result<(Tensor, Option<Tensor>)> {
        let (all, used) = (self.layers.len(), self.layers.len().saturating_sub(skipped + 1));
        let states = self.run(self.embed(texts)?, 0..used)?;
        let Some(projection) = &self.projection else { return Ok((states, None)) };
        let last = self.final_norm.forward(&self.run(states.clone(), used..all)?)?;
        Ok((states, Some(projection.forward(&self.ends(&last, texts)?)?)))
    }

    /// The end token's state behind all layers and the norm: `[77]` ids -> `[1, hidden]`
    pub(crate) fn end_state(&self, ids: Vec<u32>) -> Result<Tensor> {
        let texts = [ids];
        self.ends(&self.forward(&texts, 0)?, &texts)
    }

    /// The end tokens' states: `[B, 77, hidden] -> [B, hidden]`
    fn ends(&self, states: &Tensor, texts: &[Vec<u32>]) -> Result<Tensor> {
        let ends = texts.iter().enumerate();
        let ends = ends.map(|(at, ids)| states.get(at)?.narrow(0, self.end_of(ids), 1));
        Tensor::cat(&ends.collect::<Result<Vec<_>>>()?, 0)
    }

    fn embed(&self, texts: &[Vec<u32>]) -> Result<Tensor> {
        let ids = Tensor::new(texts.concat(), &Device::Cpu)?;
        let states = self.tokens.embedding(&ids)?.to_dtype(DType::F32)?;
        let (length, hidden) = self.positions.dims2()?;
        states.reshape((texts.len(), length, hidden))?.broadcast_add(&self.positions)
    }

    fn run(&self, states: Tensor, layers: Range<usize>) -> Result<Tensor> {
        self.layers[layers].iter().try_fold(states, |states, layer| layer.forward(&states))
    }

    /// The first end token's place, as transformers finds it.
    fn end_of(&self, ids: &[u32]) -> usize {
        // Configurations of before transformers 4.30 say 2 and mean the largest id.
        let end = if self.end == 2 { ids.iter().copied().max().unwrap_or_default() } else { self.end };
        ids.iter().position(|id| *id == end).unwrap_or_default()
    }
}
