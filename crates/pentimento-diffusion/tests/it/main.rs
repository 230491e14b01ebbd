//! The engine through its public face.
//!
//! - `loading`: what is said of broken, missing and refused model files
//! - `requests`: prompts, masks, sizes, cancellation, receipts

mod loading;
mod requests;

use pentimento_diffusion::{Folder, LoadOptions, Model, Precision};
use std::{path::PathBuf, sync::LazyLock};

/// The folder of the embedded model.
fn default_folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../models/default")
}

/// The folder of a tiny random model.
fn tiny_folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../reference/goldens/models/tiny-sd15")
}

fn options(name: &str) -> LoadOptions {
    LoadOptions { name: name.to_owned(), precision: Precision::F32, pixel_cap: 512 * 512 }
}

/// The tiny model, loaded once.
static TINY: LazyLock<Model> =
    LazyLock::new(|| Model::load(&Folder::new(tiny_folder()), options("tiny")).expect("the tiny model"));
