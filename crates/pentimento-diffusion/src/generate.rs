//! One request, from its fields to pixels.
//!
//! The order of random draws is part of the contract, as in diffusers: the noise of the input's posterior (unless an
//! inpainting network repaints at full strength, which never sees the whole input), the latent noise, for a repaint
//! the noise of the masked input's posterior (which a network without inputs for it has no use for), then the
//! sampler's.
//! Source: diffusers' `StableDiffusionPipeline`, `…Img2ImgPipeline` and `…InpaintPipeline`.

mod finish;
mod start;

use crate::{
    canvas::Frame,
    clip_guidance::{ClipGuided, Guide},
    conditioning::{self, Clip, WantedControl},
    control::{BoundControl, Controls},
    error::LoadError,
    filter,
    guidance::{Guidance, GuidedUnet},
    hires::SecondPass,
    image_prompt::{self, Looks},
    lora::WantedLora,
    model::{Bound, Model, Precision},
    noise::Noise,
    ops::pages::{self, ReleaseOnDrop},
    pixels, placing,
    plan::Plan,
    prompt,
    samplers::{self, Denoise, Path, Position, StepEnd},
    schedule::Timesteps,
    step_cache::Cache,
    text_encoders::TextEncoders,
    unet::{Added, AddedInputs, Conditions, Context, Merging, Unet},
    vae::Vae,
};
use candle_core::Tensor;
use pentimento_imaging as imaging;
use pentimento_request::{
    ErrorKind, FilterMode, GenerateError, GeneratedImage, GenerationRequest, Mask, Picture, Progress, Size,
    Stage, StepReport, Task, TokenMerging, Verdict,
};
use start::Start;
use std::{cell::Cell, ops::ControlFlow};

/// Answers a request.
pub(crate) fn generate(
    model: &Model,
    request: &GenerationRequest,
    progress: &mut dyn Progress,
) -> Result<GeneratedImage, GenerateError> {
    check(model, request)?;
    let _pages = ReleaseOnDrop;
    let plan = Plan::new(model, request)?;
    let input = Input::of(&request.task, &plan.frame)?;
    enter(progress, Stage::Text)?;
    let guided = conditioning::guides(model, request);
    let looks = image_prompt::looks(model, request, guided, &mut || part(progress))?;
    let (mut loras, controls) =
        (conditioning::loras(model, request)?, conditioning::controls(model, request)?);
    loras.extend(looks.loras.iter().map(|(lora, file)| WantedLora { lora, file: file.clone() }));
    let bound = model.bound(&loras).map_err(conditioning::unfit)?;
    let (guide, ignored) = match conditioning::clip(model, request)? {
        Clip::Guides(preset, parts) => (Guide::new(parts, preset, request)?, None),
        Clip::Ignored(note) => (None, Some(note)),
        Clip::Absent => (None, None),
    };
    let steering =
        Steering { loras: &loras, bound: &bound, controls: &controls, looks: &looks, guide: guide.as_ref() };
    let notes = request.conditioning.left_out.iter().cloned().chain(ignored).collect();
    let mut run =
        Run { model, request, plan, steering, progress, notes, guided: Vec::new(), whole: Vec::new() };
    let prompts = run.read_prompts()?;
    let picture = match run.nothing_to_do(&request.task) {
        Some(untouched) => untouched,
        None => run.draw(input.as_ref(), &prompts)?,
    };
    let (picture, verdict) = run.filtered(picture)?;
    run.finished(picture, verdict, prompts.reports)
}

fn check(model: &Model, request: &GenerationRequest) -> Result<(), GenerateError> {
    let invalid = |message: String| Err(GenerateError::new(ErrorKind::InvalidRequest, message));
    if request.model != model.options.name {
        let message = format!("no model '{}' here", request.model);
        return Err(GenerateError::new(ErrorKind::ModelNotFound, message));
    }
    if model.filter.is_none() && !matches!(request.filter, None | Some(FilterMode::Off)) {
        let message = format!("filter: the model '{}' has no safety checker", request.model);
        return Err(GenerateError::new(ErrorKind::Unsupported, message));
    }
    match &request.task {
        Task::Repaint { init, mask, .. } if init.size() != mask.size() => {
            invalid(format!("mask: its size {} is not the input's {}", mask.size(), init.size()))
        }
        _ => Ok(()),
    }
}

/// What the model sees of the input.
struct Input<'a> {
    /// At the size at which the model works.
    picture: Picture,
    /// Of the same part of the input, at the input's own scale.
    mask: Option<Mask>,
    task: &'a Task,
}

impl<'a> Input<'a> {
    fn of(task: &'a Task, frame: &Frame) -> Result<Option<Self>, GenerateError> {
        let Some(init) = task.init() else { return Ok(None) };
        let picture = match frame.region {
            Some(rect) => imaging::resize(&imaging::crop(init, rect).map_err(defect)?, frame.work),
            None => imaging::resize(init, frame.work),
        };
        let mask = match (task, frame.region) {
            (Task::Repaint { mask, .. }, Some(rect)) => {
                Some(imaging::mask::crop(mask, rect).map_err(defect)?)
            }
            (Task::Repaint { mask, .. }, None) => Some(Mask::clone(mask)),
            _ => None,
        };
        Ok(Some(Self { picture, mask, task }))
    }

    /// Whether the start latent is noise alone: a repaint of full strength, as in diffusers.
    fn starts_from_noise(&self, plan: &Plan) -> bool {
        matches!(self.task, Task::Repaint { .. }) && plan.strength == 1.0
    }
}

/// One request being carried out.
struct Run<'a> {
    model: &'a Model,
    request: &'a GenerationRequest,
    plan: Plan,
    steering: Steering<'a>,
    progress: &'a mut dyn Progress,
    notes: Vec<String>,
    /// The steps of all passes that CLIP guided.
    guided: Vec<usize>,
    /// The steps of all passes in which the whole network was run, where some take over from others.
    whole: Vec<usize>,
}

/// What steers a request beside its prompts.
#[derive(Clone, Copy)]
struct Steering<'a> {
    loras: &'a [WantedLora<'a>],
    /// The networks with these adapters.
    bound: &'a Bound,
    controls: &'a [WantedControl<'a>],
    /// What is looked at beside the texts.
    looks: &'a Looks,
    /// CLIP's opinion.
    guide: Option<&'a Guide>,
}

/// The UNet of a run of the steps with all that steers it, in one precision.
struct Steered<'a> {
    unet: &'a Unet,
    context: Context,
    added: Option<Added>,
    controls: Vec<BoundControl>,
}

/// One walk of a sampler.
struct Pass {
    /// As notes call it.
    name: &'static str,
    path: Path,
    /// The size at which the model works.
    work: Size,
    /// Steps of the passes before it.
    before: usize,
    /// Steps of all passes.
    of: usize,
}

impl Run<'_> {
    fn read_prompts(&mut self) -> Result<prompt::Embedded, GenerateError> {
        let prompts = self.embed(self.steering.bound.text.as_ref().unwrap_or(&self.model.text))?;
        if prompts.is_finite().map_err(internal)? {
            return Ok(prompts);
        }
        self.overflowed("the texts")?;
        let encoder = self.model.text_in_f32(self.steering.loras).map_err(unbound)?;
        self.embed(&encoder)
    }

    fn embed(&mut self, encoders: &TextEncoders) -> Result<prompt::Embedded, GenerateError> {
        let reading = prompt::Reading {
            syntax: self.request.syntax,
            clip_skip: self.request.clip_skip,
            guides: self.guidance().is_some(),
        };
        let mut between = || part(self.progress);
        prompt::embed(&self.model.reader(encoders), &self.request.prompts, reading, &mut between)
    }

    /// The input as it is, where no step would change it.
    fn nothing_to_do(&mut self, task: &Task) -> Option<Picture> {
        let init = task.init()?;
        let note = match task {
            Task::Repaint { mask, .. } if imaging::bounding_box(mask).is_none() => "the mask is empty",
            _ if self.plan.path.steps() == 0 => "the strength is less than one step",
            _ => return None,
        };
        self.notes.push(format!("{note}: the input came back unchanged"));
        Some(imaging::resize(init, self.plan.frame.output))
    }

    fn draw(&mut self, input: Option<&Input>, prompts: &prompt::Embedded) -> Result<Picture, GenerateError> {
        let mut noise = Noise::new(self.request.noise, self.request.seed);
        let start = match input {
            Some(input) => self.start_from(input, &mut noise)?,
            None => self.start_from_noise(None, &mut noise)?,
        };
        enter(self.progress, Stage::Sample)?;
        // Each stage's buffers are of other sizes than the next one's, and would be held beside them.
        pages::release();
        let mut latents = self.walk(&start, input, prompts, &mut noise, &self.first_pass())?;
        let mut frame = self.plan.frame;
        if let Some(pass) = self.second_pass() {
            frame.work = pass.work;
            let input = Input::of(&self.request.task, &frame)?;
            let mut noise = Noise::new(self.request.noise, self.request.seed);
            let start = self.start_again(&latents, input.as_ref(), &mut noise, &pass)?;
            latents = self.walk(&start, input.as_ref(), prompts, &mut noise, &pass)?;
        }
        enter(self.progress, Stage::Decode)?;
        pages::release();
        let vae = &self.model.networks.vae;
        let mut decoded = self.model.hashed_beside(|| vae.decode(&latents)).map_err(internal)?;
        if !pixels::is_finite(&decoded).map_err(internal)? {
            decoded = self.vae_again("the decoding")?.decode(&latents).map_err(internal)?;
        }
        if !pixels::is_finite(&decoded).map_err(internal)? {
            return Err(GenerateError::new(
                ErrorKind::Internal,
                "the decoder gave values that are no numbers",
            ));
        }
        let picture = pixels::to_picture(&decoded).map_err(internal)?;
        placing::placed(self.request, &frame, picture)
    }

    fn first_pass(&self) -> Pass {
        let Plan { path, frame, second, .. } = &self.plan;
        let more = second.as_ref().map_or(0, |second| second.path.steps());
        Pass { name: "the steps", path: path.clone(), work: frame.work, before: 0, of: path.steps() + more }
    }

    fn second_pass(&self) -> Option<Pass> {
        let SecondPass { path, work, .. } = self.plan.second.as_ref()?;
        let before = self.plan.path.steps();
        let of = before + path.steps();
        Some(Pass { name: "the second pass", path: path.clone(), work: *work, before, of })
    }

    /// Runs a pass, and again in f32 where it overflowed.
    fn walk(
        &mut self,
        start: &Start,
        input: Option<&Input>,
        prompts: &prompt::Embedded,
        noise: &mut Noise,
        pass: &Pass,
    ) -> Result<Tensor, GenerateError> {
        let draws_so_far = noise.clone();
        let unet = self.steering.bound.unet.as_ref().unwrap_or(&self.model.networks.unet);
        let steered = self.steer(unet, input, prompts, pass, false)?;
        let latents = self.sample(&steered, start, noise, pass)?;
        if pixels::is_finite(&latents).map_err(internal)? {
            return Ok(latents);
        }
        *noise = draws_so_far;
        self.overflowed(pass.name)?;
        let unet = self.model.unet_in_f32(self.steering.loras).map_err(unbound)?;
        let steered = self.steer(&unet, input, prompts, pass, true)?;
        self.sample(&steered, start, noise, pass)
    }

    fn sample(
        &mut self,
        steered: &Steered,
        start: &Start,
        noise: &mut Noise,
        pass: &Pass,
    ) -> Result<Tensor, GenerateError> {
        let Plan { sampler, schedule, .. } = self.plan;
        let Steered { unet, context, added, controls } = steered;
        let step = Cell::new(0);
        let position = Position { step: &step, of: pass.path.steps() };
        let mut network = GuidedUnet {
            unet,
            conditions: Conditions {
                context,
                added: added.as_ref(),
                residuals: None,
                merging: self.merging(),
            },
            shown: start.shown.as_ref(),
            schedule: &self.model.schedule,
            guidance: self.guidance(),
            controls: Some(Controls { bound: controls, position }),
            position,
            cache: self.request.accelerations.step_cache.map(Cache::new),
            timesteps: Timesteps::of(sampler, schedule),
        };
        let shape = self.latent_shape_at(pass.work);
        let mut draw = || noise.draw(&shape);
        let mut cancelled = false;
        // What nobody may see in the end, nobody sees on the way.
        let previews = matches!(self.filter_mode(), FilterMode::Off | FilterMode::Flag);
        let (model, path, progress) = (self.model, &pass.path, &mut *self.progress);
        let mut between = |end: StepEnd<'_>, x: Tensor| {
            step.set(end.index + 1);
            let preview = || if previews { model.colours()?.draw(end.denoised).ok() } else { None };
            let report = StepReport { step: pass.before + end.index + 1, of: pass.of, preview: &preview };
            if progress.step(&report).is_break() {
                cancelled = true;
                return Err(candle_core::Error::Msg("cancelled".to_owned()));
            }
            match &start.known {
                Some(known) => known.reimpose(x, end.index, path.steps(), path.level(end.index + 1)),
                None => Ok(x),
            }
        };
        let (x, solver) = (start.x.clone(), &self.request.solver);
        let mut walk = |denoise: &mut dyn Denoise| {
            samplers::sample(sampler, denoise, x.clone(), path, solver, &mut draw, &mut between)
        };
        let (walked, network) = match self.steering.guide {
            None => (walk(&mut network), network),
            Some(guide) => {
                let mut guided = ClipGuided::new(network, guide, position);
                let walked = walk(&mut guided);
                // A pass that runs again in f32 is told once.
                self.guided.retain(|step| *step < pass.before);
                self.guided.extend(guided.guided.iter().map(|step| pass.before + step));
                (walked, guided.inner)
            }
        };
        let whole = network.cache.as_ref().map(Cache::whole_steps).unwrap_or_default();
        self.whole.retain(|step| *step < pass.before);
        self.whole.extend(whole.iter().map(|step| pass.before + step));
        match walked {
            _ if cancelled => Err(cancellation()),
            latents => latents.map_err(internal),
        }
    }

    /// What the prompts, the sizes, the guidance scale and the hints are to the networks: with guidance both halves as
    /// one batch, negative first.
    fn steer<'b>(
        &self,
        unet: &'b Unet,
        input: Option<&Input>,
        prompts: &prompt::Embedded,
        pass: &Pass,
        in_f32: bool,
    ) -> Result<Steered<'b>, GenerateError> {
        let prompt::Embedded { positive, negative, reports: _ } = prompts;
        let halves: Vec<_> = negative.iter().chain([positive]).collect();
        let contexts: Vec<_> = halves.iter().map(|half| &half.context).collect();
        let pooled: Option<Vec<_>> = halves.iter().map(|half| half.pooled.as_ref()).collect();
        let pooled = pooled.map(|pooled| Tensor::cat(&pooled, 0)).transpose().map_err(internal)?;
        let frame = Frame { work: pass.work, ..self.plan.frame };
        let work = frame.work;
        let (height, width) = (work.height() as f32, work.width() as f32);
        let inputs = AddedInputs {
            pooled: pooled.as_ref(),
            // diffusers' defaults: an original of the size asked for, not cropped.
            sizes: [height, width, 0.0, 0.0, height, width],
            guidance_scale: f64::from(self.request.guidance_scale.get()),
        };
        let joined = Tensor::cat(&contexts, 0).map_err(internal)?;
        // A second pass is shown the input at its own size.
        let shown = input.map(|input| imaging::resize(&input.picture, work));
        let whole = input.and_then(|input| input.task.init()).map(|init| init.size());
        let seen = shown.as_ref().zip(whole);
        let wanted = self.steering.controls;
        let controls =
            conditioning::bind_controls(self.model, wanted, &frame, seen, &joined, &inputs, in_f32)?;
        let mut context = unet.context(&joined).map_err(internal)?;
        context.streams = self.steering.looks.streams.clone();
        Ok(Steered { unet, context, added: unet.added(&inputs).map_err(internal)?, controls })
    }

    /// Guidance by a second half, where it is asked for and the network does not know the scale by itself.
    fn guidance(&self) -> Option<Guidance> {
        let scale = self.request.guidance_scale;
        conditioning::guides(self.model, self.request).then(|| Guidance {
            scale: f64::from(scale.get()),
            rescale: f64::from(self.request.guidance_rescale),
            interval: self.request.accelerations.guidance_interval,
        })
    }

    /// Which tokens are merged, in the first step.
    fn merging(&self) -> Option<Merging> {
        let wanted = self.request.accelerations.token_merging;
        let merging = Merging { ratio: wanted.ratio(), seed: self.request.seed, step: 0 };
        (wanted != TokenMerging::NONE).then_some(merging)
    }

    fn latent_shape(&self) -> [usize; 4] {
        self.latent_shape_at(self.plan.frame.work)
    }

    fn latent_shape_at(&self, work: Size) -> [usize; 4] {
        let factor = self.model.limits.factor;
        let channels = self.model.networks.vae.latent_channels();
        [1, channels, (work.height() / factor) as usize, (work.width() / factor) as usize]
    }

    /// The autoencoder for a stage whose values left the range of the precision.
    fn vae_again(&mut self, stage: &str) -> Result<Vae, GenerateError> {
        self.overflowed(stage)?;
        self.model.vae_in_f32().map_err(unbound)
    }

    /// Notes that a stage has to run again in f32, which is an error where it already did.
    fn overflowed(&mut self, stage: &str) -> Result<(), GenerateError> {
        if self.model.options.precision == Precision::F32 {
            let message = format!("{stage} gave values that are no numbers");
            return Err(GenerateError::new(ErrorKind::Internal, message));
        }
        self.notes.push(format!("{stage} overflowed and ran again in f32"));
        Ok(())
    }

    /// What the model's checker leaves of a picture, and its verdict.
    fn filtered(&mut self, picture: Picture) -> Result<(Picture, Verdict), GenerateError> {
        match (&self.model.filter, self.filter_mode()) {
            (None, _) | (_, FilterMode::Off) => Ok((picture, Verdict::Unchecked)),
            (Some(filter), mode) => {
                enter(self.progress, Stage::Check)?;
                filter.judge(picture, mode)
            }
        }
    }

    fn filter_mode(&self) -> FilterMode {
        filter::mode(self.model.filter.as_ref(), self.request.filter)
    }
}

fn enter(progress: &mut dyn Progress, stage: Stage) -> Result<(), GenerateError> {
    match progress.stage(stage) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(cancellation()),
    }
}

fn part(progress: &mut dyn Progress) -> Result<(), GenerateError> {
    match progress.part() {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(cancellation()),
    }
}

pub(crate) fn cancellation() -> GenerateError {
    GenerateError::new(ErrorKind::Cancelled, "the caller broke off")
}

/// Weights that could be bound once and now cannot.
fn unbound(error: LoadError) -> GenerateError {
    GenerateError::caused_by(ErrorKind::Internal, "cannot bind the weights in f32", error)
}

/// An error of tensor arithmetic: a mistake of ours, whatever was asked.
pub(crate) fn internal(error: candle_core::Error) -> GenerateError {
    GenerateError::caused_by(ErrorKind::Internal, "tensor arithmetic failed", error)
}

/// A value of ours that broke its own rule.
pub(crate) fn defect(error: pentimento_request::InvalidValue) -> GenerateError {
    GenerateError::caused_by(ErrorKind::Internal, "a size or mask did not fit", error)
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes everything");
        text
    })
}
