//! Files whose names are another spelling of those that the families were published with.
//!
//! - Averaged weights (`model_ema.`): LDM keeps them under names without the dots between places.
//! - stable-diffusion.cpp's renaming (`convert_name`): OpenCLIP's encoders under transformers' names, with queries, keys and
//!   values still in one tensor (`self_attn.in_proj`), XL's encoders as `cond_stage_model.` and `cond_stage_model.1.`.
//!
//! Source: LDM's `ema.py`; files that stable-diffusion.cpp wrote.

use super::names::{self, Stored, any_below};
use crate::{
    error::LoadError,
    source::{StoredTensor, StoredValues, WeightSource, absent},
};
use sha2::Sha256;
use std::{collections::BTreeMap, sync::Arc};

/// Averaged weights of a UNet.
const AVERAGED: &str = "model_ema.diffusion_model";

/// What stable-diffusion.cpp calls XL's second encoder.
const SECOND: &str = "cond_stage_model.1.transformer.";

/// The same tensors by the names that the table of names knows.
struct Renamed {
    source: Arc<dyn WeightSource>,
    tensors: BTreeMap<String, StoredTensor>,
    /// The names in the file, by the new ones.
    stored: BTreeMap<String, String>,
}

/// The source itself, or the same by the published names where it has others.
pub(super) fn published(source: Arc<dyn WeightSource>) -> Arc<dyn WeightSource> {
    let stored = source.tensors();
    let averaged = any_below(stored, AVERAGED) && !any_below(stored, names::UNET);
    let xl = any_below(stored, SECOND);
    let one = stored.keys().any(|name| name.starts_with(names::CLIP) && name.contains(".self_attn.in_proj."));
    if !averaged && !xl && !one {
        return source;
    }
    let rename = |name: &str| -> Option<String> {
        if let Some(flat) = name.strip_prefix(AVERAGED).filter(|_| averaged) {
            return Some(format!("{}{}", names::UNET, with_dots(flat)?));
        }
        if let Some(rest) = name.strip_prefix(SECOND).filter(|_| xl) {
            return Some(format!("{}{}", names::XL_OPEN_CLIP, open_clip(rest)?));
        }
        let rest = name.strip_prefix(names::CLIP)?;
        match (xl, one) {
            (true, _) => Some(format!("{}{rest}", names::XL_CLIP)),
            (false, true) => Some(format!("{}{}", names::OPEN_CLIP, open_clip(rest)?)),
            (false, false) => None,
        }
    };
    let stored: BTreeMap<_, _> =
        stored.keys().map(|name| (rename(name).unwrap_or_else(|| name.clone()), name.clone())).collect();
    let tensors =
        stored.iter().filter_map(|(new, old)| Some((new.clone(), source.tensors().get(old)?.clone())));
    let tensors = tensors.collect();
    Arc::new(Renamed { source, tensors, stored })
}

impl WeightSource for Renamed {
    fn label(&self) -> String {
        self.source.label()
    }

    fn tensors(&self) -> &Stored {
        &self.tensors
    }

    fn read(&self, name: &str) -> Result<Vec<f32>, LoadError> {
        self.source.read(self.stored.get(name).ok_or_else(|| absent(self, name))?)
    }

    fn read_as_stored(&self, name: &str) -> Result<StoredValues, LoadError> {
        self.source.read_as_stored(self.stored.get(name).ok_or_else(|| absent(self, name))?)
    }

    fn hash_into(&self, hash: &mut Sha256) -> Result<(), LoadError> {
        self.source.hash_into(hash)
    }
}

/// Places in a UNet's names. Of two that begin alike the longer stands first.
const PLACES: [&str; 28] = [
    "transformer_blocks",
    "input_blocks",
    "output_blocks",
    "middle_block",
    "skip_connection",
    "time_embed",
    "label_emb",
    "cond_proj",
    "emb_layers",
    "out_layers",
    "in_layers",
    "proj_out",
    "proj_in",
    "to_out",
    "to_q",
    "to_k",
    "to_v",
    "attn1",
    "attn2",
    "norm1",
    "norm2",
    "norm3",
    "norm",
    "proj",
    "conv",
    "net",
    "out",
    "ff",
];

/// Places that end a name, or stand before its end.
const ENDS: [&str; 3] = ["weight", "bias", "op"];

/// A UNet's name whose dots were left out; `None` where it is none.
fn with_dots(flat: &str) -> Option<String> {
    let mut places: Vec<&str> = Vec::new();
    let mut rest = flat;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|sign: char| sign.is_ascii_digit()).len();
        let (numbers, behind) = rest.split_at(digits);
        match (places.last(), digits) {
            (_, 0) => {
                let place = PLACES.iter().chain(&ENDS).find(|place| rest.starts_with(**place))?;
                places.push(place);
                rest = &rest[place.len()..];
                continue;
            }
            // The block's number, and its layer's, which has one digit.
            (Some(&("input_blocks" | "output_blocks")), 2..) => {
                let (block, layer) = numbers.split_at(digits - 1);
                places.extend([block, layer]);
            }
            (Some(&"transformer_blocks"), _) => places.push(numbers),
            _ => places.extend((0..digits).map(|index| &numbers[index..=index])),
        }
        rest = behind;
    }
    Some(places.join("."))
}

/// OpenCLIP's name of a tensor of a text encoder; `None` where it has none.
fn open_clip(name: &str) -> Option<String> {
    let name = name.strip_prefix("text_model.")?;
    let fixed = [
        ("embeddings.token_embedding.weight", "token_embedding.weight"),
        ("embeddings.position_embedding.weight", "positional_embedding"),
        ("final_layer_norm.weight", "ln_final.weight"),
        ("final_layer_norm.bias", "ln_final.bias"),
        ("text_projection", "text_projection"),
    ];
    if let Some((_, open)) = fixed.iter().find(|(known, _)| *known == name) {
        return Some((*open).to_owned());
    }
    let (layer, rest) = name.strip_prefix("encoder.layers.")?.split_once('.')?;
    let layers = [
        ("self_attn.in_proj.", "attn.in_proj_"),
        ("self_attn.out_proj.", "attn.out_proj."),
        ("layer_norm1.", "ln_1."),
        ("layer_norm2.", "ln_2."),
        ("mlp.fc1.", "mlp.c_fc."),
        ("mlp.fc2.", "mlp.c_proj."),
    ];
    let (known, open) = layers.iter().find(|(known, _)| rest.starts_with(known))?;
    Some(format!("transformer.resblocks.{layer}.{open}{}", &rest[known.len()..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_are_found_again() {
        for name in [
            "time_embed.0.weight",
            "label_emb.0.2.bias",
            "time_embed.cond_proj.weight",
            "input_blocks.0.0.weight",
            "input_blocks.10.0.in_layers.2.bias",
            "input_blocks.1.1.transformer_blocks.0.attn2.to_out.0.weight",
            "input_blocks.3.0.op.weight",
            "middle_block.1.transformer_blocks.10.ff.net.0.proj.weight",
            "middle_block.1.norm.weight",
            "output_blocks.11.1.transformer_blocks.1.norm3.bias",
            "output_blocks.5.2.conv.weight",
            "output_blocks.2.0.skip_connection.weight",
            "out.2.bias",
        ] {
            assert_eq!(with_dots(&name.replace('.', "")).as_deref(), Some(name));
        }
        assert_eq!(with_dots("something"), None);
    }
}
