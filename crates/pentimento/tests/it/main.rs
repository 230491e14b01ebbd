//! The program as its users meet it: run as a process, judged by its files, streams and exit codes.
//!
//! - [`usage`]: help, mistakes in what was typed, completions, manual
//! - [`generate`]: pictures from the embedded model
//! - [`broken`]: files that are missing, cut off or something else
//! - [`models`]: listing and inspecting
//! - [`serve`]: the server from its first line to its end
//! - [`program`]: how the program is run here

mod broken;
mod generate;
mod models;
mod program;
mod serve;
mod usage;
