//! CLIP's byte-pair tokenizer, from the `vocab.json` and `merges.txt` of a model's tokenizer folder, or from the
//! `tokenizer.json` that transformers writes instead since version 5 (see `words`).
//!
//! The rules are those of transformers' `CLIPTokenizer` (version 5): NFC, white space folded, lower case,
//! then words, single digits and runs of other signs, each split by byte-level merges with `</w>` at the end.
//!
//! A text of any length is cut into chunks of 75 tokens; each is framed by start and end and filled up to 77.

mod words;

use crate::{
    config::read_json,
    error::{LoadError, LoadErrorKind},
    files::ModelFiles,
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use tokenizers::Tokenizer as Bpe;
use words::{AddedToken, Words};

pub(crate) use words::missing;

/// The words, the way transformers' `CLIPTokenizer` finds them.
const WORDS: &str =
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// A tokenizer for one model.
pub(crate) struct Tokenizer {
    bpe: Bpe,
    start: u32,
    end: u32,
    pad: u32,
    largest_id: u32,
}

/// `tokenizer_config.json`, as far as it matters here.
#[derive(Deserialize)]
#[serde(default)]
struct TokenizerConfig {
    bos_token: Value,
    eos_token: Value,
    pad_token: Value,
    unk_token: Value,
}

impl Default for TokenizerConfig {
    fn default() -> Self {
        let end = || Value::from("<|endoftext|>");
        Self { bos_token: "<|startoftext|>".into(), eos_token: end(), pad_token: end(), unk_token: end() }
    }
}

impl Tokenizer {
    /// Reads the tokenizer in a folder of the model.
    pub(crate) fn load(files: &dyn ModelFiles, folder: &str) -> Result<Self, LoadError> {
        let Words { label, vocabulary, merges, added } = Words::read(files, folder)?;
        let config_path = format!("{folder}/tokenizer_config.json");
        let config: TokenizerConfig = match files.read(&config_path)? {
            Some(_) => read_json(files, &config_path)?,
            None => TokenizerConfig::default(),
        };
        let id = |token: &Value| {
            let text = token_text(token);
            let named = vocabulary.get(text).copied();
            named
                .or_else(|| added.iter().find(|token| token.content == text).map(|token| token.id))
                .ok_or_else(|| {
                    LoadError::new(LoadErrorKind::Malformed, format!("{label} lacks the token '{text}'"))
                })
        };
        let (start, end, pad) = (id(&config.bos_token)?, id(&config.eos_token)?, id(&config.pad_token)?);
        let ids = vocabulary.values().copied().chain(added.iter().map(|token| token.id));
        let largest_id = ids.max().unwrap_or_default();
        let specials: Vec<&str> =
            [&config.bos_token, &config.eos_token, &config.pad_token, &config.unk_token]
                .map(token_text)
                .to_vec();
        let description = describe(&vocabulary, &merges, &specials, &added);
        let bpe = Bpe::from_bytes(description.to_string()).map_err(|error| {
            LoadError::caused_by(LoadErrorKind::Malformed, format!("{label} makes no tokenizer"), error)
        })?;
        // The crate numbers tokens that the vocabulary lacks itself.
        if let Some(token) = added.iter().find(|token| bpe.token_to_id(&token.content) != Some(token.id)) {
            let message =
                format!("{label}: the added token '{}' cannot have the id {}", token.content, token.id);
            return Err(LoadError::new(LoadErrorKind::Malformed, message));
        }
        Ok(Self { bpe, start, end, pad, largest_id })
    }

    /// The largest id that can come out.
    pub(crate) fn largest_id(&self) -> u32 {
        self.largest_id
    }

    /// The ids of a text, without start and end.
    pub(crate) fn ids(&self, text: &str) -> Result<Vec<u32>, LoadError> {
        let encoding = self.bpe.encode(text, false).map_err(|error| {
            LoadError::caused_by(LoadErrorKind::Malformed, "the text cannot be tokenized", error)
        })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// One chunk as the text encoder takes it: start, ids, end, padding up to `length`.
    pub(crate) fn framed(&self, ids: &[u32], length: usize) -> Vec<u32> {
        let mut framed = Vec::with_capacity(length);
        framed.push(self.start);
        framed.extend_from_slice(ids);
        framed.push(self.end);
        framed.resize(length, self.pad);
        framed
    }
}

/// A token is a string or, in older files, an object with its content.
fn token_text(token: &Value) -> &str {
    token.as_str().or_else(|| token.get("content")?.as_str()).unwrap_or("<|endoftext|>")
}

/// The tokenizer in the format of the `tokenizers` crate.
fn describe(
    vocabulary: &BTreeMap<String, u32>,
    merges: &[[String; 2]],
    specials: &[&str],
    added: &[AddedToken],
) -> Value {
    // In the order of their ids, by which those that the vocabulary lacks are numbered.
    let mut tokens: BTreeMap<u32, Value> = added.iter().map(|token| (token.id, json!(token))).collect();
    for special in specials {
        if let Some(id) = vocabulary.get(*special) {
            tokens.insert(*id, json!(AddedToken::marker(*id, special)));
        }
    }
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": tokens.into_values().collect::<Vec<_>>(),
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "NFC"},
            {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
            {"type": "Lowercase"},
        ]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": WORDS}, "behavior": "Removed", "invert": true},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        ]},
        "post_processor": null,
        "decoder": null,
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": specials.last(),
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "</w>",
            "fuse_unk": false,
            "byte_fallback": false,
            "vocab": vocabulary,
            "merges": merges,
        },
    })
}
