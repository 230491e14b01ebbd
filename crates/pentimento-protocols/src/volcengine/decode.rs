//! The vendor's body and its picture to a neutral request.
//!
//! Every member of the wire struct is named here, so that none can be lost by accident. What a style cannot do is left
//! out, and the answer says so: see [`Decoded::notes`].

use super::{
    fault::{Code, Fault},
    members::echo,
    styles::{Defaults, Style, Styles, UnknownLoras},
    wire::{Output, ProcessBody, WireLora},
};
use crate::Seed;
use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use bytes::Bytes;
use pentimento_imaging::{self as imaging, Format, ImageErrorKind, Limits};
use pentimento_request::{
    CannyThresholds, Canvas, ClipSkip, Conditioning, Control, Faces, GenerationRequest, GuidanceScale, Hint,
    Identity, InvalidValue, Lora, NoiseSource, Picture, Prompt, PromptSyntax, Sampler, Schedule, Size,
    SolverOptions, Span, Steps, Strength, Task, Texture, parse_sampler,
};
use std::{fmt, sync::Arc};

/// Sides of results are multiples of this, the autoencoder's factor.
const SIDE_STEP: f64 = 8.0;

/// Seeds that are drawn go up to this, so that every client's integers hold them.
const LARGEST_DRAWN_SEED: u64 = i32::MAX as u64;

/// Base64 with or without its padding: both are sent.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// How pictures that are sent have to be.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageRules {
    /// Largest file in bytes.
    pub bytes: usize,
    /// Longest side.
    pub longest_side: u32,
    /// The smallest picture, its shorter side first. `None`: any.
    pub smallest: Option<[u32; 2]>,
    /// The formats that are taken.
    pub formats: Vec<Format>,
}

impl ImageRules {
    /// The vendor's limits for this style, but for its smallest size of 600×800: pictures that the service would refuse
    /// may as well be drawn.
    pub fn vendor() -> Self {
        Self { bytes: 5 << 20, longest_side: 4096, smallest: None, formats: vec![Format::Jpeg, Format::Png] }
    }
}

/// Tells whether an adapter of this name is there, beside those of the styles' models.
#[derive(Clone)]
pub struct KnownLoras(Arc<dyn Fn(&str) -> bool + Send + Sync>);

impl KnownLoras {
    /// Adapters that this knows.
    pub fn new(knows: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(knows))
    }

    /// No adapters at all.
    pub fn none() -> Self {
        Self::new(|_| false)
    }

    fn knows(&self, name: &str) -> bool {
        (self.0)(name)
    }
}

impl fmt::Debug for KnownLoras {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("KnownLoras")
    }
}

/// A request but for its picture.
#[derive(Debug)]
pub(super) struct Draft {
    /// The style, under the key that was asked for.
    pub(super) style: Style,
    /// Where the picture comes from.
    pub(super) source: Source,
    /// How it is answered.
    pub(super) output: Output,
    wishes: Wishes,
}

/// Where a picture comes from.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Source {
    /// The body, in base64.
    Sent(String),
    /// Somewhere else.
    Url(String),
}

/// What a body asks for beside its style, picture and answer.
#[derive(Debug)]
struct Wishes {
    prompt: String,
    strength: Option<f64>,
    seed: Option<u64>,
    scale: Option<f64>,
    steps: Option<i64>,
    loras: Vec<WireLora>,
    clip_skip: Option<i64>,
    control_weight: Option<f64>,
    sampler_name: Option<String>,
    scheduler: Option<String>,
    keep_texture: Option<bool>,
    long_resolution: Option<i64>,
    id_scale: Option<f64>,
    notes: Vec<String>,
}

/// A request, and what was left out of it.
#[derive(Debug)]
pub(super) struct Decoded {
    /// The request.
    pub(super) request: GenerationRequest,
    /// Where its seed comes from.
    pub(super) seed: Seed,
    /// What was asked and is not done, in words for the caller.
    pub(super) notes: Vec<String>,
}

impl Draft {
    /// What a body asks for. `fallback` is the style where it names none.
    pub(super) fn of(body: ProcessBody, fallback: Option<&str>, styles: &Styles) -> Result<Self, Fault> {
        let ProcessBody {
            req_key,
            sub_req_key,
            files,
            urls,
            prompt,
            further_prompts,
            strength,
            seed,
            scale,
            steps,
            loras,
            clip_skip,
            control_weight,
            sampler_name,
            scheduler,
            keep_texture,
            long_resolution,
            id_scale,
            output,
        } = body;
        let req_key = req_key.as_deref().or(fallback).ok_or_else(|| Fault::missing("req_key"))?;
        let style = find(styles, req_key)?.clone();
        let own = match &sub_req_key {
            None => &style.prompt,
            Some(key) => style.variants.get(key).ok_or_else(|| {
                Fault::invalid(format!("Invalid Args: sub_req_key {} is none of {req_key}'s", echo(key)))
            })?,
        };
        let mut notes = Vec::new();
        let source = source(files, urls, &mut notes)?;
        let prompt = prompt.filter(|text| !text.trim().is_empty()).unwrap_or_else(|| own.clone());
        let prompt = std::iter::once(prompt).chain(further_prompts).collect::<Vec<_>>().join(", ");
        let wishes = Wishes {
            prompt,
            strength,
            seed,
            scale,
            steps,
            loras,
            clip_skip,
            control_weight,
            sampler_name,
            scheduler,
            keep_texture,
            long_resolution,
            id_scale,
            notes,
        };
        Ok(Self { style, source, output, wishes })
    }

    /// The whole request, with its picture's file.
    pub(super) fn complete(
        self,
        file: &[u8],
        rules: &ImageRules,
        known: &KnownLoras,
    ) -> Result<Decoded, Fault> {
        let Self { style, source: _, output: _, wishes } = self;
        wishes.decode(&style, picture(file, rules)?, known)
    }
}

/// The style of a key, or the service's refusal.
pub(super) fn find<'a>(styles: &'a Styles, req_key: &str) -> Result<&'a Style, Fault> {
    let unknown = || Fault::invalid(format!("Invalid Args: req_key not supported: {}", echo(req_key)));
    styles.get(req_key).ok_or_else(unknown)
}

/// The bytes behind plain base64, which may be broken into lines.
pub(super) fn file_in(mut text: String) -> Result<Bytes, Fault> {
    if text.contains(|letter: char| letter.is_ascii_whitespace()) {
        text.retain(|letter| !letter.is_ascii_whitespace());
    }
    let undecodable = |what: &str| Fault::Refused(Code::ImageDecode, format!("Image Decode Error: {what}"));
    if text.starts_with("data:") {
        return Err(undecodable("base64 without the prefix data:…;base64, is wanted"));
    }
    BASE64.decode(text).map(Bytes::from).map_err(|_| undecodable("binary_data_base64 is no base64"))
}

fn source(files: Vec<String>, urls: Vec<String>, notes: &mut Vec<String>) -> Result<Source, Fault> {
    if files.len() > 1 || urls.len() > 1 {
        return Err(Fault::invalid("Invalid Args: exactly one image is wanted"));
    }
    match (files.into_iter().next(), urls.into_iter().next()) {
        (Some(file), url) => {
            if url.is_some() {
                notes.push("image_urls: binary_data_base64 was used instead".to_owned());
            }
            Ok(Source::Sent(file))
        }
        (None, Some(url)) => Ok(Source::Url(url)),
        (None, None) => Err(Fault::Refused(
            Code::ImageEmpty,
            "Image Empty: binary_data_base64 or image_urls is wanted".to_owned(),
        )),
    }
}

/// A file's picture, if it keeps to the rules.
fn picture(file: &[u8], rules: &ImageRules) -> Result<Picture, Fault> {
    let ImageRules { bytes, longest_side, smallest, formats } = rules;
    let size_fault = |what: String| Fault::Refused(Code::ImageSize, format!("Image Size Limited: {what}"));
    if file.is_empty() {
        return Err(Fault::Refused(Code::ImageEmpty, "Image Empty: the image has no bytes".to_owned()));
    }
    if file.len() > *bytes {
        return Err(size_fault(format!("the image has more than {bytes} bytes")));
    }
    if !imaging::sniff(file).is_some_and(|format| formats.contains(&format)) {
        let names: Vec<_> = formats.iter().map(|format| format.name()).collect();
        let message = format!("Image Decode Error: the image is none of {}", names.join(", "));
        return Err(Fault::Refused(Code::ImageDecode, message));
    }
    let limits = Limits { bytes: *bytes, pixels: u64::from(*longest_side) * u64::from(*longest_side) };
    let picture = imaging::decode(file, &limits).map_err(|error| match error.kind() {
        ImageErrorKind::TooManyBytes | ImageErrorKind::TooManyPixels => size_fault(error.to_string()),
        _ => Fault::Refused(Code::ImageDecode, format!("Image Decode Error: {error}")),
    })?;
    let size = picture.size();
    let sides = [size.width().min(size.height()), size.width().max(size.height())];
    if sides[1] > *longest_side {
        return Err(size_fault(format!("{size} is larger than {longest_side}x{longest_side}")));
    }
    if let Some([short, long]) = smallest
        && (sides[0] < *short || sides[1] < *long)
    {
        return Err(size_fault(format!("{size} is smaller than {short}x{long}")));
    }
    Ok(picture)
}

impl Wishes {
    fn decode(self, style: &Style, picture: Picture, known: &KnownLoras) -> Result<Decoded, Fault> {
        let Self {
            prompt,
            strength,
            seed,
            scale,
            steps,
            loras,
            clip_skip,
            control_weight,
            sampler_name,
            scheduler,
            keep_texture,
            long_resolution,
            id_scale,
            mut notes,
        } = self;
        let defaults = &style.defaults;
        let size = size(picture.size(), long_resolution.unwrap_or(defaults.long_resolution))?;
        // Here already, so that a queued request holds no more pixels than it is drawn from.
        let init = if picture.size() == size { picture } else { imaging::resize(&picture, size) };
        let conditioning = Conditioning {
            loras: adapters(loras, style, known, &mut notes)?,
            controls: controls(control_weight, style, &mut notes),
            texture: texture(keep_texture, defaults),
            identity: identity(id_scale, style, &mut notes),
            ..Conditioning::none()
        };
        let (sampler, schedule) = solver(sampler_name, scheduler, defaults, &mut notes);
        let strength = Strength::new(strength.unwrap_or(defaults.strength)).map_err(invalid)?;
        let mut request = GenerationRequest {
            model: style.model.name.clone(),
            prompts: prompts(prompt, style),
            syntax: PromptSyntax::Emphasis,
            clip_skip: ClipSkip::new(clip_skip.unwrap_or(defaults.clip_skip) as usize).map_err(invalid)?,
            task: Task::ImageToImage { init: Arc::new(init), span: Span::of(strength) },
            canvas: Canvas::Native(Some(size)),
            hires: None,
            sampler,
            schedule,
            solver: SolverOptions::USUAL,
            steps: Steps::new(steps.unwrap_or(defaults.steps) as usize).map_err(invalid)?,
            guidance_scale: GuidanceScale::new(scale.unwrap_or(defaults.scale) as f32).map_err(invalid)?,
            guidance_rescale: style.model.guidance_rescale,
            accelerations: style.model.accelerations,
            seed: seed.unwrap_or_default(),
            noise: NoiseSource::TorchCpu,
            conditioning,
            filter: style.model.filter,
        };
        request.conditioning.left_out.clone_from(&notes);
        let seed = seed.map_or(Seed::Drawn { max: LARGEST_DRAWN_SEED }, |_| Seed::Given);
        Ok(Decoded { request, seed, notes })
    }
}

/// The size whose long side is this one, in the picture's proportions.
fn size(picture: Size, long: i64) -> Result<Size, Fault> {
    let longest = f64::from(picture.width().max(picture.height()));
    let scaled = |side: u32| {
        let side = f64::from(side) * long as f64 / longest;
        ((side / SIDE_STEP).round() * SIDE_STEP).max(SIDE_STEP) as u32
    };
    Size::new(scaled(picture.width()), scaled(picture.height())).map_err(invalid)
}

fn prompts(prompt: String, style: &Style) -> Vec<Prompt> {
    let mut prompts = vec![Prompt { text: prompt, weight: 1.0 }];
    if !style.negative_prompt.is_empty() {
        prompts.push(Prompt { text: style.negative_prompt.clone(), weight: -1.0 });
    }
    prompts
}

fn adapters(
    asked: Vec<WireLora>,
    style: &Style,
    known: &KnownLoras,
    notes: &mut Vec<String>,
) -> Result<Vec<Lora>, Fault> {
    let knows = |name: &String| known.knows(name) || style.model.loras.contains(name);
    let (there, absent): (Vec<_>, Vec<_>) = asked.into_iter().partition(|lora| knows(&lora.name));
    if !absent.is_empty() {
        let names = absent.iter().map(|lora| echo(&lora.name)).collect::<Vec<_>>().join(", ");
        match style.unknown_loras {
            UnknownLoras::Refused => {
                return Err(Fault::invalid(format!("Invalid Args: no lora here is called {names}")));
            }
            UnknownLoras::LeftOut => {
                notes.push(format!("lora_multipers: left out, since not there: {names}"))
            }
        }
    }
    let asked = there.into_iter().map(|WireLora { name, weight, text_weight }| Lora {
        name,
        weight: weight as f32,
        text_weight: text_weight.map(|weight| weight as f32),
    });
    let mut loras: Vec<Lora> = asked.collect();
    let own = style.loras.iter().filter(|own| loras.iter().all(|lora| lora.name != own.name));
    let own: Vec<_> = own.cloned().collect();
    loras.extend(own);
    Ok(loras)
}

fn controls(weight: Option<f64>, style: &Style, notes: &mut Vec<String>) -> Vec<Control> {
    let Some(network) = &style.control else {
        if weight.is_some_and(|weight| weight > 0.0) {
            notes.push("canny_weight: left out, since this style has no control network".to_owned());
        }
        return Vec::new();
    };
    let weight = weight.unwrap_or(style.defaults.control_weight);
    let control = Control {
        network: network.clone(),
        hint: Hint::Edges(CannyThresholds::USUAL),
        weight: weight as f32,
        start: Strength::new(0.0).expect("0 is a share"),
        end: Strength::FULL,
    };
    if weight > 0.0 { vec![control] } else { Vec::new() }
}

fn texture(keep: Option<bool>, defaults: &Defaults) -> Texture {
    if keep.unwrap_or(defaults.keep_texture) { Texture::Kept } else { Texture::Smoothed }
}

fn identity(scale: Option<f64>, style: &Style, notes: &mut Vec<String>) -> Option<Identity> {
    if !style.shows_faces {
        if scale.is_some_and(|scale| scale > 0.0) {
            notes.push("id_scale: left out, since this style cannot be shown a face".to_owned());
        }
        return None;
    }
    let scale = scale.unwrap_or(style.defaults.id_scale);
    (scale > 0.0).then_some(Identity { adapter: None, faces: Faces::OfInput, scale: scale as f32 })
}

/// The sampler and schedule of these names. Unknown ones count as not given, as the vendor's seem to.
fn solver(
    name: Option<String>,
    scheduler: Option<String>,
    defaults: &Defaults,
    notes: &mut Vec<String>,
) -> (Option<Sampler>, Option<Schedule>) {
    let usual = || {
        parse_sampler(&defaults.sampler)
            .map_or_else(|_| (None, None), |(sampler, schedule)| (Some(sampler), schedule))
    };
    let named = name.filter(|name| !name.trim().is_empty());
    let (sampler, schedule) = match named.as_deref().map(parse_sampler) {
        None => usual(),
        Some(Ok((sampler, schedule))) => (Some(sampler), schedule),
        Some(Err(_)) => {
            notes.push(format!("sampler_name: {} is unknown", echo(named.as_deref().unwrap_or_default())));
            usual()
        }
    };
    match scheduler
        .filter(|name| !name.trim().is_empty())
        .map(|name| name.parse::<Schedule>().map_err(|_| name))
    {
        None => (sampler, schedule),
        Some(Ok(schedule)) => (sampler, Some(schedule)),
        Some(Err(name)) => {
            notes.push(format!("scheduler: {} is unknown", echo(&name)));
            (sampler, schedule)
        }
    }
}

/// A value that the ranges should have caught.
fn invalid(error: InvalidValue) -> Fault {
    Fault::invalid(format!("Invalid Args: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of(width: u32, height: u32) -> Size {
        Size::new(width, height).expect("possible")
    }

    #[test]
    fn the_long_side_is_the_one_asked_for() {
        for (picture, long, expected) in [
            ((1200, 1600), 704, (528, 704)),
            ((1600, 1200), 704, (704, 528)),
            ((100, 100), 256, (256, 256)),
            ((4096, 1), 704, (704, 8)),
            ((1000, 700), 701, (704, 488)),
        ] {
            let size = size(size_of(picture.0, picture.1), long).expect("possible");
            assert_eq!((size.width(), size.height()), expected, "{picture:?}");
        }
    }

    #[test]
    fn base64_is_plain() {
        assert_eq!(file_in("aGVs\nbG8".to_owned()).as_deref(), Ok(&b"hello"[..]));
        for text in ["data:image/png;base64,aGVsbG8=", "a-_b", "é", "aGVsb"] {
            assert!(matches!(file_in(text.to_owned()), Err(Fault::Refused(Code::ImageDecode, _))), "{text}");
        }
    }
}
