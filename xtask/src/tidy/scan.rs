//! Reading Rust sources: which there are, and their lines without comments and texts.
//!
//! This is a scanner and no parser. It knows line comments, block comments, strings, raw strings and character literals,
//! which is enough to tell code from what only talks about code.

use anyhow::{Context, Result};
use std::{fs, path::Path};

/// A Rust file.
pub(super) struct Source {
    /// Path in the workspace, with `/`.
    pub(super) path: String,
    /// Its lines as they stand.
    pub(super) lines: Vec<String>,
    /// Its lines with comments and the insides of literals blanked out, and without its unit tests.
    pub(super) code: Vec<String>,
}

impl Source {
    /// A file of this text.
    pub(super) fn new(path: impl Into<String>, text: &str) -> Self {
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let mut code: Vec<String> = blank_out(text).lines().map(str::to_owned).collect();
        if let Some(tests) = code
            .iter()
            .position(|line| line.starts_with("#[cfg(test)]") || line.starts_with("#[cfg(all(test"))
        {
            code.truncate(tests);
        }
        Self { path: path.into(), lines, code }
    }

    /// Name of the crate, as in `crates/NAME/src/lib.rs`; `xtask` for the rest.
    pub(super) fn krate(&self) -> &str {
        let rest = self.path.strip_prefix("crates/").and_then(|rest| rest.split('/').next());
        rest.unwrap_or("xtask")
    }

    /// Whether the file is part of the product, not of tests, examples or benchmarks.
    pub(super) fn is_product(&self) -> bool {
        self.path.contains("/src/")
    }

    /// Path within the crate's `src`.
    pub(super) fn within_src(&self) -> &str {
        self.path.split_once("/src/").map_or("", |(_, rest)| rest)
    }

    /// Code lines with their numbers, from 1.
    pub(super) fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code.iter().enumerate().map(|(index, line)| (index + 1, line.as_str()))
    }
}

/// Whether the word stands in the line, and not as a part of a longer one.
pub(super) fn has_word(line: &str, word: &str) -> bool {
    let is_part =
        |letter: Option<char>| letter.is_some_and(|letter| letter.is_alphanumeric() || letter == '_');
    line.match_indices(word).any(|(start, _)| {
        let before = line[..start].chars().next_back();
        let after = line[start + word.len()..].chars().next();
        !is_part(before) && !is_part(after)
    })
}

/// All Rust files of the workspace, sorted.
///
/// # Errors
/// When a folder or file cannot be read.
pub(super) fn rust_sources(root: &Path) -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    for folder in ["crates", "xtask"] {
        collect(root, folder, &mut sources)?;
    }
    sources.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(sources)
}

fn collect(root: &Path, folder: &str, sources: &mut Vec<Source>) -> Result<()> {
    let entries = fs::read_dir(root.join(folder)).with_context(|| format!("cannot read {folder}"))?;
    for entry in entries {
        let entry = entry?;
        let path = format!("{folder}/{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            collect(root, &path, sources)?;
        } else if path.ends_with(".rs") {
            let text = fs::read_to_string(entry.path()).with_context(|| format!("cannot read {path}"))?;
            sources.push(Source::new(path, &text));
        }
    }
    Ok(())
}

/// The text with comments and the insides of literals replaced by spaces; lines stay where they are.
fn blank_out(text: &str) -> String {
    let mut left = text;
    let mut code = String::with_capacity(text.len());
    while let Some(letter) = left.chars().next() {
        let skipped = skip_length(left, code.chars().next_back());
        let (taken, rest) = left.split_at(skipped.unwrap_or(letter.len_utf8()));
        match skipped {
            Some(_) => code.extend(taken.chars().map(|letter| if letter == '\n' { '\n' } else { ' ' })),
            None => code.push_str(taken),
        }
        left = rest;
    }
    code
}

/// How many bytes from here are a comment or a literal; `None` where code goes on.
fn skip_length(text: &str, before: Option<char>) -> Option<usize> {
    let bytes = text.as_bytes();
    match bytes[0] {
        b'/' if text.starts_with("//") => Some(text.find('\n').unwrap_or(text.len())),
        b'/' if text.starts_with("/*") => Some(text.find("*/").map_or(text.len(), |end| end + 2)),
        b'"' => Some(string_length(text)),
        b'r' if !before.is_some_and(|letter| letter.is_alphanumeric() || letter == '_') => {
            raw_string_length(text)
        }
        b'\'' => character_length(text),
        _ => None,
    }
}

fn string_length(text: &str) -> usize {
    let mut escaped = false;
    for (index, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return index + 1,
            _ => {}
        }
    }
    text.len()
}

fn raw_string_length(text: &str) -> Option<usize> {
    let hashes = text[1..].bytes().take_while(|byte| *byte == b'#').count();
    let inside = text.get(1 + hashes..)?.strip_prefix('"')?;
    let close = format!("\"{}", "#".repeat(hashes));
    let length = inside.find(&close).map_or(inside.len(), |end| end + close.len());
    Some(2 + hashes + length)
}

/// A character literal; `None` for a lifetime.
fn character_length(text: &str) -> Option<usize> {
    let inside = &text[1..];
    let end = if inside.starts_with('\\') {
        inside.char_indices().skip(2).find(|(_, letter)| *letter == '\'')?.0
    } else {
        let letter = inside.chars().next()?;
        inside[letter.len_utf8()..].starts_with('\'').then_some(letter.len_utf8())?
    };
    Some(end + 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_is_left() {
        let text =
            "let a = \"x // \\\" y\"; // b\nlet c = r#\"d\"e\"#; /* f\ng */ let h: &'i str = 'j'; '\\''; k";
        let code = blank_out(text);
        assert_eq!(code.lines().count(), text.lines().count());
        for gone in ["x", "b", "d", "e\"", "f", "g", "'j'"] {
            assert!(!code.contains(gone), "{gone} in {code}");
        }
        for left in ["let a", "let c", "let h: &'i str", "; k"] {
            assert!(code.contains(left), "{left} in {code}");
        }
    }

    #[test]
    fn unit_tests_are_no_code_and_words_are_whole() {
        let source = Source::new("crates/x/src/lib.rs", "fn a() {}\n#[cfg(test)]\nmod tests { unsafe {} }\n");
        assert_eq!(source.code.len(), 1);
        assert!(has_word("a unsafe {", "unsafe") && !has_word("unsafe_code", "unsafe"));
        assert_eq!((source.krate(), source.within_src()), ("x", "lib.rs"));
    }
}
