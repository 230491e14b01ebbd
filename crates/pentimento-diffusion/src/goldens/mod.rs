//! The engine's parts against the references: diffusers, k-diffusion, transformers, torch.
//!
//! The golden files lie in `reference/goldens`; `reference/README.md` tells how they were made and how to
//! make them again. Tolerances are those of the parts, relative to the deviation of the expected values where
//! that is what "close" means.
//!
//! Comparisons go through [`assert_close`] or [`measured`], which tell `ledger` the largest difference:
//! `cargo xtask numerics` makes the table of docs/numerics.md of it. [`against`] names the row.

mod bands;
mod clip_guidance;
mod control;
mod denoising;
mod emphasis;
mod families;
mod filter;
mod forms;
mod gguf;
mod gguf_pictures;
mod hires;
mod image_prompts;
mod ledger;
mod lora;
mod manifest;
mod networks;
mod noise;
mod pipelines;
mod single_files;
mod steering;
mod true_size;
mod vision;

use crate::{
    Precision,
    config::read_json,
    error::{LoadError, Result},
    files::{Bytes, Folder, ModelFiles},
    weights::{Scope, Weights},
};
use candle_core::{DType, Device, Tensor};
use ledger::against;
use safetensors::SafeTensors;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

/// A golden file: its tensors, and what its program says of them.
struct Golden {
    tensors: HashMap<String, Tensor>,
    case: Value,
}

impl Golden {
    fn open(name: &str) -> Self {
        Self::read(&reference().join(format!("goldens/{name}.safetensors")))
    }

    fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let (_, header) = SafeTensors::read_metadata(&bytes).expect("a safetensors file");
        let case = header.metadata().as_ref().and_then(|texts| texts.get("case")).expect("a case");
        let case = serde_json::from_str(case).expect("a case in JSON");
        let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).expect("tensors");
        Self { tensors, case }
    }

    fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    fn tensor(&self, name: &str) -> Tensor {
        self.tensors.get(name).unwrap_or_else(|| panic!("no tensor {name}")).clone()
    }

    fn f64s(&self, name: &str) -> Vec<f64> {
        let tensor = self.tensor(name).flatten_all().and_then(|flat| flat.to_dtype(DType::F64));
        tensor.and_then(|flat| flat.to_vec1()).expect("numbers")
    }
}

fn reference() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../reference")
}

/// The files of a golden model, or of the embedded one.
fn files(model: &str) -> impl ModelFiles {
    let folder = |name| Folder::new(reference().join("goldens/models").join(name));
    let below: &[&str] = match model {
        "tiny-turbo" | "tiny-xl-inpaint" => &["tiny-xl", "tiny-sd15"],
        _ => &["tiny-sd15"],
    };
    let own = match model {
        "default" => Folder::new(reference().join("../models/default")),
        tiny => folder(tiny),
    };
    Layered(std::iter::once(own).chain(below.iter().map(|name| folder(name))).collect())
}

/// A model of which only what differs from those behind it is stored.
struct Layered(Vec<Folder>);

impl ModelFiles for Layered {
    fn describe(&self, path: &str) -> String {
        self.0[0].describe(path)
    }

    fn read(&self, path: &str) -> Result<Option<Bytes>, LoadError> {
        for folder in &self.0 {
            if let Some(bytes) = folder.read(path)? {
                return Ok(Some(bytes));
            }
        }
        // The second tokenizer's words are those of the first.
        match path.strip_prefix("tokenizer_2/") {
            Some(name) => self.read(&format!("tokenizer/{name}")),
            None => Ok(None),
        }
    }

    fn list(&self, folder: &str) -> Result<Vec<String>, LoadError> {
        for layer in &self.0 {
            let names = layer.list(folder)?;
            if names.iter().any(|name| name.contains("safetensors")) {
                return Ok(names);
            }
        }
        Ok(Vec::new())
    }
}

/// A part's configuration and weights.
fn part<T: DeserializeOwned>(model: &str, part: &str, stem: &str) -> (T, Weights) {
    let files = files(model);
    let config = read_json(&files, &format!("{part}/config.json")).expect("a configuration");
    (config, Weights::open(&files, part, stem).expect("weights"))
}

fn f32_root(weights: &Weights) -> Scope<'_> {
    Scope::root(weights, Precision::F32)
}

/// The values' bits.
fn bits(tensor: &Tensor) -> Vec<u32> {
    let values: Vec<f32> = tensor.flatten_all().and_then(|flat| flat.to_vec1()).expect("f32 values");
    values.into_iter().map(f32::to_bits).collect()
}

/// The largest difference, as a share of the expected values' standard deviation.
fn relative_error(got: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(got.dims(), expected.dims());
    let flat = |tensor: &Tensor| -> Vec<f32> {
        tensor.flatten_all().and_then(|flat| flat.to_vec1()).expect("f32 values")
    };
    let (got, expected) = (flat(got), flat(expected));
    let count = expected.len() as f64;
    let mean = expected.iter().map(|value| f64::from(*value)).sum::<f64>() / count;
    let variance = expected.iter().map(|value| (f64::from(*value) - mean).powi(2)).sum::<f64>() / count;
    let largest = got.iter().zip(&expected).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max);
    assert!(got.iter().all(|value| value.is_finite()));
    largest / variance.sqrt().max(1e-12)
}

/// Whether `got` is within `tolerance` deviations of what was expected.
#[track_caller]
fn assert_close(what: &str, got: &Tensor, expected: &Tensor, tolerance: f64) {
    measured(what, relative_error(got, expected), "deviations", tolerance);
}

/// Whether a difference, in any unit, is within `tolerance`.
#[track_caller]
fn measured(what: &str, difference: f64, unit: &'static str, tolerance: f64) {
    ledger::record(difference, unit, tolerance);
    assert!(difference <= tolerance, "{what}: off by {difference:.2e} {unit}, allowed are {tolerance:.0e}");
}
