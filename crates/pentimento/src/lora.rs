//! `pentimento lora`: which adapters there are, and what one holds.

use crate::{
    cli::LoraCommand, embedded::DEFAULT_MODEL, failure::Failure, library::Shelves, models::table, output,
    places::Places, source::DEFAULT,
};
use anyhow::{Context, Result};
use pentimento_diffusion::{Companions, Folder, LoraFile, LoraSummary};
use serde_json::{Value, json};
use std::{collections::BTreeMap, fmt::Write, path::Path};

/// Prints what was asked for.
pub(crate) fn run(command: &LoraCommand) -> Result<(), Failure> {
    let text = match command {
        LoraCommand::List { data, loras_dir } => list(&Places::typed(data).with_steering(loras_dir, &[]))?,
        LoraCommand::Inspect { file, json } => {
            let summary = open(file)?.summary();
            if *json { format!("{:#}\n", as_json(&summary)) } else { as_text(&summary) }
        }
    };
    output::print(text.as_bytes())
}

fn list(places: &Places) -> Result<String> {
    let mut known: BTreeMap<String, String> = Shelves::of(places)
        .loras()?
        .into_iter()
        .map(|(name, path)| (name, path.display().to_string()))
        .collect();
    // A folder's adapter counts before the embedded model's own of the same name.
    for name in Companions::find(&DEFAULT_MODEL)?.loras {
        known.entry(name).or_insert_with(|| format!("part of this program, for its model '{DEFAULT}'"));
    }
    Ok(table(known.into_iter().map(|(name, place)| [name, place]).collect()))
}

fn open(path: &Path) -> Result<LoraFile> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().with_context(|| format!("{} is no file", path.display()))?;
    Ok(LoraFile::open(&Folder::new(parent), &name.to_string_lossy())?)
}

fn as_text(summary: &LoraSummary) -> String {
    let LoraSummary { family, parts, flavours, ranks, alphas, unknown, notes, hash } = summary;
    let counted = |pairs: &[(String, usize)]| {
        pairs.iter().map(|(name, count)| format!("{name}: {count} layers")).collect::<Vec<_>>().join(", ")
    };
    let numbers =
        |numbers: Vec<String>| if numbers.is_empty() { "none".to_owned() } else { numbers.join(", ") };
    let mut text = String::new();
    for (what, value) in [
        ("family", family.clone()),
        ("parts", counted(parts)),
        ("flavours", counted(flavours)),
        ("ranks", numbers(ranks.iter().map(ToString::to_string).collect())),
        ("alphas", numbers(alphas.iter().map(ToString::to_string).collect())),
        ("sha256", hash.clone()),
    ] {
        let _ = writeln!(text, "{what:<10}{value}");
    }
    for (key, value) in notes {
        let _ = writeln!(text, "{key}: {value}");
    }
    for name in unknown {
        let _ = writeln!(text, "not known: {name}");
    }
    text
}

fn as_json(summary: &LoraSummary) -> Value {
    let LoraSummary { family, parts, flavours, ranks, alphas, unknown, notes, hash } = summary;
    let object = |pairs: &[(String, usize)]| -> Value {
        Value::Object(pairs.iter().map(|(name, count)| (name.clone(), json!(count))).collect())
    };
    let notes: serde_json::Map<String, Value> =
        notes.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
    json!({
        "family": family,
        "parts": object(parts),
        "flavours": object(flavours),
        "ranks": ranks,
        "alphas": alphas,
        "unknown": unknown,
        "notes": notes,
        "hash": hash,
    })
}
