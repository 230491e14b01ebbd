//! What a model is and what it lacks, told from names and shapes without reading its weights.
//!
//! The networks are bound as for drawing, to weights that are looked for and not read: so what is missed is what drawing
//! needs, and no list of tensors is kept beside the networks.

use super::{
    Model, Part, PartWeights, Weights,
    binding::{bind_texts, bind_unet, bind_vae},
    documents::{Documents, family, native_size},
};
use crate::{
    companions::Companions,
    error::LoadError,
    faults::Faults,
    files::ModelFiles,
    filter::{CHECKER, ContentFilter},
    schedule::NoiseSchedule,
    tokenizer::{self, Tokenizer},
};
use pentimento_kernels::Precision;
use pentimento_request::Size;

/// What was found of a model. What cannot be told for want of a file is `None`.
#[derive(Clone, Debug)]
pub struct Survey {
    /// Family in words, as "Stable Diffusion 1.x".
    pub family: Option<String>,
    /// Size the model was made for.
    pub native_size: Option<Size>,
    /// What the network predicts, `epsilon` or `v_prediction`.
    pub prediction: Option<String>,
    /// Class of the model's own scheduler and its timestep spacing.
    pub scheduler: Option<String>,
    /// The parts whose weights are there.
    pub parts: Vec<Part>,
    /// What lies beside them.
    pub companions: Companions,
    /// What is missing or does not fit, file by file; nothing where the model can be used.
    pub missing: Vec<String>,
}

/// Names of missing tensors that are told; the others are counted.
const TOLD: usize = 3;

impl Model {
    /// Looks through a model's files: what it is, and what is missing.
    ///
    /// # Errors
    /// When nothing says that it is a model of a kind that this engine runs.
    pub fn survey(files: &dyn ModelFiles) -> Result<Survey, LoadError> {
        let documents = Documents::read(files)?;
        let mut looked = Looked { files, parts: Vec::new(), missing: Vec::new() };
        for part in documents.class.text_parts() {
            looked.weights(part.encoder, "model", part.class);
        }
        looked.weights("unet", "diffusion_pytorch_model", "UNet2DConditionModel");
        let vae_class = documents.vae.as_ref().map_or("AutoencoderKL", |vae| &vae.class_name).to_owned();
        looked.weights("vae", "diffusion_pytorch_model", &vae_class);
        for part in documents.class.text_parts() {
            looked.tokenizer(part.tokenizer);
        }
        let schedule = documents.scheduler.as_ref().ok().and_then(|config| {
            looked
                .noted(NoiseSchedule::new(config, &documents.labels.scheduler))
                .map(|schedule| (config, schedule))
        });
        let (unet, vae) = (documents.unet.as_ref().ok(), documents.vae.as_ref().ok());
        let native = unet.zip(vae).map(|(unet, vae)| native_size(unet, vae, &documents.labels.unet));
        let mut survey = Survey {
            family: unet.map(|unet| family(documents.class, unet)),
            native_size: native.and_then(|native| looked.noted(native)),
            prediction: schedule.as_ref().map(|(_, schedule)| schedule.prediction.name().to_owned()),
            scheduler: schedule.as_ref().map(|(config, schedule)| schedule.described(&config.class_name)),
            parts: Vec::new(),
            companions: looked.noted(Companions::find(files)).unwrap_or_default(),
            missing: Vec::new(),
        };
        looked.tensors(documents);
        looked.checker();
        (survey.parts, survey.missing) = (looked.parts, looked.missing);
        Ok(survey)
    }
}

/// A walk through a model's files.
struct Looked<'a> {
    files: &'a dyn ModelFiles,
    parts: Vec<Part>,
    missing: Vec<String>,
}

impl Looked<'_> {
    /// Notes what is missing, once.
    fn noted<T>(&mut self, result: Result<T, LoadError>) -> Option<T> {
        result.map_err(|error| self.note(error.to_string())).ok()
    }

    fn note(&mut self, missing: String) {
        if !self.missing.contains(&missing) {
            self.missing.push(missing);
        }
    }

    fn weights(&mut self, folder: &str, stem: &str, class: &str) {
        if let Some(weights) = self.noted(Weights::open(self.files, folder, stem)) {
            self.parts.push(Part::of(folder, class, &weights));
        }
    }

    fn tokenizer(&mut self, folder: &str) {
        let Some(missing) = self.noted(tokenizer::missing(self.files, folder)) else { return };
        if missing.is_empty() {
            self.noted(Tokenizer::load(self.files, folder));
        }
        // Each file is told, not only the one that is read first.
        missing.into_iter().for_each(|file| self.note(file));
    }

    /// The tensors of each part whose configuration and weights are there.
    fn tensors(&mut self, documents: Documents) {
        let class = documents.class;
        let Documents { texts, unet, vae, scheduler, .. } = &documents;
        let errors = texts.iter().filter_map(|text| text.as_ref().err());
        let errors =
            errors.chain(unet.as_ref().err()).chain(vae.as_ref().err()).chain(scheduler.as_ref().err());
        let errors: Vec<_> = errors.map(ToString::to_string).collect();
        errors.into_iter().for_each(|error| self.note(error));
        // What cannot be opened or read is noted by now.
        let Ok(configs) = documents.whole() else { return };
        let Ok(weights) = PartWeights::open(self.files, class) else { return };
        self.noted(configs.check());
        let labels = &configs.labels;
        let lists = [(); 3].map(|()| Faults::of_names());
        let [texts, unet, vae] = &lists;
        let weights = PartWeights {
            texts: weights.texts.into_iter().map(|text| text.noting(texts)).collect(),
            unet: weights.unet.noting(unet),
            vae: weights.vae.noting(vae),
        };
        // Nothing is computed, so the precision means nothing.
        let precision = Precision::F32;
        self.noted(bind_texts(&configs, &weights, precision, None, None).map(drop));
        self.noted(bind_unet(&configs, &weights, precision, None, None).map(drop));
        self.noted(bind_vae(&configs, &weights, precision).map(drop));
        for (label, faults) in
            [labels.texts.join(", ").as_str(), &labels.unet, &labels.vae].iter().zip(&lists)
        {
            let (strange, tensors) = faults.told();
            self.absent(label, &faults.absent(), tensors);
            strange.into_iter().for_each(|fault| self.note(fault));
        }
    }

    fn absent(&mut self, config: &str, names: &[String], of: u64) {
        if names.is_empty() {
            return;
        }
        let more = if names.len() > TOLD { ", …" } else { "" };
        let told = names.iter().take(TOLD).map(String::as_str).collect::<Vec<_>>().join(", ");
        let count = names.len();
        self.note(format!("{count} of the {of} tensors that {config} means are missing: {told}{more}"));
    }

    fn checker(&mut self) {
        if let Some(Some(filter)) = self.noted(ContentFilter::find(self.files)) {
            self.parts.push(Part::of(CHECKER, "StableDiffusionSafetyChecker", filter.weights()));
        }
    }
}
