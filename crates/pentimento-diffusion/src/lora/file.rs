//! Files of adapters: safetensors, opened and sorted by layer, before any model is looked at.
//!
//! Every tensor belongs to a layer of a part and plays a role in one flavour. Names of all trainers are read: kohya's
//! (`lora_unet_…`), diffusers' old and new ones, PEFT's and LyCORIS'. Which layer of a model is meant is decided in
//! `resolve`. Errors name the file; pickle files are refused.

use super::names::{self, Part, Role};
use crate::{
    error::{LoadError, LoadErrorKind},
    files::{Bytes, ModelFiles},
};
use safetensors::{Dtype, SafeTensors, tensor::Metadata};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, fmt, sync::OnceLock};

/// An adapter's file, its tensors sorted by layer.
pub struct LoraFile {
    /// As messages name it.
    label: String,
    bytes: Bytes,
    header: Metadata,
    data_start: usize,
    /// The layers, in the order of their names.
    pub(super) layers: BTreeMap<(Part, String), BTreeMap<Role, String>>,
    /// Tensors that belong to no layer as far as this engine knows.
    pub(super) strangers: Vec<String>,
    hash: OnceLock<String>,
}

/// A tensor of the file.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) shape: Vec<usize>,
    pub(super) values: Vec<f32>,
}

/// Key of the file's metadata under which diffusers keeps the settings of PEFT.
const PEFT_SETTINGS: &str = "lora_adapter_metadata";

impl LoraFile {
    /// Opens a file.
    ///
    /// # Errors
    /// When it is not there, is a pickle file, or is no whole safetensors file.
    pub fn open(files: &dyn ModelFiles, path: &str) -> Result<Self, LoadError> {
        let label = files.describe(path);
        crate::weights::refuse_pickle(path, &label)?;
        let missing = || LoadError::new(LoadErrorKind::Missing, format!("{label} is missing"));
        let bytes = files.read(path)?.ok_or_else(missing)?;
        // This also checks that the tensors' data fill the file to its very end.
        let (header_length, header) = SafeTensors::read_metadata(&bytes).map_err(|error| {
            let message = format!("{label} is cut off or no safetensors file");
            LoadError::caused_by(LoadErrorKind::Malformed, message, error)
        })?;
        let (layers, strangers) = sorted(header.tensors().into_keys());
        let data_start = header_length + 8;
        Ok(Self { label, bytes, header, data_start, layers, strangers, hash: OnceLock::new() })
    }

    /// SHA-256 of the file, in hexadecimal.
    pub fn hash(&self) -> &str {
        self.hash.get_or_init(|| crate::generate::hex(&Sha256::digest(&*self.bytes)))
    }

    /// Its length in bytes.
    pub(crate) fn length(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Number of parameters.
    pub(crate) fn parameters(&self) -> u64 {
        self.header.tensors().values().map(|info| info.shape.iter().product::<usize>() as u64).sum()
    }

    /// Whether a layer of it cannot run beside the model's.
    pub(crate) fn merges(&self) -> bool {
        let is_beside = |role: &Role| matches!(role, Role::Down | Role::Up | Role::Mid | Role::Alpha);
        !self.layers.values().all(|roles| roles.keys().all(is_beside))
    }

    /// Number of tensors.
    pub(super) fn tensor_count(&self) -> usize {
        self.header.tensors().len()
    }

    /// A text of the file's metadata.
    pub(super) fn metadata(&self, key: &str) -> Option<&str> {
        self.header.metadata().as_ref()?.get(key).map(String::as_str)
    }

    /// PEFT's settings, where the file carries them.
    pub(super) fn peft_settings(&self) -> Option<Map<String, Value>> {
        match serde_json::from_str(self.metadata(PEFT_SETTINGS)?) {
            Ok(Value::Object(settings)) => Some(settings),
            _ => None,
        }
    }

    /// The shape of a tensor.
    pub(super) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.header.info(name).map(|info| info.shape.as_slice())
    }

    /// Reads a tensor as f32.
    pub(super) fn read(&self, name: &str) -> Result<Stored, LoadError> {
        let info = self.header.info(name).ok_or_else(|| {
            LoadError::new(LoadErrorKind::Tensor, format!("{}: tensor '{name}' is missing", self.label))
        })?;
        let (start, end) = info.data_offsets;
        let data = &self.bytes[self.data_start + start..self.data_start + end];
        let values: Vec<f32> = match info.dtype {
            Dtype::F32 => data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Dtype::F16 => data.as_chunks().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f32()).collect(),
            Dtype::BF16 => {
                data.as_chunks().0.iter().map(|b| half::bf16::from_le_bytes(*b).to_f32()).collect()
            }
            Dtype::F64 => data.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect(),
            Dtype::I64 => data.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b) as f32).collect(),
            Dtype::I32 => data.as_chunks().0.iter().map(|b| i32::from_le_bytes(*b) as f32).collect(),
            other => {
                let message =
                    format!("{}: tensor '{name}' is stored as {other:?}, which is not read", self.label);
                return Err(LoadError::new(LoadErrorKind::Unsupported, message));
            }
        };
        match values.iter().all(|value| value.is_finite()) {
            true => Ok(Stored { shape: info.shape.clone(), values }),
            false => Err(LoadError::new(
                LoadErrorKind::Tensor,
                format!("{}: tensor '{name}' holds values that are no numbers", self.label),
            )),
        }
    }
}

impl fmt::Debug for LoraFile {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "LoraFile({})", self.label)
    }
}

/// The tensors by layer and role, and those that are neither.
#[expect(clippy::type_complexity, reason = "two tables that are made together")]
fn sorted(
    tensors: impl Iterator<Item = String>,
) -> (BTreeMap<(Part, String), BTreeMap<Role, String>>, Vec<String>) {
    let mut layers: BTreeMap<(Part, String), BTreeMap<Role, String>> = BTreeMap::new();
    let mut strangers = Vec::new();
    for tensor in tensors {
        match names::parse(&tensor) {
            Some((part, layer, role)) => {
                layers.entry((part, layer)).or_default().insert(role, tensor);
            }
            None if names::is_idle(&tensor) => {}
            None => strangers.push(tensor),
        }
    }
    strangers.sort();
    (layers, strangers)
}
