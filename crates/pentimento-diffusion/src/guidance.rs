//! From the network's prediction to the clean latent: guidance, and epsilon or v.
//!
//! Shapes: latents `[1, C, h, w]`; with guidance both halves run as one batch of two, negative first.
//! Source: Ho & Salimans 2022 (classifier-free guidance); Lin et al. 2024, section 3.4 (rescale);
//! Salimans & Ho 2022 (v).

use crate::error::Result;
use crate::{
    control::Controls,
    samplers::Denoise,
    schedule::{NoiseLevel, NoiseSchedule, Prediction, Timesteps},
    unet::{Conditions, Unet},
};
use candle_core::Tensor;

/// Guidance of one request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Guidance {
    /// How far beyond the positive half to go from the negative one.
    pub(crate) scale: f64,
    /// Share of the result that is brought back to the positive half's deviation.
    pub(crate) rescale: f64,
}

/// A network with a request's prompts bound.
pub(crate) struct GuidedUnet<'a> {
    pub(crate) unet: &'a Unet,
    /// Of the negative and the positive prompts, or of the positive ones alone where `guidance` is `None`.
    pub(crate) conditions: Conditions<'a>,
    /// What an inpainting network is shown behind the latent: the mask and the masked picture, `[1, 1 + C, h, w]`.
    pub(crate) shown: Option<&'a Tensor>,
    pub(crate) schedule: &'a NoiseSchedule,
    pub(crate) guidance: Option<Guidance>,
    /// Control networks with the same prompts bound.
    pub(crate) controls: Option<Controls<'a>>,
    pub(crate) timesteps: Timesteps,
}

impl Denoise for GuidedUnet<'_> {
    fn denoise(&mut self, x: &Tensor, level: NoiseLevel) -> Result<Tensor> {
        // The network takes variance-preserving latents.
        let scale = 1.0 / level.signal.hypot(level.noise);
        let (signal, noise) = (level.signal * scale, level.noise * scale);
        let x = (x * scale)?;
        let predicted = self.predict(&x, self.timesteps.told(self.schedule.timestep_of(level)))?;
        match self.schedule.prediction {
            Prediction::Epsilon => (x - (predicted * noise)?)? / signal,
            Prediction::V => (x * signal)? - (predicted * noise)?,
        }
    }
}

impl GuidedUnet<'_> {
    fn predict(&self, x: &Tensor, timestep: f64) -> Result<Tensor> {
        let Some(guidance) = self.guidance else {
            return self.forward(x, timestep);
        };
        // [1, C, h, w] -> [2, C, h, w]
        let both = self.forward(&Tensor::cat(&[x, x], 0)?, timestep)?;
        guidance.combine(&both.narrow(0, 0, 1)?, &both.narrow(0, 1, 1)?)
    }

    /// One half, or both as one batch.
    fn forward(&self, x: &Tensor, timestep: f64) -> Result<Tensor> {
        let residuals = self.controls.map(|controls| controls.residuals(x, timestep)).transpose()?.flatten();
        let conditions = Conditions { residuals: residuals.as_ref(), ..self.conditions };
        let Some(shown) = self.shown else { return self.unet.forward(x, timestep, &conditions) };
        let (batch, _, height, width) = x.dims4()?;
        let shown = shown.broadcast_as((batch, shown.dim(1)?, height, width))?;
        // [B, C, h, w] and [B, 1 + C, h, w] -> [B, 1 + 2·C, h, w]
        self.unet.forward(&Tensor::cat(&[x, &shown], 1)?, timestep, &conditions)
    }
}

impl Guidance {
    /// The guided prediction of the two halves.
    fn combine(self, negative: &Tensor, positive: &Tensor) -> Result<Tensor> {
        let guided = (negative + ((positive - negative)? * self.scale)?)?;
        if self.rescale == 0.0 {
            return Ok(guided);
        }
        let share = deviation(positive)? / deviation(&guided)?;
        guided * (self.rescale * share + (1.0 - self.rescale))
    }
}

/// Standard deviation of all values, with Bessel's correction as in torch.
fn deviation(x: &Tensor) -> Result<f64> {
    let values: Vec<f32> = x.flatten_all()?.to_vec1()?;
    let count = values.len() as f64;
    let mean = values.iter().map(|value| f64::from(*value)).sum::<f64>() / count;
    let squares: f64 = values.iter().map(|value| (f64::from(*value) - mean).powi(2)).sum();
    Ok((squares / (count - 1.0)).sqrt())
}
