//! The waist of Pentimento: what can be asked of an image generator, what comes back, and what can go wrong.
//!
//! Plain data in the words of the field. No IO, no serde, nothing beyond `std`: protocols build a
//! [`GenerationRequest`], a [`Generator`] answers it, and neither knows the other.
//!
//! Values that have a rule carry it in their type ([`Size`], [`Strength`], [`GuidanceScale`], …): checked once in the
//! constructor, public and immutable in meaning from then on.

mod accelerations;
mod conditioning;
mod error;
mod filter;
mod picture;
mod progress;
mod receipt;
mod sampling;
mod spelling;
mod values;

pub use accelerations::{Accelerations, GuidanceInterval, StepCache, TokenMerging};
pub use conditioning::{
    CannyThresholds, ClipGuidance, Conditioning, Control, ControlNetwork, Faces, Hint, Identity, ImagePrompt,
    Lora, Texture,
};
pub use error::{ErrorKind, GenerateError};
pub use filter::{FilterMode, Verdict};
pub use picture::{Channels, Mask, Picture};
pub use progress::{Cancel, Progress, Quiet, Stage, StepReport};
pub use receipt::{
    AccelerationsReport, ClipGuidanceReport, ControlReport, LookReport, LoraReport, PromptReport, Receipt,
    SecondPassReport, StageTiming,
};
pub use sampling::{NoiseSource, PromptSyntax, Sampler, Schedule, SolverOptions, UnknownName};
pub use spelling::parse_sampler;
pub use values::{ClipSkip, GuidanceScale, InvalidValue, Size, Span, Steps, Strength};

use std::sync::Arc;

/// Everything that decides a picture. Self-contained, so that it can travel to another process.
///
/// There is no `Default`: who builds a request decides every field.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerationRequest {
    /// Name of the model that answers, as the generator knows it (a catalogue name, never a path from outside).
    pub model: String,
    /// Weighted prompts in any order. A negative weight repels, a weight of 0 counts for nothing.
    pub prompts: Vec<Prompt>,
    /// How the prompts are read.
    pub syntax: PromptSyntax,
    /// Which layer of the text encoder is read.
    pub clip_skip: ClipSkip,
    /// What is drawn on: nothing, a picture, or the masked part of a picture.
    pub task: Task,
    /// How large the result is, and at which size the model works.
    pub canvas: Canvas,
    /// A second pass at a larger size.
    pub hires: Option<Hires>,
    /// `None`: the generator chooses by its documented rule.
    pub sampler: Option<Sampler>,
    /// `None`: as the model's own scheduler configuration says.
    pub schedule: Option<Schedule>,
    /// Settings of the sampler.
    pub solver: SolverOptions,
    /// Length of the whole schedule; image-to-image runs a [`Span`] of it.
    pub steps: Steps,
    /// Classifier-free guidance. At 1 or below only the positive half is computed.
    pub guidance_scale: GuidanceScale,
    /// Share (0 to 1) by which the guided prediction is brought back to the deviation of the positive half's
    /// (Lin et al. 2024, "Common diffusion noise schedules and sample steps are flawed", section 3.4). 0 is off.
    pub guidance_rescale: f32,
    /// What makes it faster at the picture's cost.
    pub accelerations: Accelerations,
    /// Seed of all random draws.
    pub seed: u64,
    /// Which generator the seed starts.
    pub noise: NoiseSource,
    /// What steers beside the prompts.
    pub conditioning: Conditioning,
    /// What is done with a picture that the model's checker objects to. `None`: [`FilterMode::Blur`] where the model has a
    /// checker, [`FilterMode::Off`] where it has none.
    pub filter: Option<FilterMode>,
}

/// A second pass: the first one's latent enlarged, noised again and drawn out at the larger size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hires {
    /// Factor of both sides, above 1 and at most 4.
    pub scale: f64,
    /// Share of the schedule that the second pass runs.
    pub strength: Strength,
    /// Length of the second pass's schedule; `None`: the first one's.
    pub steps: Option<Steps>,
}

/// One text with its weight. Any finite weight is allowed.
#[derive(Clone, Debug, PartialEq)]
pub struct Prompt {
    /// The text as the user wrote it.
    pub text: String,
    /// Share of this text among those of the same sign; below 0 the text is what the picture should not show.
    pub weight: f32,
}

/// What the picture is drawn on.
#[derive(Clone, Debug, PartialEq)]
pub enum Task {
    /// A new picture from noise.
    TextToImage,
    /// The whole picture again, led by the prompt.
    ImageToImage {
        /// The picture to start from.
        init: Arc<Picture>,
        /// The part of the schedule that is run.
        span: Span,
    },
    /// The masked part of the picture again.
    Repaint {
        /// The picture to start from.
        init: Arc<Picture>,
        /// Same size as `init`: 255 is repainted, 0 is kept, grey takes part in the last share of the steps.
        mask: Arc<Mask>,
        /// The part of the schedule that is run.
        span: Span,
        /// How much of the picture the model is shown.
        region: Region,
        /// What happens to the pixels outside the mask after decoding.
        untouched: Untouched,
    },
}

impl Task {
    /// The picture that the task starts from, if any.
    pub fn init(&self) -> Option<&Arc<Picture>> {
        match self {
            Self::TextToImage => None,
            Self::ImageToImage { init, .. } | Self::Repaint { init, .. } => Some(init),
        }
    }
}

/// How large the result is, and at which size the model works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Canvas {
    /// The model works at this very size (both sides multiples of 8). `None`: the model's native size, or with an
    /// input picture that picture's size cut down to multiples of 8. Nothing is resized afterwards.
    Exact(Option<Size>),
    /// The result has this size (`None`: the input picture's, or the model's native one); a model that was made for
    /// another scale works at its own, in the same proportions, and its picture is resized.
    Native(Option<Size>),
}

/// How much of the picture a repaint shows to the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Region {
    /// The whole picture.
    Whole,
    /// Where the picture is larger than the model's native size: the mask's surroundings at that size, put back after.
    Surroundings {
        /// Pixels of the input around the mask's bounding box that are shown too.
        padding: u32,
    },
}

/// What a repaint does to the pixels outside the mask after decoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Untouched {
    /// `out = in + m·(generated − in)`: bytes where the mask is 0 equal the input's.
    Restored,
    /// The decoder's output is kept everywhere, as a bare reference pipeline does.
    AsDecoded,
}

/// A finished picture with the record of how it came about.
#[derive(Clone, Debug, PartialEq)]
pub struct GeneratedImage {
    /// The pixels.
    pub picture: Picture,
    /// Everything that decided them.
    pub receipt: Receipt,
}

/// Who answers requests: the engine, a fake, later a remote worker.
///
/// One call, one picture. The call blocks; it must return soon after `progress` answers `Break` or a cancellation.
pub trait Generator: Send + Sync {
    /// Draws the picture.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRequest`] and [`ErrorKind::Unsupported`] for what the request asks, `ModelNotFound` for its
    /// model's name, `Cancelled` when `progress` broke off, `Internal` for everything that is not the request's fault.
    fn generate(
        &self,
        request: &GenerationRequest,
        progress: &mut dyn Progress,
    ) -> Result<GeneratedImage, GenerateError>;

    /// Refuses what need not wait for its turn to be refused. Quick; what passes may still fail later.
    ///
    /// # Errors
    /// As [`Generator::generate`].
    fn admit(&self, request: &GenerationRequest) -> Result<(), GenerateError> {
        let _ = request;
        Ok(())
    }
}
