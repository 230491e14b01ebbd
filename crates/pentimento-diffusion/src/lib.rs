//! The engine: `(weights, GenerationRequest) -> pixels`.
//!
//! Synchronous and a pure function: no network, no clock, no environment, no global random numbers. The same request
//! and build on the same instruction set gives the same bytes, whatever the number of threads and whatever ran before.

mod error;
mod files;
mod model;

pub use error::{LoadError, LoadErrorKind};
pub use files::{Embedded, Folder, ModelFiles};
pub use model::{LoadOptions, Model, ModelSummary, Part, Precision};
