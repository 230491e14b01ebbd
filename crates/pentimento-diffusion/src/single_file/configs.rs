//! Configurations of the parts, from the shapes of their tensors and what each family has in common.
//!
//! Whatever can be counted is counted; heads, activations and scales stand nowhere in a file and are the family's.
//! Source: the configurations that the families were published with.

use super::{family::Family, names::Stored};
use crate::weights::Origin;
use serde_json::{Value, json};
use std::collections::BTreeMap;

type Tensors = BTreeMap<String, Origin>;

/// Norm groups of every published UNet and autoencoder of these families.
const NORM_GROUPS: usize = 32;

/// Width of a head, wherever it is the width and not the number that is fixed.
const HEAD: usize = 64;

/// Sinusoids for each of the sizes that XL is told.
const SIZE_SINUSOIDS: usize = 256;

fn shape<'a>(tensors: &'a Tensors, name: &str) -> Option<&'a [usize]> {
    tensors.get(name).map(|origin| origin.shape.as_slice())
}

fn side(tensors: &Tensors, name: &str, dimension: usize) -> Option<usize> {
    shape(tensors, name)?.get(dimension).copied()
}

fn has_below(tensors: &Tensors, prefix: &str) -> bool {
    tensors.range(prefix.to_owned()..).next().is_some_and(|(name, _)| name.starts_with(prefix))
}

fn count(tensors: &Tensors, prefix: &str) -> usize {
    (0..).take_while(|index| has_below(tensors, &format!("{prefix}{index}."))).count()
}

/// Of a UNet; `None` when tensors are missing that tell its sizes.
pub(super) fn unet(tensors: &Tensors, family: Family) -> Option<Value> {
    let levels = count(tensors, "down_blocks.");
    let channels = (0..levels)
        .map(|level| side(tensors, &format!("down_blocks.{level}.resnets.0.conv1.weight"), 0))
        .collect::<Option<Vec<_>>>()?;
    let attends = |way: &str, level: usize| has_below(tensors, &format!("{way}_blocks.{level}.attentions."));
    let depth = |place: String| count(tensors, &format!("{place}.attentions.0.transformer_blocks."));
    let middle = depth("mid_block".to_owned());
    // A level without transformers has the middle's depth, which the middle itself takes from the last level.
    let depths: Vec<_> = (0..levels)
        .map(|level| if attends("down", level) { depth(format!("down_blocks.{level}")) } else { middle })
        .collect();
    let kinds = |way: &str, title: &str| -> Vec<String> {
        let kind = |level| if attends(way, level) { format!("CrossAttn{title}") } else { title.to_owned() };
        (0..levels).map(kind).collect()
    };
    let layers: Vec<_> =
        (0..levels).map(|level| count(tensors, &format!("down_blocks.{level}.resnets."))).collect();
    let heads: Vec<_> = channels.iter().map(|channels| family.heads(*channels, HEAD)).collect();
    let middle_block = "mid_block.attentions.0";
    let mut config = json!({
        "_class_name": "UNet2DConditionModel",
        "sample_size": family.sample_size(),
        "in_channels": side(tensors, "conv_in.weight", 1)?,
        "out_channels": side(tensors, "conv_out.weight", 0)?,
        "down_block_types": kinds("down", "DownBlock2D"),
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "up_block_types": kinds("up", "UpBlock2D"),
        "block_out_channels": channels,
        "layers_per_block": layers,
        "norm_num_groups": NORM_GROUPS,
        "cross_attention_dim":
            side(tensors, &format!("{middle_block}.transformer_blocks.0.attn2.to_k.weight"), 1)?,
        "transformer_layers_per_block": depths,
        "attention_head_dim": heads,
        "use_linear_projection": shape(tensors, &format!("{middle_block}.proj_in.weight"))?.len() == 2,
    });
    if let Some(inputs) = side(tensors, "add_embedding.linear_1.weight", 1) {
        config["addition_embed_type"] = "text_time".into();
        config["addition_time_embed_dim"] = SIZE_SINUSOIDS.into();
        config["projection_class_embeddings_input_dim"] = inputs.into();
    }
    if let Some(inputs) = side(tensors, "time_embedding.cond_proj.weight", 1) {
        config["time_cond_proj_dim"] = inputs.into();
    }
    Some(config)
}

/// Of an autoencoder; `None` when tensors are missing that tell its sizes.
pub(super) fn vae(tensors: &Tensors, scaling_factor: f64) -> Option<Value> {
    let levels = count(tensors, "encoder.down_blocks.");
    let channels = (0..levels)
        .map(|level| side(tensors, &format!("encoder.down_blocks.{level}.resnets.0.conv1.weight"), 0))
        .collect::<Option<Vec<_>>>()?;
    let latent_channels = side(tensors, "decoder.conv_in.weight", 1)?;
    Some(json!({
        "_class_name": "AutoencoderKL",
        "in_channels": side(tensors, "encoder.conv_in.weight", 1)?,
        "out_channels": side(tensors, "decoder.conv_out.weight", 0)?,
        "down_block_types": vec!["DownEncoderBlock2D"; levels],
        "up_block_types": vec!["UpDecoderBlock2D"; levels],
        "block_out_channels": channels,
        "layers_per_block": count(tensors, "encoder.down_blocks.0.resnets."),
        "latent_channels": latent_channels,
        "norm_num_groups": NORM_GROUPS,
        "act_fn": "silu",
        "scaling_factor": scaling_factor,
        "use_quant_conv": tensors.contains_key("quant_conv.weight"),
        "use_post_quant_conv": tensors.contains_key("post_quant_conv.weight"),
        "mid_block_add_attention": has_below(tensors, "encoder.mid_block.attentions."),
    }))
}

/// Of a small autoencoder (`AutoencoderTiny`, "TAESD") in diffusers' naming; `None` where these are not its tensors.
/// Layers count those without weights too: see [`crate::vae`].
pub(super) fn tiny_vae(stored: &Stored) -> Option<Value> {
    let side = |name: String, dimension: usize| stored.get(&name)?.shape.get(dimension).copied();
    let is_block =
        |half: &str, layer: usize| stored.contains_key(&format!("{half}.layers.{layer}.conv.0.weight"));
    let is_conv = |half: &str, layer: usize| stored.contains_key(&format!("{half}.layers.{layer}.weight"));
    // Of the encoder each level begins with a convolution, and one ends it.
    let (mut down, mut layer) = (Vec::new(), 0);
    while is_conv("encoder", layer) {
        let blocks = (layer + 1..).take_while(|layer| is_block("encoder", *layer)).count();
        down.push(blocks);
        layer += 1 + blocks;
    }
    let last = layer.checked_sub(1)?;
    down.pop();
    // Of the decoder a convolution and an activation come first; behind each level but the last the picture is doubled
    // before its convolution.
    let (mut up, mut layer) = (Vec::new(), 2);
    loop {
        let blocks = (layer..).take_while(|layer| is_block("decoder", *layer)).count();
        up.push(blocks);
        layer += blocks;
        match (is_conv("decoder", layer), is_conv("decoder", layer + 1)) {
            (true, _) => break,
            (false, true) => layer += 2,
            (false, false) => return None,
        }
    }
    Some(json!({
        "_class_name": "AutoencoderTiny",
        "in_channels": side("encoder.layers.0.weight".to_owned(), 1)?,
        "out_channels": side(format!("decoder.layers.{layer}.weight"), 0)?,
        "encoder_block_out_channels": vec![side("encoder.layers.0.weight".to_owned(), 0)?; down.len()],
        "decoder_block_out_channels": vec![side("decoder.layers.0.weight".to_owned(), 0)?; up.len()],
        "num_encoder_blocks": down,
        "num_decoder_blocks": up,
        "latent_channels": side(format!("encoder.layers.{last}.weight"), 0)?,
        "act_fn": "relu",
        "scaling_factor": 1.0,
    }))
}

/// What of a text encoder the shapes do not say.
pub(super) struct TextKind {
    pub(super) class: &'static str,
    pub(super) activation: &'static str,
    /// Layers at the end that the family never uses.
    pub(super) unused_layers: usize,
}

/// Of a text encoder; `None` when tensors are missing that tell its sizes.
pub(super) fn text(tensors: &Tensors, kind: &TextKind) -> Option<Value> {
    let root = if has_below(tensors, "text_model.") { "text_model." } else { "" };
    let of = |name: &str, dimension| side(tensors, &format!("{root}{name}"), dimension);
    let (vocabulary, hidden) =
        (of("embeddings.token_embedding.weight", 0)?, of("embeddings.token_embedding.weight", 1)?);
    Some(json!({
        "architectures": [kind.class],
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": of("encoder.layers.0.mlp.fc1.weight", 0)?,
        "num_hidden_layers": count(tensors, &format!("{root}encoder.layers.")).checked_sub(kind.unused_layers)?,
        "num_attention_heads": (hidden / HEAD).max(1),
        "max_position_embeddings": of("embeddings.position_embedding.weight", 0)?,
        "hidden_act": kind.activation,
        "layer_norm_eps": 1e-5,
        "projection_dim": side(tensors, "text_projection.weight", 0).unwrap_or(hidden),
        "bos_token_id": vocabulary.saturating_sub(2),
        "eos_token_id": vocabulary.saturating_sub(1),
    }))
}
