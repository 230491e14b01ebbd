//! Safetensors weights of one part of a model: found, checked, and read tensor by tensor.
//!
//! A part's weights are one file or shards with an index. Storage may be f32, f16 or bf16; tensors come out
//! as f32. Errors name the file, the tensor, and the expected and found shape. Pickle files are never opened.
//! Source: the safetensors format, and the file names that diffusers and transformers write.

use crate::{
    error::{LoadError, LoadErrorKind},
    files::{Bytes, ModelFiles},
};
use candle_core::{Device, Tensor};
use safetensors::{Dtype, SafeTensors, tensor::Metadata};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// The weights of one part (`unet`, `vae`, `text_encoder`).
pub(crate) struct Weights {
    shards: Vec<Shard>,
}

/// One file of weights.
struct Shard {
    /// As messages name it.
    label: String,
    bytes: Bytes,
    header: Metadata,
    /// Where the tensors' data begins in `bytes`.
    data_start: usize,
}

/// A tensor as it is stored.
struct Stored<'a> {
    label: &'a str,
    dtype: Dtype,
    shape: &'a [usize],
    data: &'a [u8],
}

/// Endings of files that hold pickled objects, whose reading would run their code.
const PICKLES: [&str; 5] = [".bin", ".ckpt", ".pt", ".pth", ".pkl"];

impl Weights {
    /// Finds and checks the weights `{folder}/{stem}.safetensors`, plain before variants, whole before shards.
    pub(crate) fn open(files: &dyn ModelFiles, folder: &str, stem: &str) -> Result<Self, LoadError> {
        let names = files.list(folder)?;
        let paths = match chosen(&names, stem) {
            Some(name) if name.ends_with(".json") => shard_paths(files, folder, &name)?,
            Some(name) => vec![format!("{folder}/{name}")],
            None => return Err(nothing_to_read(files, folder, stem, &names)),
        };
        let shards = paths.iter().map(|path| Shard::open(files, path)).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { shards })
    }

    /// Whether there is a tensor of this name.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.shards.iter().any(|shard| shard.header.info(name).is_some())
    }

    /// Reads a tensor as f32.
    pub(crate) fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor, LoadError> {
        let values = self.values(name, shape)?;
        Tensor::from_vec(values, shape, &Device::Cpu)
            .map_err(|error| LoadError::caused_by(LoadErrorKind::Tensor, format!("tensor '{name}'"), error))
    }

    /// Reads a tensor's values, row-major, as f32.
    pub(crate) fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, LoadError> {
        let stored = self.find(name)?;
        if stored.shape != shape {
            return Err(LoadError::new(
                LoadErrorKind::Tensor,
                format!("{}: tensor '{name}' has shape {:?}, expected {shape:?}", stored.label, stored.shape),
            ));
        }
        stored.to_f32(name)
    }

    /// Names of the files.
    fn labels(&self) -> String {
        let labels: Vec<&str> = self.shards.iter().map(|shard| shard.label.as_str()).collect();
        labels.join(", ")
    }

    fn find(&self, name: &str) -> Result<Stored<'_>, LoadError> {
        for shard in &self.shards {
            if let Some(info) = shard.header.info(name) {
                let (start, end) = info.data_offsets;
                let data = &shard.bytes[shard.data_start + start..shard.data_start + end];
                return Ok(Stored { label: &shard.label, dtype: info.dtype, shape: &info.shape, data });
            }
        }
        Err(LoadError::new(LoadErrorKind::Tensor, format!("{}: tensor '{name}' is missing", self.labels())))
    }

    /// Number of parameters, and the storage types.
    pub(crate) fn summary(&self) -> (u64, Vec<String>) {
        let infos = self.shards.iter().flat_map(|shard| shard.header.tensors().into_values());
        let mut parameters = 0;
        let mut dtypes = BTreeSet::new();
        for info in infos {
            parameters += info.shape.iter().product::<usize>() as u64;
            dtypes.insert(format!("{:?}", info.dtype));
        }
        (parameters, dtypes.into_iter().collect())
    }

    /// Feeds the bytes of all files to a hash.
    pub(crate) fn hash_into(&self, hash: &mut Sha256) {
        for shard in &self.shards {
            hash.update(&*shard.bytes);
        }
    }
}

impl Shard {
    fn open(files: &dyn ModelFiles, path: &str) -> Result<Self, LoadError> {
        let label = files.describe(path);
        let missing = || LoadError::new(LoadErrorKind::Missing, format!("{label} is missing"));
        let bytes = files.read(path)?.ok_or_else(missing)?;
        // This also checks that the tensors' data fill the file to its very end.
        let (header_length, header) = SafeTensors::read_metadata(&bytes).map_err(|error| {
            let message = format!("{label} is cut off or no safetensors file");
            LoadError::caused_by(LoadErrorKind::Malformed, message, error)
        })?;
        // The header's length stands in eight bytes before it.
        Ok(Self { label, bytes, header, data_start: header_length + 8 })
    }
}

impl Stored<'_> {
    fn to_f32(&self, name: &str) -> Result<Vec<f32>, LoadError> {
        match self.dtype {
            Dtype::F32 => Ok(self.data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()),
            Dtype::F16 => {
                Ok(self.data.as_chunks().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f32()).collect())
            }
            Dtype::BF16 => {
                Ok(self.data.as_chunks().0.iter().map(|b| half::bf16::from_le_bytes(*b).to_f32()).collect())
            }
            other => Err(LoadError::new(
                LoadErrorKind::Unsupported,
                format!("{}: tensor '{name}' is stored as {other:?}; F32, F16 and BF16 are read", self.label),
            )),
        }
    }
}

/// The file to read among a folder's `names`: the plain file, its index, then the same of a variant (`fp16`).
fn chosen(names: &[String], stem: &str) -> Option<String> {
    let has = |name: &str| names.iter().any(|known| known == name);
    let plain = [format!("{stem}.safetensors"), format!("{stem}.safetensors.index.json")];
    if let Some(name) = plain.into_iter().find(|name| has(name)) {
        return Some(name);
    }
    let variant = |name: &&String| {
        let Some(rest) = name.strip_prefix(stem).and_then(|rest| rest.strip_prefix('.')) else {
            return false;
        };
        let whole = rest.ends_with(".safetensors") && rest.matches('.').count() == 1;
        // diffusers: stem.safetensors.index.fp16.json; transformers: stem.fp16.safetensors.index.json
        whole || (rest.contains("safetensors.index") && rest.ends_with(".json"))
    };
    names.iter().find(variant).cloned()
}

/// The files that an index names, each once.
fn shard_paths(files: &dyn ModelFiles, folder: &str, index: &str) -> Result<Vec<String>, LoadError> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let index: Index = crate::config::read_json(files, &format!("{folder}/{index}"))?;
    let names: BTreeSet<String> = index.weight_map.into_values().collect();
    if let Some(name) = names.iter().find(|name| name.contains(['/', '\\'])) {
        return Err(LoadError::new(
            LoadErrorKind::Malformed,
            format!("{}: the shard '{name}' lies outside the folder", files.describe(folder)),
        ));
    }
    Ok(names.into_iter().map(|name| format!("{folder}/{name}")).collect())
}

fn nothing_to_read(files: &dyn ModelFiles, folder: &str, stem: &str, names: &[String]) -> LoadError {
    let wanted = format!("{folder}/{stem}.safetensors");
    match names.iter().find(|name| PICKLES.iter().any(|ending| name.ends_with(ending))) {
        Some(pickle) => LoadError::new(
            LoadErrorKind::Unsupported,
            format!(
                "{} is a pickle file, which can run code when it is read: convert it to {}",
                files.describe(&format!("{folder}/{pickle}")),
                files.describe(&wanted)
            ),
        ),
        None => LoadError::new(LoadErrorKind::Missing, format!("{} is missing", files.describe(&wanted))),
    }
}

/// A place in the tree of tensor names.
#[derive(Clone)]
pub(crate) struct Scope<'a> {
    weights: &'a Weights,
    prefix: String,
    precision: crate::Precision,
}

impl<'a> Scope<'a> {
    /// The root of a part, whose layers will multiply in this precision.
    pub(crate) fn root(weights: &'a Weights, precision: crate::Precision) -> Self {
        Self { weights, prefix: String::new(), precision }
    }

    /// The place `name` below this one.
    pub(crate) fn at(&self, name: impl std::fmt::Display) -> Self {
        let dot = if self.prefix.is_empty() { "" } else { "." };
        Self {
            weights: self.weights,
            prefix: format!("{}{dot}{name}", self.prefix),
            precision: self.precision,
        }
    }

    /// Precision of the layers' products.
    pub(crate) fn precision(&self) -> crate::Precision {
        self.precision
    }

    /// Whether there is a tensor `name` here.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.weights.contains(&self.at(name).prefix)
    }

    /// Reads the tensor `name` here.
    pub(crate) fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor, LoadError> {
        self.weights.tensor(&self.at(name).prefix, shape)
    }

    /// Reads the values of the tensor `name` here.
    pub(crate) fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, LoadError> {
        self.weights.values(&self.at(name).prefix, shape)
    }
}
