//! The embedding of the timestep, and of what else holds for the whole picture.
//!
//! Shapes: the timestep's embedding is `[1, 4·channels]`; with added conditions, which may differ within a batch,
//! `[B, 4·channels]`.
//! Source: Vaswani et al. 2017, section 3.5, as diffusers' `get_timestep_embedding` computes it: in f32, because an angle
//! of up to 1000 radians keeps what f32 rounded away. Podell et al. 2023, section 2.2 (sizes and crops); Luo et al.
//! 2023, "Latent Consistency Models", section 4.2 (the guidance scale as a condition).

use crate::{
    config::{UnetConfig, unsupported},
    error::{LoadError, LoadErrorKind, Result},
    ops::{Activation, Linear},
    weights::Scope,
};
use candle_core::{Device, Tensor};

/// What some networks are told of a picture beside its texts' states.
pub(crate) struct AddedInputs<'a> {
    /// States of the whole texts, `[B, P]`, for networks of the SDXL class.
    pub(crate) pooled: Option<&'a Tensor>,
    /// Heights and widths in pixels: of the original picture, of the crop's corner, of the picture asked for.
    pub(crate) sizes: [f32; 6],
    /// The guidance scale, for consistency models that were distilled with one.
    pub(crate) guidance_scale: f64,
}

/// The same, embedded: computed once per request, since no step changes it.
#[derive(Clone)]
pub(crate) struct Added {
    /// `[B, 4·channels]`, added to the timestep's embedding.
    embedding: Option<Tensor>,
    /// `[1, channels]`, added to the timestep's sinusoids.
    guidance: Option<Tensor>,
}

impl Added {
    /// That of the last item of a batch alone.
    pub(crate) fn of_last_item(&self) -> Result<Self> {
        let Self { embedding, guidance } = self;
        let last = embedding.as_ref().map(|embedding| embedding.narrow(0, embedding.dim(0)? - 1, 1));
        Ok(Self { embedding: last.transpose()?, guidance: guidance.clone() })
    }
}

/// Sinusoids of the timestep through a two-layer perceptron, and of other numbers likewise.
pub(crate) struct TimeEmbedding {
    sinusoids: Sinusoids,
    linear1: Linear,
    linear2: Linear,
    sizes: Option<SizeEmbedding>,
    guidance: Option<GuidanceEmbedding>,
}

impl TimeEmbedding {
    pub(crate) fn load(scope: &Scope, config: &UnetConfig, label: &str) -> Result<Self, LoadError> {
        let channels = config.block_out_channels[0];
        let width = Self::width(channels);
        let (flip, shift) = (config.flip_sin_to_cos, config.freq_shift);
        let sizes = match config.addition_embed_type.as_deref() {
            None => None,
            Some("text_time") => Some(SizeEmbedding::load(&scope.at("add_embedding"), config, width, label)?),
            Some(other) => return Err(unsupported(label, "addition_embed_type", other)),
        };
        let scope = scope.at("time_embedding");
        let guidance = match config.time_cond_proj_dim {
            Some(inputs) => Some(GuidanceEmbedding {
                // Sines first, one angle less: as diffusers' latent consistency pipelines embed the scale.
                sinusoids: Sinusoids { count: inputs, flip: false, shift: 1.0 },
                linear: Linear::without_bias(&scope.at("cond_proj"), inputs, channels)?,
            }),
            None => None,
        };
        Ok(Self {
            sinusoids: Sinusoids { count: channels, flip, shift },
            linear1: Linear::load(&scope.at("linear_1"), channels, width)?,
            linear2: Linear::load(&scope.at("linear_2"), width, width)?,
            sizes,
            guidance,
        })
    }

    /// Width of the embedding for a first level of so many channels.
    pub(crate) fn width(channels: usize) -> usize {
        4 * channels
    }

    /// Embeds what no step changes; `None` where the network is told nothing of it.
    pub(crate) fn added(&self, inputs: &AddedInputs) -> Result<Option<Added>> {
        if self.sizes.is_none() && self.guidance.is_none() {
            return Ok(None);
        }
        let sizes = self.sizes.as_ref().map(|sizes| sizes.forward(inputs));
        let guidance = self.guidance.as_ref().map(|guidance| guidance.forward(inputs.guidance_scale));
        Ok(Some(Added { embedding: sizes.transpose()?, guidance: guidance.transpose()? }))
    }

    /// The embedding, already behind the SiLU that every consumer applies first.
    pub(crate) fn forward(&self, timestep: f64, added: Option<&Added>) -> Result<Tensor> {
        let sinusoids = self.sinusoids.of(&[timestep as f32])?;
        let sinusoids = match added.and_then(|added| added.guidance.as_ref()) {
            Some(guidance) => (sinusoids + guidance)?,
            None => sinusoids,
        };
        let hidden = self.linear1.forward_act(&sinusoids, Activation::Silu)?;
        match added.and_then(|added| added.embedding.as_ref()) {
            // [1, T] and [B, T] -> [B, T]
            Some(added) => Activation::Silu.forward(&self.linear2.forward(&hidden)?.broadcast_add(added)?),
            None => self.linear2.forward_act(&hidden, Activation::Silu),
        }
    }

    /// Whether the guidance scale is a condition, and no second half has to be computed.
    pub(crate) fn knows_guidance(&self) -> bool {
        self.guidance.is_some()
    }
}

/// Pooled texts and sizes through a two-layer perceptron.
struct SizeEmbedding {
    sinusoids: Sinusoids,
    linear1: Linear,
    linear2: Linear,
}

impl SizeEmbedding {
    fn load(scope: &Scope, config: &UnetConfig, width: usize, label: &str) -> Result<Self, LoadError> {
        let missing = |name: &str| {
            LoadError::new(LoadErrorKind::Malformed, format!("{label}: addition_embed_type without {name}"))
        };
        let count = config.addition_time_embed_dim.ok_or_else(|| missing("addition_time_embed_dim"))?;
        let inputs = config.projection_class_embeddings_input_dim;
        let inputs = inputs.ok_or_else(|| missing("projection_class_embeddings_input_dim"))?;
        Ok(Self {
            sinusoids: Sinusoids { count, flip: config.flip_sin_to_cos, shift: config.freq_shift },
            linear1: Linear::load(&scope.at("linear_1"), inputs, width)?,
            linear2: Linear::load(&scope.at("linear_2"), width, width)?,
        })
    }

    fn forward(&self, inputs: &AddedInputs) -> Result<Tensor> {
        let Some(pooled) = inputs.pooled else { candle_core::bail!("the network needs pooled texts") };
        // [6, S] -> [B, 6·S]
        let sizes = self.sinusoids.of(&inputs.sizes)?.flatten_all()?.unsqueeze(0)?;
        let sizes = sizes.broadcast_as((pooled.dim(0)?, sizes.dim(1)?))?;
        // [B, P] and [B, 6·S] -> [B, P + 6·S]
        let both = Tensor::cat(&[pooled, &sizes.contiguous()?], 1)?;
        self.linear2.forward(&self.linear1.forward_act(&both, Activation::Silu)?)
    }
}

/// The guidance scale through one layer.
struct GuidanceEmbedding {
    sinusoids: Sinusoids,
    linear: Linear,
}

impl GuidanceEmbedding {
    fn forward(&self, scale: f64) -> Result<Tensor> {
        // Less one, in thousandths: as diffusers' latent consistency pipelines do.
        self.linear.forward(&self.sinusoids.of(&[(scale - 1.0) as f32 * 1000.0])?)
    }
}

/// Sines and cosines of a number at frequencies from 1 down to 1/10000.
struct Sinusoids {
    count: usize,
    /// Cosines first.
    flip: bool,
    shift: f64,
}

impl Sinusoids {
    /// `[N, count]` of N numbers.
    fn of(&self, numbers: &[f32]) -> Result<Tensor> {
        let values: Vec<f32> = numbers.iter().flat_map(|number| self.of_one(*number)).collect();
        Tensor::from_vec(values, (numbers.len(), self.count), &Device::Cpu)
    }

    fn of_one(&self, number: f32) -> Vec<f32> {
        let half = self.count / 2;
        let scale = -(10_000f32.ln()) / (half as f32 - self.shift as f32);
        let angles: Vec<f32> = (0..half).map(|index| number * (scale * index as f32).exp()).collect();
        let sines = angles.iter().map(|angle| angle.sin());
        let cosines = angles.iter().map(|angle| angle.cos());
        let mut values: Vec<f32> = match self.flip {
            true => cosines.chain(sines).collect(),
            false => sines.chain(cosines).collect(),
        };
        // An odd number leaves one without an angle.
        values.resize(self.count, 0.0);
        values
    }
}
