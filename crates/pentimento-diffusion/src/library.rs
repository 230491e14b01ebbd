//! Adapters and control networks by name: what a request may ask for beside the model.

use crate::{
    control::ControlFile,
    error::LoadError,
    image_prompt::{FaceReader, ImagePromptFile},
    lora::LoraFile,
};
use std::{fmt, sync::Arc};

/// Where adapters and control networks are found. Names come from outside: an implementation looks among its own and nowhere
/// else, and never takes a name for a path.
pub trait Library: Send + Sync + fmt::Debug {
    /// The adapter of this name, `None` when there is none.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    fn lora(&self, name: &str) -> Result<Option<Arc<LoraFile>>, LoadError>;

    /// The names of all adapters, sorted.
    fn lora_names(&self) -> Vec<String>;

    /// The control network of this name, `None` when there is none.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    fn control(&self, name: &str) -> Result<Option<Arc<ControlFile>>, LoadError>;

    /// The names of all control networks, sorted.
    fn control_names(&self) -> Vec<String>;

    /// The picture adapter of this name, `None` when there is none.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    fn image_prompt(&self, name: &str) -> Result<Option<Arc<ImagePromptFile>>, LoadError> {
        let _ = name;
        Ok(None)
    }

    /// The names of all picture adapters, sorted.
    fn image_prompt_names(&self) -> Vec<String> {
        Vec::new()
    }

    /// What finds faces and tells them apart, `None` when there is no network for it.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    fn faces(&self) -> Result<Option<Arc<FaceReader>>, LoadError> {
        Ok(None)
    }
}

/// A library without anything in it.
#[derive(Clone, Copy, Debug, Default)]
pub struct EmptyLibrary;

impl Library for EmptyLibrary {
    fn lora(&self, _name: &str) -> Result<Option<Arc<LoraFile>>, LoadError> {
        Ok(None)
    }

    fn lora_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn control(&self, _name: &str) -> Result<Option<Arc<ControlFile>>, LoadError> {
        Ok(None)
    }

    fn control_names(&self) -> Vec<String> {
        Vec::new()
    }
}
