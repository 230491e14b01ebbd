//! GGUF files as stable-diffusion.cpp writes them (`reference/gguf_files.py`).

use super::{
    manifest::{Manifest, Tensors},
    reference,
    single_files::draw,
};
use crate::{
    SingleFile,
    blob::Blob,
    error::LoadError,
    gguf::GgufFile,
    source::{StoredTensor, WeightSource},
};
use safetensors::{Dtype, serialize, tensor::TensorView};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, sync::Arc};

/// What a tensor has to mean.
#[derive(Deserialize)]
struct Meaning {
    r#type: String,
    shape: Vec<usize>,
    sha256: String,
}

fn open(name: &str) -> GgufFile {
    let path = reference().join(format!("goldens/gguf/{name}.gguf"));
    let blob = Blob::open(name, &path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert!(GgufFile::is_one(&blob), "{name}");
    GgufFile::open(blob).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn blocks_mean_what_ggml_says_bit_for_bit() {
    let text = std::fs::read_to_string(reference().join("goldens/gguf/values.json")).expect("it is there");
    let known: BTreeMap<String, BTreeMap<String, Meaning>> = serde_json::from_str(&text).expect("it is JSON");
    let mut types = BTreeMap::<String, usize>::new();
    for (name, tensors) in &known {
        let file = open(name);
        assert_eq!(file.tensors().len(), tensors.len(), "{name}");
        for (tensor, Meaning { r#type, shape, sha256 }) in tensors {
            let stored = &file.tensors()[tensor];
            assert_eq!(
                (&stored.dtype, &stored.shape),
                (&r#type.replace("_K", "K"), shape),
                "{name}: {tensor}"
            );
            let bytes: Vec<u8> =
                file.read(tensor).expect("values").iter().flat_map(|value| value.to_le_bytes()).collect();
            assert_eq!(crate::generate::hex(&Sha256::digest(bytes)), *sha256, "{name}: {tensor} as {type}");
            *types.entry(r#type.clone()).or_default() += 1;
        }
    }
    // Every type is met, not only the f16 that stable-diffusion.cpp falls back to.
    assert_eq!(types.len(), 13, "{types:?}");
}

/// A GGUF file whose missing tensors are taken from elsewhere, so that the file kept here is small.
pub(super) struct Completed {
    gguf: GgufFile,
    rest: Tensors,
    tensors: BTreeMap<String, StoredTensor>,
}

impl Completed {
    /// The checkpoint in several quantised types.
    pub(super) fn mixed(manifest: &Manifest) -> Self {
        Self::new(open("mixed"), manifest.file())
    }

    fn new(gguf: GgufFile, rest: Tensors) -> Self {
        let mut tensors: BTreeMap<_, _> = rest
            .iter()
            .map(|(name, (shape, _))| {
                (name.clone(), StoredTensor { shape: shape.clone(), dtype: "F16".to_owned() })
            })
            .collect();
        tensors.extend(gguf.tensors().iter().map(|(name, stored)| (name.clone(), stored.clone())));
        Self { gguf, rest, tensors }
    }

    /// The same values as a safetensors file: f32 where they were quantised.
    fn as_safetensors(&self) -> Vec<u8> {
        let data: Vec<_> = self
            .tensors
            .iter()
            .map(|(name, stored)| {
                let values = self.read(name).expect("values");
                (name, stored, values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())
            })
            .collect();
        let view =
            |shape: &[usize], bytes| TensorView::new(Dtype::F32, shape.to_vec(), bytes).expect("a tensor");
        let views = data.iter().map(|(name, stored, bytes)| (name, view(&stored.shape, bytes)));
        serialize(views, None).expect("a file")
    }
}

impl WeightSource for Completed {
    fn label(&self) -> String {
        self.gguf.label()
    }

    fn tensors(&self) -> &BTreeMap<String, StoredTensor> {
        &self.tensors
    }

    fn read(&self, name: &str) -> Result<Vec<f32>, LoadError> {
        match self.gguf.tensors().contains_key(name) {
            true => self.gguf.read(name),
            false => Ok(self.rest[name].1.iter().map(|value| value.to_f32()).collect()),
        }
    }

    fn hash_into(&self, hash: &mut Sha256) -> Result<(), LoadError> {
        self.gguf.hash_into(hash)
    }
}

#[test]
fn a_quantised_model_draws_the_bytes_of_its_dequantised_weights() {
    let manifest = Manifest::open("sd1");
    let source = Completed::mixed(&manifest);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("dequantised.safetensors");
    std::fs::write(&path, source.as_safetensors()).expect("it is written");
    let quantised = SingleFile::of(Arc::new(source)).expect("a model");
    let (model, of_gguf) = draw(&manifest, &quantised);
    let (_, of_safetensors) = draw(&manifest, &SingleFile::open(&path).expect("a model"));
    assert!(of_gguf.picture == of_safetensors.picture, "the quantised file's picture is another");
    assert_eq!(model.native_size().to_string(), "512x512");

    let plain = folder.path().join("plain.gguf");
    std::fs::copy(reference().join("goldens/gguf/mixed.gguf"), &plain).expect("it is copied");
    let error = SingleFile::open(&plain).err().expect("it lacks convolutions").to_string();
    assert!(error.contains("plain.gguf"), "{error}");
}
