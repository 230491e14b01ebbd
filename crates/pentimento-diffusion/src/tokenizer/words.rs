//! A tokenizer folder's vocabulary and merges: of `vocab.json` and `merges.txt` where they lie there, else of
//! `tokenizer.json`, whose `model` has both. Where all three lie there they say the same.
//!
//! Of `tokenizer.json` only words, merges and added tokens count: how a text is cut into words is CLIP's way in either
//! case, as transformers 5 has it too. Files are bounded before they are read.

use crate::{
    error::{LoadError, LoadErrorKind},
    files::ModelFiles,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{borrow::Cow, collections::BTreeMap};

const VOCABULARY: &str = "vocab.json";
const MERGES: &str = "merges.txt";
const WHOLE: &str = "tokenizer.json";

/// Far beyond any: CLIP's own `tokenizer.json`, the largest of them, takes 3.6 MB.
const LARGEST: u64 = 64 << 20;

/// What a tokenizer knows.
pub(super) struct Words {
    /// How messages name the file that it is from.
    pub(super) label: String,
    pub(super) vocabulary: BTreeMap<String, u32>,
    /// In order.
    pub(super) merges: Vec<[String; 2]>,
    /// Tokens that are found before anything is split.
    pub(super) added: Vec<AddedToken>,
}

/// A token that is found in a text as it is.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct AddedToken {
    pub(super) id: u32,
    pub(super) content: String,
    special: bool,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
    normalized: bool,
}

impl AddedToken {
    /// A token that stands for the start or the end of a text.
    pub(super) fn marker(id: u32, content: &str) -> Self {
        Self {
            id,
            content: content.to_owned(),
            special: true,
            single_word: false,
            lstrip: false,
            rstrip: false,
            normalized: false,
        }
    }
}

/// `tokenizer.json`, as far as it matters here.
#[derive(Deserialize)]
struct Whole {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    model: BytePairs,
}

#[derive(Deserialize)]
struct BytePairs {
    /// Absent in files of old versions.
    #[serde(rename = "type")]
    kind: Option<String>,
    end_of_word_suffix: Option<String>,
    vocab: BTreeMap<String, u32>,
    merges: Vec<Merge>,
}

/// A pair of pieces, in one text in files of old versions.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Pair([String; 2]),
    Text(String),
}

impl Words {
    /// Reads what lies in a tokenizer folder.
    pub(super) fn read(files: &dyn ModelFiles, folder: &str) -> Result<Self, LoadError> {
        let [pieces, lines, whole] = [VOCABULARY, MERGES, WHOLE].map(|name| format!("{folder}/{name}"));
        if let (Some(vocabulary), Some(merges)) = (document(files, &pieces)?, document(files, &lines)?) {
            let label = files.describe(&pieces);
            let vocabulary = parsed(&label, &vocabulary)?;
            let merges = read_merges(&files.describe(&lines), &merges)?;
            return Ok(Self { label, vocabulary, merges, added: Vec::new() });
        }
        match document(files, &whole)? {
            Some(bytes) => Self::of_whole(files.describe(&whole), &bytes),
            None => Err(LoadError::new(LoadErrorKind::Missing, missing(files, folder)?.join("; "))),
        }
    }

    fn of_whole(label: String, bytes: &[u8]) -> Result<Self, LoadError> {
        let Whole { added_tokens, model } = parsed(&label, bytes)?;
        let BytePairs { kind, end_of_word_suffix, vocab, merges } = model;
        let kind = kind.unwrap_or_else(|| "BPE".to_owned());
        if kind != "BPE" || end_of_word_suffix.as_deref() != Some("</w>") {
            let message = format!("{label} is no tokenizer of CLIP's kind: its model is {kind}");
            return Err(LoadError::new(LoadErrorKind::Unsupported, message));
        }
        let pair = |(merge, number): (Merge, usize)| match merge {
            Merge::Pair(pair) => Ok(pair),
            Merge::Text(text) => pieces(&text)
                .ok_or_else(|| malformed(format!("{label}: merge {number} is no pair of pieces"))),
        };
        let merges = merges.into_iter().zip(1..).map(pair).collect::<Result<_, _>>()?;
        Ok(Self { label, vocabulary: vocab, merges, added: added_tokens })
    }
}

/// What is missing of a tokenizer folder, file by file; nothing where it can be read.
///
/// # Errors
/// When a file is there and cannot be opened.
pub(crate) fn missing(files: &dyn ModelFiles, folder: &str) -> Result<Vec<String>, LoadError> {
    let mut missing = Vec::new();
    for name in [VOCABULARY, MERGES] {
        let path = format!("{folder}/{name}");
        if files.open(&path)?.is_none() {
            missing.push(format!("{} is missing", files.describe(&path)));
        }
    }
    match files.open(&format!("{folder}/{WHOLE}"))? {
        Some(_) => Ok(Vec::new()),
        None => Ok(missing),
    }
}

/// The bytes of a file that is not too large; `None` when there is none.
fn document(files: &dyn ModelFiles, path: &str) -> Result<Option<Vec<u8>>, LoadError> {
    let Some(blob) = files.open(path)? else { return Ok(None) };
    if blob.length() > LARGEST {
        return Err(
            blob.broken(format!("takes {} bytes, a tokenizer's file at most {LARGEST}", blob.length()))
        );
    }
    Ok(Some(blob.piece(0..blob.length()).map(Cow::into_owned)?))
}

fn parsed<T: DeserializeOwned>(label: &str, bytes: &[u8]) -> Result<T, LoadError> {
    serde_json::from_slice(bytes).map_err(|error| {
        LoadError::caused_by(LoadErrorKind::Malformed, format!("{label} is not as expected"), error)
    })
}

/// The pairs of a `merges.txt`, in order.
fn read_merges(label: &str, bytes: &[u8]) -> Result<Vec<[String; 2]>, LoadError> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        LoadError::caused_by(LoadErrorKind::Malformed, format!("{label} is no text"), error)
    })?;
    let lines = text.lines().zip(1..).filter(|(line, _)| !line.starts_with("#version") && !line.is_empty());
    lines
        .map(|(line, number)| {
            pieces(line).ok_or_else(|| malformed(format!("{label}: line {number} is no pair of pieces")))
        })
        .collect()
}

fn pieces(text: &str) -> Option<[String; 2]> {
    text.split_once(' ').map(|(left, right)| [left.to_owned(), right.to_owned()])
}

fn malformed(message: String) -> LoadError {
    LoadError::new(LoadErrorKind::Malformed, message)
}
