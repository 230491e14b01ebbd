//! `pentimento models convert`: a model as a folder in diffusers' layout.

use super::args::{ConvertArgs, StoredAs};
use crate::{output, places::Places, source::Source};
use anyhow::{Context, Result, bail};
use pentimento_diffusion::StoredAs as Stored;
use std::{fs, path::Path};

/// Writes what was asked for; it is there under its name only when all of it is written.
///
/// # Errors
/// One line that names the file; what was there before is untouched.
pub(super) fn run(args: &ConvertArgs) -> Result<()> {
    let ConvertArgs { model, out, dtype, force, data } = args;
    if fs::symlink_metadata(out).is_ok() && !force {
        bail!("{} is there already: --force replaces it", out.display());
    }
    let source = Source::find(model, &Places::typed(data))?;
    let parent = out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let room = tempfile::Builder::new()
        .prefix(".pentimento-")
        .tempdir_in(parent)
        .with_context(|| format!("cannot write into {}", parent.display()))?;
    let folder = room.path().join("model");
    fs::create_dir(&folder).with_context(|| format!("cannot write into {}", parent.display()))?;
    let stored_as = dtype.map(|dtype| match dtype {
        StoredAs::F32 => Stored::F32,
        StoredAs::F16 => Stored::F16,
        StoredAs::Bf16 => Stored::Bf16,
    });
    pentimento_diffusion::convert(&*source.files()?, &folder, stored_as)?;
    output::put_in_place(&folder, out)
}
