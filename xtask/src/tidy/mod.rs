//! The invariants of ARCHITECTURE.md that neither the compiler nor a missing dependency keeps.
//!
//! Every rule is a function from what lies in the repository to the places where it is broken. `cargo xtask tidy` prints
//! them, and a test of this crate runs them all, so that `cargo test` keeps them too.

mod dependencies;
mod layers;
mod scan;
mod text;

use anyhow::Result;
use scan::Source;
use std::{fmt, path::Path};

/// A place where a rule is broken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    /// File, relative to the workspace, or crate.
    place: String,
    /// Line, where there is one.
    line: Option<usize>,
    /// What is wrong, and what to do instead.
    message: String,
}

impl Violation {
    fn of(place: impl Into<String>, message: impl Into<String>) -> Self {
        Self { place: place.into(), line: None, message: message.into() }
    }

    fn at(source: &Source, line: usize, message: impl Into<String>) -> Self {
        Self { place: source.path.clone(), line: Some(line), message: message.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(out, "{}:{line}: {}", self.place, self.message),
            None => write!(out, "{}: {}", self.place, self.message),
        }
    }
}

/// Everything that is wrong, in the order of files.
///
/// # Errors
/// When the repository cannot be read.
pub(crate) fn violations(root: &Path) -> Result<Vec<Violation>> {
    let sources = scan::rust_sources(root)?;
    let mut found = dependencies::violations(root)?;
    for source in &sources {
        found.extend(layers::violations(source));
        found.extend(text::violations(source));
    }
    found.extend(text::machine_paths(root)?);
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::root;

    #[test]
    fn the_repository_keeps_its_rules() {
        let found = violations(&root()).expect("the repository can be read");
        let lines: Vec<_> = found.iter().map(Violation::to_string).collect();
        assert!(lines.is_empty(), "\n{}", lines.join("\n"));
    }
}
