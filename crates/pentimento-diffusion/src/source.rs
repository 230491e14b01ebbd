//! Where tensors come from: files of named tensors in some storage format, read one by one as f32.
//!
//! Here: safetensors, one file or several. Storage may be f32, f16, bf16 or one of the two usual 8-bit floats.
//! Errors name the file and the tensor. Pickle files are never opened.
//! Source: the safetensors format; Micikevicius et al. 2022, "FP8 Formats for Deep Learning" (e4m3, e5m2).

use crate::{
    error::{LoadError, LoadErrorKind},
    files::{Bytes, ModelFiles},
};
use safetensors::{Dtype, SafeTensors};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// A tensor as a file describes it.
#[derive(Clone, Debug)]
pub(crate) struct StoredTensor {
    /// Outermost dimension first, as torch counts.
    pub(crate) shape: Vec<usize>,
    /// The storage type's name, as `F16`.
    pub(crate) dtype: String,
}

/// Files of named tensors. What the names mean is no business of a source: see [`crate::weights::Weights`].
pub(crate) trait WeightSource: Send + Sync {
    /// The files, as messages name them.
    fn label(&self) -> String;

    /// All tensors by their names in the file.
    fn tensors(&self) -> &BTreeMap<String, StoredTensor>;

    /// The values of a tensor, row-major.
    ///
    /// # Errors
    /// When there is none of this name, or when its storage type is not read.
    fn read(&self, name: &str) -> Result<Vec<f32>, LoadError>;

    /// Feeds the bytes of all files to a hash.
    fn hash_into(&self, hash: &mut Sha256);
}

/// One safetensors file, or the shards of one.
pub(crate) struct SafetensorsFiles {
    shards: Vec<Shard>,
    tensors: BTreeMap<String, StoredTensor>,
    places: BTreeMap<String, Place>,
}

struct Shard {
    /// As messages name it.
    label: String,
    bytes: Bytes,
}

/// Where a tensor's data lie.
struct Place {
    shard: usize,
    start: usize,
    end: usize,
    dtype: Dtype,
}

impl SafetensorsFiles {
    /// Opens files of a model by their paths in it.
    pub(crate) fn open(files: &dyn ModelFiles, paths: &[String]) -> Result<Self, LoadError> {
        let mut opened = Self { shards: Vec::new(), tensors: BTreeMap::new(), places: BTreeMap::new() };
        for path in paths {
            let label = files.describe(path);
            let missing = || LoadError::new(LoadErrorKind::Missing, format!("{label} is missing"));
            let bytes = files.read(path)?.ok_or_else(missing)?;
            opened.add(label, bytes)?;
        }
        Ok(opened)
    }

    fn add(&mut self, label: String, bytes: Bytes) -> Result<(), LoadError> {
        // This also checks that the tensors' data fill the file to its very end.
        let (header_length, header) = SafeTensors::read_metadata(&bytes).map_err(|error| {
            let message = format!("{label} is cut off or no safetensors file");
            LoadError::caused_by(LoadErrorKind::Malformed, message, error)
        })?;
        // The header's length stands in eight bytes before it.
        let data = header_length + 8;
        let shard = self.shards.len();
        for (name, info) in header.tensors() {
            let (start, end) = info.data_offsets;
            let place = Place { shard, start: data + start, end: data + end, dtype: info.dtype };
            let stored = StoredTensor { shape: info.shape.clone(), dtype: format!("{:?}", info.dtype) };
            self.tensors.insert(name.clone(), stored);
            self.places.insert(name, place);
        }
        self.shards.push(Shard { label, bytes });
        Ok(())
    }
}

impl WeightSource for SafetensorsFiles {
    fn label(&self) -> String {
        let labels: Vec<&str> = self.shards.iter().map(|shard| shard.label.as_str()).collect();
        labels.join(", ")
    }

    fn tensors(&self) -> &BTreeMap<String, StoredTensor> {
        &self.tensors
    }

    fn read(&self, name: &str) -> Result<Vec<f32>, LoadError> {
        let place = self.places.get(name).ok_or_else(|| absent(self, name))?;
        let shard = &self.shards[place.shard];
        to_f32(place.dtype, &shard.bytes[place.start..place.end]).ok_or_else(|| {
            let stored = place.dtype;
            LoadError::new(
                LoadErrorKind::Unsupported,
                format!(
                    "{}: tensor '{name}' is stored as {stored:?}; F32, F16, BF16, F8_E4M3 and F8_E5M2 are read",
                    shard.label
                ),
            )
        })
    }

    fn hash_into(&self, hash: &mut Sha256) {
        for shard in &self.shards {
            hash.update(&*shard.bytes);
        }
    }
}

/// The error of a tensor that is not there.
pub(crate) fn absent(source: &dyn WeightSource, name: &str) -> LoadError {
    LoadError::new(LoadErrorKind::Tensor, format!("{}: tensor '{name}' is missing", source.label()))
}

/// Stored values as f32; `None` for a storage type that is not read.
fn to_f32(dtype: Dtype, data: &[u8]) -> Option<Vec<f32>> {
    Some(match dtype {
        Dtype::F32 => data.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
        Dtype::F16 => {
            data.as_chunks().0.iter().map(|bytes| half::f16::from_le_bytes(*bytes).to_f32()).collect()
        }
        Dtype::BF16 => {
            data.as_chunks().0.iter().map(|bytes| half::bf16::from_le_bytes(*bytes).to_f32()).collect()
        }
        Dtype::F8_E4M3 => data.iter().map(|byte| e4m3(*byte)).collect(),
        Dtype::F8_E5M2 => data.iter().map(|byte| e5m2(*byte)).collect(),
        _ => return None,
    })
}

/// An 8-bit float of 4 bits of exponent (bias 7) and 3 of mantissa, the variant without infinities.
fn e4m3(byte: u8) -> f32 {
    let sign = if byte & 0x80 == 0 { 1.0 } else { -1.0 };
    let (exponent, mantissa) = (i32::from(byte >> 3 & 0xf), f32::from(byte & 7));
    match (exponent, byte & 7) {
        (0xf, 7) => f32::NAN,
        // Subnormal: no leading one, and the smallest exponent.
        (0, _) => sign * mantissa / 8.0 * 2f32.powi(-6),
        _ => sign * (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7),
    }
}

/// An 8-bit float of 5 bits of exponent and 2 of mantissa: the upper half of an f16.
fn e5m2(byte: u8) -> f32 {
    half::f16::from_bits(u16::from(byte) << 8).to_f32()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_bit_floats_have_the_values_of_their_definition() {
        // Largest, smallest normal and smallest subnormal numbers: Micikevicius et al. 2022, table 1.
        let e4m3_values = [(0x7e, 448.0), (0x08, 2f32.powi(-6)), (0x01, 2f32.powi(-9)), (0xb8, -1.0)];
        let e5m2_values = [(0x7b, 57344.0), (0x04, 2f32.powi(-14)), (0x01, 2f32.powi(-16)), (0xbc, -1.0)];
        assert!(e4m3_values.iter().all(|(byte, value)| e4m3(*byte) == *value));
        assert!(e5m2_values.iter().all(|(byte, value)| e5m2(*byte) == *value));
        assert!(e4m3(0x7f).is_nan() && e4m3(0xff).is_nan());
        assert!(e5m2(0x7c) == f32::INFINITY && e5m2(0x7e).is_nan());
    }
}
