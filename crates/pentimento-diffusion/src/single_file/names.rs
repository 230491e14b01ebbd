//! The one table of key names: what tensors are called in files that hold a whole model, and what the engine calls them.
//!
//! Stored names are those of the programs that the families were first published with: latent-diffusion (LDM) and
//! generative-models (SGM) for the UNet and the autoencoder, OpenAI's CLIP through transformers, and OpenCLIP. The engine's are
//! those of diffusers and transformers. Places in the tree of names correspond; below a place a few names differ.
//! Source: key by key what diffusers' `loaders/single_file_utils.py` does, which the goldens hold this against.

use crate::{
    source::StoredTensor,
    weights::{Origin, View},
};
use std::collections::BTreeMap;

/// Tensors as a file describes them.
pub(super) type Stored = BTreeMap<String, StoredTensor>;

/// Names below a place that differ: stored, and the engine's.
type Renames = &'static [(&'static str, &'static str)];

const SAME: Renames = &[];
const UNET_RESNET: Renames = &[
    ("in_layers.0", "norm1"),
    ("in_layers.2", "conv1"),
    ("emb_layers.1", "time_emb_proj"),
    ("out_layers.0", "norm2"),
    ("out_layers.3", "conv2"),
    ("skip_connection", "conv_shortcut"),
];
const VAE_RESNET: Renames = &[("nin_shortcut", "conv_shortcut")];
const VAE_ATTENTION: Renames =
    &[("norm", "group_norm"), ("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("proj_out", "to_out.0")];
const OPEN_CLIP_LAYER: Renames = &[
    ("ln_1", "layer_norm1"),
    ("ln_2", "layer_norm2"),
    ("mlp.c_fc", "mlp.fc1"),
    ("mlp.c_proj", "mlp.fc2"),
    ("attn.out_proj", "self_attn.out_proj"),
];
const UNET_TOP: Renames = &[
    ("time_embed.0", "time_embedding.linear_1"),
    ("time_embed.2", "time_embedding.linear_2"),
    ("time_embed.cond_proj", "time_embedding.cond_proj"),
    ("label_emb.0.0", "add_embedding.linear_1"),
    ("label_emb.0.2", "add_embedding.linear_2"),
    ("input_blocks.0.0", "conv_in"),
    ("out.0", "conv_norm_out"),
    ("out.2", "conv_out"),
];

/// Where the parts of a model lie in a file.
pub(super) const UNET: &str = "model.diffusion_model.";
pub(super) const VAE: [&str; 2] = ["first_stage_model.", "vae."];
pub(super) const CLIP: &str = "cond_stage_model.transformer.";
pub(super) const OPEN_CLIP: &str = "cond_stage_model.model.";
pub(super) const XL_CLIP: &str = "conditioner.embedders.0.transformer.";
pub(super) const XL_OPEN_CLIP: &str = "conditioner.embedders.1.model.";
pub(super) const REFINER_CLIP: &str = "conditioner.embedders.0.model.";

/// Which places of a part correspond.
#[derive(Default)]
struct Places(BTreeMap<String, (String, Renames)>);

impl Places {
    fn put(&mut self, stored: String, engine: String, renames: Renames) {
        self.0.insert(stored, (engine, renames));
    }

    /// The engine's name for a stored one.
    fn name(&self, stored: &str) -> Option<String> {
        let mut end = stored.len();
        while let Some(dot) = stored[..end].rfind('.') {
            if let Some((engine, renames)) = self.0.get(&stored[..dot]) {
                return Some(format!("{engine}.{}", renamed(&stored[dot + 1..], renames)));
            }
            end = dot;
        }
        None
    }
}

fn renamed(name: &str, renames: Renames) -> String {
    for (stored, engine) in renames {
        if let Some(rest) = name.strip_prefix(stored).filter(|rest| rest.starts_with('.')) {
            return format!("{engine}{rest}");
        }
    }
    name.to_owned()
}

/// Whether any stored name begins so.
pub(super) fn any_below(stored: &Stored, prefix: &str) -> bool {
    stored.range(prefix.to_owned()..).next().is_some_and(|(name, _)| name.starts_with(prefix))
}

/// The UNet's tensors by the engine's names.
pub(super) fn unet(stored: &Stored) -> BTreeMap<String, Origin> {
    let has = |name: String| any_below(stored, &format!("{UNET}{name}"));
    let mut places = Places::default();
    for (stored, engine) in UNET_TOP {
        places.put((*stored).to_owned(), (*engine).to_owned(), SAME);
    }
    // On the way down a level ends with a convolution that halves, which is a block of its own.
    let (mut level, mut layer) = (0, 0);
    for block in (1..).take_while(|block| has(format!("input_blocks.{block}."))) {
        let (from, to) = (format!("input_blocks.{block}"), format!("down_blocks.{level}"));
        if has(format!("{from}.0.op.")) {
            places.put(format!("{from}.0.op"), format!("{to}.downsamplers.0.conv"), SAME);
            (level, layer) = (level + 1, 0);
            continue;
        }
        places.put(format!("{from}.0"), format!("{to}.resnets.{layer}"), UNET_RESNET);
        places.put(format!("{from}.1"), format!("{to}.attentions.{layer}"), SAME);
        layer += 1;
    }
    for (block, to, renames) in
        [(0, "resnets.0", UNET_RESNET), (1, "attentions.0", SAME), (2, "resnets.1", UNET_RESNET)]
    {
        places.put(format!("middle_block.{block}"), format!("mid_block.{to}"), renames);
    }
    // On the way up it ends with a convolution behind the last block's layers.
    let (mut level, mut layer) = (0, 0);
    for block in (0..).take_while(|block| has(format!("output_blocks.{block}."))) {
        let (from, to) = (format!("output_blocks.{block}"), format!("up_blocks.{level}"));
        places.put(format!("{from}.0"), format!("{to}.resnets.{layer}"), UNET_RESNET);
        places.put(format!("{from}.1"), format!("{to}.attentions.{layer}"), SAME);
        layer += 1;
        if let Some(behind) = [1, 2].iter().find(|behind| has(format!("{from}.{behind}.conv."))) {
            places.put(format!("{from}.{behind}"), format!("{to}.upsamplers.0"), SAME);
            (level, layer) = (level + 1, 0);
        }
    }
    mapped(stored, UNET, &places)
}

/// The autoencoder's tensors by the engine's names.
pub(super) fn vae(stored: &Stored, prefix: &str) -> BTreeMap<String, Origin> {
    let has = |name: String| any_below(stored, &format!("{prefix}{name}"));
    let levels = (0..).take_while(|level| has(format!("decoder.up.{level}."))).count();
    let mut places = Places::default();
    for name in ["quant_conv", "post_quant_conv"] {
        places.put(name.to_owned(), name.to_owned(), SAME);
    }
    for half in ["encoder", "decoder"] {
        for (from, to, renames) in [
            ("conv_in", "conv_in", SAME),
            ("norm_out", "conv_norm_out", SAME),
            ("conv_out", "conv_out", SAME),
            ("mid.block_1", "mid_block.resnets.0", VAE_RESNET),
            ("mid.attn_1", "mid_block.attentions.0", VAE_ATTENTION),
            ("mid.block_2", "mid_block.resnets.1", VAE_RESNET),
        ] {
            places.put(format!("{half}.{from}"), format!("{half}.{to}"), renames);
        }
    }
    for level in 0..levels {
        // Stored levels count from the finest on both ways, the engine's in the order of use.
        let (down, up) =
            (format!("encoder.down_blocks.{level}"), format!("decoder.up_blocks.{}", levels - 1 - level));
        for (from, to) in [(format!("encoder.down.{level}"), down), (format!("decoder.up.{level}"), up)] {
            for layer in (0..).take_while(|layer| has(format!("{from}.block.{layer}."))) {
                places.put(format!("{from}.block.{layer}"), format!("{to}.resnets.{layer}"), VAE_RESNET);
            }
            places.put(format!("{from}.downsample"), format!("{to}.downsamplers.0"), SAME);
            places.put(format!("{from}.upsample"), format!("{to}.upsamplers.0"), SAME);
        }
    }
    let mut tensors = mapped(stored, prefix, &places);
    for (name, origin) in &mut tensors {
        // The attention's layers are stored as convolutions of one pixel.
        if name.contains(".attentions.")
            && origin.shape.len() > 2
            && origin.shape[2..].iter().all(|side| *side == 1)
        {
            origin.shape.truncate(2);
        }
    }
    tensors
}

/// The tensors of a text encoder that is stored as transformers names them.
pub(super) fn clip(stored: &Stored, prefix: &str) -> BTreeMap<String, Origin> {
    let tensors = below(stored, prefix).filter(|(name, _, _)| !name.ends_with("position_ids"));
    tensors.map(|(name, full, tensor)| (name.to_owned(), whole(full, tensor))).collect()
}

/// The tensors of a text encoder that is stored as OpenCLIP names them.
pub(super) fn open_clip(stored: &Stored, prefix: &str) -> BTreeMap<String, Origin> {
    let mut places = Places::default();
    places.put("token_embedding".to_owned(), "text_model.embeddings.token_embedding".to_owned(), SAME);
    places.put("ln_final".to_owned(), "text_model.final_layer_norm".to_owned(), SAME);
    places.put("text_projection".to_owned(), "text_projection".to_owned(), SAME);
    let layers = (0..).take_while(|l| any_below(stored, &format!("{prefix}transformer.resblocks.{l}.")));
    for layer in layers {
        let engine = format!("text_model.encoder.layers.{layer}");
        places.put(format!("transformer.resblocks.{layer}"), engine, OPEN_CLIP_LAYER);
    }
    let mut tensors = BTreeMap::new();
    for (name, full, tensor) in below(stored, prefix) {
        match name {
            "positional_embedding" => {
                let engine = "text_model.embeddings.position_embedding.weight";
                tensors.insert(engine.to_owned(), whole(full, tensor));
            }
            // A matrix that multiplies from the right.
            "text_projection" if tensor.shape.len() == 2 => {
                let shape = tensor.shape.iter().rev().copied().collect();
                let origin = Origin { stored: full.to_owned(), view: View::Transposed, shape };
                tensors.insert("text_projection.weight".to_owned(), origin);
            }
            _ => tensors.extend(match name.rsplit_once(".attn.in_proj_") {
                Some((layer, kind)) => in_thirds(&places, layer, kind, full, tensor),
                None => places.name(name).map(|engine| (engine, whole(full, tensor))).into_iter().collect(),
            }),
        }
    }
    tensors
}

/// Queries, keys and values are stored as one tensor.
fn in_thirds(
    places: &Places,
    layer: &str,
    kind: &str,
    full: &str,
    tensor: &StoredTensor,
) -> Vec<(String, Origin)> {
    let Some((engine, _)) = places.0.get(layer) else { return Vec::new() };
    let mut shape = tensor.shape.clone();
    match shape.first_mut() {
        Some(first) if first.is_multiple_of(3) => *first /= 3,
        _ => return Vec::new(),
    }
    let third = |(index, name): (usize, &str)| {
        let origin = Origin { stored: full.to_owned(), view: View::Third(index), shape: shape.clone() };
        (format!("{engine}.self_attn.{name}.{kind}"), origin)
    };
    ["q_proj", "k_proj", "v_proj"].into_iter().enumerate().map(third).collect()
}

fn mapped(stored: &Stored, prefix: &str, places: &Places) -> BTreeMap<String, Origin> {
    let tensors = below(stored, prefix);
    tensors.filter_map(|(name, full, tensor)| Some((places.name(name)?, whole(full, tensor)))).collect()
}

/// The tensors below a place: name from there, whole name, and what it is.
fn below<'a>(
    stored: &'a Stored,
    prefix: &'a str,
) -> impl Iterator<Item = (&'a str, &'a str, &'a StoredTensor)> {
    stored
        .range(prefix.to_owned()..)
        .map_while(move |(full, tensor)| full.strip_prefix(prefix).map(|name| (name, full.as_str(), tensor)))
}

fn whole(full: &str, tensor: &StoredTensor) -> Origin {
    Origin { stored: full.to_owned(), view: View::Whole, shape: tensor.shape.clone() }
}
