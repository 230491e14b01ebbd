//! Pictures and faces that are read like prompts: IP-Adapter and its kin.
//!
//! An adapter's file makes a few tokens of each picture (`project`) and holds for every cross-attention layer a second pair of
//! projections to keys and values; what the layer's queries find there is added, with a scale, to what they find in the texts
//! (`unet::Stream`). Everything here runs once per request, in f32.
//!
//! Shapes: tokens `[1, T, D]` where `D` is the width of the text states; with guidance the streams are batches of two,
//! negative first, whose negative half is that of no picture.
//! Source: Ye et al. 2023, "IP-Adapter: Text Compatible Image Prompt Adapter for Text-to-Image Diffusion Models"; layouts of the
//! published safetensors, read as diffusers' `load_ip_adapter` reads them.

mod low_rank;
mod places;
mod project;
mod resampler;
mod steer;

pub(crate) use project::Shown;
pub use steer::{FaceReader, shows_faces};
pub(crate) use steer::{Looks, looks};

use crate::{
    Precision,
    config::{UnetConfig, read_json},
    error::{LoadError, LoadErrorKind, Result},
    files::ModelFiles,
    ops::Linear,
    unet::Stream,
    vision::{ImageProcessor, VisionConfig, VisionEncoder},
    weights::{Scope, Weights},
};
use candle_core::Tensor;
use pentimento_request::Picture;
use places::{Place, attention_places};
use project::Projection;
use sha2::{Digest, Sha256};
use std::fmt;

/// An adapter's file, opened, with the picture encoder that belongs to it.
pub struct ImagePromptFile {
    label: String,
    weights: Weights,
    projection: Projection,
    encoder: Option<EncoderFile>,
    hash: String,
}

/// What an adapter is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// Pictures.
    Pictures,
    /// Faces' embeddings.
    Faces,
    /// Faces' embeddings, and pictures of the faces.
    FacesAndPictures,
}

/// A picture encoder's files. Its weights are bound for each request that looks: they are as many as a model's, and are
/// needed for seconds.
struct EncoderFile {
    config: VisionConfig,
    label: String,
    weights: Weights,
}

/// Folders of picture encoders, beside the adapters: the first one that fits an adapter is its own.
const ENCODERS: [&str; 2] = ["image_encoder", "image_encoder_xl"];

impl ImagePromptFile {
    /// Opens a `.safetensors` file, and a folder `image_encoder` or `image_encoder_xl` beside it that fits it.
    ///
    /// # Errors
    /// When the file is missing, damaged, or no adapter of a known kind.
    pub fn open(files: &dyn ModelFiles, path: &str) -> Result<Self, LoadError> {
        let label = files.describe(path);
        let weights = Weights::open_file(files, path, |_| None)?;
        let root = Scope::root(&weights, Precision::F32).at("image_proj");
        let projection = Projection::load(&root, &weights, path, &label)?;
        let encoder = match projection.wants() {
            Some(wanted) => EncoderFile::beside(files, path, wanted)?,
            None => None,
        };
        let mut hash = Sha256::new();
        weights.hash_into(&mut hash)?;
        Ok(Self { label, projection, encoder, hash: crate::generate::hex(&hash.finalize()), weights })
    }

    /// What it is shown.
    pub fn sight(&self) -> Sight {
        self.projection.sight()
    }

    /// SHA-256 over the weights, in hexadecimal.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// Number of parameters, with those of its picture encoder.
    pub(crate) fn parameters(&self) -> u64 {
        let encoder = self.encoder.as_ref().map_or(0, |encoder| encoder.weights.summary().0);
        self.weights.summary().0 + encoder
    }

    /// Whether the adapter was made for networks of these layers.
    pub(crate) fn fits(&self, unet: &UnetConfig) -> bool {
        self.layers(unet).is_ok()
    }

    /// The pictures as the adapter is shown them.
    ///
    /// # Errors
    /// When there is no picture encoder that fits.
    pub(crate) fn look(&self, pictures: &[&Picture]) -> Result<Vec<Looked>, LoadError> {
        let Some(encoder) = &self.encoder else {
            let message = format!(
                "{} needs a CLIP picture encoder {}: put it in the folder {} beside the file",
                self.label,
                self.projection.wants().map_or(String::new(), |wanted| format!("with {wanted}")),
                ENCODERS[0],
            );
            return Err(LoadError::new(LoadErrorKind::Missing, message));
        };
        let network = encoder.bind()?;
        let failed = |error: candle_core::Error| {
            let message = format!("{}: cannot look at a picture", encoder.label);
            LoadError::caused_by(LoadErrorKind::Tensor, message, error)
        };
        let look = |picture: &&Picture| looked(&network, encoder.config.image_size, picture).map_err(failed);
        pictures.iter().map(look).collect()
    }

    /// Keys and values of what is shown, for every cross-attention layer in the order of loading. `guided`: both halves.
    pub(crate) fn stream(
        &self,
        unet: &UnetConfig,
        shown: &[Shown],
        guided: bool,
        scale: f64,
    ) -> Result<Stream, LoadError> {
        let failed = |error: candle_core::Error| {
            LoadError::caused_by(
                LoadErrorKind::Tensor,
                format!("{}: the adapter does not fit", self.label),
                error,
            )
        };
        let layers = self.layers(unet)?;
        let tokens = self.tokens(shown, guided).map_err(failed)?;
        if !crate::pixels::is_finite(&tokens).map_err(failed)? {
            let message = format!("{}: what is shown gave values that are no numbers", self.label);
            return Err(LoadError::new(LoadErrorKind::Tensor, message));
        }
        let pairs = layers.iter().map(|(key, value)| Ok((key.forward(&tokens)?, value.forward(&tokens)?)));
        Ok(Stream { layers: pairs.collect::<Result<_>>().map_err(failed)?, scale })
    }

    /// The tokens of what is shown, `[1, N·T, D]`; with guidance those of nothing before them as another item of the batch.
    pub(crate) fn tokens(&self, shown: &[Shown], guided: bool) -> Result<Tensor> {
        let all = |of: fn(&Projection, &Shown) -> Result<Tensor>| -> Result<Tensor> {
            let each = shown.iter().map(|shown| of(&self.projection, shown)).collect::<Result<Vec<_>>>()?;
            // One picture's tokens behind another's.
            Tensor::cat(&each, 1)
        };
        let positive = all(Projection::tokens)?;
        match guided {
            true => Tensor::cat(&[&all(Projection::tokens_of_nothing)?, &positive], 0),
            false => Ok(positive),
        }
    }

    /// The projections to keys and values, in the order in which the network's layers were loaded.
    fn layers(&self, unet: &UnetConfig) -> Result<Vec<(Linear, Linear)>, LoadError> {
        let root = Scope::root(&self.weights, Precision::F32).at("ip_adapter");
        let places = attention_places(unet, &self.label)?;
        let beyond = root.at(2 * places.len() + 1).contains("to_k_ip.weight");
        if beyond {
            let message = format!("{}: the adapter was made for a network of more layers", self.label);
            return Err(LoadError::new(LoadErrorKind::Unsupported, message));
        }
        let layer = |place: &Place| {
            let scope = root.at(place.cross_number());
            let (inputs, width) = (self.projection.width(), place.width);
            if inputs != place.context {
                let message = format!(
                    "{}: the adapter was made for text states {inputs} wide, the model's are {}",
                    self.label, place.context
                );
                return Err(LoadError::new(LoadErrorKind::Unsupported, message));
            }
            let linear = |name: &str| Linear::without_bias(&scope.at(name), inputs, width);
            Ok((linear("to_k_ip")?, linear("to_v_ip")?))
        };
        places.iter().map(layer).collect()
    }
}

impl fmt::Debug for ImagePromptFile {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "ImagePromptFile({})", self.label)
    }
}

/// A picture as the encoder sees it.
pub(crate) struct Looked {
    /// `[1, T, hidden]` before the last layer.
    pub(crate) penultimate: Tensor,
    /// The same of a picture of zeros.
    pub(crate) nothing: Tensor,
    /// `[1, projection]` where CLIP compares, for encoders that have the projection.
    pub(crate) projected: Option<Tensor>,
}

/// Which encoder an adapter was made with, told by the width of what it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// The pooled embedding, so wide.
    Projected(usize),
    /// All tokens, so wide.
    Tokens(usize),
}

impl fmt::Display for Wanted {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Projected(width) => write!(out, "embeddings of {width} numbers (projection_dim)"),
            Self::Tokens(width) => write!(out, "tokens of {width} numbers (hidden_size)"),
        }
    }
}

fn looked(network: &VisionEncoder, side: usize, picture: &Picture) -> Result<Looked> {
    let pixels = ImageProcessor::for_side(side).pixels(picture)?;
    let (seen, nothing) = (network.forward(&pixels)?, network.forward(&pixels.zeros_like()?)?);
    let projected = network.project(&seen.pooled)?;
    Ok(Looked { penultimate: seen.penultimate, nothing: nothing.penultimate, projected })
}

impl EncoderFile {
    fn beside(files: &dyn ModelFiles, path: &str, wanted: Wanted) -> Result<Option<Self>, LoadError> {
        let parent = path.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
        for name in ENCODERS {
            let folder = format!("{parent}{name}");
            let path = format!("{folder}/config.json");
            if files.read(&path)?.is_none() {
                continue;
            }
            let config: VisionConfig = read_json(files, &path)?;
            let fits = match wanted {
                Wanted::Projected(width) => config.projection_dim == width,
                Wanted::Tokens(width) => config.hidden_size == width,
            };
            if fits {
                let weights = Weights::open(files, &folder, "model")?;
                return Ok(Some(Self { label: files.describe(&path), config, weights }));
            }
        }
        Ok(None)
    }

    fn bind(&self) -> Result<VisionEncoder, LoadError> {
        VisionEncoder::load(&Scope::root(&self.weights, Precision::F32), &self.config, &self.label)
    }
}
