//! `pentimento styles`: the style presets and what they make of a prompt.

use crate::{failure::Failure, models, output};
use pentimento_protocols::StylePreset;

/// Prints the table.
pub(crate) fn run() -> Result<(), Failure> {
    let rows = StylePreset::ALL.map(|style| [style.name.to_owned(), style.template.to_owned()]);
    output::print(models::table(rows.to_vec()).as_bytes())
}
