//! A whole model in one file (`.safetensors`, or `.gguf` with quantised weights), as model sites offer them, seen as the folder that it stands for.
//!
//! The family is found from names and shapes, the configurations follow from both, the tokenizer is CLIP's, which the
//! engine carries. So everything behind [`ModelFiles`] reads such a file as it reads a folder in diffusers' layout.

mod configs;
mod family;
mod names;
mod renamed;
mod tokenizer;

pub(crate) use family::Family;
pub(crate) use tokenizer::{NOTICE as TOKENIZER_NOTICE, files as tokenizer_files};

use crate::{
    blob::Blob,
    config::read_json,
    error::{LoadError, LoadErrorKind},
    files::{Bytes, ModelFiles},
    gguf::GgufFile,
    source::{SafetensorsFiles, WeightSource},
    weights::{Origin, Weights, refuse_pickle},
};

use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

/// A model in one file.
pub struct SingleFile {
    label: String,
    documents: BTreeMap<String, Bytes>,
    parts: BTreeMap<String, Weights>,
    /// Parts that are not in the file, and how the names of their tensors would begin.
    lacks: BTreeMap<&'static str, &'static str>,
}

/// A part of the model that a file may lack where another file brings it.
const VAE: &str = "vae";

/// The scale of latents where nothing says another: diffusers' default of `AutoencoderKL`.
const SCALE: f64 = 0.18215;

impl SingleFile {
    /// Opens a file and finds out what it holds.
    ///
    /// # Errors
    /// When it cannot be read, or when it is no model that this engine runs; the message says what was found.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, LoadError> {
        Self::of(source_in(&path.into())?)
    }

    /// The same of a file that is in memory.
    ///
    /// # Errors
    /// As [`SingleFile::open`].
    pub fn held(label: impl Into<String>, bytes: Bytes) -> Result<Self, LoadError> {
        Self::of(source_of(Blob::held(label, bytes))?)
    }

    /// The model in a source whose names are those of whole models in one file.
    pub(crate) fn of(source: Arc<dyn WeightSource>) -> Result<Self, LoadError> {
        let source = renamed::published(source);
        let label = source.label();
        let family = Family::of(&*source)
            .map_err(|what| LoadError::new(LoadErrorKind::Unsupported, format!("{label} {what}")))?;
        let mut model =
            Self { label, documents: BTreeMap::new(), parts: BTreeMap::new(), lacks: BTreeMap::new() };
        model.put("model_index.json", &family.index());
        model.put("scheduler/scheduler_config.json", &family.scheduler());
        let stored = source.tensors();
        let unet = names::unet(stored);
        model.put_part("unet", configs::unet(&unet, family), unet, &source)?;
        for text in family.texts() {
            let tensors = match text.kind.activation {
                "quick_gelu" => names::clip(stored, text.prefix),
                _ => names::open_clip(stored, text.prefix),
            };
            if tensors.is_empty() {
                // Nothing brings its weights; what it would be is known.
                model.put(&format!("{}/config.json", text.folder), &json!({}));
                model.lacks.insert(text.folder, text.prefix);
                continue;
            }
            model.put_part(text.folder, configs::text(&tensors, &text.kind), tensors, &source)?;
        }
        match vae_tensors(stored).filter(|tensors| !tensors.is_empty()) {
            Some(tensors) => {
                let config = configs::vae(&tensors, family.scaling_factor());
                model.put_part(VAE, config, tensors, &source)?;
            }
            // Another file may bring the weights; the scale is the family's.
            None => {
                model.put("vae/config.json", &json!({ "scaling_factor": family.scaling_factor() }));
                model.lacks.insert(VAE, names::VAE[0]);
            }
        }
        for (folder, pads_with) in family.tokenizers() {
            for (name, bytes) in tokenizer::files(pads_with) {
                model.documents.insert(format!("{folder}/{name}"), bytes);
            }
        }
        Ok(model)
    }

    fn put(&mut self, path: &str, document: &Value) {
        self.documents.insert(path.to_owned(), Bytes::from(format!("{document:#}\n").into_bytes()));
    }

    fn put_part(
        &mut self,
        folder: &str,
        config: Option<Value>,
        tensors: BTreeMap<String, Origin>,
        source: &Arc<dyn WeightSource>,
    ) -> Result<(), LoadError> {
        let config = config.ok_or_else(|| {
            let message = format!("{}: tensors are missing that tell the sizes of its {folder}", self.label);
            LoadError::new(LoadErrorKind::Tensor, message)
        })?;
        self.put(&format!("{folder}/config.json"), &config);
        self.parts.insert(folder.to_owned(), Weights::mapped(Arc::clone(source), tensors));
        Ok(())
    }
}

impl ModelFiles for SingleFile {
    fn describe(&self, path: &str) -> String {
        format!("{} ({path})", self.label)
    }

    fn read(&self, path: &str) -> Result<Option<Bytes>, LoadError> {
        Ok(self.documents.get(path).cloned())
    }

    fn list(&self, folder: &str) -> Result<Vec<String>, LoadError> {
        Ok(names_in(&self.documents, folder))
    }

    fn weights(&self, folder: &str) -> Result<Option<Weights>, LoadError> {
        let Some(prefix) = self.lacks.get(folder) else { return Ok(self.parts.get(folder).cloned()) };
        let message = match folder {
            VAE => format!("{} holds no VAE ({prefix}…): name a file with one (--vae)", self.label),
            _ => format!("{} holds no text encoder ({prefix}…)", self.label),
        };
        Err(LoadError::new(LoadErrorKind::Missing, message))
    }
}

/// The names of the documents in a folder, sorted.
pub(crate) fn names_in(documents: &BTreeMap<String, Bytes>, folder: &str) -> Vec<String> {
    let names = documents.keys().filter_map(|path| path.strip_prefix(folder)?.strip_prefix('/'));
    names.map(str::to_owned).collect()
}

/// A model with its VAE from another file, in diffusers' naming or in that of whole models.
pub struct WithVae {
    model: Box<dyn ModelFiles>,
    label: String,
    config: Bytes,
    weights: Weights,
}

impl WithVae {
    /// Opens the file.
    ///
    /// # Errors
    /// When it cannot be read, or when it holds no VAE.
    pub fn open(model: Box<dyn ModelFiles>, path: impl Into<PathBuf>) -> Result<Self, LoadError> {
        let source = source_in(&path.into())?;
        let label = source.label();
        let own: Value = match model.read("vae/config.json")? {
            Some(_) => read_json(&*model, "vae/config.json")?,
            None => Value::Null,
        };
        if let Some(config) = configs::tiny_vae(source.tensors()) {
            // Its latents are as the network sees them, whatever the model's own VAE has for a scale.
            let tensors = names::clip(source.tensors(), "");
            let config = Bytes::from(format!("{config:#}\n").into_bytes());
            return Ok(Self { model, label, config, weights: Weights::mapped(source, tensors) });
        }
        let tensors = match source.tensors().contains_key("encoder.down_blocks.0.resnets.0.conv1.weight") {
            true => names::clip(source.tensors(), ""),
            false => vae_tensors(source.tensors()).unwrap_or_else(|| names::vae(source.tensors(), "")),
        };
        let mut config = configs::vae(&tensors, SCALE).ok_or_else(|| {
            let message = format!("{label} holds no VAE of a known naming (encoder.…, {}…)", names::VAE[0]);
            LoadError::new(LoadErrorKind::Unsupported, message)
        })?;
        // What no shape tells is that of the model's own VAE; the scale even belongs to the UNet, whatever VAE is used.
        for name in ["scaling_factor", "shift_factor", "norm_num_groups"] {
            if let Some(value) = own.get(name).filter(|value| !value.is_null()) {
                config[name] = value.clone();
            }
        }
        let config = Bytes::from(format!("{config:#}\n").into_bytes());
        Ok(Self { model, label, config, weights: Weights::mapped(source, tensors) })
    }
}

impl ModelFiles for WithVae {
    fn describe(&self, path: &str) -> String {
        match path.starts_with("vae/") {
            true => format!("{} ({path})", self.label),
            false => self.model.describe(path),
        }
    }

    fn read(&self, path: &str) -> Result<Option<Bytes>, LoadError> {
        match path {
            "vae/config.json" => Ok(Some(self.config.clone())),
            _ => self.model.read(path),
        }
    }

    fn list(&self, folder: &str) -> Result<Vec<String>, LoadError> {
        self.model.list(folder)
    }

    fn weights(&self, folder: &str) -> Result<Option<Weights>, LoadError> {
        match folder {
            VAE => Ok(Some(self.weights.clone())),
            _ => self.model.weights(folder),
        }
    }
}

fn vae_tensors(stored: &names::Stored) -> Option<BTreeMap<String, Origin>> {
    let prefix = names::VAE.into_iter().find(|prefix| names::any_below(stored, prefix))?;
    Some(names::vae(stored, prefix))
}

/// The tensors in a file, whose format shows in its first bytes.
fn source_in(path: &Path) -> Result<Arc<dyn WeightSource>, LoadError> {
    let label = path.display().to_string();
    refuse_pickle(&label, &label)?;
    let blob = Blob::open(&label, path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => LoadError::new(LoadErrorKind::Missing, format!("{label} is missing")),
        _ => LoadError::caused_by(LoadErrorKind::Malformed, format!("cannot read {label}"), error),
    })?;
    source_of(blob)
}

fn source_of(blob: Blob) -> Result<Arc<dyn WeightSource>, LoadError> {
    Ok(match GgufFile::is_one(&blob) {
        true => Arc::new(GgufFile::open(blob)?),
        false => Arc::new(SafetensorsFiles::of(blob)?),
    })
}
