//! The second pass: the first one's latent enlarged, noised again and drawn out at the larger size.
//!
//! Shapes: latents `[1, C, h, w]`. Latents are enlarged bilinearly, which neither draws blocks as the nearest cell does
//! nor overshoots as a cubic does; what is soft is what the second pass draws anew. Its noise
//! starts from the seed again, so that it does not depend on how much the first pass drew; the order of draws is that of a
//! first pass. A masked input is known at the larger size too, where what is not painted is put back in every step.
//! Source: the composition of diffusers' pipelines by `output_type="latent"`, torch's `interpolate` and
//! `StableDiffusionImg2ImgPipeline`, which takes latents as they are, with a generator of the same seed (so does A1111).

use crate::{canvas::Frame, error::Result, model::Model, plan, samplers::Path};
use candle_core::{Device, Tensor};
use pentimento_request::{
    ErrorKind, GenerateError, GenerationRequest, Hires, Sampler, Schedule, SecondPassReport, Size, Span,
};

/// Largest factor of both sides: beyond it the second pass has nothing to hold on to.
const LARGEST_SCALE: f64 = 4.0;

/// A second pass, resolved.
#[derive(Clone, Debug)]
pub(crate) struct SecondPass {
    pub(crate) path: Path,
    /// The size at which the model works.
    pub(crate) work: Size,
    scale: f64,
    strength: f64,
    steps: usize,
}

impl SecondPass {
    /// Resolves what a request asks for.
    pub(crate) fn of(
        model: &Model,
        request: &GenerationRequest,
        first: &Frame,
        sampler: Sampler,
        schedule: Schedule,
    ) -> Result<Option<Self>, GenerateError> {
        let Some(Hires { scale, strength, steps }) = request.hires else { return Ok(None) };
        let refused = |kind, message: String| Err(GenerateError::new(kind, format!("hires: {message}")));
        if !(scale > 1.0 && scale <= LARGEST_SCALE) {
            let message = format!("a scale of {scale} is not possible: above 1 and at most {LARGEST_SCALE}");
            return refused(ErrorKind::InvalidRequest, message);
        }
        let steps = steps.unwrap_or(request.steps).get();
        if steps > model.schedule.count() {
            let message =
                format!("{steps} steps are more than the model's {} timesteps", model.schedule.count());
            return refused(ErrorKind::InvalidRequest, message);
        }
        let path = plan::path(sampler, &model.schedule, schedule, steps, Span::of(strength))?;
        if path.steps() == 0 {
            let message = format!("a strength of {} of {steps} steps is less than one step", strength.get());
            return refused(ErrorKind::InvalidRequest, message);
        }
        let work = model.limits.scaled(first.work, scale)?;
        Ok(Some(Self { path, work, scale, strength: strength.get(), steps }))
    }

    /// What the receipt tells.
    pub(crate) fn report(&self) -> SecondPassReport {
        let Self { path, work, scale, strength, steps } = self;
        SecondPassReport {
            scale: *scale,
            strength: *strength,
            steps: *steps,
            steps_run: path.steps(),
            sigmas: path.sigmas(),
            worked_at: *work,
        }
    }
}

/// `[1, C, h, w] -> [1, C, height, width]`, bilinear, sides not aligned (torch's `align_corners=False`).
pub(crate) fn enlarge(latents: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    let (_, channels, from_height, from_width) = latents.dims4()?;
    let planes: Vec<f32> = latents.flatten_all()?.to_vec1()?;
    let (rows, columns) = (stops(from_height, height), stops(from_width, width));
    let mut enlarged = Vec::with_capacity(channels * height * width);
    for plane in planes.chunks_exact(from_height * from_width) {
        for row in &rows {
            let (upper, lower) = (&plane[row.first * from_width..], &plane[row.second * from_width..]);
            enlarged.extend(columns.iter().map(|column| row.between(column.of(upper), column.of(lower))));
        }
    }
    Tensor::from_vec(enlarged, (1, channels, height, width), &Device::Cpu)
}

/// Two neighbours, and the weight of the second.
struct Stop {
    first: usize,
    second: usize,
    weight: f32,
}

impl Stop {
    fn between(&self, first: f32, second: f32) -> f32 {
        first * (1.0 - self.weight) + second * self.weight
    }

    fn of(&self, row: &[f32]) -> f32 {
        self.between(row[self.first], row[self.second])
    }
}

fn stops(from: usize, to: usize) -> Vec<Stop> {
    let scale = from as f32 / to as f32;
    let stop = |index: usize| {
        let at = (scale * (index as f32 + 0.5) - 0.5).max(0.0);
        let first = (at as usize).min(from - 1);
        Stop { first, second: (first + 1).min(from - 1), weight: at - first as f32 }
    };
    (0..to).map(stop).collect()
}
