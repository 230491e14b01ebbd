//! What a request comes to before anything is computed: sampler, noise levels, sizes.

use crate::{
    canvas::Frame,
    conditioning::{self, Clip},
    hires::SecondPass,
    model::Model,
    samplers::{Hop, Path},
    schedule::{LCM_TIMESTEPS as LCM_STEPS, NoiseLevel, NoiseSchedule},
};
use pentimento_request::{
    ErrorKind, GenerateError, GenerationRequest, Sampler, Schedule, SolverOptions, Span, StepCache, Strength,
    Task,
};

/// A request, resolved.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) sampler: Sampler,
    pub(crate) schedule: Schedule,
    /// The levels that are run.
    pub(crate) path: Path,
    /// Deviation of a start latent that is noise alone.
    pub(crate) initial_deviation: f64,
    pub(crate) strength: f64,
    pub(crate) frame: Frame,
    /// The pass at a larger size that follows.
    pub(crate) second: Option<SecondPass>,
}

impl Plan {
    /// Resolves a request for a model.
    pub(crate) fn new(model: &Model, request: &GenerationRequest) -> Result<Self, GenerateError> {
        check_settings(model, request)?;
        let guided_by_clip = matches!(conditioning::clip(model, request)?, Clip::Guides(..));
        let sampler = request.sampler.unwrap_or_else(|| chosen(model, guided_by_clip));
        let steps = request.steps.get();
        if steps > model.schedule.count() {
            let message =
                format!("steps: {steps} are more than the model's {} timesteps", model.schedule.count());
            return Err(GenerateError::new(ErrorKind::InvalidRequest, message));
        }
        let schedule = request.schedule.unwrap_or_else(|| model.schedule.own_schedule(sampler));
        let span = match &request.task {
            Task::TextToImage => Span::of(Strength::FULL),
            Task::ImageToImage { span, .. } | Task::Repaint { span, .. } => *span,
        };
        let path = path(sampler, &model.schedule, schedule, steps, span)?;
        let frame = Frame::of(request, model.limits)?;
        Ok(Self {
            second: SecondPass::of(model, request, &frame, sampler, schedule)?,
            sampler,
            schedule,
            initial_deviation: initial_deviation(&path, sampler, schedule),
            path,
            strength: span.strength.get(),
            frame,
        })
    }
}

/// Refuses settings that are out of range, or that would make values that are no numbers.
fn check_settings(model: &Model, request: &GenerationRequest) -> Result<(), GenerateError> {
    let invalid = |message: String| Err(GenerateError::new(ErrorKind::InvalidRequest, message));
    if let Some(prompt) = request.prompts.iter().find(|prompt| !prompt.weight.is_finite()) {
        return invalid(format!("prompts: a weight of {} is not possible", prompt.weight));
    }
    let (skip, deepest) = (request.clip_skip.get(), model.text.deepest_skip());
    if skip > deepest {
        return invalid(format!("clip_skip: {skip} is not possible: this model goes to {deepest}"));
    }
    let last_branch = model.networks.unet.skips() - 1;
    if let Some(branch) = request.accelerations.step_cache.map(StepCache::branch)
        && branch > last_branch
    {
        return invalid(format!(
            "step_cache: a branch of {branch} is not possible: this model's go from 0 to {last_branch}"
        ));
    }
    let SolverOptions { eta, s_churn, s_tmin, s_tmax, s_noise } = request.solver;
    let ranges = [
        ("guidance_rescale", f64::from(request.guidance_rescale), 1.0),
        ("eta", eta.unwrap_or_default(), 1.0),
        ("s_churn", s_churn, 1000.0),
        ("s_tmin", s_tmin, f64::INFINITY),
        ("s_tmax", s_tmax, f64::INFINITY),
        ("s_noise", s_noise, 10.0),
    ];
    match ranges.into_iter().find(|(_, value, most)| !(0.0..=*most).contains(value)) {
        Some((name, value, most)) => {
            invalid(format!("{name}: {value} is not possible: it goes from 0 to {most}"))
        }
        None => Ok(()),
    }
}

/// The sampler where the request leaves the choice: the one that the model's own scheduler names, else DPM++
/// 2M, which Stability's interfaces document as their usual choice; with CLIP's guidance their ancestral one.
fn chosen(model: &Model, guided_by_clip: bool) -> Sampler {
    if guided_by_clip {
        return Sampler::KDpmpp2sAncestral;
    }
    model.own_sampler.unwrap_or(Sampler::KDpmpp2m)
}

/// The levels that a sampler runs: of a schedule of `steps`, the part that `span` means.
pub(crate) fn path(
    sampler: Sampler,
    levels: &NoiseSchedule,
    schedule: Schedule,
    steps: usize,
    span: Span,
) -> Result<Path, GenerateError> {
    Ok(cut(whole_path(sampler, levels, schedule, steps)?, steps, span))
}

fn whole_path(
    sampler: Sampler,
    levels: &NoiseSchedule,
    schedule: Schedule,
    steps: usize,
) -> Result<Path, GenerateError> {
    let timesteps = match (sampler, schedule) {
        (Sampler::Lcm, Schedule::Trailing) => Some(levels.lcm_timesteps(steps).ok_or_else(|| {
            let message = format!("steps: {steps} are more than the {LCM_STEPS} that LCM has at most");
            GenerateError::new(ErrorKind::InvalidRequest, message)
        })?),
        _ => levels.timesteps(schedule, steps),
    };
    Ok(match (sampler, timesteps) {
        (Sampler::UniPc, _) => Path::Exploding(levels.unipc_sigmas(schedule, steps)),
        (Sampler::Ddim, Some(timesteps)) => {
            let hop = |timestep| Hop {
                from: levels.level(timestep),
                to: levels.level_after(timestep, steps),
                timestep: timestep as f64,
            };
            Path::Preserving(timesteps.into_iter().map(hop).collect())
        }
        (Sampler::Ddpm | Sampler::Lcm, Some(timesteps)) => Path::Preserving(hops(
            timesteps.iter().map(|timestep| (levels.level(*timestep), *timestep as f64)),
        )),
        (Sampler::Ddim | Sampler::Ddpm | Sampler::Lcm, None) => {
            let mut sigmas = levels.sigmas(schedule, steps);
            // The zero behind them is where the last hop ends anyway.
            sigmas.truncate(steps);
            let of_sigma = |sigma| {
                let level = NoiseLevel::preserving_of(sigma);
                (level, levels.timestep_of(level))
            };
            Path::Preserving(hops(sigmas.into_iter().map(of_sigma)))
        }
        _ => Path::Exploding(levels.sigmas(schedule, steps)),
    })
}

/// From each level to the next, the last time to a clean latent.
fn hops(levels: impl Iterator<Item = (NoiseLevel, f64)>) -> Vec<Hop> {
    let levels: Vec<_> = levels.collect();
    let ends = levels.iter().skip(1).map(|(level, _)| *level).chain([NoiseLevel::CLEAN]);
    levels
        .iter()
        .zip(ends)
        .map(|((from, timestep), to)| Hop { from: *from, to, timestep: *timestep })
        .collect()
}

/// The last `strength` share of the path, less the share of final steps that are skipped.
fn cut(path: Path, steps: usize, span: Span) -> Path {
    // As diffusers counts: `min(int(n · strength), n)` steps are run.
    let share = |strength: Strength| ((steps as f64 * strength.get()) as usize).min(steps);
    let run = share(span.strength);
    let skipped = share(span.skipped_end);
    let start = path.steps().saturating_sub(run);
    let end = path.steps().saturating_sub(skipped).max(start);
    match path {
        Path::Preserving(mut levels) => {
            levels.truncate(end);
            levels.drain(..start);
            if let (Some(last), true) = (levels.last_mut(), skipped > 0) {
                last.to = NoiseLevel::CLEAN;
            }
            Path::Preserving(levels)
        }
        Path::Exploding(sigmas) if end == start => Path::Exploding(sigmas[..0].to_vec()),
        Path::Exploding(sigmas) => Path::Exploding(sigmas[start..end].iter().copied().chain([0.0]).collect()),
    }
}

/// diffusers starts sigma samplers from the deviation of noise alone where the schedule reaches the top, and
/// from that of noised data (`√(σ²+1)`) where it does not; UniPC always from the latter, since its latents are
/// variance-preserving there. The schedules of sigmas are k-diffusion's, which knows noise alone.
pub(crate) fn initial_deviation(path: &Path, sampler: Sampler, schedule: Schedule) -> f64 {
    match (path, sampler, schedule) {
        (Path::Preserving(_), _, _) => 1.0,
        (Path::Exploding(_), Sampler::UniPc, _) | (Path::Exploding(_), _, Schedule::Leading) => {
            path.level(0).noise.hypot(1.0)
        }
        (Path::Exploding(_), _, _) => path.level(0).noise,
    }
}
