//! The vendor's body to a neutral request.
//!
//! Every member of the wire struct is named here, so that none can be lost by accident; those without an effect are
//! named as ignored. Errors: the container's, by the names of Stability's own interface.

use super::{
    fault::Fault,
    wire::{InitImageMode, InvokeBody, TextPrompt},
};
use crate::{ModelProfile, Seed, StylePreset};
use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use pentimento_imaging::{self as imaging, ImageError, ImageErrorKind, Limits, MaskSource, mask};
use pentimento_request::{
    Canvas, ClipSkip, Conditioning, GenerationRequest, GuidanceScale, InvalidValue, Mask, NoiseSource,
    Picture, Prompt, PromptSyntax, Region, Size, SolverOptions, Span, Steps, Strength, Task, Untouched,
};
use std::{ops::RangeInclusive, sync::Arc};

/// The vendor's default guidance.
const CFG_SCALE: f64 = 7.0;

/// The vendor's default number of steps.
const STEPS: u64 = 30;

/// The default of `image_strength` in image-to-image: how much of the picture is kept.
const IMAGE_STRENGTH: f64 = 0.35;

/// The default start in masking. Stability's container says 0.65 there too, which leaves the old content shining
/// through the mask; AWS' pages know no such member for masking, and its own sample application had to force this
/// value to get what a mask promises.
const MASKING_START: f64 = 1.0;

/// Pixels of a picture made from nothing, where sizes are taken loosely.
const PIXELS: RangeInclusive<u64> = 262_144..=1_048_576;

/// Width and height of every size that the vendor documents for SDXL 1.0.
const NINE_SIZES: [[u32; 2]; 9] = [
    [1024, 1024],
    [1152, 896],
    [1216, 832],
    [1344, 768],
    [1536, 640],
    [640, 1536],
    [768, 1344],
    [832, 1216],
    [896, 1152],
];

/// Pixels around a mask that the model is shown where the picture is larger than its native size.
const PADDING: u32 = 32;

/// Base64 with or without its padding: both are sent.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// What decoding depends on beside the body.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules<'a> {
    /// The model that answers.
    pub(super) model: &'a ModelProfile,
    /// How large pictures that are sent may be.
    pub(super) image_limits: &'a Limits,
    /// The size of a picture for which none was asked.
    pub(super) default_size: Size,
    /// Whether only the nine documented sizes are taken.
    pub(super) strict_sizes: bool,
}

/// What a body asks for.
pub(super) fn decode(body: InvokeBody, rules: Rules<'_>) -> Result<(GenerationRequest, Seed), Fault> {
    let InvokeBody {
        text_prompts,
        width,
        height,
        init_image,
        init_image_mode,
        image_strength,
        step_schedule_start,
        step_schedule_end,
        mask_source,
        mask_image,
        cfg_scale,
        clip_guidance_preset,
        sampler,
        // The schema lets only 1 through.
        samples: _,
        seed,
        steps,
        style_preset,
        // "Use with caution": undocumented settings of a service that is gone.
        extras: _,
    } = body;
    let run = Run { init_image_mode, image_strength, step_schedule_start, step_schedule_end };
    let (task, canvas) = match (init_image, mask_source) {
        (None, _) => (Task::TextToImage, Canvas::Native(Some(rules.size(width, height)?))),
        (Some(init), None) => (
            Task::ImageToImage { init: rules.init(init)?, span: run.span(1.0 - IMAGE_STRENGTH)? },
            Canvas::Native(None),
        ),
        (Some(init), Some(source)) => {
            let init = rules.init(init)?;
            let mask = rules.mask(&init, source, mask_image)?;
            (repaint(init, mask, run.span(MASKING_START)?), Canvas::Native(None))
        }
    };
    let seed = seed.filter(|&seed| seed != 0);
    let request = GenerationRequest {
        model: rules.model.name.clone(),
        prompts: text_prompts.into_iter().map(|prompt| resolve_prompt(prompt, style_preset)).collect(),
        task,
        canvas,
        sampler,
        schedule: None,
        steps: Steps::new(steps.unwrap_or(STEPS) as usize).map_err(bad_request)?,
        guidance_scale: GuidanceScale::new(cfg_scale.unwrap_or(CFG_SCALE) as f32).map_err(bad_request)?,
        guidance_rescale: rules.model.guidance_rescale,
        accelerations: rules.model.accelerations,
        syntax: PromptSyntax::Emphasis,
        clip_skip: ClipSkip::LAST,
        hires: None,
        solver: SolverOptions::USUAL,
        noise: NoiseSource::TorchCpu,
        // For models of the XL family the engine ignores it, as the vendor's own container does.
        conditioning: Conditioning { clip_guidance: clip_guidance_preset, ..Conditioning::none() },
        filter: rules.model.filter,
        seed: seed.unwrap_or_default(),
    };
    Ok((request, seed.map_or(Seed::Drawn { max: u32::MAX.into() }, |_| Seed::Given)))
}

fn repaint(init: Arc<Picture>, mask: Mask, span: Span) -> Task {
    Task::Repaint {
        init,
        mask: Arc::new(mask),
        span,
        region: Region::Surroundings { padding: PADDING },
        untouched: Untouched::Restored,
    }
}

/// A style is part of what shall be seen, so what shall not be seen stays as it is.
fn resolve_prompt(prompt: TextPrompt, style: Option<StylePreset>) -> Prompt {
    let TextPrompt { text, weight } = prompt;
    let weight = weight.unwrap_or(1.0) as f32;
    let text = style.filter(|_| weight > 0.0).map(|style| style.applied_to(&text)).unwrap_or(text);
    Prompt { text, weight }
}

/// The members that say which part of the schedule is run.
struct Run {
    init_image_mode: Option<InitImageMode>,
    image_strength: Option<f64>,
    step_schedule_start: Option<f64>,
    step_schedule_end: Option<f64>,
}

impl Run {
    /// The part that is run; members of the mode that was not chosen have no say. A start of 1 is pure noise.
    fn span(self, default_start: f64) -> Result<Span, Fault> {
        let Self { init_image_mode, image_strength, step_schedule_start, step_schedule_end } = self;
        let (start, end) = match init_image_mode.unwrap_or(InitImageMode::ImageStrength) {
            InitImageMode::ImageStrength => (image_strength.map(|strength| 1.0 - strength), None),
            InitImageMode::StepSchedule => (step_schedule_start, step_schedule_end),
        };
        let (start, end) = (start.unwrap_or(default_start), end.unwrap_or(0.0));
        if end > 0.0 && end >= start {
            return Err(Fault::container(
                "bad_request",
                format!("step_schedule_end ({end}) must be less than step_schedule_start ({start})"),
            ));
        }
        Ok(Span {
            strength: Strength::new(start).map_err(bad_request)?,
            skipped_end: Strength::new(end).map_err(bad_request)?,
        })
    }
}

impl Rules<'_> {
    /// The size of a picture made from nothing.
    fn size(&self, width: Option<u64>, height: Option<u64>) -> Result<Size, Fault> {
        if width.is_none() && height.is_none() {
            return Ok(self.default_size);
        }
        let side = |given: Option<u64>, default: u32| given.map_or(default, |side| side as u32);
        let (width, height) =
            (side(width, self.default_size.width()), side(height, self.default_size.height()));
        let size = Size::new(width, height).map_err(bad_request)?;
        if self.strict_sizes {
            documented(size)?;
        } else if !PIXELS.contains(&size.pixels()) {
            return Err(Fault::container(
                "invalid_pixel_count",
                format!(
                    "width times height must be from {} to {} pixels, but {size} has {}",
                    PIXELS.start(),
                    PIXELS.end(),
                    size.pixels()
                ),
            ));
        }
        Ok(size)
    }

    /// The picture that a run starts from.
    fn init(&self, text: String) -> Result<Arc<Picture>, Fault> {
        let picture = self.picture("init_image", text)?;
        if self.strict_sizes {
            documented(picture.size())?;
        }
        Ok(Arc::new(picture))
    }

    /// The mask, from its own picture or from the transparent part of the init image.
    fn mask(&self, init: &Picture, source: MaskSource, mask_image: Option<String>) -> Result<Mask, Fault> {
        let invalid = |error: InvalidValue| Fault::container("invalid_mask_image", error.to_string());
        // A mask image beside INIT_IMAGE_ALPHA has no meaning.
        if source == MaskSource::Alpha {
            return mask::from_picture(init, source).map_err(invalid);
        }
        let text = mask_image.ok_or_else(|| {
            Fault::container(
                "invalid_mask_image",
                "mask_image: is required unless mask_source is INIT_IMAGE_ALPHA",
            )
        })?;
        let picture = self.picture("mask_image", text)?;
        if picture.size() != init.size() {
            return Err(Fault::container(
                "invalid_image_dimensions",
                format!(
                    "init_image and mask_image must have the same size, but they have {} and {}",
                    init.size(),
                    picture.size()
                ),
            ));
        }
        mask::from_picture(&picture, source).map_err(invalid)
    }

    /// The picture in a member's base64.
    fn picture(&self, member: &str, text: String) -> Result<Picture, Fault> {
        let file = file_in(text)
            .map_err(|error| Fault::container("invalid_base64", format!("{member}: {error}")))?;
        imaging::decode(&file, self.image_limits).map_err(|error| picture_fault(member, &error))
    }
}

/// The bytes behind base64, also where it is broken into lines or begins as a data URL.
fn file_in(mut text: String) -> Result<Vec<u8>, String> {
    if text.contains(|letter: char| letter.is_ascii_whitespace()) {
        text.retain(|letter| !letter.is_ascii_whitespace());
    }
    let encoded = match text.strip_prefix("data:").and_then(|url| url.split_once(";base64,")) {
        Some((_media_type, encoded)) => encoded,
        None => text.as_str(),
    };
    if encoded.is_empty() {
        return Err("is empty".to_owned());
    }
    BASE64.decode(encoded).map_err(|error| format!("is not valid base64: {error}"))
}

fn picture_fault(member: &str, error: &ImageError) -> Fault {
    let name = match error.kind() {
        ImageErrorKind::TooManyBytes => "invalid_file_size",
        ImageErrorKind::TooManyPixels => "invalid_pixel_count",
        ImageErrorKind::UnknownFormat => "invalid_mime_type",
        _ => "bad_request",
    };
    Fault::container(name, format!("{member}: {error}"))
}

/// Refuses a size that is none of the nine, in the words in which clients have seen it refused.
fn documented(size: Size) -> Result<(), Fault> {
    if NINE_SIZES.contains(&[size.width(), size.height()]) {
        return Ok(());
    }
    let allowed = NINE_SIZES.map(|[width, height]| format!("{width}x{height}")).join(", ");
    Err(Fault::container(
        "invalid_sdxl_v1_dimensions",
        format!(
            "for stable-diffusion-xl-1024-v0-9 and stable-diffusion-xl-1024-v1-0 the allowed dimensions are \
             {allowed}, but we received {size}"
        ),
    ))
}

/// A value that the schema should have caught.
fn bad_request(error: InvalidValue) -> Fault {
    Fault::container("bad_request", error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read_in_all_the_ways_it_is_sent() {
        for text in [
            "aGVsbG8=",
            "aGVsbG8",
            "aGVs\r\nbG8=\n",
            " aGVsbG8= ",
            "data:image/png;base64,aGVsbG8=",
            "data:image/png;base64,\naGVsbG8",
        ] {
            assert_eq!(file_in(text.to_owned()).as_deref(), Ok(b"hello".as_slice()), "{text}");
        }
        for text in ["", "data:image/png;base64,", "aGVsb", "a-_b", "é", "data:image/png,aGVsbG8="] {
            assert!(file_in(text.to_owned()).is_err(), "{text}");
        }
    }

    fn run(mode: Option<InitImageMode>) -> Run {
        Run {
            init_image_mode: mode,
            image_strength: Some(0.75),
            step_schedule_start: Some(0.5),
            step_schedule_end: Some(0.125),
        }
    }

    fn shares(span: Result<Span, Fault>) -> [f64; 2] {
        let span = span.expect("a valid span");
        [span.strength.get(), span.skipped_end.get()]
    }

    #[test]
    fn the_mode_decides_which_members_count() {
        assert_eq!(shares(run(None).span(1.0)), [0.25, 0.0]);
        assert_eq!(shares(run(Some(InitImageMode::ImageStrength)).span(1.0)), [0.25, 0.0]);
        assert_eq!(shares(run(Some(InitImageMode::StepSchedule)).span(1.0)), [0.5, 0.125]);
        let bare = Run { image_strength: None, ..run(None) };
        assert_eq!(shares(bare.span(1.0 - IMAGE_STRENGTH)), [0.65, 0.0]);
        let bare = Run { step_schedule_start: None, ..run(Some(InitImageMode::StepSchedule)) };
        assert_eq!(shares(bare.span(0.75)), [0.75, 0.125]);
    }

    #[test]
    fn a_run_ends_after_it_began() {
        let backwards = Run { step_schedule_end: Some(0.5), ..run(Some(InitImageMode::StepSchedule)) };
        assert!(matches!(backwards.span(1.0), Err(Fault::Container { name: "bad_request", .. })));
    }
}
