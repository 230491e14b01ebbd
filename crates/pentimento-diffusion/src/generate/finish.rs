//! The record of a request that was carried out.

use super::{Run, hex};
use crate::{hires::SecondPass, precision::precision_name, samplers::Path};
use pentimento_request::{
    Accelerations, AccelerationsReport, ClipGuidanceReport, ErrorKind, GenerateError, GeneratedImage,
    Picture, PromptReport, Receipt, Task, Verdict,
};
use sha2::{Digest, Sha256};

impl Run<'_> {
    /// What made it faster, step by step; `None` where nothing was asked for.
    fn accelerated(&self) -> Option<AccelerationsReport> {
        let asked = self.request.accelerations;
        if asked == Accelerations::NONE {
            return None;
        }
        let passes = [Some(&self.plan.path), self.plan.second.as_ref().map(|second| &second.path)];
        let guided =
            |steps: usize| (0..steps).filter(|step| asked.guidance_interval.guides(*step, steps)).count();
        let guided_steps = match self.guidance() {
            Some(_) => passes.into_iter().flatten().map(|path| guided(path.steps())).sum(),
            None => 0,
        };
        let steps = passes.into_iter().flatten().map(Path::steps).sum();
        let whole_steps = asked.step_cache.map_or(steps, |_| self.whole.len());
        Some(AccelerationsReport { asked, guided_steps, whole_steps })
    }

    /// The picture with the record of all that decided it.
    pub(super) fn finished(
        self,
        picture: Picture,
        verdict: Verdict,
        prompts: Vec<PromptReport>,
    ) -> Result<GeneratedImage, GenerateError> {
        let unread = |error| GenerateError::caused_by(ErrorKind::Internal, "cannot hash the weights", error);
        let model_hash = self.model.hash().map_err(unread)?.to_owned();
        let accelerations = self.accelerated();
        let Self { model, request, plan, steering, notes, guided, whole: _, progress: _ } = self;
        let receipt = Receipt {
            engine: format!("pentimento {}", env!("CARGO_PKG_VERSION")),
            model: model.options.name.clone(),
            model_hash,
            task: match request.task {
                Task::TextToImage => "text-to-image",
                Task::ImageToImage { .. } => "image-to-image",
                Task::Repaint { .. } => "repaint",
            },
            seed: request.seed,
            sampler: plan.sampler,
            schedule: plan.schedule,
            solver: request.solver,
            noise: request.noise,
            steps: request.steps.get(),
            steps_run: plan.path.steps(),
            sigmas: plan.path.sigmas(),
            guidance_scale: request.guidance_scale.get(),
            guidance_rescale: request.guidance_rescale,
            accelerations,
            strength: plan.strength,
            hires: plan.second.as_ref().map(SecondPass::report),
            worked_at: plan.frame.work,
            region: plan.frame.region.map(|rect| [rect.x, rect.y, rect.width, rect.height]),
            size: picture.size(),
            precision: precision_name(model.options.precision),
            syntax: request.syntax,
            clip_skip: request.clip_skip,
            prompts,
            verdict,
            loras: steering.bound.reports.clone(),
            controls: steering.controls.iter().map(|control| control.report(plan.path.steps())).collect(),
            looks: steering.looks.reports.clone(),
            clip_guidance: steering.guide.map(|guide| ClipGuidanceReport {
                preset: guide.preset,
                strength: guide.strength(),
                steps: guided,
            }),
            notes,
            pixels_hash: hex(&Sha256::digest(picture.pixels())),
            timings: Vec::new(),
            peak_memory: None,
        };
        Ok(GeneratedImage { picture, receipt })
    }
}
