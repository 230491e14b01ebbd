//! What a request comes to before anything is computed: sampler, noise levels, sizes.

use crate::{
    canvas::Frame,
    hires::SecondPass,
    model::Model,
    samplers::{AVAILABLE, Path},
    schedule::{NoiseLevel, NoiseSchedule},
};
use pentimento_request::{
    ErrorKind, GenerateError, GenerationRequest, Sampler, Schedule, Span, Strength, Task,
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
        let sampler = request.sampler.unwrap_or_else(|| chosen(model));
        if !AVAILABLE.contains(&sampler) {
            return Err(unavailable(sampler));
        }
        let steps = request.steps.get();
        if steps > model.schedule.count() {
            let message =
                format!("steps: {steps} are more than the model's {} timesteps", model.schedule.count());
            return Err(GenerateError::new(ErrorKind::InvalidRequest, message));
        }
        let schedule = request.schedule.unwrap_or(model.schedule.spacing);
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
            initial_deviation: initial_deviation(&path, schedule),
            path,
            strength: span.strength.get(),
            frame,
        })
    }
}

/// The sampler where the request leaves the choice: the one that the model's own scheduler names, else DPM++
/// 2M, which Stability's interfaces document as their usual choice.
fn chosen(model: &Model) -> Sampler {
    model.own_sampler.unwrap_or(Sampler::KDpmpp2m)
}

/// The refusal of a sampler that this engine does not have.
pub(crate) fn unavailable(sampler: Sampler) -> GenerateError {
    let known = AVAILABLE.map(Sampler::name).join(", ");
    let message = format!("sampler: {sampler} is not available in this version; available are {known}");
    GenerateError::new(ErrorKind::Unsupported, message)
}

/// The levels that a sampler runs: of a schedule of `steps`, the part that `span` means.
pub(crate) fn path(
    sampler: Sampler,
    levels: &NoiseSchedule,
    schedule: Schedule,
    steps: usize,
    span: Span,
) -> Result<Path, GenerateError> {
    Ok(cut(whole_path(sampler, levels, schedule, steps), steps, span))
}

fn whole_path(sampler: Sampler, levels: &NoiseSchedule, schedule: Schedule, steps: usize) -> Path {
    match sampler {
        Sampler::Ddim | Sampler::Ddpm => {
            let timesteps = levels.timesteps(schedule, steps).into_iter();
            let step = |timestep| (levels.level(timestep), levels.level_after(timestep, steps));
            Path::Preserving(timesteps.map(step).collect())
        }
        _ => Path::Exploding(levels.sigmas(schedule, steps)),
    }
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
            if let (Some((_, to)), true) = (levels.last_mut(), skipped > 0) {
                *to = NoiseLevel::CLEAN;
            }
            Path::Preserving(levels)
        }
        Path::Exploding(sigmas) if end == start => Path::Exploding(sigmas[..0].to_vec()),
        Path::Exploding(sigmas) => Path::Exploding(sigmas[start..end].iter().copied().chain([0.0]).collect()),
    }
}

/// diffusers starts sigma samplers from the deviation of noise alone where the schedule reaches the top, and
/// from that of noised data (`√(σ²+1)`) where it does not.
fn initial_deviation(path: &Path, schedule: Schedule) -> f64 {
    match (path, schedule) {
        (Path::Preserving(_), _) => 1.0,
        (Path::Exploding(_), Schedule::Leading) => path.level(0).noise.hypot(1.0),
        (Path::Exploding(_), Schedule::Linspace | Schedule::Trailing) => path.level(0).noise,
    }
}
