//! `pentimento models verify`: everything that is wrong with a model.

use crate::{failure::Failure, output, source::Source};
use pentimento_diffusion::{Model, Verification};
use serde_json::json;

/// Prints what was found; faults are a failure.
pub(super) fn run(source: &Source, as_json: bool) -> Result<(), Failure> {
    let found = match source.files() {
        Ok(files) => Model::verify(&*files),
        Err(error) => Verification { faults: vec![format!("{error:#}")], tensors: 0, hash: None },
    };
    output::print(if as_json { told_as_json(&found) } else { told(&found) }.as_bytes())?;
    match found.faults.len() {
        0 => Ok(()),
        1 => Err(Failure::Failed(format!("{} has a fault", source.place()))),
        count => Err(Failure::Failed(format!("{} has {count} faults", source.place()))),
    }
}

fn told(found: &Verification) -> String {
    let Verification { faults, tensors, hash } = found;
    let mut text: String = faults.iter().map(|fault| format!("{fault}\n")).collect();
    if faults.is_empty() {
        text.push_str(&format!("{tensors} tensors are there, with the right shapes and finite values\n"));
    }
    if let Some(hash) = hash {
        text.push_str(&format!("sha256 {hash}\n"));
    }
    text
}

fn told_as_json(found: &Verification) -> String {
    let Verification { faults, tensors, hash } = found;
    let json = json!({ "ok": faults.is_empty(), "faults": faults, "tensors": tensors, "sha256": hash });
    format!("{json:#}\n")
}
