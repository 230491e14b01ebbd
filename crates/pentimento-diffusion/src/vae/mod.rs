//! Autoencoders between pixels and latents.
//!
//! Shapes: pixels `[1, 3, H, W]` in -1 to 1, latents `[1, C, H/f, W/f]` where `f` is the configuration's
//! factor. Latents here are those that the denoising network sees: shifted and scaled as the configuration
//! says. One picture at a time, in bands of rows: [`planes`] tells how.

mod kl;
mod planes;
mod resnet;
mod tiny;

use crate::{
    config::{PACKED_FOR, VaeConfig, unsupported},
    error::{LoadError, Result},
    weights::Scope,
};
use candle_core::Tensor;
pub(crate) use planes::Budget;
use planes::Planes;

/// An autoencoder with its weights bound.
pub(crate) struct Vae {
    network: Network,
    scaling_factor: f64,
    shift_factor: f64,
    latent_channels: usize,
}

enum Network {
    Kl(Box<kl::AutoencoderKl>),
    Tiny(tiny::AutoencoderTiny),
}

/// Latents of a picture, or the distribution that they are drawn from.
pub(crate) enum Encoded {
    /// A normal distribution; the noise drawn for it has the shape of its mean.
    Posterior {
        /// Means.
        mean: Tensor,
        /// Logarithms of the variances.
        log_variance: Tensor,
    },
    /// The latents themselves: nothing is drawn.
    Latents(Tensor),
}

impl Vae {
    /// Binds the weights.
    pub(crate) fn load(scope: &Scope, config: &VaeConfig, label: &str) -> Result<Self, LoadError> {
        config.check(label)?;
        let scope = &scope.drawing(PACKED_FOR);
        let (network, default_scale) = match config.class_name.as_str() {
            // 0.18215 and 1.0: the defaults of the two classes in diffusers.
            "AutoencoderKL" => {
                (Network::Kl(Box::new(kl::AutoencoderKl::load(scope, config, label)?)), 0.18215)
            }
            "AutoencoderTiny" => (Network::Tiny(tiny::AutoencoderTiny::load(scope, config, label)?), 1.0),
            other => return Err(unsupported(label, "_class_name", other)),
        };
        Ok(Self {
            network,
            scaling_factor: config.scaling_factor.unwrap_or(default_scale),
            shift_factor: config.shift_factor.unwrap_or(0.0),
            latent_channels: config.latent_channels,
        })
    }

    /// Channels of the latents.
    pub(crate) fn latent_channels(&self) -> usize {
        self.latent_channels
    }

    /// Whether encoding draws noise.
    pub(crate) fn has_posterior(&self) -> bool {
        matches!(self.network, Network::Kl(_))
    }

    /// Pixels to latents, before scaling.
    pub(crate) fn encode(&self, pixels: &Tensor) -> Result<Encoded> {
        self.encode_within(pixels, Budget::USUAL)
    }

    /// The same in bands of so many bytes.
    pub(crate) fn encode_within(&self, pixels: &Tensor, budget: Budget) -> Result<Encoded> {
        match &self.network {
            Network::Kl(network) => network.encode(Planes::of_item(pixels, 0)?, budget),
            Network::Tiny(network) => Ok(Encoded::Latents(network.encode(pixels, budget)?)),
        }
    }

    /// Latents as the denoising network sees them, from those that the encoder gave.
    pub(crate) fn scale(&self, latents: &Tensor) -> Result<Tensor> {
        latents.affine(self.scaling_factor, -self.shift_factor * self.scaling_factor)
    }

    /// Latents to pixels.
    pub(crate) fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        self.decode_within(latents, Budget::USUAL)
    }

    /// The same in bands of so many bytes.
    pub(crate) fn decode_within(&self, latents: &Tensor, budget: Budget) -> Result<Tensor> {
        let latents = ((latents / self.scaling_factor)? + self.shift_factor)?;
        match &self.network {
            Network::Kl(network) => network.decode(&latents, budget)?.into_tensor(),
            Network::Tiny(network) => network.decode(&latents, budget),
        }
    }
}
