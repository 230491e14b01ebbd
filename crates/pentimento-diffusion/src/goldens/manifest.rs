//! Models in one file that are made up where they are needed: their weights follow from a formula
//! (`reference/single_files.py`), so lists of names are all that is kept.
//!
//! The program's own tests include this file too, so it uses nothing of the engine.

use safetensors::{Dtype, serialize, tensor::TensorView};
use serde::Deserialize;
use serde_json::Value;
use std::{collections::BTreeMap, io::Read, path::Path};

/// A tensor in the one file: its name, the folder and the names of those that it is made of, their shape, and how.
pub(crate) type Entry = (String, String, Vec<String>, Vec<usize>, String);

/// Tensors by name: shape and values.
pub(crate) type Tensors = BTreeMap<String, (Vec<usize>, Vec<half::f16>)>;

/// A model as a list of names.
#[derive(Deserialize)]
pub(crate) struct Manifest {
    pub(crate) tensors: Vec<Entry>,
    pub(crate) extra: BTreeMap<String, Vec<usize>>,
    pub(crate) configs: BTreeMap<String, Value>,
    /// A request, and what it gives.
    pub(crate) case: Option<Value>,
}

impl Manifest {
    pub(crate) fn open(name: &str) -> Self {
        let goldens = concat!(env!("CARGO_MANIFEST_DIR"), "/../../reference/goldens/single_files");
        let path = Path::new(goldens).join(format!("{name}.json.gz"));
        let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut text = String::new();
        flate2::read::GzDecoder::new(bytes.as_slice()).read_to_string(&mut text).expect("a gzip file");
        serde_json::from_str(&text).expect("a list of names")
    }

    /// The tensors of one folder.
    pub(crate) fn folder(&self, folder: &str) -> Tensors {
        let of_folder = self.tensors.iter().filter(|(_, part, ..)| part == folder);
        let named = of_folder
            .flat_map(|(_, part, names, shape, _)| names.iter().map(move |name| (part, name, shape)));
        named.map(|(part, name, shape)| (name.clone(), (shape.clone(), values(part, name, shape)))).collect()
    }

    /// The shape of a tensor in the file.
    pub(crate) fn stored_shape(shape: &[usize], how: &str) -> Vec<usize> {
        match how {
            "pixel" => [shape, &[1, 1]].concat(),
            "transposed" => shape.iter().rev().copied().collect(),
            "stacked" => std::iter::once(3 * shape[0]).chain(shape[1..].iter().copied()).collect(),
            _ => shape.to_vec(),
        }
    }

    /// All tensors of the one file.
    pub(crate) fn file(&self) -> Tensors {
        let mut tensors = BTreeMap::new();
        for (stored, part, names, shape, how) in &self.tensors {
            let mut data: Vec<_> = names.iter().flat_map(|name| values(part, name, shape)).collect();
            if how == "transposed" {
                let (rows, columns) = (shape[0], shape[1]);
                data = (0..columns)
                    .flat_map(|c| (0..rows).map(move |r| r * columns + c))
                    .map(|i| data[i])
                    .collect();
            }
            tensors.insert(stored.clone(), (Self::stored_shape(shape, how), data));
        }
        for (name, shape) in &self.extra {
            tensors.insert(name.clone(), (shape.clone(), vec![half::f16::ZERO; shape.iter().product()]));
        }
        tensors
    }
}

/// `values` of `reference/single_files.py`.
fn values(part: &str, name: &str, shape: &[usize]) -> Vec<half::f16> {
    let seed = u64::from(crc32(format!("{part}/{name}").as_bytes())) << 32;
    let fan_in: usize = shape[1..].iter().product();
    let width = (12.0 / fan_in as f64).sqrt();
    let scaled = |uniform: f64| match () {
        () if shape.len() == 1 && name.ends_with("weight") => 1.0 + 0.4 * uniform,
        () if shape.len() == 1 => 0.2 * uniform,
        () if name.ends_with("embedding.weight") => 2.0 * uniform,
        () => uniform * width,
    };
    let count = shape.iter().product::<usize>() as u64;
    (0..count).map(|index| half::f16::from_f64(scaled(uniform(seed.wrapping_add(index))))).collect()
}

/// splitmix64 as a number from -0.5 to 0.5.
fn uniform(state: u64) -> f64 {
    let z = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((z ^ (z >> 31)) >> 40) as f64 / f64::from(1 << 24) - 0.5
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// How a test stores values.
pub(crate) type Store = fn(half::f16) -> Vec<u8>;

/// Writes a file of tensors.
pub(crate) fn write(path: &Path, tensors: &Tensors, dtype: Dtype, store: Store) {
    let bytes: Vec<_> = tensors
        .iter()
        .map(|(name, (shape, data))| {
            (name, shape, data.iter().flat_map(|value| store(*value)).collect::<Vec<u8>>())
        })
        .collect();
    let view = |shape: &Vec<usize>, data| TensorView::new(dtype, shape.clone(), data).expect("a tensor");
    let views = bytes.iter().map(|(name, shape, data)| (*name, view(shape, data)));
    std::fs::write(path, serialize(views, None).expect("a file")).expect("a written file");
}

pub(crate) fn write_f16(path: &Path, tensors: &Tensors) {
    write(path, tensors, Dtype::F16, |value| value.to_le_bytes().to_vec());
}
