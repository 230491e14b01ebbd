//! From the network's prediction to the clean latent: guidance, and epsilon or v.
//!
//! Shapes: latents `[1, C, h, w]`; with guidance both halves run as one batch of two, negative first, and in steps outside the
//! request's interval the positive one alone.
//! Source: Ho & Salimans 2022 (classifier-free guidance); Kynkäänniemi et al. 2024 (in an interval); Lin et al. 2024, section 3.4 (rescale);
//! Salimans & Ho 2022 (v).

use crate::error::Result;
use crate::{
    control::Controls,
    samplers::{Denoise, Position},
    schedule::{NoiseLevel, NoiseSchedule, Prediction, Timesteps},
    step_cache::{Cache, Kept},
    unet::{ALL_SKIPS, Added, Conditions, Context, Merging, Unet},
};
use candle_core::Tensor;
use pentimento_request::GuidanceInterval;
use std::borrow::Cow;

/// Guidance of one request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Guidance {
    /// How far beyond the positive half to go from the negative one.
    pub(crate) scale: f64,
    /// Share of the result that is brought back to the positive half's deviation.
    pub(crate) rescale: f64,
    /// The steps that are guided.
    pub(crate) interval: GuidanceInterval,
}

/// Which halves of the guidance a call computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Halves {
    /// Those that there are.
    All,
    /// The positive one of both.
    Positive,
}

impl Halves {
    /// What a network is told of them.
    pub(crate) fn of<'a>(
        self,
        context: &'a Context,
        added: Option<&'a Added>,
    ) -> Result<(Cow<'a, Context>, Option<Cow<'a, Added>>)> {
        Ok(match self {
            Self::All => (Cow::Borrowed(context), added.map(Cow::Borrowed)),
            // The positive half is the last of a batch.
            Self::Positive => {
                let added = added.map(Added::of_last_item).transpose()?;
                (Cow::Owned(context.of_last_item()?), added.map(Cow::Owned))
            }
        })
    }
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
    pub(crate) position: Position<'a>,
    /// What steps take over from earlier ones.
    pub(crate) cache: Option<Cache>,
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
    fn predict(&mut self, x: &Tensor, timestep: f64) -> Result<Tensor> {
        let Some(guidance) = self.guidance else {
            return self.forward(x, timestep, Halves::All);
        };
        let Position { step, of } = self.position;
        if !guidance.interval.guides(step.get(), of) {
            return self.forward(x, timestep, Halves::Positive);
        }
        // [1, C, h, w] -> [2, C, h, w]
        let both = self.forward(&Tensor::cat(&[x, x], 0)?, timestep, Halves::All)?;
        guidance.combine(&both.narrow(0, 0, 1)?, &both.narrow(0, 1, 1)?)
    }

    /// One half, or both as one batch.
    fn forward(&mut self, x: &Tensor, timestep: f64, halves: Halves) -> Result<Tensor> {
        let step = self.position.step.get();
        let kept = match &self.cache {
            Some(cache) => cache.kept_for(step, x.dim(0)?)?,
            None => None,
        };
        let skips = kept.as_ref().map_or(ALL_SKIPS, |kept| kept.skips);
        let residuals = self.controls.map(|controls| controls.residuals(x, timestep, halves, skips));
        let residuals = residuals.transpose()?.flatten();
        let (context, added) = halves.of(self.conditions.context, self.conditions.added)?;
        let (context, added) = (&*context, added.as_deref());
        let merging = self.conditions.merging.map(|merging| Merging { step, ..merging });
        let conditions = Conditions { context, added, residuals: residuals.as_ref(), merging };
        let x = &self.beside_shown(x)?;
        match (&mut self.cache, kept) {
            (None, _) => self.unet.forward(x, timestep, &conditions),
            (Some(_), Some(Kept { skips, below })) => {
                self.unet.forward_shallow(x, timestep, &conditions, skips, &below)
            }
            (Some(cache), None) => {
                let (predicted, below) =
                    self.unet.forward_keeping(x, timestep, &conditions, cache.skips())?;
                cache.keep(step, below);
                Ok(predicted)
            }
        }
    }

    /// What the network takes: `x`, and behind it what an inpainting network is shown.
    fn beside_shown(&self, x: &Tensor) -> Result<Tensor> {
        let Some(shown) = self.shown else { return Ok(x.clone()) };
        let (batch, _, height, width) = x.dims4()?;
        let shown = shown.broadcast_as((batch, shown.dim(1)?, height, width))?;
        // [B, C, h, w] and [B, 1 + C, h, w] -> [B, 1 + 2·C, h, w]
        Tensor::cat(&[x, &shown], 1)
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
