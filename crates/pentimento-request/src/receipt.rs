//! The record of how a picture came about: enough to draw it again, and to see what it cost.

use crate::{
    Accelerations, ClipGuidance, ClipSkip, NoiseSource, PromptSyntax, Sampler, Schedule, Size, SolverOptions,
    Stage, Verdict,
};
use std::time::Duration;

/// Everything that decided a picture's pixels, and what it took.
#[derive(Clone, Debug, PartialEq)]
pub struct Receipt {
    /// Version of the engine that drew it.
    pub engine: String,
    /// Name of the model.
    pub model: String,
    /// SHA-256 over the model's weight files, in hexadecimal.
    pub model_hash: String,
    /// What was drawn: `text-to-image`, `image-to-image` or `repaint`.
    pub task: &'static str,
    /// The seed used, also when the caller left it to chance.
    pub seed: u64,
    /// The sampler used, also when the caller left the choice.
    pub sampler: Sampler,
    /// How the timesteps were spaced.
    pub schedule: Schedule,
    /// Settings of the sampler.
    pub solver: SolverOptions,
    /// Which generator the seed started.
    pub noise: NoiseSource,
    /// Steps of the whole schedule.
    pub steps: usize,
    /// Steps that were run of it.
    pub steps_run: usize,
    /// The noise levels that the sampler walked, in its order. Standard deviation of the noise relative to the
    /// signal; infinite at a zero terminal signal-to-noise ratio.
    pub sigmas: Vec<f64>,
    /// Guidance scale.
    pub guidance_scale: f32,
    /// Guidance rescale.
    pub guidance_rescale: f32,
    /// What made it faster; `None` where nothing did.
    pub accelerations: Option<AccelerationsReport>,
    /// Share of the schedule that was run, 1 for text-to-image.
    pub strength: f64,
    /// The second pass, where there was one.
    pub hires: Option<SecondPassReport>,
    /// Size at which the model worked.
    pub worked_at: Size,
    /// The part of the input that the model saw: x, y, width, height. `None` for all of it.
    pub region: Option<[u32; 4]>,
    /// Size of the result.
    pub size: Size,
    /// Precision of the products: `f32`, `bf16`, or `int8+f32` or `int8+bf16` where only some layers have eight bits.
    pub precision: &'static str,
    /// How the prompts were read.
    pub syntax: PromptSyntax,
    /// Which layer of the text encoder was read.
    pub clip_skip: ClipSkip,
    /// The prompts, and how the tokenizer cut them.
    pub prompts: Vec<PromptReport>,
    /// What the content filter said of the picture, and what became of it.
    pub verdict: Verdict,
    /// The adapters, and what of them was found in the model.
    pub loras: Vec<LoraReport>,
    /// The control networks, in the request's order.
    pub controls: Vec<ControlReport>,
    /// The adapters that were shown pictures or a face, in the request's order.
    pub looks: Vec<LookReport>,
    /// How CLIP's similarity steered; `None` where it did not.
    pub clip_guidance: Option<ClipGuidanceReport>,
    /// Remarks on anything that was not done as a caller may expect (a stage redone in f32, say).
    pub notes: Vec<String>,
    /// SHA-256 over the result's pixels, in hexadecimal.
    pub pixels_hash: String,
    /// Time per stage, in the order run. Empty where nobody measured.
    pub timings: Vec<StageTiming>,
    /// Largest resident memory of the process until then, in bytes. `None` where the system does not tell.
    pub peak_memory: Option<u64>,
}

/// What made drawing faster.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AccelerationsReport {
    /// As they were asked for.
    pub asked: Accelerations,
    /// Steps, of all passes, in which both halves of the guidance were computed.
    pub guided_steps: usize,
    /// Steps, of all passes, in which the whole network was run.
    pub whole_steps: usize,
}

/// A second pass at a larger size.
#[derive(Clone, Debug, PartialEq)]
pub struct SecondPassReport {
    /// Factor of both sides.
    pub scale: f64,
    /// Share of its schedule that was run.
    pub strength: f64,
    /// Steps of its whole schedule.
    pub steps: usize,
    /// Steps that were run of it.
    pub steps_run: usize,
    /// The noise levels that the sampler walked.
    pub sigmas: Vec<f64>,
    /// Size at which the model worked.
    pub worked_at: Size,
}

/// How a prompt was read.
#[derive(Clone, Debug, PartialEq)]
pub struct PromptReport {
    /// The text as it was given.
    pub text: String,
    /// Its weight.
    pub weight: f32,
    /// Tokens per chunk, start and end not counted.
    pub chunks: Vec<usize>,
    /// Tokens that did not fit and were left out.
    pub truncated: usize,
}

/// What became of an adapter.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraReport {
    /// Its name.
    pub name: String,
    /// SHA-256 of its file, in hexadecimal.
    pub hash: String,
    /// Its weight in the denoising network.
    pub weight: f32,
    /// Its weight in the text encoders.
    pub text_weight: f32,
    /// Its flavours, as `LoRA` or `LoKr`.
    pub flavours: Vec<String>,
    /// The model's layers that it changes.
    pub matched: Vec<String>,
    /// Tensors of its file that change nothing.
    pub unmatched: Vec<String>,
}

/// What became of a control network.
#[derive(Clone, Debug, PartialEq)]
pub struct ControlReport {
    /// Its name.
    pub name: String,
    /// SHA-256 over its weights, in hexadecimal; `None` where it was not run.
    pub hash: Option<String>,
    /// What it was shown: `edges 100:200`, or `picture`.
    pub hint: String,
    /// Its weight.
    pub weight: f32,
    /// Steps in which it ran.
    pub steps_run: usize,
}

/// What became of an adapter that was shown pictures or a face.
#[derive(Clone, Debug, PartialEq)]
pub struct LookReport {
    /// Its name.
    pub name: String,
    /// SHA-256 over its weights, in hexadecimal.
    pub hash: String,
    /// Share of its attention.
    pub scale: f32,
    /// Number of pictures that it was shown.
    pub pictures: usize,
    /// The faces that were found in them: left, top, right and bottom in the picture's own pixels.
    pub faces: Vec<[i32; 4]>,
}

/// What CLIP's similarity of picture and prompt did.
#[derive(Clone, Debug, PartialEq)]
pub struct ClipGuidanceReport {
    /// The preset.
    pub preset: ClipGuidance,
    /// Length of a guided step's change, as a share of the latents' deviation.
    pub strength: f64,
    /// The steps that were guided, from 0.
    pub steps: Vec<usize>,
}

/// How long a stage took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StageTiming {
    /// The stage.
    pub stage: Stage,
    /// Wall-clock time.
    pub took: Duration,
}
