//! How files look: their length, their first line, and words that must not stay.

use super::{
    Violation,
    scan::{Source, has_word},
};
use crate::run::Step;
use anyhow::{Context, Result};
use std::{fs, path::Path};

/// A file beyond this usually hides two ideas. Unit tests count, since they have to be read too.
const LONGEST: usize = 600;

/// Files that may be longer, with the reason.
const LONGER: &[(&str, &str)] = &[];

/// Marks of unfinished work, in two halves so that this file does not carry them.
const UNFINISHED: [&str; 3] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];

/// Macros of unfinished work.
const MACROS: [&str; 3] = ["dbg!", "todo!", "unimplemented!"];

/// Beginnings of paths that exist on somebody's machine only, in two halves for the same reason.
const MACHINE_PATHS: [&str; 5] = [
    concat!("/ho", "me/"),
    concat!("/Us", "ers/"),
    concat!("/ro", "ot/"),
    concat!("/wo", "rk/"),
    concat!("C:\\", "Users"),
];

/// The one file that names a hub: what a user asks for by name is fetched from there.
const HUB: &str = "crates/pentimento/src/models/pull/hub.rs";

/// Hosts that product code must not reach: everything works offline.
const HOSTS: [&str; 4] = ["huggingface.co", "hf.co", "civitai.com", "amazonaws.com"];

/// Everything that is wrong in a Rust file.
pub(super) fn violations(source: &Source) -> Vec<Violation> {
    let mut found = Vec::new();
    found.extend(length(source));
    if source.is_product() && !source.lines.first().is_some_and(|line| line.starts_with("//!")) {
        found.push(Violation::at(source, 1, "the file says in its first line what it is (`//! …`)"));
    }
    for (index, line) in source.lines.iter().enumerate() {
        let mut say = |message: String| found.push(Violation::at(source, index + 1, message));
        for mark in UNFINISHED.iter().filter(|mark| has_word(line, mark)) {
            say(format!("{mark}: do it, or file an issue"));
        }
        let hosts = HOSTS
            .iter()
            .filter(|_| source.is_product() && source.krate() != "xtask" && source.path != HUB)
            .filter(|host| line.contains(**host));
        hosts.for_each(|host| say(format!("{host}: the product works offline")));
    }
    for (number, line) in source.code() {
        for name in MACROS.iter().filter(|name| line.contains(**name)) {
            found.push(Violation::at(source, number, format!("{name} must not stay")));
        }
    }
    found.extend(attributes(source));
    found
}

fn length(source: &Source) -> Option<Violation> {
    let lines = source.lines.len();
    let may_be_longer = LONGER.iter().any(|(path, _)| *path == source.path);
    (lines > LONGEST && !may_be_longer).then(|| {
        Violation::of(&source.path, format!("{lines} lines are more than {LONGEST}: it hides two ideas"))
    })
}

/// `#[ignore]` is not wanted at all, and an `allow` or `expect` says why.
fn attributes(source: &Source) -> Vec<Violation> {
    let mut found = Vec::new();
    for (index, line) in source.lines.iter().enumerate() {
        let line = line.trim_start();
        if line.starts_with("#[ignore") {
            found.push(Violation::at(
                source,
                index + 1,
                "no ignored tests: one that misses something says so and passes",
            ));
        }
        let opens =
            ["#[allow(", "#![allow(", "#[expect(", "#![expect("].iter().any(|open| line.starts_with(open));
        let explained = |text: &str| text.contains("reason") || text.contains("//");
        if opens && !explained(&attribute_text(&source.lines[index..])) {
            let message = "an exception from a lint says why: `reason = \"…\"`, or a remark behind it";
            found.push(Violation::at(source, index + 1, message));
        }
    }
    found
}

/// An attribute's text up to its closing bracket, over as many lines as it takes, with a remark behind it.
fn attribute_text(lines: &[String]) -> String {
    let end = lines.iter().position(|line| line.contains(")]")).unwrap_or(0);
    lines[..=end].concat()
}

/// Tracked text files that name a path of somebody's machine.
///
/// # Errors
/// When git cannot list the files.
pub(super) fn machine_paths(root: &Path) -> Result<Vec<Violation>> {
    let mut found = Vec::new();
    for path in tracked_files()? {
        // Pictures and weights are no text, and a file may be tracked and deleted at once.
        let Some(text) = fs::read(root.join(&path)).ok().and_then(|bytes| String::from_utf8(bytes).ok())
        else {
            continue;
        };
        for (index, _) in text.lines().enumerate().filter(|(_, line)| names_a_machine(line)) {
            let message = "a path of somebody's machine: take it from the workspace or the environment";
            found.push(Violation { place: path.clone(), line: Some(index + 1), message: message.to_owned() });
        }
    }
    Ok(found)
}

fn tracked_files() -> Result<Vec<String>> {
    let list = Step::new("git", "git", &["ls-files", "-z"]).output()?;
    let list = String::from_utf8(list).context("git speaks UTF-8")?;
    Ok(list.split('\0').filter(|path| !path.is_empty()).map(str::to_owned).collect())
}

/// Whether such a path begins a word; `target/work/x` and `https://host/home/` are none.
fn names_a_machine(line: &str) -> bool {
    MACHINE_PATHS.iter().any(|path| {
        line.match_indices(path).any(|(at, _)| {
            let before = line[..at].chars().next_back();
            !before.is_some_and(|letter| letter.is_alphanumeric() || "._-/$~}".contains(letter))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(text: &str) -> Vec<String> {
        let found = violations(&Source::new("crates/x/src/lib.rs", text));
        found.into_iter().map(|violation| violation.message).collect()
    }

    #[test]
    fn unfinished_work_is_found() {
        assert_eq!(messages("//! x\nfn a() {}\n"), [""; 0]);
        assert_eq!(messages(&format!("//! x\n// {}: later\n", UNFINISHED[0])).len(), 1);
        assert_eq!(messages("//! x\nfn a() { dbg!(1); }\n").len(), 1);
        assert_eq!(messages("fn a() {}\n").len(), 1);
        assert_eq!(messages(&"//! x\n".repeat(601)).len(), 1);
    }

    #[test]
    fn exceptions_give_their_reason() {
        assert_eq!(messages("//! x\n#[allow(dead_code)]\nfn a() {}\n").len(), 1);
        assert_eq!(messages("//! x\n#[allow(\n    dead_code,\n    reason = \"y\"\n)]\nfn a() {}\n"), [""; 0]);
        assert_eq!(messages("//! x\n#[allow(dead_code)] // For y.\nfn a() {}\n"), [""; 0]);
        assert_eq!(messages("//! x\n#[ignore]\nfn a() {}\n").len(), 1);
    }

    #[test]
    fn paths_of_machines_are_told_from_others() {
        let path = MACHINE_PATHS[0];
        assert!(names_a_machine(&format!("open(\"{path}me/x\")")) && names_a_machine(path));
        assert!(!names_a_machine(&format!("target{path}x")) && !names_a_machine("a / b"));
    }
}
