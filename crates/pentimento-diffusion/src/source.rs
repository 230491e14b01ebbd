//! Where tensors come from: files of named tensors in some storage format, read one by one as f32, or as they are stored to be packed.
//!
//! Here: safetensors, one file or several. Storage may be f32, f16, bf16 or one of the two usual 8-bit floats.
//! Errors name the file and the tensor. Pickle files are never opened.
//! Source: the safetensors format; Micikevicius et al. 2022, "FP8 Formats for Deep Learning" (e4m3, e5m2).

use crate::{
    blob::Blob,
    error::{LoadError, LoadErrorKind},
    files::ModelFiles,
    ops::{WeightsRef, stale},
};
use half::{bf16, f16, slice::HalfFloatSliceExt, vec::HalfBitsVecExt};
use rayon::prelude::*;
use safetensors::{Dtype, tensor::Metadata};
use sha2::Sha256;
use std::collections::BTreeMap;

/// Longest header in bytes: the format's own limit.
const LONGEST_HEADER: u64 = 100_000_000;

/// Values that a thread reads and widens at once: few enough that their bytes stay in the cache.
const READ_AT_ONCE: usize = 1 << 15;

/// A tensor as a file describes it.
#[derive(Clone, Debug)]
pub(crate) struct StoredTensor {
    /// Outermost dimension first, as torch counts.
    pub(crate) shape: Vec<usize>,
    /// The storage type's name, as `F16`.
    pub(crate) dtype: String,
}

/// Values of a tensor.
#[derive(Debug)]
pub(crate) enum StoredValues {
    F32(Vec<f32>),
    F16(Vec<f16>),
    Bf16(Vec<bf16>),
}

impl StoredValues {
    /// As kernels pack them.
    pub(crate) fn for_packing(&self) -> WeightsRef<'_> {
        match self {
            StoredValues::F32(values) => WeightsRef::F32(values),
            StoredValues::F16(values) => WeightsRef::F16(values),
            StoredValues::Bf16(values) => WeightsRef::Bf16(values),
        }
    }
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

    /// The same as they are stored, where weights can be packed from that: half of the bytes go through memory.
    ///
    /// # Errors
    /// As [`WeightSource::read`].
    fn read_as_stored(&self, name: &str) -> Result<StoredValues, LoadError> {
        self.read(name).map(StoredValues::F32)
    }

    /// Values for a tensor of any name and shape, from a source that makes them up; none from files.
    fn invent(&self, _name: &str, _shape: &[usize]) -> Option<Vec<f32>> {
        None
    }

    /// Feeds the bytes of all files to a hash.
    ///
    /// # Errors
    /// When a file has changed since it was opened.
    fn hash_into(&self, hash: &mut Sha256) -> Result<(), LoadError>;
}

/// One safetensors file, or the shards of one.
pub(crate) struct SafetensorsFiles {
    shards: Vec<Blob>,
    tensors: BTreeMap<String, StoredTensor>,
    places: BTreeMap<String, Place>,
}

/// Where a tensor's data lie.
struct Place {
    shard: usize,
    start: u64,
    end: u64,
    dtype: Dtype,
}

impl SafetensorsFiles {
    /// Opens files of a model by their paths in it.
    pub(crate) fn open(files: &dyn ModelFiles, paths: &[String]) -> Result<Self, LoadError> {
        let mut opened = Self { shards: Vec::new(), tensors: BTreeMap::new(), places: BTreeMap::new() };
        let mut missing = Vec::new();
        for path in paths {
            match files.open(path)? {
                Some(blob) => opened.add(blob)?,
                None => missing.push(files.describe(path)),
            }
        }
        match missing.as_slice() {
            [] => Ok(opened),
            [one] => Err(LoadError::new(LoadErrorKind::Missing, format!("{one} is missing"))),
            more => Err(LoadError::new(LoadErrorKind::Missing, format!("{} are missing", more.join(", ")))),
        }
    }

    /// Opens a file.
    pub(crate) fn of(blob: Blob) -> Result<Self, LoadError> {
        let mut opened = Self { shards: Vec::new(), tensors: BTreeMap::new(), places: BTreeMap::new() };
        opened.add(blob)?;
        Ok(opened)
    }

    fn add(&mut self, blob: Blob) -> Result<(), LoadError> {
        let (data, header) = header(&blob)?;
        let shard = self.shards.len();
        for (name, info) in header.tensors() {
            let (start, end) = info.data_offsets;
            let place =
                Place { shard, start: data + start as u64, end: data + end as u64, dtype: info.dtype };
            let stored = StoredTensor { shape: info.shape.clone(), dtype: format!("{:?}", info.dtype) };
            self.tensors.insert(name.clone(), stored);
            self.places.insert(name, place);
        }
        self.shards.push(blob);
        Ok(())
    }

    /// Where a tensor lies, the bytes of one of its values and how these become f32. Checked before memory is taken: what lies
    /// outside of the file is no tensor.
    fn find(&self, name: &str) -> Result<(&Blob, &Place, usize, Widen), LoadError> {
        let place = self.places.get(name).ok_or_else(|| absent(self, name))?;
        let shard = &self.shards[place.shard];
        let Some((size, widen)) = widening(place.dtype) else {
            let (label, stored) = (shard.label(), place.dtype);
            let message = format!(
                "{label}: tensor '{name}' is stored as {stored:?}; F32, F16, BF16, F8_E4M3 and F8_E5M2 are read"
            );
            return Err(LoadError::new(LoadErrorKind::Unsupported, message));
        };
        shard.check(place.start..place.end)?;
        Ok((shard, place, size, widen))
    }
}

/// Values of two bytes, as they are stored.
fn read_halves(shard: &Blob, place: &Place) -> Result<Vec<u16>, LoadError> {
    let mut values = vec![0_u16; (place.end - place.start) as usize / 2];
    values.par_chunks_mut(READ_AT_ONCE).enumerate().try_for_each(|(index, values)| {
        shard.read_into(place.start + (index * READ_AT_ONCE * 2) as u64, bytemuck::cast_slice_mut(values))?;
        values.iter_mut().for_each(|value| *value = u16::from_le(*value));
        Ok(())
    })?;
    Ok(values)
}

impl WeightSource for SafetensorsFiles {
    fn label(&self) -> String {
        let labels: Vec<&str> = self.shards.iter().map(Blob::label).collect();
        labels.join(", ")
    }

    fn tensors(&self) -> &BTreeMap<String, StoredTensor> {
        &self.tensors
    }

    fn read(&self, name: &str) -> Result<Vec<f32>, LoadError> {
        let (shard, place, size, widen) = self.find(name)?;
        let mut values = stale((place.end - place.start) as usize / size);
        values.par_chunks_mut(READ_AT_ONCE).enumerate().try_for_each(|(index, values)| {
            let start = place.start + (index * READ_AT_ONCE * size) as u64;
            widen(&shard.piece(start..start + (values.len() * size) as u64)?, values);
            Ok(())
        })?;
        Ok(values)
    }

    fn read_as_stored(&self, name: &str) -> Result<StoredValues, LoadError> {
        let (shard, place, ..) = self.find(name)?;
        Ok(match place.dtype {
            Dtype::F16 => StoredValues::F16(read_halves(shard, place)?.reinterpret_into()),
            Dtype::BF16 => StoredValues::Bf16(read_halves(shard, place)?.reinterpret_into()),
            _ => StoredValues::F32(self.read(name)?),
        })
    }

    fn hash_into(&self, hash: &mut Sha256) -> Result<(), LoadError> {
        self.shards.iter().try_for_each(|shard| shard.hash_into(hash))
    }
}

/// A file's header, and where its data begin.
fn header(blob: &Blob) -> Result<(u64, Metadata), LoadError> {
    let broken =
        |cause: &dyn std::fmt::Display| blob.broken(format!("is cut off or no safetensors file: {cause}"));
    if blob.length() < 8 {
        return Err(broken(&"it has no header"));
    }
    // The header's length stands before it.
    let length = blob.piece(0..8)?.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte));
    if length > LONGEST_HEADER || length > blob.length() - 8 {
        return Err(broken(&format!("its header would have {length} bytes")));
    }
    let text = blob.piece(8..8 + length)?;
    // This checks that the tensors' data follow one another, and that their lengths fit their shapes.
    let header: Metadata = serde_json::from_slice(&text).map_err(|error| broken(&error))?;
    let (data, end) = (8 + length, 8 + length + header.data_len() as u64);
    if end != blob.length() {
        return Err(broken(&format!("it has {} bytes instead of {end}", blob.length())));
    }
    Ok((data, header))
}

/// The error of a tensor that is not there.
pub(crate) fn absent(source: &dyn WeightSource, name: &str) -> LoadError {
    LoadError::new(LoadErrorKind::Tensor, format!("{}: tensor '{name}' is missing", source.label()))
}

/// Writes stored values as f32.
type Widen = fn(&[u8], &mut [f32]);

/// Bytes of a stored value, and how such values become f32; `None` for a storage type that is not read.
fn widening(dtype: Dtype) -> Option<(usize, Widen)> {
    Some(match dtype {
        Dtype::F32 => (4, |data, values| {
            values
                .iter_mut()
                .zip(data.as_chunks().0)
                .for_each(|(out, bytes)| *out = f32::from_le_bytes(*bytes));
        }),
        Dtype::F16 => (2, |data, values| widen_halves(data, f16::from_le_bytes, values)),
        Dtype::BF16 => (2, |data, values| widen_halves(data, bf16::from_le_bytes, values)),
        Dtype::F8_E4M3 => (1, |data, values| {
            values.iter_mut().zip(data).for_each(|(out, byte)| *out = e4m3(*byte));
        }),
        Dtype::F8_E5M2 => (1, |data, values| {
            values.iter_mut().zip(data).for_each(|(out, byte)| *out = e5m2(*byte));
        }),
        _ => return None,
    })
}

/// Values of two bytes as f32, some at a time: one by one each asks for the processor's abilities.
pub(crate) fn widen_halves<H: Copy + Default>(data: &[u8], of: impl Fn([u8; 2]) -> H, values: &mut [f32])
where
    [H]: HalfFloatSliceExt,
{
    let mut halves = [H::default(); 512];
    let (pairs, _) = data.as_chunks::<2>();
    for (values, pairs) in values.chunks_mut(halves.len()).zip(pairs.chunks(halves.len())) {
        let halves = &mut halves[..pairs.len()];
        halves.iter_mut().zip(pairs).for_each(|(half, bytes)| *half = of(*bytes));
        halves.convert_to_f32_slice(values);
    }
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
