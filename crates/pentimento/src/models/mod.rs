//! `pentimento models`: which there are, what one is, and how to get one.

pub(crate) mod args;
mod convert;
mod list;
mod pull;
mod verify;

use crate::{embedded::NOTICES, failure::Failure, output, places::Places, source::Source};
use args::ModelsCommand;
use pentimento_diffusion::{Companions, Part, Survey};
use serde_json::{Value, json};
use std::fmt::Write;

/// Prints what was asked for.
pub(crate) fn run(command: &ModelsCommand) -> Result<(), Failure> {
    let text = match command {
        ModelsCommand::List { data, json } => list::text(&Places::typed(data), *json)?,
        ModelsCommand::Inspect { model, json } => {
            let survey = Source::find(&model.model, &Places::typed(&model.data))?.survey()?;
            if *json { format!("{:#}\n", as_json(&survey)) } else { as_table(&survey) }
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

fn as_table(survey: &Survey) -> String {
    let Survey { family, native_size, prediction, scheduler, parts, companions, missing } = survey;
    let told = |text: &Option<String>| text.clone().unwrap_or_else(|| "?".to_owned());
    let mut rows = vec![
        ["family".to_owned(), told(family)],
        ["native size".to_owned(), told(&native_size.map(|size| size.to_string()))],
        ["predicts".to_owned(), told(prediction)],
        ["scheduler".to_owned(), told(scheduler)],
    ];
    let Companions { edges, texture, loras } = companions;
    let controls = [(*edges, "canny"), (*texture, "tile")];
    let controls: Vec<_> = controls.iter().filter(|(there, _)| *there).map(|(_, name)| *name).collect();
    for (what, names) in [("controls", controls.join(", ")), ("loras", loras.join(", "))] {
        if !names.is_empty() {
            rows.push([what.to_owned(), names]);
        }
    }
    let mut text = table(rows);
    let head = ["part", "class", "parameters", "stored as"].map(str::to_owned);
    let rows = parts.iter().map(|part| {
        let Part { name, class, parameters, dtypes } = part;
        [name.clone(), class.clone(), in_millions(*parameters), dtypes.join(", ")]
    });
    let _ = write!(text, "\n{}", table(std::iter::once(head).chain(rows).collect()));
    if !missing.is_empty() {
        text.push_str("\nIt cannot be drawn with as it is:\n");
        missing.iter().for_each(|missing| {
            let _ = writeln!(text, "  {missing}");
        });
    }
    text
}

fn as_json(survey: &Survey) -> Value {
    let Survey { family, native_size, prediction, scheduler, parts, companions, missing } = survey;
    let Companions { edges, texture, loras } = companions;
    let part = |part: &Part| {
        let Part { name, class, parameters, dtypes } = part;
        json!({ "name": name, "class": class, "parameters": parameters, "dtypes": dtypes })
    };
    json!({
        "family": family,
        "native_size": native_size.map(|size| json!({ "width": size.width(), "height": size.height() })),
        "prediction": prediction,
        "scheduler": scheduler,
        "parts": parts.iter().map(part).collect::<Vec<_>>(),
        "controls": { "canny": edges, "tile": texture },
        "loras": loras,
        "missing": missing,
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
