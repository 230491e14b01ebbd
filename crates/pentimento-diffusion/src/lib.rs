//! The engine: `(weights, GenerationRequest) -> pixels`.
//!
//! Synchronous and a pure function: no network, no clock, no environment, no global random numbers. The same
//! request and build on the same instruction set gives the same bytes, whatever the number of threads and
//! whatever ran before.
//!
//! [`Model`] is the door. Behind it: `config`, `weights`, `files` read a diffusers folder; `tokenizer`,
//! `text`, `vision`, `unet`, `vae` are the networks, which reach arithmetic only through `ops`; `noise`, `schedule`,
//! `samplers`, `guidance`, `latent_mask` are the diffusion; `filter` looks at what it drew; `plan`, `hires`, `canvas`,
//! `prompt`, `placing`, `generate` turn a request into a run of them. `probe`, `profile` and `random` are for measuring.

mod blob;
mod brought;
mod canvas;
mod clip;
mod clip_guidance;
mod companions;
mod conditioning;
mod config;
mod control;
mod convert;
mod emphasis;
mod error;
mod estimate;
mod faults;
mod files;
mod filter;
mod generate;
mod gguf;
mod guidance;
mod hires;
mod image_prompt;
mod interruption;
mod latent_mask;
mod library;
mod lora;
mod model;
mod noise;
mod ops;
mod original;
mod packed;
mod pixels;
mod placing;
mod plan;
mod precision;
mod preview;
mod probe;
mod profile;
mod prompt;
mod random;
mod samplers;
mod schedule;
mod single_file;
mod source;
mod step_cache;
mod text;
mod text_encoders;
mod tokenizer;
mod unet;
mod vae;
mod vision;
mod weights;

#[cfg(test)]
mod goldens;

pub use blob::Blob;
pub use brought::Brought;
pub use companions::Companions;
pub use control::ControlFile;
pub use convert::{StoredAs, convert};
pub use error::{LoadError, LoadErrorKind};
pub use estimate::PictureMemory;
pub use files::{Bytes, Embedded, Folder, ModelFiles};
pub use image_prompt::{FaceReader, ImagePromptFile, Sight, shows_faces};
pub use library::{EmptyLibrary, Library};
pub use lora::{LoraFile, LoraSummary};
pub use model::{LoadOptions, Model, ModelSummary, Part, Precision, Survey, Verification};
pub use precision::{fastest_floats, precision_name};
pub use probe::{Probe, ProbeStage};
pub use profile::{Clock, LayerKind, LayerProfile, Profile, profiled};
pub use random::{Architecture, RandomModel};
pub use single_file::{SingleFile, WithVae};
pub use weights::Weights;

/// Notices that have to travel with the engine: of the tokenizer that it carries.
pub const NOTICE: &str = single_file::TOKENIZER_NOTICE;
