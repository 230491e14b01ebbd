//! The body as the vendor documents it, nothing resolved.
//!
//! Ranges are those of the vendor's SDXL 1.0 pages. Absent members are `None`: defaults are the decoder's.

use super::schema::{Members, Range, UnknownKeys};
use crate::StylePreset;
use pentimento_imaging::MaskSource;
use pentimento_request::{ClipGuidance, Sampler};
use serde_json::{Map, Value};

/// Characters in a prompt, as the vendor documents it.
const LONGEST_PROMPT: usize = 2000;

/// Prompts in a request. The vendor states no limit; each costs a run of the text encoder.
const MOST_PROMPTS: usize = 64;

/// Sides in pixels are multiples of this.
const SIDE_STEP: u32 = 64;

/// Shortest side that the vendor's container takes, and the longest that its pixel count then leaves.
const SIDE: Range = Range { min: 128.0, max: 8192.0 };

/// A share of something.
const SHARE: Range = Range { min: 0.0, max: 1.0 };

/// Weights have no documented range; larger ones do not fit the engine's numbers.
const WEIGHT: Range = Range { min: f32::MIN as f64, max: f32::MAX as f64 };

const MASK_SOURCES: [(&str, MaskSource); 3] = [
    ("MASK_IMAGE_WHITE", MaskSource::White),
    ("MASK_IMAGE_BLACK", MaskSource::Black),
    ("INIT_IMAGE_ALPHA", MaskSource::Alpha),
];

const INIT_IMAGE_MODES: [(&str, InitImageMode); 2] =
    [("IMAGE_STRENGTH", InitImageMode::ImageStrength), ("STEP_SCHEDULE", InitImageMode::StepSchedule)];

/// The eighth is a slip of the documents that clients copied; it has no effect.
const CLIP_GUIDANCE_PRESETS: [(&str, Option<ClipGuidance>); 8] = [
    ("FAST_BLUE", Some(ClipGuidance::FastBlue)),
    ("FAST_GREEN", Some(ClipGuidance::FastGreen)),
    ("NONE", None),
    ("SIMPLE", Some(ClipGuidance::Simple)),
    ("SLOW", Some(ClipGuidance::Slow)),
    ("SLOWER", Some(ClipGuidance::Slower)),
    ("SLOWEST", Some(ClipGuidance::Slowest)),
    ("SIMPLE SLOW", None),
];

/// A request's body.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct InvokeBody {
    pub(super) text_prompts: Vec<TextPrompt>,
    pub(super) width: Option<u64>,
    pub(super) height: Option<u64>,
    pub(super) init_image: Option<String>,
    pub(super) init_image_mode: Option<InitImageMode>,
    pub(super) image_strength: Option<f64>,
    pub(super) step_schedule_start: Option<f64>,
    pub(super) step_schedule_end: Option<f64>,
    pub(super) mask_source: Option<MaskSource>,
    pub(super) mask_image: Option<String>,
    pub(super) cfg_scale: Option<f64>,
    pub(super) clip_guidance_preset: Option<ClipGuidance>,
    pub(super) sampler: Option<Sampler>,
    pub(super) samples: Option<u64>,
    pub(super) seed: Option<u64>,
    pub(super) steps: Option<u64>,
    pub(super) style_preset: Option<StylePreset>,
    pub(super) extras: Option<Map<String, Value>>,
}

/// A member of `text_prompts`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct TextPrompt {
    pub(super) text: String,
    pub(super) weight: Option<f64>,
}

/// How the start of an image-to-image run is stated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InitImageMode {
    /// By `image_strength`.
    ImageStrength,
    /// By `step_schedule_start` and `step_schedule_end`.
    StepSchedule,
}

impl InvokeBody {
    /// Reads a body's members, or tells everything that is wrong with them.
    pub(super) fn read(body: Map<String, Value>, unknown_keys: UnknownKeys) -> Result<Self, Vec<String>> {
        let mut members = Members::new("#", body, unknown_keys);
        require_by_operation(&mut members);
        let read = Self::take(&mut members);
        let violations = members.finish();
        if violations.is_empty() { Ok(read) } else { Err(violations) }
    }

    fn take(members: &mut Members) -> Self {
        let [width, height] = take_size(members);
        Self {
            text_prompts: members
                .list("text_prompts", 1..=MOST_PROMPTS, TextPrompt::take)
                .unwrap_or_default(),
            width,
            height,
            init_image: members.string("init_image", None),
            init_image_mode: members.name("init_image_mode", &INIT_IMAGE_MODES),
            image_strength: members.number("image_strength", SHARE),
            step_schedule_start: members.number("step_schedule_start", SHARE),
            step_schedule_end: members.number("step_schedule_end", SHARE),
            mask_source: members.name("mask_source", &MASK_SOURCES),
            mask_image: members.string("mask_image", None),
            cfg_scale: members.number("cfg_scale", Range { min: 0.0, max: 35.0 }),
            clip_guidance_preset: members.name("clip_guidance_preset", &CLIP_GUIDANCE_PRESETS).flatten(),
            sampler: members.name("sampler", &Sampler::of_stability().map(named).collect::<Vec<_>>()),
            samples: members.integer("samples", Range { min: 1.0, max: 1.0 }),
            seed: members.integer("seed", Range { min: 0.0, max: u32::MAX.into() }),
            steps: members.integer("steps", Range { min: 10.0, max: 50.0 }),
            style_preset: take_style(members),
            extras: members.object("extras"),
        }
    }
}

impl TextPrompt {
    fn take(members: &mut Members) -> Option<Self> {
        members.require("text");
        let text = members.string("text", Some(LONGEST_PROMPT));
        let weight = members.number("weight", WEIGHT);
        Some(Self { text: text?, weight })
    }
}

fn named(sampler: Sampler) -> (&'static str, Sampler) {
    (sampler.name(), sampler)
}

/// Which members must be there depends on the operation, which shows by its own members.
fn require_by_operation(members: &mut Members) {
    members.require("text_prompts");
    if members.has("mask_source") || members.has("mask_image") {
        members.require("init_image");
        members.require("mask_source");
    }
}

/// Width and height. Beside an init image they have no meaning, and clients send what they like.
fn take_size(members: &mut Members) -> [Option<u64>; 2] {
    let has_init_image = members.has("init_image");
    ["width", "height"].map(|key| {
        if has_init_image {
            members.ignored_integer(key);
            return None;
        }
        members.multiple(key, SIDE, SIDE_STEP)
    })
}

/// A style. Clients without one send an empty name.
fn take_style(members: &mut Members) -> Option<StylePreset> {
    let mut names = StylePreset::ALL.map(|style| (style.name, Some(style))).to_vec();
    names.push(("", None));
    members.name("style_preset", &names)?
}
