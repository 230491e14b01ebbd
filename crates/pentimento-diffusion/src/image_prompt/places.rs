//! Where a UNet's attention layers are, and the numbers that adapters give them.
//!
//! Adapters count the attention layers from 0 as diffusers lists them: the way down, the way up, the middle, and of each
//! transformer block the self-attention before the cross-attention.

use crate::{
    config::{PerLevel, UnetConfig},
    error::{LoadError, LoadErrorKind},
};

/// A transformer block with its two attention layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Name of the block, as `down_blocks.0.attentions.0.transformer_blocks.0`.
    pub(crate) name: String,
    /// Width of its tokens.
    pub(crate) width: usize,
    /// Width of the context's states.
    pub(crate) context: usize,
    /// Where it stands in the adapters' order.
    order: usize,
}

impl Place {
    /// The number of its self-attention.
    pub(crate) fn self_number(&self) -> usize {
        2 * self.order
    }

    /// The number of its cross-attention.
    pub(crate) fn cross_number(&self) -> usize {
        2 * self.order + 1
    }
}

/// The transformer blocks in the order in which the engine loads them: down, middle, up.
pub(crate) fn attention_places(config: &UnetConfig, label: &str) -> Result<Vec<Place>, LoadError> {
    let count = config.block_out_channels.len();
    let per_level = |value: &PerLevel| {
        value.levels(count).ok_or_else(|| {
            LoadError::new(
                LoadErrorKind::Malformed,
                format!("{label}: the model's levels do not fit one another"),
            )
        })
    };
    let (depths, contexts) =
        (per_level(&config.transformer_layers_per_block)?, per_level(&config.cross_attention_dim)?);
    let layers = per_level(&config.layers_per_block)?;
    let blocks = |name: &str, level: usize, attentions: usize| {
        let (depth, width, context) = (depths[level], config.block_out_channels[level], contexts[level]);
        let mut places = Vec::with_capacity(attentions * depth);
        for attention in 0..attentions {
            for block in 0..depth {
                let name = format!("{name}.attentions.{attention}.transformer_blocks.{block}");
                places.push(Place { name, width, context, order: 0 });
            }
        }
        places
    };
    let (mut down, mut up) = (Vec::new(), Vec::new());
    let attends = |kind: &&String| kind.starts_with("CrossAttn");
    for (level, _) in config.down_block_types.iter().enumerate().filter(|(_, kind)| attends(kind)) {
        down.extend(blocks(&format!("down_blocks.{level}"), level, layers[level]));
    }
    for (index, _) in config.up_block_types.iter().enumerate().filter(|(_, kind)| attends(kind)) {
        let level = count - 1 - index;
        up.extend(blocks(&format!("up_blocks.{index}"), level, layers[level] + 1));
    }
    let mut middle = blocks("mid_block", count - 1, 1);
    down.iter_mut()
        .chain(&mut up)
        .chain(&mut middle)
        .enumerate()
        .for_each(|(order, place)| place.order = order);
    down.extend(middle);
    down.extend(up);
    Ok(down)
}
