//! A request as bytes, to be kept on a disk.
//!
//! Form: the magic `PNTM`, a version byte, the length of a JSON text (u32, little endian), the text, and then every picture and
//! mask that the text refers to: its compressed length (u64, little endian) and its deflated bytes. Floats stand in the
//! text as their bits, so that infinity, and every last digit, survives.
//!
//! The neutral types have no form of their own: the structs here mirror them. Both directions take structs apart and put
//! them together field by field, so that a new field of a request cannot be lost without the compiler's noticing. A parcel of
//! another version, or with other fields, is refused; its task is then reported as failed.

mod accelerations;
mod conditioning;

use accelerations::StoredAccelerations;
use conditioning::StoredConditioning;
use flate2::{Compression, read::DeflateDecoder, write::DeflateEncoder};
use pentimento_request::{
    Canvas, Channels, ClipSkip, FilterMode, GenerationRequest, GuidanceScale, Hires, Mask, NoiseSource,
    Picture, Prompt, PromptSyntax, Region, Sampler, Schedule, Size, SolverOptions, Span, Steps, Strength,
    Task, Untouched,
};
use serde::{Deserialize, Serialize};
use std::{
    fmt::Display,
    io::{self, Read, Write},
    sync::Arc,
};

const MAGIC: &[u8; 4] = b"PNTM";
const VERSION: u8 = 1;

/// A request as bytes.
///
/// # Errors
/// When the text or a picture cannot be written, which memory alone can cause.
pub(crate) fn pack(request: &GenerationRequest) -> io::Result<Vec<u8>> {
    let mut blobs = Blobs::default();
    let text = serde_json::to_vec(&StoredRequest::of(request, &mut blobs))?;
    let length = u32::try_from(text.len()).map_err(io::Error::other)?;
    let mut bytes = Vec::with_capacity(text.len() + 64);
    bytes.extend_from_slice(MAGIC);
    bytes.push(VERSION);
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&text);
    for blob in &blobs.0 {
        let mut deflated = DeflateEncoder::new(Vec::new(), Compression::fast());
        deflated.write_all(blob)?;
        let deflated = deflated.finish()?;
        bytes.extend_from_slice(&(deflated.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&deflated);
    }
    Ok(bytes)
}

/// The request of a parcel.
///
/// # Errors
/// A text that tells what does not fit, for the log.
pub(crate) fn unpack(bytes: &[u8]) -> Result<GenerationRequest, String> {
    let mut rest = bytes;
    if take(&mut rest, 4)? != MAGIC {
        return Err("no parcel".to_owned());
    }
    let version = take(&mut rest, 1)?[0];
    if version != VERSION {
        return Err(format!("a parcel of version {version}, not {VERSION}"));
    }
    let length = u32::from_le_bytes(fixed(take(&mut rest, 4)?)?) as usize;
    let stored: StoredRequest = serde_json::from_slice(take(&mut rest, length)?).map_err(message)?;
    let mut blobs = vec![];
    while !rest.is_empty() {
        let length = u64::from_le_bytes(fixed(take(&mut rest, 8)?)?);
        blobs.push(take(&mut rest, usize::try_from(length).map_err(message)?)?);
    }
    stored.back(&blobs)
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Result<&'a [u8], String> {
    let (taken, others) = rest.split_at_checked(count).ok_or("a parcel that ends too early")?;
    *rest = others;
    Ok(taken)
}

fn fixed<const N: usize>(bytes: &[u8]) -> Result<[u8; N], String> {
    bytes.try_into().map_err(message)
}

fn message(error: impl Display) -> String {
    error.to_string()
}

/// Bytes of pictures and masks, in the order in which the text refers to them.
#[derive(Default)]
struct Blobs<'a>(Vec<&'a [u8]>);

impl<'a> Blobs<'a> {
    fn picture(&mut self, picture: &'a Picture) -> StoredPicture {
        let channels = match picture.channels() {
            Channels::Rgb => StoredChannels::Rgb,
            Channels::Rgba => StoredChannels::Rgba,
        };
        self.0.push(picture.pixels());
        StoredPicture { blob: self.0.len() - 1, size: picture.size().into(), channels }
    }

    fn mask(&mut self, mask: &'a Mask) -> StoredMask {
        self.0.push(mask.values());
        StoredMask { blob: self.0.len() - 1, size: mask.size().into() }
    }
}

fn inflate(blobs: &[&[u8]], index: usize, length: u64) -> Result<Vec<u8>, String> {
    let blob = blobs.get(index).ok_or("a parcel without its pictures")?;
    let mut bytes = vec![];
    DeflateDecoder::new(*blob).take(length + 1).read_to_end(&mut bytes).map_err(message)?;
    Ok(bytes)
}

/// The bits of a float.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Bits32(u32);

impl From<f32> for Bits32 {
    fn from(value: f32) -> Self {
        Self(value.to_bits())
    }
}

impl From<Bits32> for f32 {
    fn from(bits: Bits32) -> Self {
        Self::from_bits(bits.0)
    }
}

/// The bits of a double.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Bits64(u64);

impl From<f64> for Bits64 {
    fn from(value: f64) -> Self {
        Self(value.to_bits())
    }
}

impl From<Bits64> for f64 {
    fn from(bits: Bits64) -> Self {
        Self::from_bits(bits.0)
    }
}

impl From<Strength> for Bits64 {
    fn from(share: Strength) -> Self {
        share.get().into()
    }
}

impl Bits64 {
    fn strength(self) -> Result<Strength, String> {
        Strength::new(self.into()).map_err(message)
    }
}

#[derive(Clone, Copy, Serialize, Deserialize)]
struct StoredSize(u32, u32);

impl From<Size> for StoredSize {
    fn from(size: Size) -> Self {
        Self(size.width(), size.height())
    }
}

impl StoredSize {
    fn back(self) -> Result<Size, String> {
        Size::new(self.0, self.1).map_err(message)
    }
}

#[derive(Clone, Copy, Serialize, Deserialize)]
enum StoredChannels {
    Rgb,
    Rgba,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredPicture {
    blob: usize,
    size: StoredSize,
    channels: StoredChannels,
}

impl StoredPicture {
    fn back(self, blobs: &[&[u8]]) -> Result<Arc<Picture>, String> {
        let Self { blob, size, channels } = self;
        let (size, channels) = (
            size.back()?,
            match channels {
                StoredChannels::Rgb => Channels::Rgb,
                StoredChannels::Rgba => Channels::Rgba,
            },
        );
        let pixels = inflate(blobs, blob, size.pixels() * channels.count() as u64)?;
        Picture::new(size, channels, pixels).map(Arc::new).map_err(message)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredMask {
    blob: usize,
    size: StoredSize,
}

impl StoredMask {
    fn back(self, blobs: &[&[u8]]) -> Result<Arc<Mask>, String> {
        let size = self.size.back()?;
        Mask::new(size, inflate(blobs, self.blob, size.pixels())?).map(Arc::new).map_err(message)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredRequest {
    model: String,
    prompts: Vec<StoredPrompt>,
    syntax: StoredSyntax,
    clip_skip: usize,
    task: StoredTask,
    canvas: StoredCanvas,
    hires: Option<StoredHires>,
    sampler: Option<String>,
    schedule: Option<String>,
    solver: StoredSolver,
    steps: usize,
    guidance_scale: Bits32,
    guidance_rescale: Bits32,
    #[serde(default)]
    accelerations: StoredAccelerations,
    seed: u64,
    noise: String,
    conditioning: StoredConditioning,
    filter: Option<String>,
}

impl StoredRequest {
    fn of<'a>(request: &'a GenerationRequest, blobs: &mut Blobs<'a>) -> Self {
        let GenerationRequest {
            model,
            prompts,
            syntax,
            clip_skip,
            task,
            canvas,
            hires,
            sampler,
            schedule,
            solver,
            steps,
            guidance_scale,
            guidance_rescale,
            accelerations,
            seed,
            noise,
            conditioning,
            filter,
        } = request;
        Self {
            model: model.clone(),
            prompts: prompts.iter().map(StoredPrompt::of).collect(),
            syntax: StoredSyntax::of(*syntax),
            clip_skip: clip_skip.get(),
            task: StoredTask::of(task, blobs),
            canvas: StoredCanvas::of(*canvas),
            hires: hires.as_ref().map(StoredHires::of),
            sampler: sampler.map(|sampler| sampler.name().to_owned()),
            schedule: schedule.map(|schedule| schedule.name().to_owned()),
            solver: StoredSolver::of(solver),
            steps: steps.get(),
            guidance_scale: guidance_scale.get().into(),
            guidance_rescale: (*guidance_rescale).into(),
            accelerations: StoredAccelerations::of(*accelerations),
            seed: *seed,
            noise: noise.name().to_owned(),
            conditioning: StoredConditioning::of(conditioning, blobs),
            filter: filter.map(|mode| mode.name().to_owned()),
        }
    }

    fn back(self, blobs: &[&[u8]]) -> Result<GenerationRequest, String> {
        let Self {
            model,
            prompts,
            syntax,
            clip_skip,
            task,
            canvas,
            hires,
            sampler,
            schedule,
            solver,
            steps,
            guidance_scale,
            guidance_rescale,
            accelerations,
            seed,
            noise,
            conditioning,
            filter,
        } = self;
        Ok(GenerationRequest {
            model,
            prompts: prompts.into_iter().map(StoredPrompt::back).collect(),
            syntax: syntax.back(),
            clip_skip: ClipSkip::new(clip_skip).map_err(message)?,
            task: task.back(blobs)?,
            canvas: canvas.back()?,
            hires: hires.map(StoredHires::back).transpose()?,
            sampler: sampler.map(|name| name.parse::<Sampler>()).transpose().map_err(message)?,
            schedule: schedule.map(|name| name.parse::<Schedule>()).transpose().map_err(message)?,
            solver: solver.back(),
            steps: Steps::new(steps).map_err(message)?,
            guidance_scale: GuidanceScale::new(guidance_scale.into()).map_err(message)?,
            guidance_rescale: guidance_rescale.into(),
            accelerations: accelerations.back()?,
            seed,
            noise: noise_of(&noise)?,
            conditioning: conditioning.back(blobs)?,
            filter: filter.map(|name| name.parse::<FilterMode>()).transpose().map_err(message)?,
        })
    }
}

fn noise_of(name: &str) -> Result<NoiseSource, String> {
    let found = NoiseSource::ALL.into_iter().find(|source| source.name() == name);
    found.ok_or_else(|| format!("no source of noise '{name}'"))
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredPrompt {
    text: String,
    weight: Bits32,
}

impl StoredPrompt {
    fn of(prompt: &Prompt) -> Self {
        let Prompt { text, weight } = prompt;
        Self { text: text.clone(), weight: (*weight).into() }
    }

    fn back(self) -> Prompt {
        let Self { text, weight } = self;
        Prompt { text, weight: weight.into() }
    }
}

#[derive(Serialize, Deserialize)]
enum StoredSyntax {
    Plain,
    Emphasis,
}

impl StoredSyntax {
    fn of(syntax: PromptSyntax) -> Self {
        match syntax {
            PromptSyntax::Plain => Self::Plain,
            PromptSyntax::Emphasis => Self::Emphasis,
        }
    }

    fn back(self) -> PromptSyntax {
        match self {
            Self::Plain => PromptSyntax::Plain,
            Self::Emphasis => PromptSyntax::Emphasis,
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredSpan {
    strength: Bits64,
    skipped_end: Bits64,
}

impl StoredSpan {
    fn of(span: Span) -> Self {
        let Span { strength, skipped_end } = span;
        Self { strength: strength.into(), skipped_end: skipped_end.into() }
    }

    fn back(self) -> Result<Span, String> {
        let Self { strength, skipped_end } = self;
        Ok(Span { strength: strength.strength()?, skipped_end: skipped_end.strength()? })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
enum StoredTask {
    TextToImage,
    ImageToImage {
        init: StoredPicture,
        span: StoredSpan,
    },
    Repaint {
        init: StoredPicture,
        mask: StoredMask,
        span: StoredSpan,
        /// The padding of surroundings; absent for the whole picture.
        surroundings: Option<u32>,
        restored: bool,
    },
}

impl StoredTask {
    fn of<'a>(task: &'a Task, blobs: &mut Blobs<'a>) -> Self {
        match task {
            Task::TextToImage => Self::TextToImage,
            Task::ImageToImage { init, span } => {
                Self::ImageToImage { init: blobs.picture(init), span: StoredSpan::of(*span) }
            }
            Task::Repaint { init, mask, span, region, untouched } => Self::Repaint {
                init: blobs.picture(init),
                mask: blobs.mask(mask),
                span: StoredSpan::of(*span),
                surroundings: match region {
                    Region::Whole => None,
                    Region::Surroundings { padding } => Some(*padding),
                },
                restored: match untouched {
                    Untouched::Restored => true,
                    Untouched::AsDecoded => false,
                },
            },
        }
    }

    fn back(self, blobs: &[&[u8]]) -> Result<Task, String> {
        Ok(match self {
            Self::TextToImage => Task::TextToImage,
            Self::ImageToImage { init, span } => {
                Task::ImageToImage { init: init.back(blobs)?, span: span.back()? }
            }
            Self::Repaint { init, mask, span, surroundings, restored } => Task::Repaint {
                init: init.back(blobs)?,
                mask: mask.back(blobs)?,
                span: span.back()?,
                region: surroundings.map_or(Region::Whole, |padding| Region::Surroundings { padding }),
                untouched: if restored { Untouched::Restored } else { Untouched::AsDecoded },
            },
        })
    }
}

#[derive(Serialize, Deserialize)]
enum StoredCanvas {
    Exact(Option<StoredSize>),
    Native(Option<StoredSize>),
}

impl StoredCanvas {
    fn of(canvas: Canvas) -> Self {
        match canvas {
            Canvas::Exact(size) => Self::Exact(size.map(Into::into)),
            Canvas::Native(size) => Self::Native(size.map(Into::into)),
        }
    }

    fn back(self) -> Result<Canvas, String> {
        Ok(match self {
            Self::Exact(size) => Canvas::Exact(size.map(StoredSize::back).transpose()?),
            Self::Native(size) => Canvas::Native(size.map(StoredSize::back).transpose()?),
        })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredHires {
    scale: Bits64,
    strength: Bits64,
    steps: Option<usize>,
}

impl StoredHires {
    fn of(hires: &Hires) -> Self {
        let Hires { scale, strength, steps } = hires;
        Self { scale: (*scale).into(), strength: (*strength).into(), steps: steps.map(Steps::get) }
    }

    fn back(self) -> Result<Hires, String> {
        let Self { scale, strength, steps } = self;
        let steps = steps.map(Steps::new).transpose().map_err(message)?;
        Ok(Hires { scale: scale.into(), strength: strength.strength()?, steps })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredSolver {
    eta: Option<Bits64>,
    s_churn: Bits64,
    s_tmin: Bits64,
    s_tmax: Bits64,
    s_noise: Bits64,
}

impl StoredSolver {
    fn of(solver: &SolverOptions) -> Self {
        let SolverOptions { eta, s_churn, s_tmin, s_tmax, s_noise } = *solver;
        Self {
            eta: eta.map(Into::into),
            s_churn: s_churn.into(),
            s_tmin: s_tmin.into(),
            s_tmax: s_tmax.into(),
            s_noise: s_noise.into(),
        }
    }

    fn back(self) -> SolverOptions {
        let Self { eta, s_churn, s_tmin, s_tmax, s_noise } = self;
        SolverOptions {
            eta: eta.map(Into::into),
            s_churn: s_churn.into(),
            s_tmin: s_tmin.into(),
            s_tmax: s_tmax.into(),
            s_noise: s_noise.into(),
        }
    }
}

#[cfg(test)]
mod tests;
