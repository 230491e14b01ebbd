//! The text side of a model: one text encoder (SD 1.x and 2.x), or two side by side (SDXL), each with its tokenizer.
//!
//! Shapes: a chunk of up to 75 ids gives a context `[1, 77, D]`; with two encoders `D` is the sum of their widths, and a
//! pooled state `[1, P]` of the whole chunk comes from the one that has a projection. The encoders read a text each for
//! itself: where their tokenizers fill up with different tokens, they also split texts differently ("!" in SDXL).
//! Source: Podell et al. 2023, section 2.1 (two encoders, penultimate layers); the order of both is diffusers'.

use crate::{
    config::TextConfig,
    error::{LoadError, LoadErrorKind, Result},
    lora::Changes,
    model::Precision,
    packed::Packed,
    text::TextEncoder,
    tokenizer::Tokenizer,
    weights::{Scope, Weights},
};
use candle_core::Tensor;

/// What a text is to the network.
#[derive(Clone)]
pub(crate) struct TextStates {
    /// One state per token, `[1, S, D]`.
    pub(crate) context: Tensor,
    /// One state of the whole text, `[1, P]`, where the network asks for it.
    pub(crate) pooled: Option<Tensor>,
}

impl TextStates {
    /// Zeros in the same shapes.
    pub(crate) fn zeros_like(&self) -> Result<Self> {
        let pooled = self.pooled.as_ref().map(Tensor::zeros_like).transpose()?;
        Ok(Self { context: self.context.zeros_like()?, pooled })
    }

    /// What encoders side by side make of the same text: `[1, S, D₁]` and `[1, S, D₂]` -> `[1, S, D₁ + D₂]`
    pub(crate) fn side_by_side(all: Vec<Self>) -> Result<Self> {
        let context = match all.as_slice() {
            [one] => one.context.clone(),
            all => Tensor::cat(&all.iter().map(|states| &states.context).collect::<Vec<_>>(), 2)?,
        };
        Ok(Self { context, pooled: all.into_iter().rev().find_map(|states| states.pooled) })
    }
}

/// The text encoders of a model.
pub(crate) struct TextEncoders {
    towers: Vec<TextEncoder>,
}

/// What a text encoder is bound from.
pub(crate) struct TextPart<'a> {
    pub(crate) config: &'a TextConfig,
    pub(crate) weights: &'a Weights,
    /// Layers that are bound already, or will be shared.
    pub(crate) packed: Option<&'a Packed>,
    /// What adapters change.
    pub(crate) changes: Option<&'a Changes>,
    /// As messages name its configuration.
    pub(crate) label: &'a str,
}

/// A text encoder with its tokenizer.
#[derive(Clone, Copy)]
pub(crate) struct Tower<'a> {
    pub(crate) tokenizer: &'a Tokenizer,
    encoder: &'a TextEncoder,
    /// Whether the states before the last layer are taken, and a pooled one.
    penultimate: bool,
}

impl TextEncoders {
    /// Binds the weights of one or two encoders.
    pub(crate) fn load(parts: &[TextPart], precision: Precision) -> Result<Self, LoadError> {
        let load = |part: &TextPart| {
            let scope = Scope::root(part.weights, precision).sharing(part.packed).changed_by(part.changes);
            TextEncoder::load(&scope, part.config, part.label)
        };
        let towers = parts.iter().map(load).collect::<Result<Vec<_>, _>>()?;
        if towers.iter().any(|tower| tower.length() != towers[0].length()) {
            let message = format!("{}: encoders of unequal max_position_embeddings", parts[0].label);
            return Err(LoadError::new(LoadErrorKind::Malformed, message));
        }
        Ok(Self { towers })
    }

    /// The encoders, each with its tokenizer.
    pub(crate) fn towers<'a>(&'a self, tokenizers: &'a [Tokenizer]) -> Vec<Tower<'a>> {
        let penultimate = self.towers.len() > 1;
        let pairs = tokenizers.iter().zip(&self.towers);
        pairs.map(|(tokenizer, encoder)| Tower { tokenizer, encoder, penultimate }).collect()
    }
}

impl TextEncoders {
    /// The largest clip skip: every encoder still runs a layer.
    pub(crate) fn deepest_skip(&self) -> usize {
        let spared = usize::from(self.towers.len() > 1);
        let depth = self.towers.iter().map(|tower| tower.depth().saturating_sub(spared)).min();
        depth.unwrap_or_default().max(1)
    }
}

impl Tower<'_> {
    /// Number of tokens that are encoded together, start and end included.
    pub(crate) fn length(&self) -> usize {
        self.encoder.length()
    }

    /// Refuses a tokenizer whose ids have no embedding.
    pub(crate) fn check_vocabulary(&self, label: &str) -> Result<(), LoadError> {
        self.encoder.check_vocabulary(self.tokenizer.largest_id(), label)
    }

    /// What chunks of ids (without start and end, at most [`Self::length`] - 2 each) are to the network, with so many layers
    /// left out before the one that the model usually takes: clip skip less 1. Weights are read once for all of them.
    pub(crate) fn encode(&self, chunks: &[&[u32]], skipped: usize) -> Result<Vec<TextStates>> {
        let texts: Vec<_> = chunks.iter().map(|ids| self.tokenizer.framed(ids, self.length())).collect();
        let (contexts, pooled) = match self.penultimate {
            true => self.encoder.penultimate(&texts, skipped)?,
            false => (self.encoder.forward(&texts, skipped)?, None),
        };
        let states = (0..chunks.len()).map(|at| {
            let pooled = pooled.as_ref().map(|pooled| pooled.narrow(0, at, 1)).transpose()?;
            Ok(TextStates { context: contexts.narrow(0, at, 1)?, pooled })
        });
        states.collect()
    }
}
