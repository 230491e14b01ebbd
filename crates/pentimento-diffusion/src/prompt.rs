//! Prompts to the context that steers the network.
//!
//! Shapes: a chunk is 77 tokens, a context `[1, 77·chunks, hidden]`; a pooled state is that of the first chunk. Texts of one sign are blended by the
//! mean of their contexts weighted with `|weight|`; a text of weight 0 counts for nothing, a sign without
//! texts is the empty prompt (zeros for the negative one, where the model says so). Where halves or texts have unequal numbers of chunks, the shorter is filled
//! with chunks of the empty prompt.

use crate::{
    error::{LoadError, Result},
    generate::internal,
    pixels,
    text_encoders::{TextStates, Tower},
};
use candle_core::Tensor;
use pentimento_request::{ErrorKind, GenerateError, Prompt, PromptReport};

/// Both halves of a request's prompts.
pub(crate) struct Embedded {
    /// Of the prompts with positive weights.
    pub(crate) positive: TextStates,
    /// Of the prompts with negative weights, where they are looked at.
    pub(crate) negative: Option<TextStates>,
    /// How the prompts were read, in their order.
    pub(crate) reports: Vec<PromptReport>,
}

impl Embedded {
    /// Whether all values of both halves are finite.
    pub(crate) fn is_finite(&self) -> Result<bool> {
        let halves = self.negative.iter().chain([&self.positive]);
        let mut tensors = halves.flat_map(|states| states.pooled.iter().chain([&states.context]));
        tensors.try_fold(true, |finite, tensor| Ok(finite && pixels::is_finite(tensor)?))
    }
}

/// A model's means of reading prompts.
pub(crate) struct Reader<'a> {
    /// Its text encoders, side by side.
    pub(crate) towers: Vec<Tower<'a>>,
    /// Whether no negative prompt at all means zeros, not the empty prompt.
    pub(crate) zeros_for_empty: bool,
}

/// A prompt as chunks of ids, without start and end.
struct Read {
    chunks: Vec<Vec<u32>>,
    report: PromptReport,
}

/// Reads all prompts and encodes those that count: without guidance (`guides`) the negative ones do not.
/// `between` is called before each chunk, and its error ends the work: sixty-four long texts take a while.
pub(crate) fn embed(
    reader: &Reader,
    prompts: &[Prompt],
    guides: bool,
    between: &mut dyn FnMut() -> Result<(), GenerateError>,
) -> Result<Embedded, GenerateError> {
    let reads = |tower: &Tower| -> Result<Vec<Read>, GenerateError> {
        let reads = prompts.iter().map(|prompt| read(*tower, prompt)).collect::<Result<Vec<_>, _>>();
        reads.map_err(|error| GenerateError::caused_by(ErrorKind::Internal, "cannot tokenize", error))
    };
    let readings = reader.towers.iter().map(reads).collect::<Result<Vec<_>, _>>()?;
    let counts = |read: &&Read| read.report.weight > 0.0 || (guides && read.report.weight < 0.0);
    let count = readings.iter().flatten().filter(counts).map(|read| read.chunks.len()).max().unwrap_or(1);
    let (mut positives, mut negatives) = (Vec::new(), Vec::new());
    for (tower, reads) in reader.towers.iter().zip(&readings) {
        let mut chunks = Chunks { tower: *tower, empty_states: None, count, between };
        positives.push(chunks.blend(reads, 1.0)?);
        negatives.push(match guides {
            true if reader.zeros_for_empty && !reads.iter().any(|read| read.report.weight < 0.0) => {
                Some(positives[positives.len() - 1].zeros_like().map_err(internal)?)
            }
            true => Some(chunks.blend(reads, -1.0)?),
            false => None,
        });
    }
    let negative = negatives.into_iter().collect::<Option<Vec<_>>>().map(TextStates::side_by_side);
    Ok(Embedded {
        positive: TextStates::side_by_side(positives).map_err(internal)?,
        negative: negative.transpose().map_err(internal)?,
        reports: readings.into_iter().next().into_iter().flatten().map(|read| read.report).collect(),
    })
}

fn read(tower: Tower, prompt: &Prompt) -> Result<Read, LoadError> {
    let ids = tower.tokenizer.ids(&prompt.text)?;
    // Start and end take two places of each chunk.
    let mut pieces: Vec<&[u32]> = ids.chunks(tower.length() - 2).collect();
    if pieces.is_empty() {
        pieces.push(&[]);
    }
    let report = PromptReport {
        text: prompt.text.clone(),
        weight: prompt.weight,
        chunks: pieces.iter().map(|piece| piece.len()).collect(),
        truncated: 0,
    };
    Ok(Read { chunks: pieces.into_iter().map(<[u32]>::to_vec).collect(), report })
}

/// Encodes chunks with one encoder.
struct Chunks<'a> {
    tower: Tower<'a>,
    /// What the empty chunk gives, once it was asked for: many short texts beside a long one need it often.
    empty_states: Option<TextStates>,
    /// How many chunks every text is filled up to.
    count: usize,
    between: &'a mut dyn FnMut() -> Result<(), GenerateError>,
}

impl Chunks<'_> {
    /// The weighted mean of the prompts whose weight has this sign.
    fn blend(&mut self, reads: &[Read], sign: f32) -> Result<TextStates, GenerateError> {
        let mut group: Vec<&Read> = reads.iter().filter(|read| read.report.weight * sign > 0.0).collect();
        // The order in which prompts are given must not change a single bit of the sum.
        group.sort_by(|a, b| {
            let key = |read: &Read| (read.report.text.clone(), read.report.weight.to_bits());
            key(a).cmp(&key(b))
        });
        let total: f64 = group.iter().map(|read| f64::from(read.report.weight).abs()).sum();
        let mut sum: Option<TextStates> = None;
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
    fn encode(&mut self, chunks: &[Vec<u32>]) -> Result<TextStates, GenerateError> {
        let (mut contexts, mut pooled) = (Vec::with_capacity(self.count), None);
        for index in 0..self.count {
            let states = match chunks.get(index) {
                Some(ids) => self.forward(ids)?,
                None => self.empty_states()?,
            };
            contexts.push(states.context);
            pooled = pooled.or(states.pooled);
        }
        Ok(TextStates { context: Tensor::cat(&contexts, 1).map_err(internal)?, pooled })
    }

    fn empty_states(&mut self) -> Result<TextStates, GenerateError> {
        if let Some(states) = &self.empty_states {
            return Ok(states.clone());
        }
        let states = self.forward(&[])?;
        Ok(self.empty_states.insert(states).clone())
    }

    fn forward(&mut self, ids: &[u32]) -> Result<TextStates, GenerateError> {
        (self.between)()?;
        self.tower.encode(ids, 0).map_err(internal)
    }
}

fn add(sum: Option<TextStates>, encoded: TextStates, share: f64) -> Result<TextStates> {
    let context = (encoded.context * share)?;
    let pooled = encoded.pooled.map(|pooled| pooled * share).transpose()?;
    let Some(sum) = sum else { return Ok(TextStates { context, pooled }) };
    let pooled = match (sum.pooled, pooled) {
        (Some(sum), Some(pooled)) => Some((sum + pooled)?),
        _ => None,
    };
    Ok(TextStates { context: (sum.context + context)?, pooled })
}
