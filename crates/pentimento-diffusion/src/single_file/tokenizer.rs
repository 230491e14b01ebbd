//! CLIP's own tokenizer, for files of weights that bring none: they all use it.
//!
//! Kept are the merges; the vocabulary follows from them: the 256 bytes, the same at the end of a word, every merge's
//! result, and the two markers.
//! Source: OpenAI's CLIP (MIT licence, kept beside the merges).

use crate::files::Bytes;
use serde_json::{Map, Value, json};
use std::sync::LazyLock;

/// The merges in order, as `merges.txt` of transformers' tokenizers has them.
const MERGES: &str = include_str!("../../assets/clip/merges.txt");

/// Where the merges are from, and their licence.
pub(crate) const NOTICE: &str =
    concat!(include_str!("../../assets/clip/README.md"), "\n", include_str!("../../assets/clip/LICENSE.txt"));

/// `vocab.json`, made once: it is the same for every model.
static VOCABULARY: LazyLock<Bytes> =
    LazyLock::new(|| Bytes::from(Value::Object(vocabulary()).to_string().into_bytes()));

const START: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";

/// The files of a tokenizer folder.
pub(crate) fn files(pads_with: &str) -> [(&'static str, Bytes); 3] {
    let config = json!({
        "bos_token": START,
        "eos_token": END,
        "pad_token": pads_with,
        "unk_token": END,
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": 77,
    });
    [
        ("vocab.json", VOCABULARY.clone()),
        ("merges.txt", Bytes::Static(MERGES.as_bytes())),
        ("tokenizer_config.json", Bytes::from(format!("{config:#}\n").into_bytes())),
    ]
}

/// Every token with its id.
fn vocabulary() -> Map<String, Value> {
    let bytes: Vec<String> = byte_signs().map(String::from).collect();
    let ends = bytes.iter().map(|byte| format!("{byte}</w>"));
    let merges =
        MERGES.lines().filter(|line| !line.starts_with("#version")).map(|line| line.replace(' ', ""));
    let markers = [START, END].map(str::to_owned);
    let tokens = bytes.iter().cloned().chain(ends).chain(merges).chain(markers);
    tokens.zip(0u32..).map(|(token, id)| (token, Value::from(id))).collect()
}

/// The sign that stands for each byte, in the order of their ids: bytes that print stand for themselves and come first;
/// the others are moved behind the first 256 signs.
fn byte_signs() -> impl Iterator<Item = char> {
    let prints = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let printing = (0..=u8::MAX).filter(prints).map(char::from);
    let hidden = (0..=u8::MAX).filter(move |byte| !prints(byte)).count() as u32;
    printing.chain((0..hidden).filter_map(|index| char::from_u32(256 + index)))
}
