//! CLIP guidance: steps that go a little further to where the picture looks more like its prompt.
//!
//! After chosen steps' prediction of the clean latent, the cosine of its picture's CLIP embedding and the prompts' is
//! differentiated through decoder and picture encoder (`sight`), and the prediction moves up that slope. The network that
//! predicts is not differentiated. How far it moves does not depend on how steep the slope is: the change's root mean square
//! is the preset's strength, times the share of noise in the latent at that step (σ/√(1+σ²)), so that it fades with the noise.
//! Nothing is drawn by chance.
//!
//! The service whose presets these are never published what they do; steps and strengths here are Pentimento's own.
//! Source: Crowson 2021, CLIP-guided diffusion; Dhariwal & Nichol 2021, section 4 (guidance by a classifier's gradient).

mod sight;

use crate::{
    brought::of_clip,
    config::{TextConfig, VaeConfig, read_json},
    emphasis::{self, Piece},
    error::{LoadError, Result},
    files::ModelFiles,
    generate::internal,
    ops::Linear,
    samplers::{Denoise, Position},
    schedule::NoiseLevel,
    text::TextEncoder,
    tokenizer::Tokenizer,
    vision::VisionConfig,
    weights::{Scope, Weights},
};
use candle_core::Tensor;
use pentimento_kernels::Precision;
use pentimento_request::{ClipGuidance, GenerateError, GenerationRequest, PromptSyntax, Sampler};
use serde::Deserialize;
use sight::ClipSight;

/// The samplers that Stability's documents name for it.
pub(crate) const ANCESTRAL: [Sampler; 4] =
    [Sampler::KDpmpp2sAncestral, Sampler::KEulerAncestral, Sampler::KDpm2Ancestral, Sampler::Ddim];

/// Folders of a model that may hold a CLIP picture encoder.
const FOLDERS: [&str; 3] = ["image_encoder", "clip_model", "safety_checker"];

/// What a preset means.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Rule {
    /// Share of the steps before the first guided one, and share behind which none is guided.
    span: (f64, f64),
    /// Every so manieth step is guided.
    every: usize,
    /// How often a guided step looks anew.
    looks: usize,
    /// Root mean square of a guided step's change where all is noise.
    strength: f64,
}

const fn rule(preset: ClipGuidance) -> Rule {
    let (span, every, looks, strength) = match preset {
        // What is shown, and where.
        ClipGuidance::FastBlue => ((0.0, 0.5), 2, 1, 0.1),
        // Surfaces.
        ClipGuidance::FastGreen => ((0.5, 1.0), 2, 1, 0.1),
        ClipGuidance::Simple => ((0.0, 1.0), 2, 1, 0.1),
        ClipGuidance::Slow => ((0.0, 0.75), 1, 1, 0.1),
        ClipGuidance::Slower => ((0.0, 1.0), 1, 1, 0.15),
        ClipGuidance::Slowest => ((0.0, 1.0), 1, 2, 0.2),
    };
    Rule { span, every, looks, strength }
}

impl Rule {
    fn guides(&self, step: usize, steps: usize) -> bool {
        let first = (self.span.0 * steps as f64).ceil() as usize;
        let end = (self.span.1 * steps as f64).ceil() as usize;
        (first..end).contains(&step) && (step - first).is_multiple_of(self.every)
    }
}

/// The files of a model's CLIP: a picture encoder, and what brings texts to the same place.
pub(crate) struct ClipFiles {
    config: VisionConfig,
    weights: Weights,
    label: String,
    /// Its own text encoder, where it has one; else the model's own is that of this CLIP.
    text: Option<TextConfig>,
    /// Whether the projection of texts lies with the model's text encoder.
    projection_with_text: bool,
}

/// `config.json` of a CLIP, or of its picture encoder alone.
#[derive(Debug, Deserialize)]
struct ClipConfig {
    projection_dim: Option<usize>,
    vision_config: Option<VisionConfig>,
    text_config: Option<TextConfig>,
}

/// Where texts and pictures are compared.
const TEXT_PROJECTION: &str = "text_projection.weight";
const PICTURE_PROJECTION: &str = "visual_projection.weight";

impl ClipFiles {
    /// The CLIP in a model's folder; `None` where there is none with both projections.
    pub(crate) fn find(files: &dyn ModelFiles, text_encoder: &Weights) -> Result<Option<Self>, LoadError> {
        for folder in FOLDERS {
            let path = format!("{folder}/config.json");
            if files.list(folder)?.is_empty() || files.read(&path)?.is_none() {
                continue;
            }
            let weights = Weights::open(files, folder, "model")?;
            let projects = [&weights, text_encoder].map(|weights| weights.contains(TEXT_PROJECTION));
            if !weights.contains(PICTURE_PROJECTION) || projects == [false, false] {
                continue;
            }
            let ClipConfig { projection_dim, vision_config, text_config } = read_json(files, &path)?;
            let mut config = match vision_config {
                Some(config) => config,
                None => read_json(files, &path)?,
            };
            config.projection_dim = projection_dim.unwrap_or(config.projection_dim);
            let has_text = weights.contains("text_model.embeddings.token_embedding.weight");
            return Ok(Some(Self {
                config,
                weights,
                label: files.describe(&path),
                text: text_config.filter(|_| has_text),
                projection_with_text: !projects[0],
            }));
        }
        Ok(None)
    }

    /// Bytes that guidance takes with an autoencoder of so many parameters.
    pub(crate) fn memory(&self, vae: &VaeConfig, vae_parameters: u64) -> u64 {
        of_clip([vae_parameters, self.weights.summary().0], vae, &self.config)
    }
}

/// What of a model CLIP's guidance takes.
#[derive(Clone, Copy)]
pub(crate) struct Parts<'a> {
    pub(crate) clip: &'a ClipFiles,
    pub(crate) vae: (&'a Weights, &'a VaeConfig, &'a str),
    pub(crate) text: (&'a Weights, &'a TextConfig, &'a str),
    pub(crate) tokenizer: &'a Tokenizer,
}

/// Guidance of one request. Bound for the request alone: it is as large as a model and needed by few.
pub(crate) struct Guide {
    pub(crate) preset: ClipGuidance,
    sight: ClipSight,
    /// Where the prompts are, `[1, E]`, of length 1.
    target: Tensor,
}

impl Guide {
    /// Reads the prompts that attract, and binds the networks. `None` where no prompt attracts.
    pub(crate) fn new(
        parts: Parts,
        preset: ClipGuidance,
        request: &GenerationRequest,
    ) -> Result<Option<Self>, GenerateError> {
        let target = target(parts, request)?;
        let clip = parts.clip;
        let sight = ClipSight::load(parts.vae, (&clip.weights, &clip.config, &clip.label));
        let sight = sight.map_err(crate::conditioning::unfit)?;
        Ok(target.map(|target| Self { preset, sight, target }))
    }

    /// The length of a guided step's change.
    pub(crate) fn strength(&self) -> f64 {
        rule(self.preset).strength
    }

    /// Where the prompts are.
    #[cfg(test)]
    pub(crate) fn target(&self) -> &Tensor {
        &self.target
    }

    /// The cosine of a clean latent's picture and the prompts, and its gradient.
    #[cfg(test)]
    pub(crate) fn gradient(&self, latents: &Tensor) -> Result<(f64, Tensor)> {
        self.sight.gradient(latents, &self.target)
    }
}

/// The mean of the attracting prompts' embeddings, weighted, of length 1. Of long prompts the first chunk counts.
fn target(parts: Parts, request: &GenerationRequest) -> Result<Option<Tensor>, GenerateError> {
    let Parts { clip, text: (weights, config, label), tokenizer, .. } = parts;
    let (weights, config) = match &clip.text {
        Some(config) => (&clip.weights, config),
        None => (weights, config),
    };
    let root = Scope::root(weights, Precision::F32);
    let encoder = TextEncoder::load(&root, config, label).map_err(crate::conditioning::unfit)?;
    let projection_root = match clip.projection_with_text {
        true => Scope::root(parts.text.0, Precision::F32),
        false => Scope::root(&clip.weights, Precision::F32),
    };
    let (inputs, outputs) = (config.hidden_size, clip.config.projection_dim);
    let projection = Linear::without_bias(&projection_root.at("text_projection"), inputs, outputs);
    let projection = projection.map_err(crate::conditioning::unfit)?;
    let mut sum: Option<Tensor> = None;
    for prompt in request.prompts.iter().filter(|prompt| prompt.weight > 0.0) {
        let ids = ids(tokenizer, &prompt.text, request.syntax, encoder.length() - 2);
        let ids = ids.map_err(crate::conditioning::unfit)?;
        let end = encoder.end_state(tokenizer.framed(&ids, encoder.length()));
        let embedded = end.and_then(|end| unit(&projection.forward(&end)?)? * f64::from(prompt.weight));
        let embedded = embedded.map_err(internal)?;
        sum = Some(match sum {
            Some(sum) => (sum + embedded).map_err(internal)?,
            None => embedded,
        });
    }
    sum.map(|sum| unit(&sum)).transpose().map_err(internal)
}

/// The tokens of a prompt without what its syntax adds.
fn ids(tokenizer: &Tokenizer, text: &str, syntax: PromptSyntax, most: usize) -> Result<Vec<u32>, LoadError> {
    let words = match syntax {
        PromptSyntax::Plain => text.to_owned(),
        PromptSyntax::Emphasis => {
            let pieces = emphasis::parse(text).into_iter().map(|piece| match piece {
                Piece::Text(text, _) => text,
                Piece::Break => " ".to_owned(),
            });
            pieces.collect()
        }
    };
    let mut ids = tokenizer.ids(&words)?;
    ids.truncate(most);
    Ok(ids)
}

fn unit(x: &Tensor) -> Result<Tensor> {
    x.broadcast_div(&x.sqr()?.sum_all()?.sqrt()?)
}

/// A network's prediction, moved by CLIP's.
pub(crate) struct ClipGuided<'a, D> {
    pub(crate) inner: D,
    pub(crate) guide: &'a Guide,
    position: Position<'a>,
    /// Which way the running step goes, of root mean square 1: samplers that ask twice in a step are told the same.
    way: Option<(usize, Tensor)>,
    /// The steps that were guided.
    pub(crate) guided: Vec<usize>,
}

impl<'a, D> ClipGuided<'a, D> {
    pub(crate) fn new(inner: D, guide: &'a Guide, position: Position<'a>) -> Self {
        Self { inner, guide, position, way: None, guided: Vec::new() }
    }
}

impl<D: Denoise> Denoise for ClipGuided<'_, D> {
    fn denoise(&mut self, x: &Tensor, level: NoiseLevel) -> Result<Tensor> {
        let denoised = self.inner.denoise(x, level)?;
        let (rule, step) = (rule(self.guide.preset), self.position.step.get());
        if !rule.guides(step, self.position.of) {
            return Ok(denoised);
        }
        let length = rule.strength * level.noise / level.signal.hypot(level.noise);
        let way = match self.way.take().filter(|(known, _)| *known == step) {
            Some((_, way)) => way,
            None => {
                self.guided.push(step);
                self.look(&denoised, length, rule.looks)?
            }
        };
        let moved = &denoised + (&way * length)?;
        self.way = Some((step, way));
        moved
    }
}

impl<D> ClipGuided<'_, D> {
    /// Which way it looks more like the prompts: up the slope, in so many parts, each from where the last one led.
    fn look(&self, denoised: &Tensor, length: f64, looks: usize) -> Result<Tensor> {
        let mut way = denoised.zeros_like()?;
        for _ in 0..looks {
            let at = (denoised + (&way * length)?)?;
            let (_, slope) = self.guide.sight.gradient(&at, &self.guide.target)?;
            way = (way + (of_deviation_1(&slope)? / looks as f64)?)?;
        }
        Ok(way)
    }
}

/// A slope brought to a root mean square of 1; one that is flat stays so.
fn of_deviation_1(slope: &Tensor) -> Result<Tensor> {
    let values: Vec<f32> = slope.flatten_all()?.to_vec1()?;
    let squares: f64 = values.iter().map(|value| f64::from(*value).powi(2)).sum();
    match (squares / values.len() as f64).sqrt() {
        0.0 => Ok(slope.clone()),
        length => slope / length,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_guide_the_steps_that_the_documents_name() {
        let steps = |preset| (0..8).filter(|step| rule(preset).guides(*step, 8)).collect::<Vec<_>>();
        assert_eq!(steps(ClipGuidance::FastBlue), [0, 2]);
        assert_eq!(steps(ClipGuidance::FastGreen), [4, 6]);
        assert_eq!(steps(ClipGuidance::Simple), [0, 2, 4, 6]);
        assert_eq!(steps(ClipGuidance::Slow), [0, 1, 2, 3, 4, 5]);
        for preset in [ClipGuidance::Slower, ClipGuidance::Slowest] {
            assert_eq!(steps(preset).len(), 8);
        }
        let strengths = ClipGuidance::ALL.map(|preset| rule(preset).strength);
        assert!(strengths.is_sorted());
    }
}
