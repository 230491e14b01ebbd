//! Adapters of the networks' weights: LoRA and its kin.
//!
//! A request's adapters are read into [`Adapters`], and the networks are bound again to the same packed weights with these
//! changes laid over them (`weights::Scope`). Models know nothing of it, nothing of it outlives the request's networks, and
//! the base weights stay shared. `names` and `file` read what trainers write, `resolve` finds the model's layers, `flavour` is
//! the mathematics, `changes` the packed result.

mod changes;
mod file;
mod flavour;
mod names;
mod resolve;
mod summary;

pub(crate) use changes::{Changes, Side};
pub use file::LoraFile;
pub(crate) use names::Part;
pub(crate) use resolve::ModelLayers;
pub use summary::LoraSummary;

use crate::Precision;
use crate::{error::LoadError, packed::Packed, weights::Weights};
use changes::Weighted;
use pentimento_request::{Lora, LoraReport};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

/// A request's adapter with its file.
pub(crate) struct WantedLora<'a> {
    pub(crate) lora: &'a Lora,
    pub(crate) file: Arc<LoraFile>,
}

impl WantedLora<'_> {
    /// The adapter's weight in a part.
    fn weight(&self, part: Part) -> f32 {
        match part {
            Part::Unet => self.lora.weight,
            Part::Text | Part::Text2 => self.lora.text_weight.unwrap_or(self.lora.weight),
        }
    }
}

/// A part of a model that adapters can change.
pub(crate) struct ModelPart<'a> {
    pub(crate) part: Part,
    pub(crate) weights: &'a Weights,
    pub(crate) packed: &'a Packed,
}

/// A request's adapters, bound to a model.
pub(crate) struct Adapters {
    changes: BTreeMap<Part, Changes>,
    pub(crate) reports: Vec<LoraReport>,
}

impl Adapters {
    /// Finds the layers that the adapters mean and packs their changes.
    pub(crate) fn bind(
        wanted: &[WantedLora],
        layers: &ModelLayers,
        parts: &[ModelPart],
        precision: Precision,
    ) -> Result<Self, LoadError> {
        let mut by_layer: BTreeMap<Part, BTreeMap<String, Vec<Weighted>>> = BTreeMap::new();
        let mut reports = Vec::with_capacity(wanted.len());
        for lora in wanted {
            let resolved = layers.resolve(&lora.lora.name, &lora.file)?;
            let Lora { name, weight, text_weight } = lora.lora;
            reports.push(LoraReport {
                name: name.clone(),
                hash: lora.file.hash().to_owned(),
                weight: *weight,
                text_weight: text_weight.unwrap_or(*weight),
                flavours: resolved.flavours(),
                matched: resolved.matched(),
                unmatched: resolved.unmatched,
            });
            for ((part, place), change) in resolved.changes {
                let weight = lora.weight(part);
                if weight != 0.0 {
                    by_layer.entry(part).or_default().entry(place).or_default().push((change, weight));
                }
            }
        }
        let mut changes = BTreeMap::new();
        for ModelPart { part, weights, packed } in parts {
            if let Some(wanted) = by_layer.get(part) {
                changes.insert(*part, Changes::pack(wanted, packed, weights, precision)?);
            }
        }
        Ok(Self { changes, reports })
    }

    /// The changes of a part; `None` where it stays as it is.
    pub(crate) fn of(&self, part: Part) -> Option<&Changes> {
        self.changes.get(&part)
    }

    fn bytes(&self) -> usize {
        self.changes.values().map(Changes::bytes).sum()
    }
}

/// Bytes of packed changes that are kept for requests to come.
const KEPT_BYTES: usize = 1 << 30;

/// Sets of adapters that are kept at most.
const KEPT_SETS: usize = 8;

/// Packed changes of the sets of adapters that were asked for last. What does not fit lives as long as its request.
pub(crate) struct AdapterCache {
    kept: Mutex<Vec<(String, Arc<Adapters>)>>,
    /// What all sets together may take.
    bytes: usize,
}

impl Default for AdapterCache {
    fn default() -> Self {
        Self::of(KEPT_BYTES)
    }
}

impl AdapterCache {
    /// An empty one for so many bytes.
    fn of(bytes: usize) -> Self {
        Self { kept: Mutex::default(), bytes }
    }

    /// The set of this key, bound now if it is not there.
    pub(crate) fn get_or_bind(
        &self,
        key: String,
        bind: impl FnOnce() -> Result<Adapters, LoadError>,
    ) -> Result<Arc<Adapters>, LoadError> {
        if let Some(found) = self.take(&key) {
            self.keep(key, found.clone());
            return Ok(found);
        }
        let bound = Arc::new(bind()?);
        self.keep(key, bound.clone());
        Ok(bound)
    }

    /// How many sets are kept.
    #[cfg(test)]
    pub(crate) fn kept(&self) -> usize {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn take(&self, key: &str) -> Option<Arc<Adapters>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let at = kept.iter().position(|(known, _)| known == key)?;
        Some(kept.remove(at).1)
    }

    /// Keeps a set as the newest, and lets go of the oldest that no longer fit.
    fn keep(&self, key: String, adapters: Arc<Adapters>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|(known, _)| *known != key);
        kept.push((key, adapters));
        let bytes =
            |kept: &[(String, Arc<Adapters>)]| -> usize { kept.iter().map(|(_, set)| set.bytes()).sum() };
        while !kept.is_empty() && (kept.len() > KEPT_SETS || bytes(&kept) > self.bytes) {
            kept.remove(0);
        }
    }
}

/// What tells one set of adapters from another.
pub(crate) fn key(wanted: &[WantedLora], precision: Precision) -> String {
    use std::fmt::Write;
    let mut key = format!("{precision:?}");
    for WantedLora { lora: Lora { name, weight, text_weight }, file } in wanted {
        let text_weight = text_weight.unwrap_or(*weight);
        let (weight, text_weight) = (weight.to_bits(), text_weight.to_bits());
        write!(key, " {name}={}:{weight:x}:{text_weight:x}", file.hash()).expect("a string takes everything");
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A set whose changes take this much.
    fn set(side: usize) -> Adapters {
        let changes = BTreeMap::from([(Part::Unet, Changes::of_a_square(side))]);
        Adapters { changes, reports: Vec::new() }
    }

    fn keys(cache: &AdapterCache) -> Vec<String> {
        let kept = cache.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().map(|(key, _)| key.clone()).collect()
    }

    #[test]
    fn what_is_kept_has_a_bound_in_bytes_and_the_longest_unused_leaves() {
        let one = set(64).bytes();
        assert!(one >= 64 * 64 * 4, "{one}");
        let cache = AdapterCache::of(3 * one);
        let ask =
            |key: &str, side: usize| cache.get_or_bind(key.to_owned(), || Ok(set(side))).expect("a set");
        for key in ["a", "b", "c"] {
            ask(key, 64);
        }
        assert_eq!(keys(&cache), ["a", "b", "c"]);
        let again = cache.get_or_bind("a".to_owned(), || panic!("it is there")).expect("a set");
        assert_eq!(again.bytes(), one);
        ask("d", 64);
        assert_eq!(keys(&cache), ["c", "a", "d"], "b was unused the longest");
        // What is larger than all room lives with its request, and nothing else is kept for it.
        let large = ask("large", 256);
        assert!(large.bytes() > 3 * one);
        assert_eq!(keys(&cache), [""; 0]);
        assert_eq!(Arc::strong_count(&large), 1);
        assert_eq!(AdapterCache::default().bytes, 1 << 30);
    }
}
