//! A loaded model.

use crate::{error::{LoadError, LoadErrorKind}, files::ModelFiles};
use pentimento_request::{GenerateError, ErrorKind, GeneratedImage, GenerationRequest, Generator, Progress, Size};

/// Precision of the products; sums are f32 either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// 32-bit floats: the reference.
    F32,
    /// Factors rounded to bfloat16.
    Bf16,
}

/// How a model is loaded.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// The name that requests and receipts use.
    pub name: String,
    /// Precision of the products.
    pub precision: Precision,
    /// Largest number of pixels that the model may be asked to work at.
    pub pixel_cap: u64,
}

/// What a model is, read from its files without loading its weights into memory.
#[derive(Clone, Debug)]
pub struct ModelSummary {
    /// Family in words, as "Stable Diffusion 1.x".
    pub family: String,
    /// Size the model was made for.
    pub native_size: Size,
    /// What the network predicts, `epsilon` or `v_prediction`.
    pub prediction: String,
    /// Class of the model's own scheduler and its timestep spacing.
    pub scheduler: String,
    /// The parts with their weights.
    pub parts: Vec<Part>,
}

/// One part of a model.
#[derive(Clone, Debug)]
pub struct Part {
    /// Folder name, as `unet`.
    pub name: String,
    /// Class, as `UNet2DConditionModel`.
    pub class: String,
    /// Number of parameters.
    pub parameters: u64,
    /// Storage types of the tensors, as `F16`.
    pub dtypes: Vec<String>,
}

/// A model in memory, ready to draw. Requests may run one after the other or side by side; none changes it.
pub struct Model {
    options: LoadOptions,
}

impl Model {
    /// Reads a model.
    ///
    /// # Errors
    /// Names the file, and the tensor where there is one.
    pub fn load(files: &dyn ModelFiles, options: LoadOptions) -> Result<Self, LoadError> {
        let _ = (files, &options);
        Err(LoadError::new(LoadErrorKind::Unsupported, "not written yet"))
    }

    /// Reads what a model is, without its weights.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn inspect(files: &dyn ModelFiles) -> Result<ModelSummary, LoadError> {
        let _ = files;
        Err(LoadError::new(LoadErrorKind::Unsupported, "not written yet"))
    }

    /// The name that requests use.
    pub fn name(&self) -> &str {
        &self.options.name
    }

    /// SHA-256 over the weights, in hexadecimal.
    pub fn hash(&self) -> &str {
        ""
    }

    /// The size the model was made for.
    pub fn native_size(&self) -> Size {
        Size::new(512, 512).expect("a constant within the range")
    }
}

impl Generator for Model {
    fn generate(
        &self,
        request: &GenerationRequest,
        _: &mut dyn Progress,
    ) -> Result<GeneratedImage, GenerateError> {
        Err(GenerateError::new(ErrorKind::ModelNotFound, format!("no model '{}'", request.model)))
    }
}
