//! Names of tensors in adapters' files: which part, which layer, which role.
//!
//! Layers come out with `_` for every `.`, because kohya's names keep no difference; a model's own names are brought to the
//! same form, so that looking a layer up is one comparison. Models trained in the layout of the original checkpoints
//! (`input_blocks`, as kohya does for SDXL) have a second name for every layer: see `original`.
//! Source: the files that kohya's sd-scripts, LyCORIS, diffusers and PEFT write.

/// The network that an adapter's layer belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Part {
    /// The denoising network.
    Unet,
    /// The first text encoder.
    Text,
    /// The second text encoder of SDXL.
    Text2,
}

impl Part {
    /// The part's folder in a model.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Unet => "unet",
            Self::Text => "text_encoder",
            Self::Text2 => "text_encoder_2",
        }
    }
}

/// What a tensor is in its flavour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Role {
    /// Low rank: to the rank.
    Down,
    /// Low rank: from the rank.
    Up,
    /// Low rank of a convolution (Tucker): between the two.
    Mid,
    /// The scale's numerator.
    Alpha,
    /// DoRA: the length of every output's (or input's) weights.
    Magnitude,
    /// LoHa, first factor: from the rank, to it, and the core of a convolution.
    Hada1A,
    Hada1B,
    HadaT1,
    /// LoHa, second factor.
    Hada2A,
    Hada2B,
    HadaT2,
    /// LoKr, first factor, whole or in two.
    Kron1,
    Kron1A,
    Kron1B,
    /// LoKr, second factor, whole, in two, or in three.
    Kron2,
    Kron2A,
    Kron2B,
    KronT2,
}

/// Endings of tensors' names, longer ones before those that they end in.
const ROLES: [(&str, Role); 27] = [
    ("_lora.down.weight", Role::Down),
    ("_lora.up.weight", Role::Up),
    (".lora_linear_layer.down.weight", Role::Down),
    (".lora_linear_layer.up.weight", Role::Up),
    (".lora.down.weight", Role::Down),
    (".lora.up.weight", Role::Up),
    (".lora_down.weight", Role::Down),
    (".lora_up.weight", Role::Up),
    (".lora_mid.weight", Role::Mid),
    (".lora_A.weight", Role::Down),
    (".lora_B.weight", Role::Up),
    (".lora_A.default.weight", Role::Down),
    (".lora_B.default.weight", Role::Up),
    (".lora_magnitude_vector.default.weight", Role::Magnitude),
    (".lora_magnitude_vector.weight", Role::Magnitude),
    (".lora_magnitude_vector", Role::Magnitude),
    (".dora_scale", Role::Magnitude),
    (".alpha", Role::Alpha),
    (".hada_w1_a", Role::Hada1A),
    (".hada_w1_b", Role::Hada1B),
    (".hada_w2_a", Role::Hada2A),
    (".hada_w2_b", Role::Hada2B),
    (".hada_t1", Role::HadaT1),
    (".hada_t2", Role::HadaT2),
    (".lokr_w1", Role::Kron1),
    (".lokr_w2", Role::Kron2),
    (".lokr_t2", Role::KronT2),
];

/// The same of LoKr's halves.
const KRONECKER_HALVES: [(&str, Role); 4] = [
    (".lokr_w1_a", Role::Kron1A),
    (".lokr_w1_b", Role::Kron1B),
    (".lokr_w2_a", Role::Kron2A),
    (".lokr_w2_b", Role::Kron2B),
];

/// Beginnings of tensors' names, longer ones before those that they begin with.
const PARTS: [(&str, Part); 14] = [
    ("base_model.model.text_model.", Part::Text),
    ("base_model.model.", Part::Unet),
    ("lora_unet_", Part::Unet),
    ("lycoris_unet_", Part::Unet),
    ("lora_te1_", Part::Text),
    ("lora_te2_", Part::Text2),
    ("lora_te_", Part::Text),
    ("lycoris_te1_", Part::Text),
    ("lycoris_te2_", Part::Text2),
    ("lycoris_te_", Part::Text),
    ("lycoris_", Part::Unet),
    ("unet.", Part::Unet),
    ("text_encoder_2.", Part::Text2),
    ("text_encoder.", Part::Text),
];

/// Part, layer and role of a tensor.
pub(crate) fn parse(tensor: &str) -> Option<(Part, String, Role)> {
    let (part, rest) = PARTS.iter().find_map(|(start, part)| Some((*part, tensor.strip_prefix(start)?)))?;
    let (layer, role) = KRONECKER_HALVES
        .iter()
        .chain(&ROLES)
        .find_map(|(end, role)| Some((rest.strip_suffix(end)?, *role)))
        .filter(|(layer, _)| !layer.is_empty())?;
    Some((part, plain(layer), role))
}

/// Whether a tensor has nothing to say when pictures are drawn: what training kept of its own.
pub(crate) fn is_idle(tensor: &str) -> bool {
    tensor.contains("dropout")
}

/// A layer's name with `_` alone, without the levels that some writers leave out.
pub(crate) fn plain(layer: &str) -> String {
    // diffusers once kept the layers of attention in a processor of their own.
    let name = layer.replace(".processor.", ".").replace('.', "_");
    let name = name.strip_prefix("text_model_").unwrap_or(&name);
    match name.strip_suffix("_to_out") {
        Some(attention) => format!("{attention}_to_out_0"),
        None => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_layer_has_many_names() {
        let layer = "down_blocks_0_attentions_1_transformer_blocks_0_attn1_to_out_0";
        for name in [
            "lora_unet_down_blocks_0_attentions_1_transformer_blocks_0_attn1_to_out_0.lora_down.weight",
            "unet.down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_out.0.lora_A.weight",
            "unet.down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_out.0.lora.down.weight",
            "unet.down_blocks.0.attentions.1.transformer_blocks.0.attn1.processor.to_out_lora.down.weight",
            "base_model.model.down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_out.0.lora_A.default.weight",
        ] {
            assert_eq!(parse(name), Some((Part::Unet, layer.to_owned(), Role::Down)), "{name}");
        }
        let layer = "encoder_layers_0_self_attn_q_proj";
        for name in [
            "lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_up.weight",
            "lora_te1_text_model_encoder_layers_0_self_attn_q_proj.lora_up.weight",
            "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_linear_layer.up.weight",
            "text_encoder.encoder.layers.0.self_attn.q_proj.lora_B.weight",
        ] {
            assert_eq!(parse(name), Some((Part::Text, layer.to_owned(), Role::Up)), "{name}");
        }
    }

    #[test]
    fn every_ending_has_its_role() {
        for (end, role) in ROLES.iter().chain(&KRONECKER_HALVES) {
            assert_eq!(
                parse(&format!("lora_te2_mlp_fc1{end}")),
                Some((Part::Text2, "mlp_fc1".to_owned(), *role))
            );
        }
        assert_eq!(parse("lora_unet_x.strange"), None);
        assert_eq!(parse("unet..alpha"), None);
        assert!(is_idle("lora_unet_x.rank_dropout") && !is_idle("lora_unet_x.alpha"));
    }
}
