//! What the options of `generate` mean. Nothing here touches a file.

use super::steer::Steering;
use crate::{
    cli::{Dtype, GenerateArgs},
    output::is_stream,
    source::DEFAULT,
};
use pentimento_imaging::{Format, MaskSource};
use pentimento_protocols::StylePreset;
use pentimento_request::{
    Accelerations, Canvas, ClipSkip, FilterMode, GuidanceScale, Hires, NoiseSource, Prompt, PromptSyntax,
    Region, Sampler, Schedule, Size, SolverOptions, Span, Steps, Strength, Untouched,
};
use std::path::{Path, PathBuf};

/// Image-to-image keeps the picture's composition (Stability's default: `image_strength` 0.35, the complement
/// of this).
const STRENGTH_WITHOUT_MASK: f64 = 0.65;

/// Pixels around a mask that the model sees unless told otherwise.
const PADDING: u32 = 32;

/// Sides of pictures that the model works on are multiples of this: a latent cell.
const GRID: u32 = 8;

/// Everything that `generate` was told, resolved.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) model: String,
    pub(super) dtype: Dtype,
    pub(super) max_pixels: u64,
    pub(super) prompts: Vec<Prompt>,
    pub(super) drawn: Option<Drawn>,
    pub(super) steering: Steering,
    pub(super) canvas: Canvas,
    pub(super) syntax: PromptSyntax,
    pub(super) clip_skip: ClipSkip,
    pub(super) sampler: Option<Sampler>,
    pub(super) schedule: Option<Schedule>,
    pub(super) solver: SolverOptions,
    pub(super) noise: NoiseSource,
    pub(super) steps: Steps,
    pub(super) guidance_scale: GuidanceScale,
    pub(super) guidance_rescale: f32,
    pub(super) accelerations: Accelerations,
    pub(super) hires: Option<Hires>,
    pub(super) filter: Option<FilterMode>,
    pub(super) seed: u64,
    pub(super) out: PathBuf,
    pub(super) format: Format,
    pub(super) receipt: Option<PathBuf>,
    pub(super) preview: Option<PathBuf>,
    pub(super) json: bool,
    pub(super) quiet: bool,
}

/// The picture that is drawn on, and how.
#[derive(Debug)]
pub(super) struct Drawn {
    pub(super) init: PathBuf,
    pub(super) mask: Option<MaskFrom>,
    pub(super) span: Span,
    pub(super) region: Region,
    pub(super) untouched: Untouched,
}

/// Where a mask comes from.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum MaskFrom {
    /// A file of its own.
    File(PathBuf, MaskSource),
    /// The picture that is drawn on.
    Init(MaskSource),
}

impl Plan {
    /// Resolves what was typed. The error says what to type instead.
    pub(super) fn resolve(args: &GenerateArgs) -> Result<Self, String> {
        check_streams(args)?;
        Ok(Self {
            model: args.model.model.clone().unwrap_or_else(|| DEFAULT.to_owned()),
            dtype: args.model.dtype.unwrap_or(Dtype::F32),
            max_pixels: args.max_pixels,
            prompts: prompts(args)?,
            drawn: drawn(args)?,
            steering: Steering::resolve(&args.steering, args.init.is_some())?,
            canvas: canvas(args)?,
            syntax: if args.plain_prompt || args.raw { PromptSyntax::Plain } else { PromptSyntax::Emphasis },
            clip_skip: ClipSkip::new(args.clip_skip.unwrap_or(1))
                .map_err(|error| format!("--clip-skip: {error}"))?,
            sampler: args.sampler.map(|(sampler, _)| sampler),
            schedule: schedule(args)?,
            solver: solver(args)?,
            noise: args.noise.unwrap_or(NoiseSource::TorchCpu),
            steps: Steps::new(args.steps).map_err(|error| format!("--steps: {error}"))?,
            guidance_scale: GuidanceScale::new(args.cfg).map_err(|error| format!("--cfg: {error}"))?,
            guidance_rescale: share("--guidance-rescale", args.guidance_rescale)?,
            accelerations: args.accelerations.resolve(),
            hires: args.hires.as_deref().map(hires).transpose()?,
            filter: args.filter.or(args.raw.then_some(FilterMode::Off)),
            seed: args.seed.map_or_else(random_seed, Ok)?,
            out: args.out.clone(),
            format: format(args)?,
            receipt: args.receipt.clone(),
            preview: args.preview.clone(),
            json: args.json,
            quiet: args.quiet,
        })
    }
}

fn prompts(args: &GenerateArgs) -> Result<Vec<Prompt>, String> {
    let plain = |texts: &[String], weight| -> Vec<Prompt> {
        texts.iter().map(|text| Prompt { text: text.clone(), weight }).collect()
    };
    let mut prompts = plain(&args.prompt, 1.0);
    prompts.extend(plain(&args.negative, -1.0));
    // clap takes two values at a time, so that the list holds whole pairs.
    for pair in args.weighted.chunks_exact(2) {
        let weight = pair[0].parse::<f32>().ok().filter(|weight| weight.is_finite());
        let weight = weight.ok_or_else(|| {
            format!("--weighted: '{}' is not a weight: write a number and a text, as in --weighted 0.5 \"a rose\"", pair[0])
        })?;
        prompts.push(Prompt { text: pair[1].clone(), weight });
    }
    // clap let only known names and the empty one through.
    if let Some(style) = args.style.as_deref().and_then(|name| name.parse::<StylePreset>().ok()) {
        let shown = prompts.iter_mut().filter(|prompt| prompt.weight > 0.0);
        shown.for_each(|prompt| prompt.text = style.applied_to(&prompt.text));
    }
    Ok(prompts)
}

/// The schedule that was named, by itself or behind a sampler's name.
fn schedule(args: &GenerateArgs) -> Result<Option<Schedule>, String> {
    let of_sampler = args.sampler.and_then(|(_, schedule)| schedule);
    match (args.schedule, of_sampler) {
        (Some(named), Some(other)) if named != other => {
            Err(format!("--schedule: the --sampler's name says {other}, not {named}: leave one of them out"))
        }
        (named, other) => Ok(named.or(other)),
    }
}

fn solver(args: &GenerateArgs) -> Result<SolverOptions, String> {
    let within = |option: &str, given: Option<f64>, most: f64| match given {
        Some(value) if !(0.0..=most).contains(&value) => {
            Err(format!("{option}: {value} is not possible: it goes from 0 to {most}"))
        }
        given => Ok(given),
    };
    let usual = SolverOptions::USUAL;
    Ok(SolverOptions {
        eta: within("--eta", args.eta, 1.0)?,
        s_churn: within("--s-churn", args.s_churn, 1000.0)?.unwrap_or(usual.s_churn),
        s_tmin: within("--s-tmin", args.s_tmin, f64::INFINITY)?.unwrap_or(usual.s_tmin),
        s_tmax: within("--s-tmax", args.s_tmax, f64::INFINITY)?.unwrap_or(usual.s_tmax),
        s_noise: within("--s-noise", args.s_noise, 10.0)?.unwrap_or(usual.s_noise),
    })
}

fn drawn(args: &GenerateArgs) -> Result<Option<Drawn>, String> {
    let Some(init) = args.init.clone() else { return Ok(None) };
    let mask = mask(args)?;
    if mask.is_none() && (args.padding.is_some() || args.whole) {
        return Err(
            "--padding and --whole are about masks: give --mask FILE or --mask-source alpha".to_owned()
        );
    }
    let default_strength = if mask.is_some() { 1.0 } else { STRENGTH_WITHOUT_MASK };
    let strength = Strength::new(args.strength.unwrap_or(default_strength));
    let strength = strength.map_err(|error| format!("--strength: {error}"))?;
    let region = match args.raw || args.whole {
        true => Region::Whole,
        false => Region::Surroundings { padding: args.padding.unwrap_or(PADDING) },
    };
    let untouched = if args.raw { Untouched::AsDecoded } else { Untouched::Restored };
    Ok(Some(Drawn { init, mask, span: Span::of(strength), region, untouched }))
}

fn mask(args: &GenerateArgs) -> Result<Option<MaskFrom>, String> {
    match (&args.mask, args.mask_source) {
        (None, None) => Ok(None),
        (None, Some(MaskSource::Alpha)) => Ok(Some(MaskFrom::Init(MaskSource::Alpha))),
        (Some(_), Some(MaskSource::Alpha)) => {
            Err("--mask-source alpha reads the transparency of the --init picture: leave --mask out"
                .to_owned())
        }
        (None, Some(source)) => Err(format!("--mask-source {source} needs a mask: give --mask FILE")),
        (Some(file), source) => Ok(Some(MaskFrom::File(file.clone(), source.unwrap_or(MaskSource::White)))),
    }
}

fn canvas(args: &GenerateArgs) -> Result<Canvas, String> {
    if args.init.is_some() && !args.raw {
        return Ok(Canvas::Native(args.size));
    }
    match args.size {
        Some(size) if !is_on_grid(size) => Err(format!(
            "--size: {size} is not possible here: both sides have to be multiples of {GRID}, as in {}",
            on_grid(size)
        )),
        size => Ok(Canvas::Exact(size)),
    }
}

/// Share of the schedule that a second pass runs unless told otherwise: enough to draw what enlarging cannot know, too
/// little to draw another picture.
const HIRES_STRENGTH: f64 = 0.5;

/// `SCALE[:STRENGTH[:STEPS]]`
fn hires(text: &str) -> Result<Hires, String> {
    let wrong = || format!("--hires: '{text}' is not SCALE[:STRENGTH[:STEPS]], as in 2, 1.5:0.6 or 2:0.6:20");
    let parts: Vec<&str> = text.split(':').collect();
    let (scale, strength, steps) = match parts[..] {
        [scale] => (scale, None, None),
        [scale, strength] => (scale, Some(strength), None),
        [scale, strength, steps] => (scale, Some(strength), Some(steps)),
        _ => return Err(wrong()),
    };
    let strength = match strength {
        Some(text) => text.parse().map_err(|_| wrong())?,
        None => HIRES_STRENGTH,
    };
    let steps = steps.map(|text| text.parse().map_err(|_| wrong())).transpose()?;
    Ok(Hires {
        scale: scale.parse().map_err(|_| wrong())?,
        strength: Strength::new(strength).map_err(|error| format!("--hires: {error}"))?,
        steps: steps.map(Steps::new).transpose().map_err(|error| format!("--hires: {error}"))?,
    })
}

fn is_on_grid(size: Size) -> bool {
    size.width().is_multiple_of(GRID) && size.height().is_multiple_of(GRID)
}

/// The nearest size that is possible, in words.
fn on_grid(size: Size) -> String {
    let nearest = |side: u32| ((side + GRID / 2) / GRID).max(1) * GRID;
    format!("{}x{}", nearest(size.width()), nearest(size.height()))
}

fn share(option: &str, value: f32) -> Result<f32, String> {
    match (0.0..=1.0).contains(&value) {
        true => Ok(value),
        false => Err(format!("{option}: {value} is not possible: it goes from 0 to 1")),
    }
}

fn format(args: &GenerateArgs) -> Result<Format, String> {
    if let Some(format) = args.format {
        return Ok(format);
    }
    match args.out.extension() {
        Some(extension) if !is_stream(&args.out) => Format::from_path(&args.out).ok_or_else(|| {
            let extension = Path::new(extension).display();
            format!(
                "--out: .{extension} files cannot be written: use .png, .jpg or .webp, or say the --format"
            )
        }),
        _ => Ok(Format::Png),
    }
}

/// One stream serves one purpose.
fn check_streams(args: &GenerateArgs) -> Result<(), String> {
    let is_stream = |path: &Option<PathBuf>| path.as_deref().is_some_and(is_stream);
    if is_stream(&args.init) && is_stream(&args.mask) {
        return Err(
            "--init and --mask cannot both be the standard input: name a file for one of them".to_owned()
        );
    }
    if is_stream(&args.preview) {
        return Err("--preview is a file that is rewritten after each step: name one".to_owned());
    }
    let out_streams = [is_stream(&Some(args.out.clone())), is_stream(&args.receipt)];
    if out_streams == [true, true] {
        return Err(
            "--out and --receipt cannot both be the standard output: name a file for one of them".to_owned()
        );
    }
    if args.json && is_stream(&args.receipt) {
        return Err(
            "--json prints the receipt on the standard output already: leave --receipt - out".to_owned()
        );
    }
    Ok(())
}

/// A seed that every interface can express: 32 bits, and not 0, which some of them read as "random".
fn random_seed() -> Result<u64, String> {
    let drawn = getrandom::u32()
        .map_err(|error| format!("the system gives no random seed ({error}): give --seed N"))?;
    Ok(u64::from(drawn.max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn plan(options: &str) -> Result<Plan, String> {
        let typed = ["pentimento", "generate"].into_iter().chain(options.split_whitespace());
        let command = Cli::try_parse_from(typed).expect("clap takes it").command;
        let Command::Generate(args) = command else { panic!("another command") };
        Plan::resolve(&args)
    }

    #[test]
    fn the_defaults_are_those_of_the_help() {
        let plan = plan("-p x -o a.png").expect("it is right");
        assert_eq!(plan.prompts, [Prompt { text: "x".into(), weight: 1.0 }]);
        assert_eq!((plan.steps.get(), plan.guidance_scale.get()), (20, 7.0));
        assert_eq!((plan.sampler, plan.schedule, plan.canvas), (None, None, Canvas::Exact(None)));
        assert!(plan.drawn.is_none() && plan.seed > 0 && plan.format == Format::Png);
    }

    #[test]
    fn a_style_is_put_around_what_shall_be_seen() {
        let styled = plan("-p a -n b --style ANIME -o a.png").expect("it is right").prompts;
        assert_eq!(styled[0].text, "a, anime, clean line work, cel shading");
        assert_eq!(styled[1].text, "b");
        let typed = ["pentimento", "generate", "-p", "a", "--style", "", "-o", "a.png"];
        let command = Cli::try_parse_from(typed).expect("an empty style is none").command;
        let Command::Generate(args) = command else { panic!("another command") };
        assert_eq!(Plan::resolve(&args).expect("it is right").prompts[0].text, "a");
    }

    #[test]
    fn sampling_is_what_was_typed() {
        let typed =
            "-p a -o a.png --sampler dpm++_2m_karras --noise PHILOX --clip-skip 2 --eta 0.5 --s-tmax 9";
        let plan = plan(typed).expect("it is right");
        assert_eq!((plan.sampler, plan.schedule), (Some(Sampler::KDpmpp2m), Some(Schedule::Karras)));
        assert_eq!((plan.noise, plan.clip_skip.get()), (NoiseSource::Philox, 2));
        let solver = SolverOptions { eta: Some(0.5), s_tmax: 9.0, ..SolverOptions::USUAL };
        assert_eq!((plan.solver, plan.syntax), (solver, PromptSyntax::Emphasis));
        for option in ["--raw", "--plain-prompt"] {
            let plain = super::tests::plan(&format!("-p (a) -o a.png {option}")).expect("it is right");
            assert_eq!(plain.syntax, PromptSyntax::Plain);
        }
    }

    #[test]
    fn texts_become_weighted_prompts() {
        let plan = plan("-p a -p b -n c --weighted -2.5 d --weighted 0 e -o a.png").expect("it is right");
        let seen: Vec<_> = plan.prompts.iter().map(|prompt| (prompt.text.as_str(), prompt.weight)).collect();
        assert_eq!(seen, [("a", 1.0), ("b", 1.0), ("c", -1.0), ("d", -2.5), ("e", 0.0)]);
    }

    #[test]
    fn masks_come_from_a_file_or_from_the_picture() {
        let mask = |options: &str| {
            plan(&format!("-p x -o a.png -i i.png {options}")).map(|plan| {
                let drawn = plan.drawn.expect("there is a picture");
                (drawn.mask, drawn.span.strength.get())
            })
        };
        let file = |source| Some(MaskFrom::File("m.png".into(), source));
        assert_eq!(mask(""), Ok((None, 0.65)));
        assert_eq!(mask("-m m.png"), Ok((file(MaskSource::White), 1.0)));
        assert_eq!(mask("-m m.png --mask-source BLACK"), Ok((file(MaskSource::Black), 1.0)));
        assert_eq!(
            mask("--mask-source alpha --strength 0.5"),
            Ok((Some(MaskFrom::Init(MaskSource::Alpha)), 0.5))
        );
        assert!(mask("-m m.png --mask-source alpha").is_err());
        assert!(mask("--mask-source white").is_err());
        assert!(mask("--whole").is_err());
    }

    #[test]
    fn a_second_pass_is_read_as_the_help_says() {
        let read = |text: &str| {
            plan(&format!("-p x -o a.png --hires {text}")).map(|plan| {
                let Hires { scale, strength, steps } = plan.hires.expect("it was given");
                (scale, strength.get(), steps.map(Steps::get))
            })
        };
        assert_eq!(read("2"), Ok((2.0, HIRES_STRENGTH, None)));
        assert_eq!(read("1.5:0.6"), Ok((1.5, 0.6, None)));
        assert_eq!(read("2:0.6:12"), Ok((2.0, 0.6, Some(12))));
        for wrong in ["x", "2:", "2:0.5:0", "2:1.5", "2:0.5:3:4", ":0.5"] {
            assert!(read(wrong).expect_err(wrong).starts_with("--hires: "));
        }
    }

    #[test]
    fn nothing_is_faster_unless_it_is_asked_for() {
        let faster = |options: &str| plan(&format!("-p x -o a.png {options}")).map(|plan| plan.accelerations);
        assert_eq!(faster(""), Ok(Accelerations::NONE));
        let interval = "0.2:0.8".parse().expect("an interval");
        let typed = "--guidance-interval 0.2:0.8 --step-cache 3:1 --token-merging 0.5";
        let token_merging = "0.5".parse().expect("a share");
        let step_cache = "3:1".parse().ok();
        assert_eq!(
            faster(typed),
            Ok(Accelerations { guidance_interval: interval, step_cache, token_merging })
        );
    }

    #[test]
    fn raw_means_the_bare_pipeline() {
        let bare = plan("-p x -o a.png -i i.png -m m.png --raw").expect("it is right");
        let drawn = bare.drawn.expect("there is a picture");
        assert_eq!((bare.canvas, drawn.region), (Canvas::Exact(None), Region::Whole));
        assert_eq!(bare.filter, Some(FilterMode::Off));
        assert_eq!(drawn.untouched, Untouched::AsDecoded);
        let usual = plan("-p x -o a.png -i i.png -m m.png --size 100x50").expect("it is right");
        let drawn = usual.drawn.expect("there is a picture");
        assert_eq!(usual.canvas, Canvas::Native(Size::new(100, 50).ok()));
        assert_eq!(drawn.region, Region::Surroundings { padding: PADDING });
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_option_named() {
        let cases = [
            ("-p x -o a.png --steps 0", "--steps"),
            ("-p x -o a.png --cfg 36", "--cfg"),
            ("-p x -o a.png --cfg NaN", "--cfg"),
            ("-p x -o a.png --guidance-rescale 2", "--guidance-rescale"),
            ("-p x -o a.png --size 100x64", "as in 104x64"),
            ("-p x -o a.png -i i.png --strength 1.5", "--strength"),
            ("-p x -o a.png --clip-skip 13", "--clip-skip"),
            ("-p x -o a.png --eta 1.5", "--eta"),
            ("-p x -o a.png --s-churn NaN", "--s-churn"),
            ("-p x -o a.png --sampler dpm++2mkarras --schedule leading", "leave one of them out"),
            ("-p x -o a.bmp", ".bmp"),
            ("--weighted rose 2 -o a.png", "'rose' is not a weight"),
            ("--weighted inf rose -o a.png", "'inf' is not a weight"),
            ("-p x -i - -m - -o a.png", "standard input"),
            ("-p x -o - --receipt -", "standard output"),
        ];
        for (options, expected) in cases {
            let message = plan(options).expect_err(options);
            assert!(message.contains(expected) && !message.contains('\n'), "{options}: {message}");
        }
    }

    #[test]
    fn the_format_follows_the_name_unless_it_is_said() {
        let format = |options: &str| plan(&format!("-p x {options}")).map(|plan| plan.format);
        assert_eq!(format("-o a.JPG"), Ok(Format::Jpeg));
        assert_eq!(format("-o a.webp"), Ok(Format::WebP));
        assert_eq!(format("-o a"), Ok(Format::Png));
        assert_eq!(format("-o -"), Ok(Format::Png));
        assert_eq!(format("-o a.bmp --format jpg"), Ok(Format::Jpeg));
    }
}
