//! Prompts to the context that steers the network.
//!
//! Shapes: a chunk is 77 tokens, a context `[1, 77·chunks, hidden]`. Texts of one sign are blended by the mean of their contexts
//! weighted with `|weight|`; a text of weight 0 counts for nothing, a sign without texts is the empty prompt.
//! Where halves or texts have unequal numbers of chunks, the shorter is filled with chunks of the empty prompt.

use crate::{
    error::{LoadError, Result},
    text::TextEncoder,
    tokenizer::Tokenizer,
};
use candle_core::Tensor;
use pentimento_request::{ErrorKind, GenerateError, Prompt, PromptReport};

/// Both halves of a request's prompts.
pub(crate) struct Embedded {
    /// Of the prompts with positive weights.
    pub(crate) positive: Tensor,
    /// Of the prompts with negative weights.
    pub(crate) negative: Tensor,
    /// How the prompts were read, in their order.
    pub(crate) reports: Vec<PromptReport>,
}

/// A prompt as framed chunks of ids.
struct Read {
    chunks: Vec<Vec<u32>>,
    report: PromptReport,
}

/// Reads and encodes all prompts.
pub(crate) fn embed(
    tokenizer: &Tokenizer,
    encoder: &TextEncoder,
    prompts: &[Prompt],
) -> Result<Embedded, GenerateError> {
    let reads = prompts
        .iter()
        .map(|prompt| read(tokenizer, encoder.length(), prompt))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| GenerateError::caused_by(ErrorKind::Internal, "cannot tokenize", error))?;
    let chunks = reads.iter().map(|read| read.chunks.len()).max().unwrap_or(1);
    let half = |sign: f32| blend(tokenizer, encoder, &reads, sign, chunks).map_err(super::generate::internal);
    let (positive, negative) = (half(1.0)?, half(-1.0)?);
    Ok(Embedded { positive, negative, reports: reads.into_iter().map(|read| read.report).collect() })
}

fn read(tokenizer: &Tokenizer, length: usize, prompt: &Prompt) -> Result<Read, LoadError> {
    let ids = tokenizer.ids(&prompt.text)?;
    // Start and end take two places of each chunk.
    let mut pieces: Vec<&[u32]> = ids.chunks(length - 2).collect();
    if pieces.is_empty() {
        pieces.push(&[]);
    }
    let report = PromptReport {
        text: prompt.text.clone(),
        weight: prompt.weight,
        chunks: pieces.iter().map(|piece| piece.len()).collect(),
        truncated: 0,
    };
    Ok(Read { chunks: pieces.into_iter().map(|piece| tokenizer.framed(piece, length)).collect(), report })
}

/// The weighted mean of the prompts whose weight has this sign, `chunks` chunks long.
fn blend(
    tokenizer: &Tokenizer,
    encoder: &TextEncoder,
    reads: &[Read],
    sign: f32,
    chunks: usize,
) -> Result<Tensor> {
    let empty = tokenizer.framed(&[], encoder.length());
    let mut group: Vec<&Read> = reads.iter().filter(|read| read.report.weight * sign > 0.0).collect();
    // The order in which prompts are given must not change a single bit of the sum.
    group.sort_by(|a, b| {
        let key = |read: &Read| (read.report.text.clone(), read.report.weight.to_bits());
        key(a).cmp(&key(b))
    });
    let total: f64 = group.iter().map(|read| f64::from(read.report.weight).abs()).sum();
    let mut sum: Option<Tensor> = None;
    for read in &group {
        let encoded = encode(encoder, &read.chunks, &empty, chunks)?;
        if group.len() == 1 {
            return Ok(encoded);
        }
        let weighted = (encoded * (f64::from(read.report.weight).abs() / total))?;
        sum = Some(match sum {
            Some(sum) => (sum + weighted)?,
            None => weighted,
        });
    }
    match sum {
        Some(sum) => Ok(sum),
        None => encode(encoder, &[], &empty, chunks),
    }
}

/// Chunk by chunk, one behind the other, filled up with empty ones.
fn encode(encoder: &TextEncoder, chunks: &[Vec<u32>], empty: &[u32], count: usize) -> Result<Tensor> {
    let states = (0..count)
        .map(|index| encoder.forward(chunks.get(index).map_or(empty, Vec::as_slice)))
        .collect::<Result<Vec<_>>>()?;
    Tensor::cat(&states, 1)
}
