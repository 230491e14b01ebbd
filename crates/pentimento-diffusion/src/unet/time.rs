//! The timestep's embedding.
//!
//! Source: Vaswani et al. 2017, section 3.5, as diffusers' `get_timestep_embedding` computes it: in f32,
//! because an angle of up to 1000 radians keeps what f32 rounded away.

use crate::{
    error::{LoadError, Result},
    ops::{Activation, Linear},
    weights::Scope,
};
use candle_core::{Device, Tensor};

/// Sines and cosines of the timestep through a two-layer perceptron.
pub(crate) struct TimeEmbedding {
    linear1: Linear,
    linear2: Linear,
    channels: usize,
    flip_sin_to_cos: bool,
    frequency_shift: f64,
}

impl TimeEmbedding {
    pub(crate) fn load(
        scope: &Scope,
        channels: usize,
        flip_sin_to_cos: bool,
        frequency_shift: f64,
    ) -> Result<Self, LoadError> {
        let width = Self::width(channels);
        let scope = scope.at("time_embedding");
        Ok(Self {
            linear1: Linear::load(&scope.at("linear_1"), channels, width)?,
            linear2: Linear::load(&scope.at("linear_2"), width, width)?,
            channels,
            flip_sin_to_cos,
            frequency_shift,
        })
    }

    /// Width of the embedding for a first level of so many channels.
    pub(crate) fn width(channels: usize) -> usize {
        4 * channels
    }

    /// `[1, 4·channels]`, already behind the SiLU that every consumer applies first.
    pub(crate) fn forward(&self, timestep: f64) -> Result<Tensor> {
        let sinusoids = Tensor::from_vec(self.sinusoids(timestep as f32), (1, self.channels), &Device::Cpu)?;
        let hidden = self.linear1.forward_act(&sinusoids, Activation::Silu)?;
        self.linear2.forward_act(&hidden, Activation::Silu)
    }

    fn sinusoids(&self, timestep: f32) -> Vec<f32> {
        let half = self.channels / 2;
        let scale = -(10_000f32.ln()) / (half as f32 - self.frequency_shift as f32);
        let angles: Vec<f32> = (0..half).map(|index| timestep * (scale * index as f32).exp()).collect();
        let sines = angles.iter().map(|angle| angle.sin());
        let cosines = angles.iter().map(|angle| angle.cos());
        let mut values: Vec<f32> = match self.flip_sin_to_cos {
            true => cosines.chain(sines).collect(),
            false => sines.chain(cosines).collect(),
        };
        // An odd number of channels leaves one without an angle.
        values.resize(self.channels, 0.0);
        values
    }
}
