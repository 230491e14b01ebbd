//! The weights of one part of a model: its tensors by the names that the engine knows them by.
//!
//! The engine's names are those of diffusers and transformers. Files in another naming are read through a table
//! of origins, made once when they are opened: models never know about it. Tensors come out as f32, what is packed for kernels as it is stored. Errors name the
//! file, the tensor, and the expected and found shape.
//! Source: the file names that diffusers and transformers write.

use crate::{
    error::{LoadError, LoadErrorKind},
    faults::{Faults, zeros},
    files::ModelFiles,
    lora::{Changes, Side},
    ops::{PackedConv, PackedWeights},
    packed::{Layer, LayerKind, Packed},
    precision::floats,
    source::{SafetensorsFiles, StoredValues, WeightSource, absent},
};
use candle_core::{DType, Device, Tensor};
use sha2::Sha256;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// The weights of one part (`unet`, `vae`, `text_encoder`). Cheap to clone beside what they are read from.
#[derive(Clone)]
pub struct Weights {
    source: Arc<dyn WeightSource>,
    /// By the engine's names.
    tensors: BTreeMap<String, Origin>,
    /// Where faults are noted instead of ending the reading.
    faults: Option<Faults>,
}

/// Where a tensor comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    /// Its name in the file.
    pub(crate) stored: String,
    /// What of the stored tensor it is.
    pub(crate) view: View,
    /// Its shape.
    pub(crate) shape: Vec<usize>,
}

/// What of a stored tensor a tensor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum View {
    /// All of it, perhaps without trailing dimensions of one.
    Whole,
    /// All of it, a matrix whose rows are stored as columns.
    Transposed,
    /// One of three equal parts behind one another, counted from 0.
    Third(usize),
}

/// Endings of files that hold pickled objects, whose reading would run their code.
const PICKLES: [&str; 5] = [".bin", ".ckpt", ".pt", ".pth", ".pkl"];

impl Weights {
    /// Those that `files` have in a form of their own, else `{folder}/{stem}.safetensors`, plain before variants, whole
    /// before shards.
    pub(crate) fn open(files: &dyn ModelFiles, folder: &str, stem: &str) -> Result<Self, LoadError> {
        if let Some(weights) = files.weights(folder)? {
            return Ok(weights);
        }
        let names = files.list(folder)?;
        let paths = match chosen(&names, stem) {
            Some(name) if name.ends_with(".json") => shard_paths(files, folder, &name)?,
            Some(name) => vec![format!("{folder}/{name}")],
            None => return Err(nothing_to_read(files, folder, stem, &names)),
        };
        Ok(Self::named_alike(Arc::new(SafetensorsFiles::open(files, &paths)?)))
    }

    /// All tensors of a source whose names are the engine's.
    pub(crate) fn named_alike(source: Arc<dyn WeightSource>) -> Self {
        let origin = |name: &String, shape: &[usize]| Origin {
            stored: name.clone(),
            view: View::Whole,
            shape: shape.to_vec(),
        };
        let tensors = source.tensors().iter();
        let tensors = tensors.map(|(name, stored)| (name.clone(), origin(name, &stored.shape))).collect();
        Self { source, tensors, faults: None }
    }

    /// The tensors of a single file; `engine_name` tells what the engine calls those that it knows by another name.
    pub(crate) fn open_file(
        files: &dyn ModelFiles,
        path: &str,
        engine_name: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, LoadError> {
        let source = Arc::new(SafetensorsFiles::open(files, &[path.to_owned()])?);
        let Self { source, tensors, faults } = Self::named_alike(source);
        let rename = |(name, origin): (String, Origin)| (engine_name(&name).unwrap_or(name), origin);
        Ok(Self { source, tensors: tensors.into_iter().map(rename).collect(), faults })
    }

    /// The shape of a tensor.
    pub(crate) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|origin| origin.shape.as_slice())
    }

    /// Tensors of a source by the engine's names. Every origin's stored tensor is one of the source's.
    pub(crate) fn mapped(source: Arc<dyn WeightSource>, tensors: BTreeMap<String, Origin>) -> Self {
        Self { source, tensors, faults: None }
    }

    /// Whether there is a tensor of this name.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name) || self.source.invent(name, &[]).is_some()
    }

    /// Names and shapes of all tensors.
    pub fn shapes(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.tensors.iter().map(|(name, origin)| (name.as_str(), origin.shape.as_slice()))
    }

    /// Reads a tensor as f32.
    pub(crate) fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor, LoadError> {
        let values = self.values(name, shape)?;
        Tensor::from_vec(values, shape, &Device::Cpu)
            .map_err(|error| LoadError::caused_by(LoadErrorKind::Tensor, format!("tensor '{name}'"), error))
    }

    /// The same weights, which note what is wrong with them and go on.
    pub(crate) fn noting(self, faults: &Faults) -> Self {
        Self { faults: Some(faults.clone()), ..self }
    }

    /// How a tensor is stored.
    pub(crate) fn stored_type(&self, name: &str) -> Option<&str> {
        let stored = self.source.tensors().get(&self.tensors.get(name)?.stored)?;
        Some(&stored.dtype)
    }

    /// Reads a tensor's values, row-major, as f32.
    pub(crate) fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, LoadError> {
        match &self.faults {
            None => self.read(name, shape),
            Some(faults) if faults.names_only() => {
                let found = self.origin(name, shape).map(drop);
                // What no memory holds is damaged, whether it is there or not.
                let zeros = zeros(shape).ok_or_else(|| misshapen(&self.source.label(), name, shape, &[]))?;
                faults.look_for(name, found, self.contains(name));
                Ok(zeros)
            }
            Some(faults) => faults.look_at(name, shape, self.read(name, shape)),
        }
    }

    /// The same to be packed: as they are stored, where the whole stored tensor is wanted.
    fn values_for_packing(&self, name: &str, shape: &[usize]) -> Result<StoredValues, LoadError> {
        if self.faults.is_some() || !self.tensors.contains_key(name) {
            return self.values(name, shape).map(StoredValues::F32);
        }
        match self.origin(name, shape)? {
            Origin { view: View::Whole, stored, .. } => self.source.read_as_stored(stored),
            _ => self.values(name, shape).map(StoredValues::F32),
        }
    }

    /// Looks for a tensor, where that is all that is wanted of it. `false` where its values are wanted.
    fn only_looked_for(&self, name: &str, shape: &[usize]) -> bool {
        let Some(faults) = self.faults.as_ref().filter(|faults| faults.names_only()) else { return false };
        faults.look_for(name, self.origin(name, shape).map(drop), self.contains(name));
        true
    }

    /// Where a tensor of this shape comes from.
    fn origin(&self, name: &str, shape: &[usize]) -> Result<&Origin, LoadError> {
        let origin = self.tensors.get(name).ok_or_else(|| absent(&*self.source, name))?;
        match origin.shape == shape {
            true => Ok(origin),
            false => Err(misshapen(&self.source.label(), &origin.stored, shape, &origin.shape)),
        }
    }

    fn read(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, LoadError> {
        if !self.tensors.contains_key(name) {
            return self.source.invent(name, shape).ok_or_else(|| absent(&*self.source, name));
        }
        let origin = self.origin(name, shape)?;
        let values = self.source.read(&origin.stored)?;
        Ok(match origin.view {
            View::Whole => values,
            View::Transposed => transposed(&values, origin.shape.first().copied().unwrap_or(1)),
            View::Third(index) => {
                let length = values.len() / 3;
                values[index * length..(index + 1) * length].to_vec()
            }
        })
    }

    /// Number of parameters, and the storage types.
    pub(crate) fn summary(&self) -> (u64, Vec<String>) {
        let mut parameters = 0;
        let mut dtypes = BTreeSet::new();
        for origin in self.tensors.values() {
            parameters += origin.shape.iter().product::<usize>() as u64;
            dtypes.extend(self.source.tensors().get(&origin.stored).map(|stored| stored.dtype.clone()));
        }
        (parameters, dtypes.into_iter().collect())
    }

    /// Feeds the bytes of all files to a hash.
    pub(crate) fn hash_into(&self, hash: &mut Sha256) -> Result<(), LoadError> {
        self.source.hash_into(hash)
    }

    /// Whether both are parts of the same files.
    pub(crate) fn shares_files_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.source, &other.source)
    }
}

/// The error of a tensor of another shape.
fn misshapen(file: &str, name: &str, expected: &[usize], found: &[usize]) -> LoadError {
    let message = format!("{file}: tensor '{name}' has shape {found:?}, expected {expected:?}");
    LoadError::new(LoadErrorKind::Tensor, message)
}

/// A matrix of `rows` rows from its columns.
fn transposed(columns: &[f32], rows: usize) -> Vec<f32> {
    let width = columns.len() / rows.max(1);
    (0..rows).flat_map(|row| (0..width).map(move |column| columns[column * rows + row])).collect()
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

/// Refuses a file whose reading would run its code.
pub(crate) fn refuse_pickle(path: &str, label: &str) -> Result<(), LoadError> {
    if !PICKLES.iter().any(|ending| path.to_lowercase().ends_with(ending)) {
        return Ok(());
    }
    let message =
        format!("{label} is a pickle file, which can run code when it is read: convert it to safetensors");
    Err(LoadError::new(LoadErrorKind::Unsupported, message))
}

/// A place in the tree of tensor names.
#[derive(Clone)]
pub(crate) struct Scope<'a> {
    weights: &'a Weights,
    prefix: String,
    precision: crate::Precision,
    pixels: usize,
    packed: Option<&'a Packed>,
    changes: Option<&'a Changes>,
}

impl<'a> Scope<'a> {
    /// The root of a part, whose layers will multiply in this precision.
    pub(crate) fn root(weights: &'a Weights, precision: crate::Precision) -> Self {
        Self { weights, prefix: String::new(), precision, pixels: 0, packed: None, changes: None }
    }

    /// The same place, whose layers are taken from this table, and put there where they are not yet.
    pub(crate) fn sharing(self, packed: Option<&'a Packed>) -> Self {
        Self { packed, ..self }
    }

    /// The same place, whose convolutions will give pictures of about so many pixels: they are packed for the algorithm
    /// that is fastest there. 0 where that is not known or the stride is not 1: the direct sum.
    pub(crate) fn drawing(&self, pixels: usize) -> Self {
        Self { prefix: self.prefix.clone(), pixels, ..*self }
    }

    /// How many pixels [`Scope::drawing`] was told.
    pub(crate) fn pixels(&self) -> usize {
        self.pixels
    }

    /// The same place with changes of some layers laid over it.
    pub(crate) fn changed_by(self, changes: Option<&'a Changes>) -> Self {
        Self { changes, ..self }
    }

    /// The same place, whose layers stay in floats where others have eight bits.
    pub(crate) fn in_floats(&self) -> Self {
        Self { prefix: self.prefix.clone(), precision: floats(self.precision), ..*self }
    }

    /// The same place, whose layers multiply in f32 whatever the others do.
    pub(crate) fn in_f32(&self) -> Self {
        Self { prefix: self.prefix.clone(), precision: crate::Precision::F32, ..*self }
    }

    /// The place `name` below this one.
    pub(crate) fn at(&self, name: impl std::fmt::Display) -> Self {
        let dot = if self.prefix.is_empty() { "" } else { "." };
        Self { prefix: format!("{}{dot}{name}", self.prefix), ..*self }
    }

    /// The tensor `weight` here, packed for a linear layer: `[outputs, inputs]`, with ones behind it for a convolution
    /// of one pixel.
    pub(crate) fn packed_linear(&self, shape: &[usize]) -> Result<Arc<PackedWeights>, LoadError> {
        if let Some(LayerKind::Linear(merged)) = self.changes.and_then(|changes| changes.merged(&self.prefix))
        {
            return Ok(merged.clone());
        }
        if let Some(LayerKind::Linear(shared)) = self.shared(shape) {
            return Ok(shared);
        }
        if self.weights.only_looked_for(&self.at("weight").prefix, shape) {
            return Ok(Arc::new(PackedWeights::pack([0.0f32].as_slice(), 1, 1, self.precision)));
        }
        let weight = self.weights.values_for_packing(&self.at("weight").prefix, shape)?;
        let weight = Arc::new(PackedWeights::pack(weight.for_packing(), shape[0], shape[1], self.precision));
        self.share(LayerKind::Linear(weight.clone()), shape);
        Ok(weight)
    }

    /// The tensor `weight` here, packed for a convolution.
    pub(crate) fn packed_conv(&self, shape: [usize; 4]) -> Result<Arc<PackedConv>, LoadError> {
        if let Some(LayerKind::Conv(merged)) = self.changes.and_then(|changes| changes.merged(&self.prefix)) {
            return Ok(merged.clone());
        }
        if let Some(LayerKind::Conv(shared)) = self.shared(&shape) {
            return Ok(shared);
        }
        if self.weights.only_looked_for(&self.at("weight").prefix, &shape) {
            return Ok(Arc::new(PackedConv::pack([0.0f32].as_slice(), [1; 4], self.precision)));
        }
        let weight = self.weights.values_for_packing(&self.at("weight").prefix, &shape)?;
        let weight = Arc::new(PackedConv::pack_for(weight.for_packing(), shape, self.precision, self.pixels));
        self.share(LayerKind::Conv(weight.clone()), &shape);
        Ok(weight)
    }

    /// What runs beside the layer here.
    pub(crate) fn side(&self) -> Option<Side> {
        self.changes?.side(&self.prefix).cloned()
    }

    fn shared(&self, shape: &[usize]) -> Option<LayerKind> {
        let layer = self.packed?.layer(&self.prefix)?;
        (layer.stored == shape).then_some(layer.kind)
    }

    fn share(&self, kind: LayerKind, shape: &[usize]) {
        if let Some(packed) = self.packed {
            packed.keep_layer(&self.prefix, Layer { kind, stored: shape.to_vec() });
        }
    }

    /// Whether there is a tensor `name` here.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.weights.contains(&self.at(name).prefix)
    }

    /// Reads the tensor `name` here.
    pub(crate) fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor, LoadError> {
        self.tensor_of(DType::F32, name, shape)
    }

    /// The same to look rows up in: in half precision where it is stored so, which takes half the memory.
    pub(crate) fn table(&self, name: &str, shape: &[usize]) -> Result<Tensor, LoadError> {
        let stored = match self.weights.stored_type(&self.at(name).prefix) {
            Some("F16") => DType::F16,
            Some("BF16") => DType::BF16,
            _ => DType::F32,
        };
        self.tensor_of(stored, name, shape)
    }

    fn tensor_of(&self, dtype: DType, name: &str, shape: &[usize]) -> Result<Tensor, LoadError> {
        let place = self.at(name).prefix;
        let shared = self.packed.and_then(|packed| packed.tensor(&place));
        if let Some(shared) = shared.filter(|tensor| tensor.dims() == shape) {
            return Ok(shared);
        }
        let tensor = self.weights.tensor(&place, shape)?.to_dtype(dtype).map_err(|error| {
            LoadError::caused_by(LoadErrorKind::Tensor, format!("tensor '{place}'"), error)
        })?;
        if let Some(packed) = self.packed {
            packed.keep_tensor(&place, tensor.clone());
        }
        Ok(tensor)
    }

    /// Reads the values of the tensor `name` here.
    pub(crate) fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, LoadError> {
        self.weights.values(&self.at(name).prefix, shape)
    }
}
