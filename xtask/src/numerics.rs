//! The table of docs/numerics.md: runs the engine's golden tests and writes down what they measured.

use crate::run::{Step, root};
use anyhow::{Context, Result, bail, ensure};
use std::{fs, path::Path};

/// Where the table begins and ends in the page.
const MARKS: [&str; 2] = ["<!-- measured: begin -->", "<!-- measured: end -->"];

/// Measures, and writes the table.
///
/// # Errors
/// When a golden test fails, or the page has no place for the table.
pub(crate) fn write() -> Result<()> {
    let folder = root().join("target/numerics");
    if folder.exists() {
        fs::remove_dir_all(&folder).context("cannot clear target/numerics")?;
    }
    Step::cargo("golden tests", &["test", "--locked", "--package", "pentimento-diffusion", "goldens"])
        .env("PENTIMENTO_NUMERICS", &folder)
        .run()?;
    let page = root().join("docs/numerics.md");
    let text = fs::read_to_string(&page).context("cannot read docs/numerics.md")?;
    fs::write(&page, with_table(&text, &table(&folder)?)?).context("cannot write docs/numerics.md")
}

/// The rows that the tests left, in the order of their names.
fn table(folder: &Path) -> Result<String> {
    let mut rows = Vec::new();
    for entry in fs::read_dir(folder).context("the tests measured nothing")? {
        let path = entry?.path();
        let line = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        rows.push(row(line.trim_end()).with_context(|| path.display().to_string())?);
    }
    rows.sort();
    let head = "| part | reference | comparisons | largest difference | allowed |\n|---|---|---|---|---|\n";
    Ok(head.to_owned() + &rows.concat())
}

/// One line of a measuring test as a row: part, reference, comparisons, largest difference, unit, tolerance.
fn row(line: &str) -> Result<String> {
    let fields: Vec<&str> = line.split('\t').collect();
    let [part, reference, count, largest, unit, allowed] = fields[..] else {
        bail!("not six fields: {line}")
    };
    let (largest, allowed): (f64, f64) = (largest.parse()?, allowed.parse()?);
    Ok(format!("| {part} | {reference} | {count} | {} {unit} | {} |\n", short(largest), short(allowed)))
}

/// Two digits: whole numbers as they are, the rest with a power of ten.
fn short(number: f64) -> String {
    if number.fract() == 0.0 && number < 1000.0 { format!("{number}") } else { format!("{number:.1e}") }
}

fn with_table(page: &str, table: &str) -> Result<String> {
    let [begin, end] = MARKS;
    let (before, rest) = page.split_once(begin).with_context(|| format!("docs/numerics.md lacks {begin}"))?;
    let (_, after) = rest.split_once(end).with_context(|| format!("docs/numerics.md lacks {end}"))?;
    ensure!(!after.contains(begin), "docs/numerics.md has two tables");
    Ok(format!("{before}{begin}\n{table}{end}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measurements_become_rows_between_the_marks() {
        let line = "UNet\tdiffusers\t12\t4.21e-5\tdeviations\t1e-3";
        let row = row(line).expect("a row");
        assert_eq!(row, "| UNet | diffusers | 12 | 4.2e-5 deviations | 1.0e-3 |\n");
        let page = format!("a\n{}\nold\n{}\nb\n", MARKS[0], MARKS[1]);
        let page = with_table(&page, &row).expect("a page");
        assert_eq!(page, format!("a\n{}\n{row}{}\nb\n", MARKS[0], MARKS[1]));
        assert!(with_table("no marks", &row).is_err());
    }
}
