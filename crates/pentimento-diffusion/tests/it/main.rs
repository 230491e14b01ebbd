//! The engine through its public face.
//!
//! - `accelerations`: what makes drawing faster, off, on, and with any number of threads
//! - `filter`: pictures that a model's checker objects to
//! - `hires`: a second pass at a larger size
//! - `hostile`: files made to harm
//! - `loading`: what is said of broken, missing and refused model files
//! - `precision`: what leaves the range of bf16, or of f32
//! - `requests`: prompts, masks, sizes, cancellation, receipts
//! - `survey`: what is told of a model that lacks something, and what is not converted

mod accelerations;
mod filter;
mod hires;
mod hostile;
mod loading;
mod precision;
mod requests;
mod survey;

use pentimento_diffusion::{Folder, LoadOptions, Model};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
};
use tempfile::TempDir;

/// The folder of the embedded model.
fn default_folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../models/default")
}

/// A file or folder below the goldens.
fn goldens(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../reference/goldens").join(path)
}

/// The folder of a tiny random model.
fn tiny_folder() -> PathBuf {
    goldens("models/tiny-sd15")
}

fn options(name: &str) -> LoadOptions {
    LoadOptions::new(name, 512 * 512)
}

/// The tiny model, loaded once.
static TINY: LazyLock<Model> =
    LazyLock::new(|| Model::load(&Folder::new(tiny_folder()), options("tiny")).expect("the tiny model"));

/// A copy of the tiny model that a test may break.
fn copy() -> TempDir {
    let folder = TempDir::new().expect("a folder");
    copy_tree(&tiny_folder(), folder.path());
    folder
}

fn copy_tree(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            fs::create_dir(&target).expect("a folder");
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("a copy");
        }
    }
}
