//! `pentimento bench`: how fast this machine draws, stage by stage.
//!
//! Each stage runs once unmeasured and then some times; operations are counted by the engine as the textbook needs them,
//! and compared with the peak that the register tile reaches in the same run.

mod report;
mod steered;
mod unet_io;

use crate::{
    catalogue::precision,
    cli::{BenchArgs, BenchStage, Random},
    failure::Failure,
    generate::{self, use_threads},
    library::Shelves,
    memory, output,
    places::Places,
    source::Source,
};
use anyhow::{Result, anyhow};
use pentimento_diffusion::{
    Architecture, LoadOptions, Model, Precision, Probe, ProbeStage, Profile, RandomModel, profiled,
};
use pentimento_kernels::measure_peak;
use pentimento_request::{
    Accelerations, Canvas, Channels, ClipSkip, Conditioning, GenerateError, GenerationRequest, Generator,
    GuidanceScale, NoiseSource, Picture, Prompt, PromptSyntax, Quiet, Sampler, Size, SolverOptions, Span,
    Steps, Strength, Task,
};
use report::{Measured, Report};
use std::{
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};
use steered::Steering;

/// Largest picture that is measured: 16 times Stable Diffusion XL's.
const MOST_PIXELS: u64 = 1 << 24;

/// Measures what was asked for and prints it. `started` is when the process began.
pub(crate) fn run(args: &BenchArgs, started: Instant) -> Result<(), Failure> {
    use_threads(args.model.threads)?;
    let precision = args.model.dtype.map_or(Precision::F32, precision);
    let (conditioning, shelves) = generate::steering(&args.steering, &args.model.data)?;
    let model = load(args, precision, shelves)?;
    if let [input, goal] = &args.unet_io[..] {
        return Ok(unet_io::run(&model, input, goal)?);
    }
    let steering = Steering { conditioning, accelerations: args.accelerations.resolve() };
    let report = measure(args, &model, precision, &steering, started)?;
    let text = match args.json {
        true => format!("{:#}\n", report.json()),
        false => report.table(args.profile),
    };
    output::print(text.as_bytes())
}

fn load(args: &BenchArgs, precision: Precision, shelves: Shelves) -> Result<Model> {
    let library = Arc::new(shelves);
    let options = |name: String| LoadOptions { precision, library, ..LoadOptions::new(name, MOST_PIXELS) };
    Ok(match (args.random, &args.model.model) {
        (Some(random), _) => {
            let (name, architecture) = match random {
                Random::Sd15 => ("random sd15", Architecture::Sd15),
                Random::Sdxl => ("random sdxl", Architecture::Sdxl),
            };
            Model::load(&RandomModel::new(architecture), options(name.to_owned()))?
        }
        (None, wanted) => {
            let places = Places::typed(&args.model.data);
            let source = match wanted {
                Some(wanted) => Source::find(wanted, &places)?,
                None => Source::Embedded,
            };
            let source = source.with_vae(args.model.vae.as_deref());
            Model::load(&*source.files()?, options(source.name()))?
        }
    })
}

fn measure(
    args: &BenchArgs,
    model: &Model,
    precision: Precision,
    steering: &Steering,
    started: Instant,
) -> Result<Report> {
    let size = args.size.unwrap_or(model.native_size());
    if u64::from(size.width()) * u64::from(size.height()) > MOST_PIXELS {
        return Err(anyhow!("size: {size} has more than {MOST_PIXELS} pixels"));
    }
    let mut probe = Probe::new(model, size)?;
    let is_steered = *steering != Steering::none();
    let wanted = match is_steered && args.stages.is_empty() {
        true => Vec::new(),
        false => stages(&args.stages),
    };
    let mut cold_start = None;
    if wanted.contains(&BenchStage::UnetStep) {
        probe.run(ProbeStage::UnetStep)?;
        cold_start = Some(started.elapsed());
    }
    if wanted.contains(&BenchStage::ControlnetStep) {
        probe = probe.with_control()?;
    }
    let peak = measure_peak(precision);
    let mut stages = Vec::new();
    for stage in wanted {
        let measured = match probe_stage(stage) {
            Some(stage) if !probe.has(stage) => {
                if args.stages.is_empty() {
                    continue;
                }
                return Err(anyhow!("the model has no control network for edges, so no controlnet_step"));
            }
            Some(stage) => repeated(args.runs, || probe.run(stage))?,
            None => {
                let request = whole(model.name(), size)?;
                repeated(args.runs, || model.generate(&request, &mut Quiet).map(drop))?
            }
        };
        stages.push((report::name(stage), measured));
    }
    let rounds = steered::Rounds { count: args.runs, steps: args.steps.map(usize::from) };
    let steered = is_steered.then(|| steered::measure(model, size, steering, rounds)).transpose()?;
    Ok(Report {
        model: model.name().to_owned(),
        size,
        precision,
        threads: rayon::current_num_threads(),
        peak,
        stages,
        steered,
        cold_start,
        peak_memory: memory::peak(),
    })
}

/// The stages to be measured, in the order in which drawing has them.
fn stages(asked: &[BenchStage]) -> Vec<BenchStage> {
    use BenchStage::{ControlnetStep, Text, UnetStep, VaeDecode, VaeEncode, Whole};
    let order = [Text, VaeEncode, UnetStep, ControlnetStep, VaeDecode, Whole];
    let is_wanted = |stage: &BenchStage| match asked {
        [] => *stage != Whole,
        asked => asked.contains(stage),
    };
    order.into_iter().filter(is_wanted).collect()
}

/// What the engine calls it; `None` for a whole picture.
fn probe_stage(stage: BenchStage) -> Option<ProbeStage> {
    match stage {
        BenchStage::Text => Some(ProbeStage::Text),
        BenchStage::VaeEncode => Some(ProbeStage::VaeEncode),
        BenchStage::UnetStep => Some(ProbeStage::UnetStep),
        BenchStage::ControlnetStep => Some(ProbeStage::ControlnetStep),
        BenchStage::VaeDecode => Some(ProbeStage::VaeDecode),
        BenchStage::Whole => None,
    }
}

/// Runs something once, and then measures it.
fn repeated(runs: u16, mut run: impl FnMut() -> Result<(), GenerateError>) -> Result<Measured> {
    run()?;
    let profiles = (0..runs).map(|_| {
        let (done, profile) = profiled(clock, &mut run);
        done.map(|()| profile)
    });
    let profiles: Vec<Profile> = profiles.collect::<Result<_, _>>()?;
    Measured::of(profiles).ok_or_else(|| anyhow!("nothing was measured"))
}

/// Time since the first call.
fn clock() -> Duration {
    static FIRST: LazyLock<Instant> = LazyLock::new(Instant::now);
    FIRST.elapsed()
}

/// Image-to-image as the peers are measured: 12 of 20 steps, both halves of the guidance.
fn whole(model: &str, size: Size) -> Result<GenerationRequest> {
    let pixels = size.width() as usize * size.height() as usize;
    let grey = (0..3 * pixels).map(|index| (index * 37 % 251) as u8).collect();
    let init = Arc::new(Picture::new(size, Channels::Rgb, grey)?);
    Ok(GenerationRequest {
        model: model.to_owned(),
        prompts: vec![
            Prompt { text: "a white plaster statue of a boy".to_owned(), weight: 1.0 },
            Prompt { text: "blurry".to_owned(), weight: -1.0 },
        ],
        syntax: PromptSyntax::Emphasis,
        clip_skip: ClipSkip::LAST,
        task: Task::ImageToImage { init, span: Span::of(Strength::new(0.6)?) },
        canvas: Canvas::Exact(Some(size)),
        hires: None,
        sampler: Some(Sampler::Ddim),
        schedule: None,
        solver: SolverOptions::USUAL,
        steps: Steps::new(20)?,
        guidance_scale: GuidanceScale::new(7.5)?,
        guidance_rescale: 0.0,
        accelerations: Accelerations::NONE,
        seed: 1,
        noise: NoiseSource::TorchCpu,
        conditioning: Conditioning::none(),
        filter: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_are_measured_in_the_order_of_drawing() {
        use BenchStage::{Text, UnetStep, Whole};
        assert_eq!(stages(&[Whole, Text]), [Text, Whole]);
        assert!(stages(&[]).contains(&UnetStep) && !stages(&[]).contains(&Whole));
    }
}
