//! `pentimento generate`: one picture.
//!
//! First everything typed is resolved to a [`Plan`], without touching a file; then the plan is carried out,
//! cheap steps first, so that mistakes are told before the work.

mod plan;
mod steer;

use crate::{
    catalogue::{Catalogue, Offered, Offers, precision},
    cli::{DataArgs, GenerateArgs, SteeringArgs},
    config::CompanionNames,
    failure::{Failure, in_one_line, say},
    library::Shelves,
    output,
    places::Places,
    progress::Screen,
    source::Source,
};
use anyhow::{Context, Result, anyhow};
use pentimento_imaging::{Limits, decode, encode, mask, to_json};
use pentimento_request::{
    Cancel, Conditioning, Control, ControlNetwork, ErrorKind, Faces, GenerateError, GeneratedImage,
    GenerationRequest, Generator, Hint, Identity, ImagePrompt, Lora, Mask, Picture, Receipt, Strength, Task,
    Verdict,
};
use plan::{Drawn, MaskFrom, Plan};
use std::{
    io::{self, IsTerminal},
    path::{Path, PathBuf},
    process,
    sync::Arc,
};
use steer::{Place, Steering, TypedControl, TypedIdentity, TypedImagePrompt, TypedLora};

/// Largest input: a file of 1 GiB and 2^27 pixels (512 MB decoded), far above any camera's. It is the user's
/// own file, so the limit only keeps a broken header from taking all memory.
const INPUT_LIMITS: Limits = Limits { bytes: 1 << 30, pixels: 1 << 27 };

/// Draws what was asked for and writes it.
pub(crate) fn run(args: &GenerateArgs) -> Result<(), Failure> {
    let plan = Plan::resolve(args).map_err(Failure::Usage)?;
    check_outputs(&plan)?;
    use_threads(args.model.threads)?;
    let task = read_task(&plan)?;
    let cancel = cancel_on_interrupt()?;
    let image = draw(args, &plan, task, &cancel)?;
    deliver(&plan, &image)?;
    Ok(())
}

/// Sets how many threads compute in this process.
///
/// # Errors
/// When the system refuses them.
pub(crate) fn use_threads(threads: Option<u16>) -> Result<()> {
    let count = threads.map_or(0, usize::from);
    rayon::ThreadPoolBuilder::new()
        .num_threads(count)
        .build_global()
        .context("cannot start the threads that compute")
}

fn check_outputs(plan: &Plan) -> Result<(), Failure> {
    if output::is_stream(&plan.out) && io::stdout().is_terminal() {
        let message = "a picture on a terminal would be unreadable; redirect it (> picture.png) or name a file in --out";
        return Err(Failure::Usage(message.to_owned()));
    }
    for path in [Some(&plan.out), plan.receipt.as_ref(), plan.preview.as_ref()].into_iter().flatten() {
        output::check_writable(path)?;
    }
    Ok(())
}

fn read_task(plan: &Plan) -> Result<Task> {
    let Some(drawn) = &plan.drawn else { return Ok(Task::TextToImage) };
    let Drawn { init, mask, span, region, untouched } = drawn;
    let path = init;
    let init = Arc::new(read_picture(path)?);
    let Some(from) = mask else { return Ok(Task::ImageToImage { init, span: *span }) };
    let mask = Arc::new(read_mask(from, path, &init)?);
    Ok(Task::Repaint { init, mask, span: *span, region: *region, untouched: *untouched })
}

fn read_picture(path: &Path) -> Result<Picture> {
    let named = || match output::is_stream(path) {
        true => "the standard input is not a picture that can be read".to_owned(),
        false => format!("{} is not a picture that can be read", path.display()),
    };
    decode(&output::read(path)?, &INPUT_LIMITS).with_context(named)
}

fn read_mask(from: &MaskFrom, init_path: &Path, init: &Picture) -> Result<Mask> {
    let (path, mask) = match from {
        MaskFrom::File(path, source) => (path.as_path(), mask::from_picture(&read_picture(path)?, *source)),
        MaskFrom::Init(source) => (init_path, mask::from_picture(init, *source)),
    };
    let mask = mask.with_context(|| format!("cannot take a mask from {}", path.display()))?;
    if mask.size() != init.size() {
        let (ours, theirs) = (mask.size(), init.size());
        return Err(anyhow!(
            "the mask {} is {ours}, but the picture is {theirs}: make them the same",
            path.display()
        ));
    }
    Ok(mask)
}

/// The first interrupt ends the picture after the running step, the second one ends the process.
fn cancel_on_interrupt() -> Result<Cancel> {
    let cancel = Cancel::default();
    let switch = cancel.clone();
    let handler = move || match switch.is_cancelled() {
        true => process::exit(130),
        false => switch.cancel(),
    };
    ctrlc::set_handler(handler).context("cannot listen for interrupts")?;
    Ok(cancel)
}

fn draw(args: &GenerateArgs, plan: &Plan, task: Task, cancel: &Cancel) -> Result<GeneratedImage, Failure> {
    let SteeringArgs { loras_dir, controls_dir, .. } = &args.steering;
    let places = Places::typed(&args.model.data).with_steering(loras_dir, controls_dir);
    let source = Source::find(&plan.model, &places)?;
    let source = source.with_vae(args.model.vae.as_deref());
    let mut screen = Screen::new(cancel.clone(), plan.quiet, plan.preview.clone());
    let outcome = draw_on(&mut screen, plan, &source, &places, task);
    let preview_error = screen.finish();
    if let (Some(error), false) = (preview_error, plan.quiet) {
        say(&format!("warning: no previews: {error}"));
    }
    outcome
}

fn draw_on(
    screen: &mut Screen,
    plan: &Plan,
    source: &Source,
    places: &Places,
    task: Task,
) -> Result<GeneratedImage, Failure> {
    let mut offers = Offers::default();
    let offered = Offered {
        source: source.clone(),
        precision: precision(plan.dtype),
        pixel_cap: plan.max_pixels,
        companions: CompanionNames::default(),
    };
    let model = offers.add(offered);
    if let Some(preset) = plan.steering.clip_guidance
        && !source.inspect()?.takes_clip_guidance
    {
        let message =
            format!("--clip-guidance {preset}: the model '{model}' carries no CLIP picture encoder");
        return Err(Failure::Usage(message));
    }
    let mut shelves = Shelves::of(places);
    let conditioning = conditioning(&plan.steering, &mut shelves)?;
    let catalogue = Catalogue::new(offers, None, Arc::new(shelves))?;
    let request = GenerationRequest { conditioning, ..request(plan, model, task) };
    catalogue.generate(&request, screen).map_err(failure)
}

/// What steers a drawing on an input picture, with the files that it names.
///
/// # Errors
/// When what was typed cannot be, or a picture cannot be read.
pub(crate) fn steering(args: &SteeringArgs, data: &DataArgs) -> Result<(Conditioning, Shelves), Failure> {
    let places = Places::typed(data).with_steering(&args.loras_dir, &args.controls_dir);
    let mut shelves = Shelves::of(&places);
    let typed = Steering::resolve(args, true).map_err(Failure::Usage)?;
    Ok((conditioning(&typed, &mut shelves)?, shelves))
}

/// What steers the picture: names as they are, files under names of their own.
fn conditioning(steering: &Steering, shelves: &mut Shelves) -> Result<Conditioning> {
    let (start, end) = steering.range.unwrap_or((Strength::new(0.0)?, Strength::FULL));
    let loras = steering.loras.iter().map(|TypedLora { place, weight, text_weight }| Lora {
        name: match place {
            Place::Named(name) => name.clone(),
            Place::Path(path) => shelves.add_lora(path.clone()),
        },
        weight: *weight,
        text_weight: *text_weight,
    });
    let loras = loras.collect();
    let mut controls = Vec::new();
    if let Some((weight, thresholds)) = steering.canny {
        let hint = Hint::Edges(thresholds);
        controls.push(Control { network: ControlNetwork::Canny, hint, weight, start, end });
    }
    for TypedControl { place, image, weight } in &steering.controls {
        let network = ControlNetwork::Named(match place {
            Place::Named(name) => name.clone(),
            Place::Path(path) => shelves.add_control(path.clone()),
        });
        let hint = Hint::Picture(Arc::new(read_picture(image)?));
        controls.push(Control { network, hint, weight: *weight, start, end });
    }
    let image_prompts = steering.image_prompt.iter().map(|typed| image_prompt(typed, shelves));
    Ok(Conditioning {
        loras,
        controls,
        texture: steering.texture(),
        image_prompts: image_prompts.collect::<Result<_>>()?,
        identity: steering.identity.as_ref().map(|typed| identity(typed, shelves)).transpose()?,
        clip_guidance: steering.clip_guidance,
        left_out: Vec::new(),
    })
}

fn image_prompt(typed: &TypedImagePrompt, shelves: &mut Shelves) -> Result<ImagePrompt> {
    let TypedImagePrompt { adapter, pictures, scale } = typed;
    let adapter = match adapter {
        Place::Named(name) => name.clone(),
        Place::Path(path) => shelves.add_image_prompt(path.clone()),
    };
    Ok(ImagePrompt { adapter, pictures: read_pictures(pictures)?, scale: *scale })
}

fn identity(typed: &TypedIdentity, shelves: &mut Shelves) -> Result<Identity> {
    let TypedIdentity { adapter, pictures, scale } = typed;
    let adapter = adapter.as_ref().map(|place| match place {
        Place::Named(name) => name.clone(),
        Place::Path(path) => shelves.add_image_prompt(path.clone()),
    });
    let faces = if pictures.is_empty() { Faces::OfInput } else { Faces::Of(read_pictures(pictures)?) };
    Ok(Identity { adapter, faces, scale: *scale })
}

fn read_pictures(paths: &[PathBuf]) -> Result<Vec<Arc<Picture>>> {
    paths.iter().map(|path| read_picture(path).map(Arc::new)).collect()
}

fn request(plan: &Plan, model: String, task: Task) -> GenerationRequest {
    GenerationRequest {
        model,
        prompts: plan.prompts.clone(),
        task,
        canvas: plan.canvas,
        sampler: plan.sampler,
        schedule: plan.schedule,
        steps: plan.steps,
        guidance_scale: plan.guidance_scale,
        guidance_rescale: plan.guidance_rescale,
        accelerations: plan.accelerations,
        syntax: plan.syntax,
        clip_skip: plan.clip_skip,
        hires: plan.hires,
        solver: plan.solver,
        noise: plan.noise,
        conditioning: Conditioning::none(),
        filter: plan.filter,
        seed: plan.seed,
    }
}

/// What the engine refuses about a request, the user typed.
fn failure(error: GenerateError) -> Failure {
    let message = in_one_line(&error);
    match error.kind() {
        ErrorKind::Cancelled => Failure::BrokenOff,
        ErrorKind::InvalidRequest | ErrorKind::Unsupported | ErrorKind::NoFace => Failure::Usage(message),
        _ => Failure::Failed(message),
    }
}

fn deliver(plan: &Plan, image: &GeneratedImage) -> Result<()> {
    let GeneratedImage { picture, receipt } = image;
    let file = encode(picture, plan.format, Some(receipt)).context("cannot encode the picture")?;
    output::write(&plan.out, &file)?;
    let json = to_json(receipt);
    if let Some(path) = &plan.receipt {
        output::write(path, format!("{json:#}\n").as_bytes())?;
    }
    if plan.json && output::is_stream(&plan.out) {
        say(&json.to_string());
    } else if plan.json {
        output::write(Path::new("-"), format!("{json}\n").as_bytes())?;
    }
    if !plan.quiet {
        remark(plan, receipt);
    }
    Ok(())
}

/// Tells what may not be as expected, and on a terminal what was done.
fn remark(plan: &Plan, receipt: &Receipt) {
    let found = match receipt.verdict {
        Verdict::Unchecked | Verdict::Clean => None,
        Verdict::Flagged => Some("the picture is as it was drawn"),
        Verdict::Blurred => Some("the picture is blurred (--filter off shows it)"),
        Verdict::Blocked => Some("the picture is black (--filter off shows it)"),
    };
    if let Some(found) = found {
        say(&format!("note: the model's safety checker objects: {found}"));
    }
    for note in &receipt.notes {
        say(&format!("note: {note}"));
    }
    for prompt in receipt.prompts.iter().filter(|prompt| prompt.truncated > 0) {
        say(&format!(
            "note: the last {} tokens of '{}' did not fit and were left out",
            prompt.truncated, prompt.text
        ));
    }
    if io::stderr().is_terminal() {
        let Receipt { size, seed, sampler, steps_run, timings, .. } = receipt;
        let seconds: f64 = timings.iter().map(|timing| timing.took.as_secs_f64()).sum();
        let out = plan.out.display();
        say(&format!("{out}: {size}, seed {seed}, {sampler}, {steps_run} steps, {seconds:.1} s"));
    }
}
