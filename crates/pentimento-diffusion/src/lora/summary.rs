//! What an adapter's file holds, without a model.

use super::{
    file::LoraFile,
    names::{Part, Role},
};
use std::collections::{BTreeMap, BTreeSet};

/// What an adapter's file holds.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraSummary {
    /// Family of the model that it was made for, as far as its shapes tell.
    pub family: String,
    /// Layers of each part, as `unet`.
    pub parts: Vec<(String, usize)>,
    /// Layers of each flavour.
    pub flavours: Vec<(String, usize)>,
    /// Ranks of the layers, each once.
    pub ranks: Vec<usize>,
    /// Alphas of the layers, each once; empty where there are none.
    pub alphas: Vec<f32>,
    /// Tensors that this engine does not know.
    pub unknown: Vec<String>,
    /// What its trainer noted: name, base model, words that it was trained on.
    pub notes: Vec<(String, String)>,
    /// SHA-256 of the file, in hexadecimal.
    pub hash: String,
}

/// Notes of kohya's trainer and of the model specification that say something to a user.
const NOTES: [&str; 9] = [
    "modelspec.title",
    "modelspec.architecture",
    "modelspec.trigger_phrase",
    "modelspec.license",
    "ss_output_name",
    "ss_sd_model_name",
    "ss_base_model_version",
    "ss_network_module",
    "ss_network_args",
];

/// Characters of a note that are shown.
const NOTE_LENGTH: usize = 200;

/// The family whose text states have this width.
pub(super) fn family_of_width(width: usize) -> &'static str {
    match width {
        768 => "Stable Diffusion 1.x",
        1024 => "Stable Diffusion 2.x",
        2048 => "Stable Diffusion XL",
        _ => "of no family known here",
    }
}

impl LoraFile {
    /// What the file holds.
    pub fn summary(&self) -> LoraSummary {
        let mut parts = BTreeMap::new();
        let mut flavours = BTreeMap::new();
        let mut ranks = BTreeSet::new();
        let mut alphas: Vec<f32> = Vec::new();
        for ((part, _), tensors) in &self.layers {
            *parts.entry(*part).or_insert(0) += 1;
            *flavours.entry(self.flavour(tensors)).or_insert(0) += 1;
            ranks.extend(self.rank(tensors));
            if let Some(Ok(alpha)) = tensors.get(&Role::Alpha).map(|name| self.read(name)) {
                alphas.extend(alpha.values.first());
            }
        }
        alphas.sort_by(f32::total_cmp);
        alphas.dedup();
        LoraSummary {
            family: self.family(),
            parts: parts
                .into_iter()
                .map(|(part, count): (Part, usize)| (part.name().to_owned(), count))
                .collect(),
            flavours: flavours.into_iter().collect(),
            ranks: ranks.into_iter().collect(),
            alphas,
            unknown: self.strangers.clone(),
            notes: self.notes(),
            hash: self.hash().to_owned(),
        }
    }

    /// Width of the text states that the adapter's cross-attention reads, where its shapes tell.
    pub(super) fn context_width(&self) -> Option<usize> {
        self.layers.iter().find_map(|((part, layer), tensors)| {
            if *part != Part::Unet || !layer.ends_with("attn2_to_k") {
                return None;
            }
            let name = tensors.get(&Role::Down).or_else(|| tensors.get(&Role::Hada1B))?;
            self.shape(name)?.get(1).copied()
        })
    }

    fn family(&self) -> String {
        let second_encoder = self.layers.keys().any(|(part, _)| *part == Part::Text2);
        match self.context_width() {
            Some(width) => family_of_width(width).to_owned(),
            None if second_encoder => family_of_width(2048).to_owned(),
            None => "not told by its shapes".to_owned(),
        }
    }

    fn flavour(&self, tensors: &BTreeMap<Role, String>) -> String {
        let has = |role| tensors.contains_key(&role);
        let dora = if has(Role::Magnitude) { " with DoRA" } else { "" };
        let is_conv = || {
            let shape = tensors.get(&Role::Down).and_then(|name| self.shape(name));
            shape.is_some_and(|shape| shape.len() == 4 && shape[2] * shape[3] > 1) || has(Role::Mid)
        };
        match () {
            () if has(Role::Down) && has(Role::Magnitude) => "DoRA".to_owned(),
            () if has(Role::Down) && is_conv() => "LoCon".to_owned(),
            () if has(Role::Down) => "LoRA".to_owned(),
            () if has(Role::Hada1A) => format!("LoHa{dora}"),
            () if has(Role::Kron1) || has(Role::Kron1A) => format!("LoKr{dora}"),
            () => "of no flavour known here".to_owned(),
        }
    }

    fn rank(&self, tensors: &BTreeMap<Role, String>) -> Option<usize> {
        let holders = [Role::Down, Role::Hada1B, Role::Kron2B, Role::Kron1B];
        let name = holders.iter().find_map(|role| tensors.get(role))?;
        self.shape(name)?.first().copied()
    }

    fn notes(&self) -> Vec<(String, String)> {
        let cut = |text: &str| -> String {
            let line: String = text.chars().map(|char| if char.is_control() { ' ' } else { char }).collect();
            match line.char_indices().nth(NOTE_LENGTH) {
                Some((end, _)) => format!("{}…", &line[..end]),
                None => line,
            }
        };
        let note = |key: &str| Some((key.to_owned(), cut(self.metadata(key)?)));
        NOTES.iter().filter_map(|key| note(key)).collect()
    }
}
