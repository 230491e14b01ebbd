//! Prompts to the context that steers the network.
//!
//! Shapes: a chunk is 77 tokens, a context `[1, 77·chunks, hidden]`. Texts of one sign are blended by the
//! mean of their contexts weighted with `|weight|`; a text of weight 0 counts for nothing, a sign without
//! texts is the empty prompt. Where halves or texts have unequal numbers of chunks, the shorter is filled
//! with chunks of the empty prompt.

use crate::{
    error::{LoadError, Result},
    generate::internal,
    pixels,
    text::TextEncoder,
    tokenizer::Tokenizer,
};
use candle_core::Tensor;
use pentimento_request::{ErrorKind, GenerateError, Prompt, PromptReport};

/// Both halves of a request's prompts.
pub(crate) struct Embedded {
    /// Of the prompts with positive weights.
    pub(crate) positive: Tensor,
    /// Of the prompts with negative weights, where they are looked at.
    pub(crate) negative: Option<Tensor>,
    /// How the prompts were read, in their order.
    pub(crate) reports: Vec<PromptReport>,
}

impl Embedded {
    /// Whether all values of both halves are finite.
    pub(crate) fn is_finite(&self) -> Result<bool> {
        let negative = self.negative.as_ref().map_or(Ok(true), pixels::is_finite)?;
        Ok(negative && pixels::is_finite(&self.positive)?)
    }
}

/// A prompt as framed chunks of ids.
struct Read {
    chunks: Vec<Vec<u32>>,
    report: PromptReport,
}

/// Reads all prompts and encodes those that count: without guidance (`guides`) the negative ones do not.
/// `between` is called before each chunk, and its error ends the work: sixty-four long texts take a while.
pub(crate) fn embed(
    tokenizer: &Tokenizer,
    encoder: &TextEncoder,
    prompts: &[Prompt],
    guides: bool,
    between: &mut dyn FnMut() -> Result<(), GenerateError>,
) -> Result<Embedded, GenerateError> {
    let reads = prompts
        .iter()
        .map(|prompt| read(tokenizer, encoder.length(), prompt))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| GenerateError::caused_by(ErrorKind::Internal, "cannot tokenize", error))?;
    let counts = |read: &&Read| read.report.weight > 0.0 || (guides && read.report.weight < 0.0);
    let count = reads.iter().filter(counts).map(|read| read.chunks.len()).max().unwrap_or(1);
    let empty = tokenizer.framed(&[], encoder.length());
    let mut chunks = Chunks { encoder, empty, empty_state: None, count, between };
    let positive = chunks.blend(&reads, 1.0)?;
    let negative = if guides { Some(chunks.blend(&reads, -1.0)?) } else { None };
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

/// Encodes chunks.
struct Chunks<'a> {
    encoder: &'a TextEncoder,
    empty: Vec<u32>,
    /// What the empty chunk gives, once it was asked for: many short texts beside a long one need it often.
    empty_state: Option<Tensor>,
    /// How many chunks every text is filled up to.
    count: usize,
    between: &'a mut dyn FnMut() -> Result<(), GenerateError>,
}

impl Chunks<'_> {
    /// The weighted mean of the prompts whose weight has this sign.
    fn blend(&mut self, reads: &[Read], sign: f32) -> Result<Tensor, GenerateError> {
        let mut group: Vec<&Read> = reads.iter().filter(|read| read.report.weight * sign > 0.0).collect();
        // The order in which prompts are given must not change a single bit of the sum.
        group.sort_by(|a, b| {
            let key = |read: &Read| (read.report.text.clone(), read.report.weight.to_bits());
            key(a).cmp(&key(b))
        });
        let total: f64 = group.iter().map(|read| f64::from(read.report.weight).abs()).sum();
        let mut sum: Option<Tensor> = None;
        for read in &group {
            let encoded = self.encode(&read.chunks)?;
            if group.len() == 1 {
                return Ok(encoded);
            }
            let share = f64::from(read.report.weight).abs() / total;
            sum = Some(add(sum, encoded, share).map_err(internal)?);
        }
        match sum {
            Some(sum) => Ok(sum),
            None => self.encode(&[]),
        }
    }

    /// Chunk by chunk, one behind the other, filled up with empty ones.
    fn encode(&mut self, chunks: &[Vec<u32>]) -> Result<Tensor, GenerateError> {
        let mut states = Vec::with_capacity(self.count);
        for index in 0..self.count {
            states.push(match chunks.get(index) {
                Some(ids) => self.forward(ids)?,
                None => self.empty_state()?,
            });
        }
        Tensor::cat(&states, 1).map_err(internal)
    }

    fn empty_state(&mut self) -> Result<Tensor, GenerateError> {
        if let Some(state) = &self.empty_state {
            return Ok(state.clone());
        }
        let state = self.forward(&self.empty.clone())?;
        Ok(self.empty_state.insert(state).clone())
    }

    fn forward(&mut self, ids: &[u32]) -> Result<Tensor, GenerateError> {
        (self.between)()?;
        self.encoder.forward(ids).map_err(internal)
    }
}

fn add(sum: Option<Tensor>, encoded: Tensor, share: f64) -> Result<Tensor> {
    let weighted = (encoded * share)?;
    match sum {
        Some(sum) => sum + weighted,
        None => Ok(weighted),
    }
}
