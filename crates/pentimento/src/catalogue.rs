//! The models that requests can name, loaded once and kept, and the clock that the engine itself does not have.

use crate::{cli::Dtype, embedded::DEFAULT_MODEL, memory};
use anyhow::{Context, Result, anyhow};
use pentimento_diffusion::{Folder, LoadOptions, Model, ModelFiles, ModelSummary, Precision};
use pentimento_kernels::fastest_precision;
use pentimento_request::{
    ErrorKind, GenerateError, GeneratedImage, GenerationRequest, Generator, Progress, Stage, StageTiming,
    StepReport,
};
use std::{
    collections::BTreeMap,
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::LazyLock,
    time::Instant,
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
}

impl Source {
    /// Finds what a user means by a name or a folder.
    ///
    /// # Errors
    /// When it is neither; the message lists the names that are known.
    pub(crate) fn find(wanted: &str, data_dir: Option<&Path>) -> Result<Self> {
        let mut known = Self::named(data_dir)?;
        if let Some(source) = known.remove(wanted) {
            return Ok(source);
        }
        let folder = Path::new(wanted);
        if folder.is_dir() {
            return Ok(Self::Folder(folder.to_owned()));
        }
        let names: Vec<_> = known.into_keys().collect();
        Err(anyhow!(
            "no model '{wanted}': it is neither a folder nor one of the known names ({})",
            names.join(", ")
        ))
    }

    /// The models that have a name: the embedded one, and those in the data folder's `models`.
    ///
    /// # Errors
    /// When that folder is there and cannot be read.
    pub(crate) fn named(data_dir: Option<&Path>) -> Result<BTreeMap<String, Self>> {
        let mut named = BTreeMap::new();
        if let Some(folder) = data_dir.map(|data| data.join("models")).filter(|folder| folder.exists()) {
            let entries =
                fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
            for entry in entries {
                let path = entry.with_context(|| format!("cannot read {}", folder.display()))?.path();
                if let (true, Some(name)) = (path.is_dir(), path.file_name()) {
                    named.insert(name.to_string_lossy().into_owned(), Self::Folder(path));
                }
            }
        }
        named.insert(DEFAULT.to_owned(), Self::Embedded);
        Ok(named)
    }

    /// The name that receipts show.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Embedded => DEFAULT.to_owned(),
            Self::Folder(path) => {
                let full = path.canonicalize().unwrap_or_else(|_| path.clone());
                full.file_name().unwrap_or(full.as_os_str()).to_string_lossy().into_owned()
            }
        }
    }

    /// What the model is, without its weights.
    ///
    /// # Errors
    /// As [`Model::inspect`].
    pub(crate) fn inspect(&self) -> Result<ModelSummary> {
        Ok(Model::inspect(&*self.files())?)
    }

    fn files(&self) -> Box<dyn ModelFiles> {
        match self {
            Self::Embedded => Box::new(DEFAULT_MODEL),
            Self::Folder(path) => Box::new(Folder::new(path)),
        }
    }
}

/// The engine's precision for what the user asked for.
pub(crate) fn precision(dtype: Dtype) -> Precision {
    match dtype {
        Dtype::F32 => Precision::F32,
        Dtype::Bf16 => Precision::Bf16,
        Dtype::Auto => fastest(),
    }
}

/// The precision that this processor multiplies faster. Measured once, so that all models of a run have the same.
fn fastest() -> Precision {
    static MEASURED: LazyLock<Precision> = LazyLock::new(fastest_precision);
    *MEASURED
}

/// Loaded models by name.
#[derive(Default)]
pub(crate) struct Catalogue {
    models: BTreeMap<String, Loaded>,
}

/// A model, and what it was loaded from and how.
struct Loaded {
    model: Model,
    source: Source,
    precision: Precision,
}

impl Catalogue {
    /// Loads a model, unless the same one is there already, and answers its name here. Two models whose
    /// folders have the same name are told apart by a number.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub(crate) fn load(&mut self, source: &Source, precision: Precision, pixel_cap: u64) -> Result<String> {
        let same = |loaded: &Loaded| loaded.source == *source && loaded.precision == precision;
        if let Some((name, _)) = self.models.iter().find(|(_, loaded)| same(loaded)) {
            return Ok(name.clone());
        }
        let plain = source.name();
        let numbered = (2..).map(|number| format!("{plain}-{number}"));
        let name = std::iter::once(plain.clone())
            .chain(numbered)
            .find(|name| !self.models.contains_key(name))
            .context("every number is taken")?;
        let options = LoadOptions { name: name.clone(), precision, pixel_cap };
        let model = Model::load(&*source.files(), options)?;
        self.models.insert(name.clone(), Loaded { model, source: source.clone(), precision });
        Ok(name)
    }

    /// Names and models.
    pub(crate) fn models(&self) -> impl Iterator<Item = (&str, &Model)> {
        self.models.iter().map(|(name, loaded)| (name.as_str(), &loaded.model))
    }
}

impl Generator for Catalogue {
    fn generate(
        &self,
        request: &GenerationRequest,
        progress: &mut dyn Progress,
    ) -> Result<GeneratedImage, GenerateError> {
        let loaded = self.models.get(&request.model).ok_or_else(|| {
            let known: Vec<_> = self.models.keys().map(String::as_str).collect();
            let message = format!("no model '{}'; known are {}", request.model, known.join(", "));
            GenerateError::new(ErrorKind::ModelNotFound, message)
        })?;
        let mut timed = Timed { listener: progress, running: None, finished: Vec::new() };
        let mut image = loaded.model.generate(request, &mut timed)?;
        image.receipt.timings = timed.finish();
        image.receipt.peak_memory = memory::peak();
        Ok(image)
    }
}

/// Hands everything on to a listener, and takes the time of the stages.
struct Timed<'a> {
    listener: &'a mut dyn Progress,
    running: Option<(Stage, Instant)>,
    finished: Vec<StageTiming>,
}

impl Timed<'_> {
    fn close(&mut self) {
        if let Some((stage, since)) = self.running.take() {
            self.finished.push(StageTiming { stage, took: since.elapsed() });
        }
    }

    fn finish(mut self) -> Vec<StageTiming> {
        self.close();
        self.finished
    }
}

impl Progress for Timed<'_> {
    fn stage(&mut self, stage: Stage) -> ControlFlow<()> {
        self.close();
        self.running = Some((stage, Instant::now()));
        self.listener.stage(stage)
    }

    fn part(&mut self) -> ControlFlow<()> {
        self.listener.part()
    }

    fn step(&mut self, report: &StepReport<'_>) -> ControlFlow<()> {
        self.listener.step(report)
    }
}
