//! GGUF files: tensors in ggml's quantised blocks, read one by one as f32.
//!
//! Layout: `GGUF`, version, counts of tensors and of entries; the entries (name, type, value); per tensor its name,
//! dimensions from the innermost on, type and offset; the data, from the next multiple of the alignment on. All
//! little-endian. Versions 2 and 3 are read.
//! A header is hostile until proved otherwise: it has a largest length, nothing is taken for a count that the header has no
//! bytes for, and every tensor has to lie within the file.
//! Source: ggml's `docs/gguf.md`; what the blocks mean is candle's `quantized`.

use crate::{
    blob::Blob,
    error::{LoadError, LoadErrorKind},
    source::{StoredTensor, WeightSource, absent, widen_halves},
};
use candle_core::{
    Device,
    quantized::{GgmlDType, QStorage, QTensor},
};
use half::{bf16, f16, slice::HalfFloatSliceExt};
use sha2::Sha256;
use std::{borrow::Cow, collections::BTreeMap};

/// What a file begins with.
const MAGIC: &[u8; 4] = b"GGUF";

/// Longest header in bytes. A Stable Diffusion XL checkpoint has 2,600 tensors and needs a tenth of it.
const LONGEST_HEADER: u64 = 4 << 20;

/// Alignment of the data where the header names none.
const USUAL_ALIGNMENT: u64 = 32;

/// A file of quantised tensors.
pub(crate) struct GgufFile {
    blob: Blob,
    tensors: BTreeMap<String, StoredTensor>,
    places: BTreeMap<String, Place>,
}

/// Where a tensor's data lie.
#[derive(Clone, Copy, Debug)]
struct Place {
    start: u64,
    end: u64,
    dtype: GgmlDType,
}

impl GgufFile {
    /// Whether a file is one, by its first bytes.
    pub(crate) fn is_one(blob: &Blob) -> bool {
        blob.length() >= 4 && blob.piece(0..4).is_ok_and(|bytes| &*bytes == MAGIC)
    }

    /// Reads and checks a file's header.
    ///
    /// # Errors
    /// When it is cut off or makes no sense, or when a tensor is stored in a form that is not read.
    pub(crate) fn open(blob: Blob) -> Result<Self, LoadError> {
        let header = blob.piece(0..blob.length().min(LONGEST_HEADER))?.into_owned();
        let listed = Reader { bytes: &header, at: 0 }.header().map_err(|what| blob.broken(what))?;
        let mut file = Self { blob, tensors: BTreeMap::new(), places: BTreeMap::new() };
        for tensor in listed {
            let Listed { name, shape, kind, start } = tensor;
            let dtype = dtype_of(kind).ok_or_else(|| {
                let message = format!(
                    "{}: tensor '{name}' is stored in ggml's type {kind}; F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 and \
                     Q2_K to Q6_K are read",
                    file.blob.label()
                );
                LoadError::new(LoadErrorKind::Unsupported, message)
            })?;
            let end = bytes_of(&shape, dtype).and_then(|bytes| start.checked_add(bytes));
            let end = end.filter(|end| *end <= file.blob.length()).ok_or_else(|| {
                file.blob.broken(format!("is cut off or damaged: tensor '{name}' does not lie within it"))
            })?;
            let stored = StoredTensor { shape, dtype: format!("{dtype:?}") };
            if file.tensors.insert(name.clone(), stored).is_some() {
                return Err(file.blob.broken(format!("has two tensors named '{name}'")));
            }
            file.places.insert(name, Place { start, end, dtype });
        }
        Ok(file)
    }
}

impl WeightSource for GgufFile {
    fn label(&self) -> String {
        self.blob.label().to_owned()
    }

    fn tensors(&self) -> &BTreeMap<String, StoredTensor> {
        &self.tensors
    }

    fn read(&self, name: &str) -> Result<Vec<f32>, LoadError> {
        let place = self.places.get(name).ok_or_else(|| absent(self, name))?;
        let data = self.blob.piece(place.start..place.end)?;
        let failed = |error| {
            let message = format!("{}: tensor '{name}'", self.blob.label());
            LoadError::caused_by(LoadErrorKind::Malformed, message, error)
        };
        dequantised(place.dtype, &data).map_err(failed)
    }

    fn hash_into(&self, hash: &mut Sha256) -> Result<(), LoadError> {
        self.blob.hash_into(hash)
    }
}

/// A tensor as the header lists it; `start` is counted from the file's beginning.
struct Listed {
    name: String,
    shape: Vec<usize>,
    kind: u32,
    start: u64,
}

/// Goes through a header; every read is within its bytes.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

type Parsed<T> = Result<T, String>;

impl<'a> Reader<'a> {
    fn header(mut self) -> Parsed<Vec<Listed>> {
        if self.take(4)? != MAGIC {
            return Err("is no GGUF file".to_owned());
        }
        let version = self.u32()?;
        if !(2..=3).contains(&version) {
            return Err(format!("is of GGUF version {version}; 2 and 3 are read"));
        }
        let (tensors, entries) = (self.u64()?, self.u64()?);
        let mut alignment = USUAL_ALIGNMENT;
        for _ in 0..entries {
            let key = self.text()?;
            let kind = self.u32()?;
            let before = self.at;
            self.skip_value(kind, 0)?;
            if key == "general.alignment" {
                alignment = self.number_at(before, kind)?;
            }
        }
        // No capacity is taken for the count: each tensor pays with its bytes in the header.
        let mut listed = Vec::new();
        for _ in 0..tensors {
            listed.push(self.tensor()?);
        }
        let data = (self.at as u64).next_multiple_of(alignment);
        for tensor in &mut listed {
            if !tensor.start.is_multiple_of(alignment) {
                return Err(format!("is damaged: tensor '{}' is not aligned", tensor.name));
            }
            let start = tensor.start.checked_add(data);
            tensor.start =
                start.ok_or_else(|| format!("is damaged: tensor '{}' lies nowhere", tensor.name))?;
        }
        Ok(listed)
    }

    fn tensor(&mut self) -> Parsed<Listed> {
        let name = self.text()?;
        let dimensions = self.u32()?;
        // ggml has four at most.
        if dimensions > 4 {
            return Err(format!("is damaged: tensor '{name}' has {dimensions} dimensions"));
        }
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            let length = usize::try_from(self.u64()?);
            shape.push(length.map_err(|_| format!("is damaged: tensor '{name}' is too large"))?);
        }
        // Innermost first here, outermost first in torch.
        shape.reverse();
        Ok(Listed { name, shape, kind: self.u32()?, start: self.u64()? })
    }

    /// Passes over a value of this type. Sizes of the numbered types: 8, 16, 32 bits, boolean, text, array, 64 bits.
    fn skip_value(&mut self, kind: u32, depth: u32) -> Parsed<()> {
        /// Arrays in arrays; real files have none.
        const DEEPEST: u32 = 4;
        match kind {
            8 => self.text().map(drop),
            9 if depth < DEEPEST => {
                let (of, count) = (self.u32()?, self.u64()?);
                if let Some(size) = fixed_size(of) {
                    let bytes = usize::try_from(count).ok().and_then(|count| count.checked_mul(size));
                    return self.take(bytes.ok_or_else(cut)?).map(drop);
                }
                // Every text or array has a length of its own, so the bytes run out before the count does.
                for _ in 0..count {
                    self.skip_value(of, depth + 1)?;
                }
                Ok(())
            }
            _ => match fixed_size(kind) {
                Some(size) => self.take(size).map(drop),
                None => Err(format!("is damaged: a value has the unknown type {kind}")),
            },
        }
    }

    /// The alignment that was passed over.
    fn number_at(&self, at: usize, kind: u32) -> Parsed<u64> {
        let mut there = Reader { bytes: self.bytes, at };
        let number = match kind {
            4 => there.u32().map(u64::from)?,
            10 => there.u64()?,
            _ => return Err("is damaged: its alignment is no number".to_owned()),
        };
        // Larger ones than a page serve nothing, and zero would divide.
        let is_sensible = number.is_power_of_two() && number <= 65536;
        is_sensible.then_some(number).ok_or_else(|| format!("is damaged: its alignment is {number}"))
    }

    fn text(&mut self) -> Parsed<String> {
        let length = usize::try_from(self.u64()?).map_err(|_| cut())?;
        let text = std::str::from_utf8(self.take(length)?);
        text.map(str::to_owned).map_err(|_| "is damaged: a name is no text".to_owned())
    }

    fn u32(&mut self) -> Parsed<u32> {
        self.take(4).map(|bytes| bytes.iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte)))
    }

    fn u64(&mut self) -> Parsed<u64> {
        self.take(8).map(|bytes| bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn take(&mut self, count: usize) -> Parsed<&'a [u8]> {
        let end = self.at.checked_add(count).ok_or_else(cut)?;
        let taken = self.bytes.get(self.at..end).ok_or_else(cut)?;
        self.at = end;
        Ok(taken)
    }
}

fn cut() -> String {
    format!("is cut off or damaged: its header does not end within the file or {LONGEST_HEADER} bytes")
}

/// Bytes of a value of one of the types that have a fixed size.
fn fixed_size(kind: u32) -> Option<usize> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

/// ggml's numbers of types, those that files hold.
fn dtype_of(kind: u32) -> Option<GgmlDType> {
    Some(match kind {
        0 => GgmlDType::F32,
        1 => GgmlDType::F16,
        2 => GgmlDType::Q4_0,
        3 => GgmlDType::Q4_1,
        6 => GgmlDType::Q5_0,
        7 => GgmlDType::Q5_1,
        8 => GgmlDType::Q8_0,
        10 => GgmlDType::Q2K,
        11 => GgmlDType::Q3K,
        12 => GgmlDType::Q4K,
        13 => GgmlDType::Q5K,
        14 => GgmlDType::Q6K,
        30 => GgmlDType::BF16,
        _ => return None,
    })
}

/// Bytes of a tensor; `None` where its rows are no whole blocks, or beyond all numbers.
fn bytes_of(shape: &[usize], dtype: GgmlDType) -> Option<u64> {
    let row = shape.last().copied().unwrap_or(1);
    if !row.is_multiple_of(dtype.block_size()) {
        return None;
    }
    let values = shape.iter().try_fold(1u64, |product, length| product.checked_mul(*length as u64))?;
    // Four bytes each once they are read, which has to be a length too.
    values.checked_mul(4).filter(|bytes| isize::try_from(*bytes).is_ok())?;
    (values / dtype.block_size() as u64).checked_mul(dtype.type_size() as u64)
}

fn widened<H: Copy + Default>(data: &[u8], of: impl Fn([u8; 2]) -> H) -> Vec<f32>
where
    [H]: HalfFloatSliceExt,
{
    let mut values = vec![0.0; data.len() / 2];
    widen_halves(data, of, &mut values);
    values
}

fn dequantised(dtype: GgmlDType, data: &[u8]) -> candle_core::Result<Vec<f32>> {
    match dtype {
        GgmlDType::F32 => Ok(data.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()),
        GgmlDType::F16 => Ok(widened(data, f16::from_le_bytes)),
        GgmlDType::BF16 => Ok(widened(data, bf16::from_le_bytes)),
        quantised => {
            // candle wants its blocks aligned; the largest field in them is an f32.
            const ALIGNMENT: usize = 4;
            let mut room = vec![0; data.len() + ALIGNMENT];
            let start = room.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
            let aligned = &mut room[start..start + data.len()];
            aligned.copy_from_slice(data);
            let values = data.len() / quantised.type_size() * quantised.block_size();
            if values == 0 {
                return Ok(Vec::new());
            }
            let blocks = QStorage::from_data(Cow::Borrowed(&*aligned), &Device::Cpu, quantised)?;
            QTensor::new(blocks, values)?.dequantize(&Device::Cpu)?.to_vec1()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::Bytes;

    /// A header with these entries and tensors, and so many bytes of data behind it.
    struct File {
        tensors: u64,
        entries: u64,
        body: Vec<u8>,
        data: usize,
    }

    impl File {
        fn new() -> Self {
            Self { tensors: 0, entries: 0, body: Vec::new(), data: 0 }
        }

        fn text(&mut self, text: &str) {
            self.body.extend((text.len() as u64).to_le_bytes());
            self.body.extend(text.as_bytes());
        }

        fn entry(mut self, key: &str, kind: u32, value: &[u8]) -> Self {
            self.entries += 1;
            self.text(key);
            self.body.extend(kind.to_le_bytes());
            self.body.extend(value);
            self
        }

        fn tensor(mut self, name: &str, dimensions: &[u64], kind: u32, offset: u64) -> Self {
            self.tensors += 1;
            self.text(name);
            self.body.extend((dimensions.len() as u32).to_le_bytes());
            dimensions.iter().for_each(|length| self.body.extend(length.to_le_bytes()));
            self.body.extend(kind.to_le_bytes());
            self.body.extend(offset.to_le_bytes());
            self
        }

        fn data(self, data: usize) -> Self {
            Self { data, ..self }
        }

        fn bytes(&self) -> Vec<u8> {
            let mut bytes = MAGIC.to_vec();
            bytes.extend(3u32.to_le_bytes());
            bytes.extend(self.tensors.to_le_bytes());
            bytes.extend(self.entries.to_le_bytes());
            bytes.extend(&self.body);
            bytes.resize(bytes.len().next_multiple_of(32) + self.data, 0);
            bytes
        }

        fn open(&self) -> Result<GgufFile, LoadError> {
            GgufFile::open(Blob::held("x.gguf", Bytes::from(self.bytes())))
        }
    }

    fn refusal(file: &File) -> String {
        file.open().err().expect("it is damaged").to_string()
    }

    #[test]
    fn a_small_file_is_read_with_its_outermost_dimension_first() {
        let file = File::new()
            .entry("general.alignment", 4, &32u32.to_le_bytes())
            .entry(
                "list",
                9,
                &[&8u32.to_le_bytes()[..], &1u64.to_le_bytes(), &1u64.to_le_bytes(), b"x"].concat(),
            )
            .tensor("a", &[2, 3], 0, 0)
            .tensor("b", &[32], 8, 32)
            .data(32 + 34);
        let opened = file.open().expect("it is right");
        assert_eq!(opened.tensors()["a"].shape, [3, 2]);
        assert_eq!(opened.tensors()["b"].dtype, "Q8_0");
        assert_eq!(opened.read("b").expect("it is there"), [0.0; 32]);
        assert!(opened.read("c").is_err());
    }

    #[test]
    fn every_cut_is_refused() {
        let whole = File::new()
            .entry("k", 8, &[&1u64.to_le_bytes()[..], b"v"].concat())
            .tensor("a", &[4], 0, 0)
            .data(16)
            .bytes();
        for length in 0..whole.len() {
            let blob = Blob::held("x.gguf", Bytes::from(whole[..length].to_vec()));
            assert!(GgufFile::open(blob).is_err(), "{length}");
        }
    }

    #[test]
    fn hostile_headers_are_refused_before_memory_is_taken() {
        let huge = u64::MAX;
        let counted = |tensors, entries| File { tensors, entries, ..File::new() };
        let array = |of: u32, count: u64| {
            File::new().entry("k", 9, &[&of.to_le_bytes()[..], &count.to_le_bytes()].concat())
        };
        let nested =
            (0..8).flat_map(|_| [&9u32.to_le_bytes()[..], &1u64.to_le_bytes()].concat()).collect::<Vec<_>>();
        let table = [
            (counted(huge, 0), "header"),
            (counted(0, huge), "header"),
            (array(0, huge), "header"),
            (array(8, huge), "header"),
            (array(12, huge / 8 + 2), "header"),
            (File::new().entry("k", 9, &nested), "unknown type 9"),
            (File::new().entry("k", 99, &[]), "unknown type 99"),
            (File::new().entry("general.alignment", 4, &[0; 4]), "alignment is 0"),
            (File::new().entry("general.alignment", 10, &huge.to_le_bytes()), "alignment"),
            (File::new().entry("general.alignment", 8, &[0; 8]), "alignment"),
            (File::new().tensor("t", &[1; 5], 0, 0), "5 dimensions"),
            (File::new().tensor("t", &[huge, huge], 0, 0), "'t'"),
            (File::new().tensor("t", &[1 << 40, 1 << 40], 0, 0), "'t'"),
            (File::new().tensor("t", &[1 << 33, 1 << 31], 8, 0), "'t'"),
            (File::new().tensor("t", &[4], 0, huge - 31), "'t'"),
            (File::new().tensor("t", &[4], 0, 1 << 40), "'t'"),
            (File::new().tensor("t", &[4], 0, 1), "not aligned"),
            (File::new().tensor("t", &[33], 8, 0).data(100), "'t'"),
            (File::new().tensor("t", &[4], 16, 0), "type 16"),
            (File::new().tensor("t", &[1], 0, 0).tensor("t", &[1], 0, 0).data(8), "two tensors"),
        ];
        for (file, part) in table {
            let message = refusal(&file);
            assert!(message.contains(part) && message.starts_with("x.gguf"), "'{part}': {message}");
        }
    }

    #[test]
    fn every_form_that_is_read_has_whole_blocks() {
        for kind in 0..64 {
            let Some(dtype) = dtype_of(kind) else { continue };
            let bytes = bytes_of(&[2, 256], dtype).expect("whole blocks");
            let read = dequantised(dtype, &vec![0; bytes as usize]).expect("zeros");
            assert_eq!(read.len(), 512, "{dtype:?}");
        }
    }
}
