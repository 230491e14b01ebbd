//! The program as its users meet it: run as a process, judged by its files, streams and exit codes.
//!
//! - [`usage`]: help, mistakes in what was typed, completions, manual
//! - [`generate`]: pictures from the embedded model
//! - [`broken`]: files that are missing, cut off or something else
//! - [`bench`]: what is told of measurements
//! - [`checkpoints`]: models in one file, GGUF too, and what they are converted to
//! - [`embedded`]: edges and adapters of the embedded model
//! - [`filter`]: what is not drawn and what is not shown, and pictures in two passes
//! - [`hub`], [`pull`]: a small hub that can misbehave, and models fetched from it
//! - [`models`]: listing and inspecting
//! - [`panics`]: kernels that panic
//! - [`reload`]: a new configuration for a running server
//! - [`serve`]: the server from its first line to its end
//! - [`sizes`]: several models behind one server, each with its own size
//! - [`steering`]: adapters, control networks, texture, pictures, faces and CLIP
//! - [`stylise`]: Volcengine's protocol with adapters and a control network
//! - [`program`]: how the program is run here

mod bench;
mod broken;
mod checkpoints;
mod embedded;
mod filter;
mod fuzz;
mod generate;
mod hub;
mod models;
mod panics;
mod program;
mod pull;
mod reload;
mod serve;
mod sizes;
mod steering;
mod stylise;
mod usage;
