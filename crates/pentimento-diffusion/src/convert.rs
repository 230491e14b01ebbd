//! A model written down as a folder in diffusers' layout, whatever it was read from, perhaps in another precision.
//!
//! Tensors are read, rounded and written one by one, so that a model needs no more memory than its largest tensor.

use crate::{
    companions::{CANNY_FOLDERS, LORA_FOLDER, TILE_FOLDERS, lora_name},
    error::{LoadError, LoadErrorKind},
    files::ModelFiles,
    weights::Weights,
};
use safetensors::{Dtype, View};
use std::{
    borrow::Cow,
    fs,
    path::Path,
    sync::{Mutex, PoisonError},
};

/// How weights are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoredAs {
    /// 32-bit floats.
    F32,
    /// 16-bit floats of IEEE 754.
    F16,
    /// bfloat16.
    Bf16,
}

/// Stem of the names of diffusers' files of weights.
const DIFFUSERS: &str = "diffusion_pytorch_model";

/// Parts that have weights, and encoders that lie beside them, with the stem of their files' names.
const PARTS: [(&str, &str); 7] = [
    ("text_encoder", "model"),
    ("text_encoder_2", "model"),
    ("unet", DIFFUSERS),
    ("vae", DIFFUSERS),
    ("safety_checker", "model"),
    ("image_encoder", "model"),
    ("clip_model", "model"),
];

/// Types of tensors that count something and are no weights, as the `position_ids` of older files.
const COUNTS: [&str; 3] = ["I64", "I32", "BOOL"];

/// Everything else that a model may have.
const DOCUMENTS: [&str; 13] = [
    "model_index.json",
    "scheduler/scheduler_config.json",
    "feature_extractor/preprocessor_config.json",
    "tokenizer/vocab.json",
    "tokenizer/merges.txt",
    "tokenizer/tokenizer.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer/special_tokens_map.json",
    "tokenizer_2/vocab.json",
    "tokenizer_2/merges.txt",
    "tokenizer_2/tokenizer.json",
    "tokenizer_2/tokenizer_config.json",
    "tokenizer_2/special_tokens_map.json",
];

/// Writes a model into an empty folder, with its own control networks and adapters; the adapters stay as they are. Without
/// a type every tensor keeps its own, and those whose own cannot be written (quantised ones, 8-bit floats) become f16.
///
/// # Errors
/// Names the file and the tensor: what cannot be read or written, and values that the new type cannot hold.
pub fn convert(files: &dyn ModelFiles, folder: &Path, stored_as: Option<StoredAs>) -> Result<(), LoadError> {
    for path in DOCUMENTS {
        if let Some(bytes) = files.read(path)? {
            put(folder, path, &bytes)?;
        }
    }
    let controls = CANNY_FOLDERS.into_iter().chain(TILE_FOLDERS).map(|folder| (folder, DIFFUSERS));
    for (part, stem) in PARTS.into_iter().chain(controls) {
        let path = format!("{part}/config.json");
        let Some(config) = files.read(&path)? else { continue };
        put(folder, &path, &config)?;
        let weights = Weights::open(files, part, stem)?;
        write(&weights, &folder.join(part).join(format!("{stem}.safetensors")), stored_as)?;
    }
    for name in files.list(LORA_FOLDER)?.iter().filter(|name| lora_name(name).is_some()) {
        let path = format!("{LORA_FOLDER}/{name}");
        if let Some(bytes) = files.read(&path)? {
            put(folder, &path, &bytes)?;
        }
    }
    Ok(())
}

fn put(folder: &Path, path: &str, bytes: &[u8]) -> Result<(), LoadError> {
    let path = folder.join(path);
    let made = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(&path, bytes));
    made.map_err(|error| cannot_write(&path, error))
}

fn cannot_write(path: &Path, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> LoadError {
    LoadError::caused_by(LoadErrorKind::Malformed, format!("cannot write {}", path.display()), error)
}

fn write(weights: &Weights, path: &Path, stored_as: Option<StoredAs>) -> Result<(), LoadError> {
    let failure = Mutex::new(None);
    let is_weight = |(name, _): &(&str, &[usize])| {
        !weights.stored_type(name).is_some_and(|stored| COUNTS.contains(&stored))
    };
    let tensors = weights.shapes().filter(is_weight).map(|(name, shape)| {
        let stored_as = stored_as.unwrap_or_else(|| own(weights.stored_type(name)));
        (name, Late { weights, name, shape, stored_as, failure: &failure })
    });
    let written = safetensors::serialize_to_file(tensors, None, path);
    // A tensor that could not be read is why the file is wrong, so it is told first.
    match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => written.map_err(|error| cannot_write(path, error)),
    }
}

/// The type that a tensor keeps.
fn own(stored: Option<&str>) -> StoredAs {
    match stored {
        Some("F32") => StoredAs::F32,
        Some("BF16") => StoredAs::Bf16,
        _ => StoredAs::F16,
    }
}

/// A tensor that is read when it is written.
struct Late<'a> {
    weights: &'a Weights,
    name: &'a str,
    shape: &'a [usize],
    stored_as: StoredAs,
    /// The first thing that went wrong: the writer itself cannot be told.
    failure: &'a Mutex<Option<LoadError>>,
}

impl Late<'_> {
    fn bytes(&self) -> Result<Vec<u8>, LoadError> {
        let values = self.weights.values(self.name, self.shape)?;
        Ok(match self.stored_as {
            StoredAs::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            StoredAs::Bf16 => {
                values.iter().flat_map(|value| half::bf16::from_f32(*value).to_le_bytes()).collect()
            }
            StoredAs::F16 => {
                let small = |value: f32| half::f16::from_f32(value);
                if let Some(value) =
                    values.iter().find(|value| value.is_finite() && !small(**value).is_finite())
                {
                    let message = format!("tensor '{}' holds {value}, which f16 cannot hold", self.name);
                    return Err(LoadError::new(LoadErrorKind::Unsupported, message));
                }
                values.iter().flat_map(|value| small(*value).to_le_bytes()).collect()
            }
        })
    }
}

impl View for Late<'_> {
    fn dtype(&self) -> Dtype {
        match self.stored_as {
            StoredAs::F32 => Dtype::F32,
            StoredAs::F16 => Dtype::F16,
            StoredAs::Bf16 => Dtype::BF16,
        }
    }

    fn shape(&self) -> &[usize] {
        self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        if failure.is_some() {
            return Cow::Borrowed(&[]);
        }
        Cow::Owned(self.bytes().unwrap_or_else(|error| {
            *failure = Some(error);
            Vec::new()
        }))
    }

    fn data_len(&self) -> usize {
        let bytes_each = match self.stored_as {
            StoredAs::F32 => 4,
            StoredAs::F16 | StoredAs::Bf16 => 2,
        };
        self.shape.iter().product::<usize>() * bytes_each
    }
}
