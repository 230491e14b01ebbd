//! `pentimento models list`: the models that can be called by name, with their sizes.

use super::table;
use crate::{places::Places, source::Source};
use anyhow::Result;
use serde_json::json;

/// A model that has a name.
struct Row {
    name: String,
    source: Source,
    /// Bytes of its files, or why they cannot be told.
    bytes: Result<u64, String>,
    /// What it is, or why it cannot be run.
    family: Result<String, String>,
}

/// The list as a table, or as JSON.
///
/// # Errors
/// When a folder of models cannot be read.
pub(super) fn text(places: &Places, as_json: bool) -> Result<String> {
    let rows: Vec<_> = Source::named(places)?.into_iter().map(Row::new).collect();
    Ok(if as_json { format!("{:#}\n", json(&rows)) } else { as_table(&rows) })
}

impl Row {
    fn new((name, source): (String, Source)) -> Self {
        let told = |error: anyhow::Error| format!("{error:#}");
        let family = source.inspect().map(|summary| summary.family).map_err(told);
        let bytes = source.stamp().map(|stamp| stamp.bytes).map_err(told);
        Self { name, source, bytes, family }
    }
}

fn as_table(rows: &[Row]) -> String {
    let head = ["name", "size", "what", "where"].map(str::to_owned);
    let rows = rows.iter().map(|Row { name, source, bytes, family }| {
        let size = bytes.as_ref().map_or_else(|_| "?".to_owned(), |bytes| in_units(*bytes));
        let family = family.as_ref().map_or_else(|_| "not to be run".to_owned(), Clone::clone);
        [name.clone(), size, family, source.place()]
    });
    table(std::iter::once(head).chain(rows).collect())
}

fn json(rows: &[Row]) -> serde_json::Value {
    let row = |Row { name, source, bytes, family }: &Row| {
        json!({
            "name": name,
            "bytes": bytes.as_ref().ok(),
            "family": family.as_ref().ok(),
            "error": family.as_ref().err().or(bytes.as_ref().err()),
            "place": source.place(),
        })
    };
    rows.iter().map(row).collect()
}

/// Bytes as disks count them.
fn in_units(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_told_in_units() {
        let told = [0, 999, 1_000, 25_300_000, 4_265_146_304].map(in_units);
        assert_eq!(told, ["0 B", "999 B", "1.0 kB", "25.3 MB", "4.3 GB"]);
    }
}
