//! How adapters make tokens of what they are shown.
//!
//! The kind is told by the tensors' names. Shapes: what is shown is a picture's pooled embedding `[1, E]`, its tokens
//! `[1, S, E]`, or a face's embedding `[1, 512]`; the result is `[1, T, D]`.

use super::{
    Looked, Sight, Wanted,
    resampler::{Resampler, matrix},
};
use crate::{
    error::{LoadError, LoadErrorKind, Result},
    ops::{Activation, LayerNorm, Linear},
    weights::{Scope, Weights},
};
use candle_core::Tensor;

/// What an adapter is shown: one picture or one face.
pub(crate) struct Shown {
    pub(crate) picture: Option<Looked>,
    /// `[1, 512]`, of length 1.
    pub(crate) face: Option<Tensor>,
}

/// Two linear layers with GELU between them, and a norm over each token.
pub(crate) struct Perceptron {
    inner: Linear,
    outer: Linear,
    norm: LayerNorm,
    inputs: usize,
    width: usize,
}

/// The projection of an adapter.
pub(crate) enum Projection {
    /// IP-Adapter: tokens from the pooled embedding.
    Plain { linear: Linear, norm: LayerNorm, inputs: usize, width: usize },
    /// IP-Adapter Full: every token of the picture.
    Full(Perceptron),
    /// IP-Adapter Plus: queries that gather from the picture's tokens.
    Plus { queries: Tensor, resampler: Resampler },
    /// IP-Adapter FaceID: tokens from a face's embedding.
    Face(Perceptron),
    /// IP-Adapter FaceID Plus: tokens from a face's embedding that gather from the picture's tokens; in its second version
    /// the tokens stay beside what they gathered.
    FacePlus { tokens: Perceptron, resampler: Resampler, keeps_tokens: bool },
}

/// Tokens of the plain adapters, which no tensor's shape tells.
const PLAIN_TOKENS: usize = 4;

/// PyTorch's default epsilon of LayerNorm.
const EPSILON: f64 = 1e-5;

impl Projection {
    /// Binds the projection at `scope`, the place `image_proj` of `weights`.
    pub(crate) fn load(scope: &Scope, weights: &Weights, path: &str, label: &str) -> Result<Self, LoadError> {
        if scope.contains("proj.weight") {
            let [outputs, inputs] = matrix(weights, "image_proj.proj.weight", label)?;
            let width = outputs / PLAIN_TOKENS;
            let linear = Linear::load(&scope.at("proj"), inputs, PLAIN_TOKENS * width)?;
            let norm = LayerNorm::load(&scope.at("norm"), width, EPSILON)?;
            return Ok(Self::Plain { linear, norm, inputs, width });
        }
        if scope.contains("proj.3.weight") {
            return Ok(Self::Full(Perceptron::load(scope, weights, "proj.3", label)?));
        }
        if scope.contains("perceiver_resampler.proj_in.weight") {
            let resampler = Resampler::load(
                &scope.at("perceiver_resampler"),
                weights,
                "image_proj.perceiver_resampler",
                label,
            )?;
            let tokens = Perceptron::load(scope, weights, "norm", label)?;
            if tokens.width != resampler.hidden {
                let message = format!(
                    "{label}: tokens {} wide do not fit a resampler of {}",
                    tokens.width, resampler.hidden
                );
                return Err(LoadError::new(LoadErrorKind::Tensor, message));
            }
            // Both versions have the same tensors; the published files tell them apart by name only.
            return Ok(Self::FacePlus {
                tokens,
                resampler,
                keeps_tokens: path.to_lowercase().contains("plusv2"),
            });
        }
        if scope.contains("norm.weight") {
            return Ok(Self::Face(Perceptron::load(scope, weights, "norm", label)?));
        }
        if scope.contains("latents") {
            let resampler = Resampler::load(scope, weights, "image_proj", label)?;
            let shape = weights.shape("image_proj.latents").unwrap_or_default();
            let queries = match shape {
                [1, count, hidden] if *hidden == resampler.hidden && *count > 0 => {
                    scope.tensor("latents", shape)?
                }
                found => {
                    let message = format!("{label}: tensor 'image_proj.latents' has shape {found:?}");
                    return Err(LoadError::new(LoadErrorKind::Tensor, message));
                }
            };
            return Ok(Self::Plus { queries, resampler });
        }
        let message = format!(
            "{label}: no IP-Adapter of a known kind: its tensors are named image_proj.… and ip_adapter.…"
        );
        Err(LoadError::new(LoadErrorKind::Unsupported, message))
    }

    /// What it is shown.
    pub(crate) fn sight(&self) -> Sight {
        match self {
            Self::Plain { .. } | Self::Full(_) | Self::Plus { .. } => Sight::Pictures,
            Self::Face(_) => Sight::Faces,
            Self::FacePlus { .. } => Sight::FacesAndPictures,
        }
    }

    /// The picture encoder that it was made with; `None` where it is shown no pictures.
    pub(crate) fn wants(&self) -> Option<Wanted> {
        match self {
            Self::Plain { inputs, .. } => Some(Wanted::Projected(*inputs)),
            Self::Full(perceptron) => Some(Wanted::Tokens(perceptron.inputs)),
            Self::Plus { resampler, .. } | Self::FacePlus { resampler, .. } => {
                Some(Wanted::Tokens(resampler.inputs))
            }
            Self::Face(_) => None,
        }
    }

    /// Width of the tokens.
    pub(crate) fn width(&self) -> usize {
        match self {
            Self::Plain { width, .. } => *width,
            Self::Full(perceptron) | Self::Face(perceptron) => perceptron.width,
            Self::Plus { resampler, .. } | Self::FacePlus { resampler, .. } => resampler.outputs,
        }
    }

    /// The tokens of what is shown.
    pub(crate) fn tokens(&self, shown: &Shown) -> Result<Tensor> {
        match self {
            Self::Plain { .. } => self.plain(projected(picture(shown)?)?),
            Self::Full(perceptron) => perceptron.forward(&picture(shown)?.penultimate),
            Self::Plus { queries, resampler } => resampler.forward(queries, &picture(shown)?.penultimate),
            Self::Face(perceptron) => perceptron.forward(face(shown)?),
            Self::FacePlus { .. } => self.face_plus(face(shown)?, &picture(shown)?.penultimate),
        }
    }

    /// The tokens of no picture and no face, for the unconditional half: zeros instead of embeddings, and a picture of zeros.
    pub(crate) fn tokens_of_nothing(&self, shown: &Shown) -> Result<Tensor> {
        match self {
            Self::Plain { .. } => self.plain(&projected(picture(shown)?)?.zeros_like()?),
            Self::Full(perceptron) => perceptron.forward(&picture(shown)?.nothing),
            Self::Plus { queries, resampler } => resampler.forward(queries, &picture(shown)?.nothing),
            Self::Face(perceptron) => perceptron.forward(&face(shown)?.zeros_like()?),
            Self::FacePlus { .. } => self.face_plus(&face(shown)?.zeros_like()?, &picture(shown)?.nothing),
        }
    }

    fn plain(&self, embedding: &Tensor) -> Result<Tensor> {
        let Self::Plain { linear, norm, inputs, width } = self else {
            candle_core::bail!("no plain adapter")
        };
        expect_width(embedding, *inputs)?;
        norm.forward(&linear.forward(embedding)?.reshape((1, PLAIN_TOKENS, *width))?)
    }

    fn face_plus(&self, face: &Tensor, picture: &Tensor) -> Result<Tensor> {
        let Self::FacePlus { tokens, resampler, keeps_tokens } = self else {
            candle_core::bail!("no FaceID Plus")
        };
        let tokens = tokens.forward(face)?;
        let gathered = resampler.forward(&tokens, picture)?;
        if *keeps_tokens { tokens + gathered } else { Ok(gathered) }
    }
}

impl Perceptron {
    /// `norm` names the place of the norm, whose length is the tokens' width.
    fn load(scope: &Scope, weights: &Weights, norm: &str, label: &str) -> Result<Self, LoadError> {
        let [inner, inputs] = matrix(weights, "image_proj.proj.0.weight", label)?;
        let [outputs, _] = matrix(weights, "image_proj.proj.2.weight", label)?;
        let width = match weights.shape(&format!("image_proj.{norm}.weight")) {
            Some([width]) if *width > 0 && outputs.is_multiple_of(*width) => *width,
            found => {
                let message = format!("{label}: tensor 'image_proj.{norm}.weight' has shape {found:?}");
                return Err(LoadError::new(LoadErrorKind::Tensor, message));
            }
        };
        Ok(Self {
            inner: Linear::load(&scope.at("proj.0"), inputs, inner)?,
            outer: Linear::load(&scope.at("proj.2"), inner, outputs)?,
            norm: LayerNorm::load(&scope.at(norm), width, EPSILON)?,
            inputs,
            width,
        })
    }

    /// `[1, E]` or `[1, S, E]` -> `[1, T, D]`
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        expect_width(x, self.inputs)?;
        let y = self.outer.forward(&self.inner.forward_act(x, Activation::Gelu)?)?;
        let tokens = y.elem_count() / self.width;
        self.norm.forward(&y.reshape((1, tokens, self.width))?)
    }
}

/// Refuses what another encoder made: its numbers are those of another model, whatever their count.
pub(super) fn expect_width(x: &Tensor, expected: usize) -> Result<()> {
    match x.dims().last() {
        Some(width) if *width == expected => Ok(()),
        found => candle_core::bail!("embeddings {found:?} wide were given, and {expected} are expected"),
    }
}

fn picture(shown: &Shown) -> Result<&Looked> {
    shown.picture.as_ref().ok_or_else(|| candle_core::Error::Msg("the adapter needs a picture".to_owned()))
}

fn face(shown: &Shown) -> Result<&Tensor> {
    shown.face.as_ref().ok_or_else(|| candle_core::Error::Msg("the adapter needs a face".to_owned()))
}

fn projected(looked: &Looked) -> Result<&Tensor> {
    let missing = "the picture encoder has no projection, which this adapter needs";
    looked.projected.as_ref().ok_or_else(|| candle_core::Error::Msg(missing.to_owned()))
}
