//! From an adapter's file to the layers of a model.
//!
//! Errors list what was found: an adapter that fits no layer, or layers of another shape, is a mistake that nobody would see
//! in the picture.

use super::{
    file::LoraFile,
    flavour::LayerChange,
    names::{self, Part},
    summary::family_of_width,
};
use crate::{
    error::{LoadError, LoadErrorKind},
    original,
    packed::Packed,
};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// The layers of a model that adapters can change.
pub(crate) struct ModelLayers {
    parts: BTreeMap<Part, PartLayers>,
}

/// The layers of one part.
struct PartLayers {
    /// Places by their plain names, in the layout of diffusers and in the original one.
    places: BTreeMap<String, String>,
    shapes: BTreeMap<String, [usize; 4]>,
}

/// An adapter's changes by the model's layers.
pub(super) struct Resolved {
    pub(super) changes: BTreeMap<(Part, String), LayerChange>,
    /// Tensors of the file that change nothing here.
    pub(super) unmatched: Vec<String>,
    convs: BTreeSet<(Part, String)>,
}

impl Resolved {
    /// The layers that are changed.
    pub(super) fn matched(&self) -> Vec<String> {
        self.changes.keys().map(|(part, place)| format!("{}.{place}", part.name())).collect()
    }

    /// The flavours among the changes.
    pub(super) fn flavours(&self) -> Vec<String> {
        let names: BTreeSet<&str> =
            self.changes.iter().map(|(layer, change)| change.name(self.convs.contains(layer))).collect();
        names.into_iter().map(str::to_owned).collect()
    }
}

/// Names that an error lists at most.
const LISTED: usize = 5;

impl ModelLayers {
    /// The layers of these parts. `layers_per_block` is that of the UNet, where all its levels have the same.
    pub(crate) fn of<'a>(
        parts: impl IntoIterator<Item = (Part, &'a Packed)>,
        layers_per_block: Option<usize>,
    ) -> Self {
        let part = |(part, packed): (Part, &Packed)| {
            let shapes = packed.shapes();
            let mut places: BTreeMap<String, String> =
                shapes.keys().map(|place| (names::plain(place), place.clone())).collect();
            if let (Part::Unet, Some(layers)) = (part, layers_per_block) {
                let attention = |level: usize| {
                    let start = format!("up_blocks.{level}.attentions.");
                    shapes.keys().any(|place| place.starts_with(&start))
                };
                for place in shapes.keys() {
                    if let Some(original) = original::to_original(place, layers, attention) {
                        places.entry(names::plain(&original)).or_insert_with(|| place.clone());
                    }
                }
            }
            (part, PartLayers { places, shapes })
        };
        Self { parts: parts.into_iter().map(part).collect() }
    }

    /// Finds the layers that an adapter means.
    pub(super) fn resolve(&self, name: &str, file: &LoraFile) -> Result<Resolved, LoadError> {
        self.check_family(name, file)?;
        let settings = file.peft_settings();
        let mut unmatched = file.strangers.clone();
        let (mut changes, mut convs) = (BTreeMap::new(), BTreeSet::new());
        for ((part, layer), tensors) in &file.layers {
            let found = self.parts.get(part).and_then(|layers| {
                let place = layers.places.get(layer)?;
                Some((place, *layers.shapes.get(place)?))
            });
            let change = match found {
                Some((place, shape)) => {
                    let alpha = |rank| settings.as_ref().and_then(|all| peft_alpha(all, *part, place, rank));
                    let change = LayerChange::read(file, tensors, shape, alpha)
                        .map_err(|error| misfit(name, &error))?;
                    change.map(|change| (place, shape, change))
                }
                None => None,
            };
            match change {
                Some((place, shape, change)) => {
                    if shape[2] * shape[3] > 1 {
                        convs.insert((*part, place.clone()));
                    }
                    changes.insert((*part, place.clone()), change);
                }
                None => unmatched.extend(tensors.values().cloned()),
            }
        }
        unmatched.sort();
        if changes.is_empty() {
            return Err(self.nothing_matched(name, file, &unmatched));
        }
        Ok(Resolved { changes, unmatched, convs })
    }

    /// Refuses an adapter of a model that reads other text states: half of its layers may well fit.
    fn check_family(&self, name: &str, file: &LoraFile) -> Result<(), LoadError> {
        let (Some(theirs), Some(ours)) = (file.context_width(), self.context_width()) else { return Ok(()) };
        if theirs == ours {
            return Ok(());
        }
        let described = |width: usize| format!("{width} ({})", family_of_width(width));
        Err(LoadError::new(
            LoadErrorKind::Tensor,
            format!(
                "lora '{name}' was made for another family: its text states are {} wide, the model's {}",
                described(theirs),
                described(ours)
            ),
        ))
    }

    /// Width of the text states that the UNet reads.
    fn context_width(&self) -> Option<usize> {
        let layers = self.parts.get(&Part::Unet)?;
        let (_, shape) = layers.shapes.iter().find(|(place, _)| place.ends_with("attn2.to_k"))?;
        Some(shape[1])
    }

    fn nothing_matched(&self, name: &str, file: &LoraFile, unmatched: &[String]) -> LoadError {
        let ours: Vec<&str> =
            self.parts.values().flat_map(|layers| layers.places.keys().take(2)).map(String::as_str).collect();
        let message = match file.tensor_count() {
            0 => format!("lora '{name}' is an empty file"),
            count => format!(
                "lora '{name}' changes no layer of this model: of its {count} tensors none matched ({}); the model's \
                 layers are named like {}",
                listed(unmatched),
                ours.join(", ")
            ),
        };
        LoadError::new(LoadErrorKind::Tensor, message)
    }
}

fn misfit(name: &str, error: &LoadError) -> LoadError {
    LoadError::new(error.kind(), format!("lora '{name}' does not fit this model: {error}"))
}

/// The first few names, and how many more there are.
fn listed(names: &[String]) -> String {
    let mut text = names.iter().take(LISTED).map(String::as_str).collect::<Vec<_>>().join(", ");
    if names.len() > LISTED {
        text.push_str(&format!(" and {} more", names.len() - LISTED));
    }
    text
}

/// The alpha that PEFT's settings give a layer, brought to the form `alpha / rank`.
fn peft_alpha(settings: &Map<String, Value>, part: Part, place: &str, rank: usize) -> Option<f64> {
    let setting = |key: &str| settings.get(&format!("{}.{key}", part.name())).or_else(|| settings.get(key));
    let of_layer = setting("alpha_pattern").and_then(Value::as_object).and_then(|patterns| {
        let (_, alpha) = patterns.iter().find(|(pattern, _)| is_named(place, pattern))?;
        alpha.as_f64()
    });
    let alpha = of_layer.or_else(|| setting("lora_alpha").and_then(Value::as_f64))?;
    match setting("use_rslora").and_then(Value::as_bool) {
        Some(true) => Some(alpha * (rank as f64).sqrt()),
        _ => Some(alpha),
    }
}

/// Whether a pattern of PEFT's settings, which is a layer's name or the end of one, means this layer.
fn is_named(place: &str, pattern: &str) -> bool {
    let pattern = pattern.trim_start_matches('^');
    match place.strip_suffix(pattern) {
        Some(before) => before.is_empty() || before.ends_with('.'),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn settings_of_peft_give_alphas_by_layer() {
        let Value::Object(settings) = json!({
            "unet.lora_alpha": 8, "unet.alpha_pattern": { "attn1.to_q": 2.0 },
            "text_encoder.lora_alpha": 4, "text_encoder.use_rslora": true,
        }) else {
            panic!("an object")
        };
        let alpha = |part, place| peft_alpha(&settings, part, place, 4);
        assert_eq!(alpha(Part::Unet, "down_blocks.0.attn1.to_q"), Some(2.0));
        assert_eq!(alpha(Part::Unet, "down_blocks.0.xattn1.to_q"), Some(8.0));
        // alpha / √rank is the rule there: 4 / 2 = 8 / 4.
        assert_eq!(alpha(Part::Text, "encoder.layers.0.mlp.fc1"), Some(8.0));
        assert_eq!(alpha(Part::Text2, "encoder.layers.0.mlp.fc1"), None);
    }

    #[test]
    fn long_lists_are_cut() {
        let names: Vec<String> = (0..7).map(|index| index.to_string()).collect();
        assert_eq!(listed(&names), "0, 1, 2, 3, 4 and 2 more");
        assert_eq!(listed(&names[..2]), "0, 1");
    }
}
