//! How a running generation tells of itself, and how it is broken off.

use crate::Picture;
use std::{
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// The stages of a generation, in the order in which they run. Image-to-image starts with `Encode` after `Text`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Reading the model's weights; only for the first request that needs them.
    Load,
    /// Prompts to embeddings.
    Text,
    /// The input picture to latents.
    Encode,
    /// The sampler's steps.
    Sample,
    /// Latents to pixels.
    Decode,
    /// The content filter's look at the picture.
    Check,
}

impl Stage {
    /// Every stage.
    pub const ALL: [Self; 6] =
        [Self::Load, Self::Text, Self::Encode, Self::Sample, Self::Decode, Self::Check];

    /// The stage's name in receipts and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Text => "text",
            Self::Encode => "encode",
            Self::Sample => "sample",
            Self::Decode => "decode",
            Self::Check => "check",
        }
    }
}

/// What is known after a step of the sampler.
pub struct StepReport<'a> {
    /// Steps finished, from 1 to `of`.
    pub step: usize,
    /// Steps that are run in all.
    pub of: usize,
    /// Draws a cheap, small picture of what the model expects at the end: one pixel per latent cell, by a linear
    /// map from latents to colours. Costs nothing unless called; `None` where the model gives no such map.
    pub preview: &'a dyn Fn() -> Option<Picture>,
}

/// Who listens to a running generation. One listener, called from the thread that generates.
pub trait Progress {
    /// A stage begins. `Break` ends the generation as cancelled before the stage does any work.
    fn stage(&mut self, stage: Stage) -> ControlFlow<()> {
        let _ = stage;
        ControlFlow::Continue(())
    }

    /// A part of a stage is finished that is no step, such as one of many texts. `Break` ends the generation as
    /// cancelled.
    fn part(&mut self) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    /// A switch that is looked at within a step too, which may take seconds. `None`: it is broken off between parts and
    /// steps only.
    fn switch(&self) -> Option<Cancel> {
        None
    }

    /// A step is finished. `Break` ends the generation as cancelled: no further step, no decoding.
    fn step(&mut self, report: &StepReport<'_>) -> ControlFlow<()>;
}

/// Listens to nothing.
pub struct Quiet;

impl Progress for Quiet {
    fn step(&mut self, _: &StepReport<'_>) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

/// A switch that one side throws and a [`Progress`] on the other side obeys.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Throws the switch, for good.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether the switch was thrown.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// `Break` once the switch was thrown.
    pub fn flow(&self) -> ControlFlow<()> {
        if self.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

impl Progress for Cancel {
    fn switch(&self) -> Option<Cancel> {
        Some(self.clone())
    }

    fn stage(&mut self, _: Stage) -> ControlFlow<()> {
        self.flow()
    }

    fn part(&mut self) -> ControlFlow<()> {
        self.flow()
    }

    fn step(&mut self, _: &StepReport<'_>) -> ControlFlow<()> {
        self.flow()
    }
}
