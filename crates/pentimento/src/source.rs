//! Where a model lies, and how it is found by its name.

use crate::{embedded::DEFAULT_MODEL, places::Places};
use anyhow::{Context, Result, anyhow};
use pentimento_diffusion::{
    Companions, Folder, Model, ModelFiles, ModelSummary, SingleFile, Survey, WithVae,
};
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

/// Name of the embedded model.
pub(crate) const DEFAULT: &str = "default";

/// Where a model lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// In the binary.
    Embedded,
    /// In a folder.
    Folder(PathBuf),
    /// In one file.
    File(PathBuf),
    /// Somewhere, with its VAE from a file of its own.
    WithVae(Box<Source>, PathBuf),
}

/// Endings of files that hold a whole model.
const ENDINGS: [&str; 2] = ["safetensors", "gguf"];

impl Source {
    /// Finds what a user means by a name, a folder or a file.
    ///
    /// # Errors
    /// When it is none of them; the message lists the names that are known.
    pub(crate) fn find(wanted: &str, places: &Places) -> Result<Self> {
        let mut known = Self::named(places)?;
        if let Some(source) = known.remove(wanted) {
            return Ok(source);
        }
        let path = Path::new(wanted);
        if path.exists() {
            return Ok(Self::at(path));
        }
        let names: Vec<_> = known.into_keys().collect();
        Err(anyhow!(
            "no model '{wanted}': it is neither a folder, a file nor one of the known names ({})",
            names.join(", ")
        ))
    }

    /// The model at a path.
    pub(crate) fn at(path: &Path) -> Self {
        match path.is_dir() {
            true => Self::Folder(path.to_owned()),
            false => Self::File(path.to_owned()),
        }
    }

    /// The models that have a name: the embedded one, and those in the folders of models. Where two folders have the
    /// same name in them, the first folder's counts.
    ///
    /// # Errors
    /// When such a folder is there and cannot be read.
    pub(crate) fn named(places: &Places) -> Result<BTreeMap<String, Self>> {
        let mut named = BTreeMap::from([(DEFAULT.to_owned(), Self::Embedded)]);
        for folder in places.model_folders().iter().filter(|folder| folder.exists()) {
            let failed = || format!("cannot read {}", folder.display());
            let entries = fs::read_dir(folder).with_context(failed)?;
            let mut paths = entries
                .map(|entry| entry.map(|entry| entry.path()))
                .collect::<Result<Vec<_>, _>>()
                .with_context(failed)?;
            // Folders before files of the same name, whatever order the system lists them in.
            paths.sort_by_key(|path| (!path.is_dir(), path.clone()));
            for path in paths {
                if let Some(name) = name_of(&path) {
                    named.entry(name).or_insert_with(|| Self::at(&path));
                }
            }
        }
        Ok(named)
    }

    /// The same model with the VAE in a file, if there is one.
    pub(crate) fn with_vae(self, vae: Option<&Path>) -> Self {
        match vae {
            Some(vae) => Self::WithVae(Box::new(self), vae.to_owned()),
            None => self,
        }
    }

    /// The name that receipts show.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Embedded => DEFAULT.to_owned(),
            Self::WithVae(model, _) => model.name(),
            Self::Folder(path) => {
                let full = path.canonicalize().unwrap_or_else(|_| path.clone());
                full.file_name().unwrap_or(full.as_os_str()).to_string_lossy().into_owned()
            }
            Self::File(path) => path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned(),
        }
    }

    /// How messages and lists say where it lies.
    pub(crate) fn place(&self) -> String {
        match self {
            Self::Embedded => "part of this program".to_owned(),
            Self::WithVae(model, vae) => format!("{}, VAE {}", model.place(), vae.display()),
            Self::Folder(path) | Self::File(path) => path.display().to_string(),
        }
    }

    /// What its files are like at this moment.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub(crate) fn stamp(&self) -> Result<Stamp> {
        match self {
            Self::Embedded => {
                let bytes = DEFAULT_MODEL.0.iter().map(|(_, bytes)| bytes.len() as u64).sum();
                Ok(Stamp { bytes, newest: None })
            }
            Self::WithVae(model, vae) => {
                let mut stamp = model.stamp()?;
                stamp.add(vae, 0).with_context(|| format!("cannot read {}", vae.display()))?;
                Ok(stamp)
            }
            Self::Folder(path) | Self::File(path) => {
                let mut stamp = Stamp { bytes: 0, newest: None };
                stamp.add(path, 0).with_context(|| format!("cannot read {}", path.display()))?;
                Ok(stamp)
            }
        }
    }

    /// What the model is, without its weights.
    ///
    /// # Errors
    /// As [`Model::inspect`].
    pub(crate) fn inspect(&self) -> Result<ModelSummary> {
        Ok(Model::inspect(&*self.files()?)?)
    }

    /// What the model is and what it lacks, without its weights.
    ///
    /// # Errors
    /// When there is nothing that says that it is a model of a kind that can be run.
    pub(crate) fn survey(&self) -> Result<Survey> {
        Ok(Model::survey(&*self.files()?)?)
    }

    /// What lies in its folder beside its parts.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn companions(&self) -> Result<Companions> {
        Ok(Companions::find(&*self.files()?)?)
    }

    /// The model's files.
    ///
    /// # Errors
    /// When there are none that could be a model's.
    pub(crate) fn files(&self) -> Result<Box<dyn ModelFiles>> {
        Ok(match self {
            Self::Embedded => Box::new(DEFAULT_MODEL),
            Self::WithVae(model, vae) => Box::new(WithVae::open(model.files()?, vae)?),
            Self::Folder(path) => Box::new(Folder::new(path)),
            Self::File(path) => Box::new(SingleFile::open(path)?),
        })
    }
}

/// Whether a text can name a model: one plain word that is no way out of a folder and hides nothing.
pub(crate) fn is_model_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.+".contains(&byte);
    !text.is_empty() && text.len() <= 200 && !text.starts_with(['.', '-']) && text.bytes().all(plain)
}

/// The name of an entry in a folder of models; hidden ones are none.
fn name_of(path: &Path) -> Option<String> {
    let is_checkpoint = || {
        path.extension().is_some_and(|found| ENDINGS.iter().any(|ending| found.eq_ignore_ascii_case(ending)))
    };
    let name = match path.is_dir() {
        true => path.file_name()?,
        false if is_checkpoint() => path.file_stem()?,
        false => return None,
    };
    let name = name.to_string_lossy();
    (!name.starts_with('.')).then(|| name.into_owned())
}

/// Size and age of a model's files, by which it is seen that they were replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Bytes of all of them.
    pub(crate) bytes: u64,
    newest: Option<SystemTime>,
}

impl Stamp {
    /// Adds all files below a path. Links count as what they lead to, since a hub's own folders consist of them.
    fn add(&mut self, path: &Path, depth: u32) -> io::Result<()> {
        // A model has parts, and those have files. A deeper nest is none, or a link that leads back.
        const DEEPEST: u32 = 3;
        let found = fs::metadata(path)?;
        if !found.is_dir() {
            self.bytes += found.len();
            self.newest = self.newest.max(found.modified().ok());
            return Ok(());
        }
        if depth < DEEPEST {
            for entry in fs::read_dir(path)? {
                self.add(&entry?.path(), depth + 1)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_models_are_plain_words() {
        for right in ["sd15", "v1-5_pruned.fp16", "a+b"] {
            assert!(is_model_name(right), "{right}");
        }
        for wrong in ["", ".", "..", ".hidden", "-x", "a/b", "a\\b", "a b", "ä", &"a".repeat(201)] {
            assert!(!is_model_name(wrong), "{wrong}");
        }
    }
}
