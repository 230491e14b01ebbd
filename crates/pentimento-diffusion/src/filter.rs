//! The content filter: a model's own checker (`StableDiffusionSafetyChecker`) that looks at finished pictures.
//!
//! A picture's CLIP embedding is compared with those of concepts; each concept has a threshold. Where one of the special
//! concepts is met, the bar for the others is lowered by 0.01.
//! Source: diffusers' `pipelines/stable_diffusion/safety_checker.py`; Rando et al. 2022, "Red-Teaming the Stable Diffusion
//! Safety Filter".

use crate::{
    Precision,
    config::read_json,
    error::{LoadError, Result},
    files::ModelFiles,
    generate::internal,
    ops::with_values,
    vision::{ImageProcessor, VisionConfig, VisionEncoder},
    weights::{Scope, Weights},
};
use pentimento_imaging as imaging;
use pentimento_request::{ErrorKind, FilterMode, GenerateError, Picture, Verdict};
use serde::Deserialize;
use std::sync::OnceLock;

/// The folder of the checker in a model.
pub(crate) const CHECKER: &str = "safety_checker";

/// How pictures are prepared for it.
const PREPROCESSOR: &str = "feature_extractor/preprocessor_config.json";

/// Numbers of special and of other concepts, fixed in diffusers' class.
const SPECIAL: usize = 3;
const CONCEPTS: usize = 17;

/// What a special concept lowers the bar by.
const SPECIAL_ADJUSTMENT: f64 = 0.01;

/// A model's checker: its files checked, its weights bound when it is first asked.
pub(crate) struct ContentFilter {
    config: CheckerConfig,
    processor: ImageProcessor,
    weights: Weights,
    label: String,
    checker: OnceLock<Result<SafetyChecker, LoadError>>,
}

/// `safety_checker/config.json`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
struct CheckerConfig {
    projection_dim: usize,
    vision_config: VisionConfig,
}

impl Default for CheckerConfig {
    fn default() -> Self {
        // The default of transformers' CLIPConfig.
        Self { projection_dim: 512, vision_config: VisionConfig::default() }
    }
}

impl ContentFilter {
    /// The checker in a model's folder; `None` where there is no such folder.
    pub(crate) fn find(files: &dyn ModelFiles) -> Result<Option<Self>, LoadError> {
        if files.list(CHECKER)?.is_empty() {
            return Ok(None);
        }
        let path = format!("{CHECKER}/config.json");
        let mut config: CheckerConfig = read_json(files, &path)?;
        config.vision_config.projection_dim = config.projection_dim;
        let side = config.vision_config.image_size;
        let processor = match files.read(PREPROCESSOR)? {
            Some(_) => ImageProcessor::read(files, PREPROCESSOR, side)?,
            None => ImageProcessor::for_side(side),
        };
        let weights = Weights::open(files, CHECKER, "model")?;
        let label = files.describe(&path);
        Ok(Some(Self { config, processor, weights, label, checker: OnceLock::new() }))
    }

    /// Its files of weights.
    pub(crate) fn weights(&self) -> &Weights {
        &self.weights
    }

    /// What the checker leaves of a picture, and its verdict.
    pub(crate) fn judge(
        &self,
        picture: Picture,
        mode: FilterMode,
    ) -> Result<(Picture, Verdict), GenerateError> {
        let checker = self.checker().map_err(|error| {
            GenerateError::new(ErrorKind::Internal, format!("cannot bind the safety checker: {error}"))
        })?;
        let scores = checker.scores(&picture).map_err(internal)?;
        Ok(judged(picture, scores.object(), mode))
    }

    /// The checker. In f32 always: a verdict does not depend on the precision of the model.
    pub(crate) fn checker(&self) -> Result<&SafetyChecker, &LoadError> {
        let bind = || {
            let root = Scope::root(&self.weights, Precision::F32);
            SafetyChecker::load(&root, &self.config, self.processor.clone(), &self.label)
        };
        self.checker.get_or_init(bind).as_ref()
    }
}

/// The checker with its weights bound.
pub(crate) struct SafetyChecker {
    encoder: VisionEncoder,
    processor: ImageProcessor,
    special: Vec<Concept>,
    concepts: Vec<Concept>,
}

/// What is looked for in a picture.
struct Concept {
    embedding: Vec<f32>,
    /// The similarity from which on it counts as found.
    threshold: f64,
}

/// How far a picture is above the threshold of each concept, to three digits.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Scores {
    pub(crate) special: Vec<f64>,
    pub(crate) concepts: Vec<f64>,
}

impl Scores {
    /// Whether the checker objects to the picture. Special concepts alone only lower the bar.
    pub(crate) fn object(&self) -> bool {
        self.concepts.iter().any(|score| *score > 0.0)
    }
}

impl SafetyChecker {
    fn load(
        root: &Scope,
        config: &CheckerConfig,
        processor: ImageProcessor,
        label: &str,
    ) -> Result<Self, LoadError> {
        let concepts = |name: &str, count: usize| -> Result<Vec<Concept>, LoadError> {
            let width = config.projection_dim;
            let embeddings = root.values(name, &[count, width])?;
            let thresholds = root.values(&format!("{name}_weights"), &[count])?;
            let pairs = embeddings.chunks_exact(width).zip(thresholds);
            let concept = |(embedding, threshold): (&[f32], f32)| Concept {
                embedding: embedding.to_vec(),
                threshold: f64::from(threshold),
            };
            Ok(pairs.map(concept).collect())
        };
        Ok(Self {
            encoder: VisionEncoder::load(root, &config.vision_config, label)?,
            processor,
            special: concepts("special_care_embeds", SPECIAL)?,
            concepts: concepts("concept_embeds", CONCEPTS)?,
        })
    }

    /// What the checker makes of a picture.
    pub(crate) fn scores(&self, picture: &Picture) -> Result<Scores> {
        let seen = self.encoder.forward(&self.processor.pixels(picture)?)?;
        let Some(embedding) = self.encoder.project(&seen.pooled)? else {
            candle_core::bail!("the checker has no projection");
        };
        let embedding = with_values(&embedding, <[f32]>::to_vec)?;
        // A similarity that is no number is above no threshold, and would let everything pass.
        if embedding.iter().any(|value| !value.is_finite()) {
            candle_core::bail!("the checker gave values that are no numbers");
        }
        let mut adjustment = 0.0;
        let mut special = Vec::with_capacity(SPECIAL);
        for concept in &self.special {
            let score = to_three_digits(concept.excess(&embedding) + adjustment);
            if score > 0.0 {
                adjustment = SPECIAL_ADJUSTMENT;
            }
            special.push(score);
        }
        let concepts = self.concepts.iter();
        let concepts =
            concepts.map(|concept| to_three_digits(concept.excess(&embedding) + adjustment)).collect();
        Ok(Scores { special, concepts })
    }
}

impl Concept {
    /// How far the similarity is above the threshold.
    fn excess(&self, embedding: &[f32]) -> f64 {
        cosine(embedding, &self.embedding) - self.threshold
    }
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot =
        |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum() };
    // 1e-12: the least length of torch's `normalize`.
    let length = |a: &[f32]| dot(a, a).sqrt().max(1e-12);
    dot(a, b) / (length(a) * length(b))
}

/// As numpy rounds: half to even.
fn to_three_digits(value: f64) -> f64 {
    (value * 1000.0).round_ties_even() / 1000.0
}

/// What is done with pictures that the checker objects to: what was asked for, else what is usual for the model.
pub(crate) fn mode(filter: Option<&ContentFilter>, asked: Option<FilterMode>) -> FilterMode {
    let usual = if filter.is_some() { FilterMode::Blur } else { FilterMode::Off };
    asked.unwrap_or(usual)
}

/// What becomes of a picture in this mode, and the verdict.
fn judged(picture: Picture, objected: bool, mode: FilterMode) -> (Picture, Verdict) {
    match (objected, mode) {
        (_, FilterMode::Off) => (picture, Verdict::Unchecked),
        (false, _) => (picture, Verdict::Clean),
        (true, FilterMode::Flag) => (picture, Verdict::Flagged),
        (true, FilterMode::Blur) => (imaging::blur_away(&picture), Verdict::Blurred),
        (true, FilterMode::Block) => (imaging::black(&picture), Verdict::Blocked),
    }
}
