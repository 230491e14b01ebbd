//! `pentimento models`: which there are, what one is, and how to get one.

pub(crate) mod args;
mod convert;
mod list;
mod pull;
mod verify;

use crate::{embedded::NOTICES, failure::Failure, output, places::Places, source::Source};
use args::ModelsCommand;
use pentimento_diffusion::{ModelSummary, Part};
use serde_json::{Value, json};
use std::fmt::Write;

/// Prints what was asked for.
pub(crate) fn run(command: &ModelsCommand) -> Result<(), Failure> {
    let text = match command {
        ModelsCommand::List { data, json } => list::text(&Places::typed(data), *json)?,
        ModelsCommand::Inspect { model, json } => {
            let summary = Source::find(&model.model, &Places::typed(&model.data))?.inspect()?;
            if *json { format!("{:#}\n", as_json(&summary)) } else { as_table(&summary) }
        }
        ModelsCommand::Verify { model, json } => {
            let source = Source::find(&model.model, &Places::typed(&model.data))?;
            return verify::run(&source, *json);
        }
        ModelsCommand::Convert(args) => return Ok(convert::run(args)?),
        ModelsCommand::Pull(args) => return pull::run(args),
        ModelsCommand::Licences => NOTICES.join("\n----\n\n"),
    };
    output::print(text.as_bytes())
}

fn as_table(summary: &ModelSummary) -> String {
    let ModelSummary { family, native_size, prediction, scheduler, parts, picture_memory: _ } = summary;
    let mut text = table(vec![
        ["family".to_owned(), family.clone()],
        ["native size".to_owned(), native_size.to_string()],
        ["predicts".to_owned(), prediction.clone()],
        ["scheduler".to_owned(), scheduler.clone()],
    ]);
    let head = ["part", "class", "parameters", "stored as"].map(str::to_owned);
    let rows = parts.iter().map(|part| {
        let Part { name, class, parameters, dtypes } = part;
        [name.clone(), class.clone(), in_millions(*parameters), dtypes.join(", ")]
    });
    let _ = write!(text, "\n{}", table(std::iter::once(head).chain(rows).collect()));
    text
}

fn as_json(summary: &ModelSummary) -> Value {
    let ModelSummary { family, native_size, prediction, scheduler, parts, picture_memory: _ } = summary;
    let part = |part: &Part| {
        let Part { name, class, parameters, dtypes } = part;
        json!({ "name": name, "class": class, "parameters": parameters, "dtypes": dtypes })
    };
    json!({
        "family": family,
        "native_size": { "width": native_size.width(), "height": native_size.height() },
        "prediction": prediction,
        "scheduler": scheduler,
        "parts": parts.iter().map(part).collect::<Vec<_>>(),
    })
}

fn in_millions(count: u64) -> String {
    format!("{:.1} M", count as f64 / 1e6)
}

/// Columns as wide as their widest cell, two spaces apart; nothing trails.
pub(crate) fn table<const N: usize>(rows: Vec<[String; N]>) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..N).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [["a", "bb", "c"], ["aaa", "b", ""]].map(|row| row.map(str::to_owned));
        assert_eq!(table(rows.to_vec()), "a    bb  c\naaa  b\n");
    }

    #[test]
    fn parameters_are_told_in_millions() {
        assert_eq!(in_millions(11_234_567), "11.2 M");
    }
}
