//! Prompts to the context that steers the network.
//!
//! Shapes: a chunk is 77 tokens, a context `[1, 77·chunks, hidden]`; a pooled state is that of the first chunk. Texts of one sign are blended by the
//! mean of their contexts weighted with `|weight|`; a text of weight 0 counts for nothing, a sign without
//! texts is the empty prompt (zeros for the negative one, where the model says so). Where halves or texts have unequal numbers of chunks, the shorter is filled
//! with chunks of the empty prompt.
//!
//! Texts are cut after every 75 tokens, wherever that is; nothing is moved to the next chunk for the sake of a comma.
//! Emphasis multiplies the embeddings of the tokens, chunk by chunk.

use crate::{
    emphasis::{self, Piece},
    error::{LoadError, Result},
    generate::internal,
    pixels,
    text_encoders::{TextStates, Tower},
    tokenizer::Tokenizer,
};
use candle_core::{Device, Tensor};
use pentimento_request::{ClipSkip, ErrorKind, GenerateError, Prompt, PromptReport, PromptSyntax};
use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
};

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

/// Most breaks of a prompt. A text pays for its chunks with its length; a break makes one out of five letters, and each costs
/// a pass of the encoders and 77 tokens more in every layer that attends to the text.
const MOST_BREAKS: usize = 32;

/// A model's means of reading prompts.
pub(crate) struct Reader<'a> {
    /// Its text encoders, side by side.
    pub(crate) towers: Vec<Tower<'a>>,
    /// Whether no negative prompt at all means zeros, not the empty prompt.
    pub(crate) zeros_for_empty: bool,
}

/// How prompts are read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    pub(crate) syntax: PromptSyntax,
    pub(crate) clip_skip: ClipSkip,
    /// Whether the negative prompts are looked at.
    pub(crate) guides: bool,
}

/// A prompt as chunks.
struct Read {
    chunks: Vec<Chunk>,
    report: PromptReport,
}

/// What is encoded together: ids without start and end, with the factors of their embeddings where these are not all 1.
struct Chunk {
    ids: Vec<u32>,
    weights: Option<Vec<f32>>,
}

/// Reads all prompts and encodes those that count: without guidance the negative ones do not.
/// `between` is called before every few chunks, and its error ends the work: sixty-four long texts take a while.
pub(crate) fn embed(
    reader: &Reader,
    prompts: &[Prompt],
    reading: Reading,
    between: &mut dyn FnMut() -> Result<(), GenerateError>,
) -> Result<Embedded, GenerateError> {
    let Reading { syntax, clip_skip, guides } = reading;
    let reads = |tower: &Tower| -> Result<Vec<Read>, GenerateError> {
        prompts.iter().map(|prompt| read(*tower, prompt, syntax)).collect()
    };
    let readings = reader.towers.iter().map(reads).collect::<Result<Vec<_>, _>>()?;
    let counts = |read: &&Read| read.report.weight > 0.0 || (guides && read.report.weight < 0.0);
    let count = readings.iter().flatten().filter(counts).map(|read| read.chunks.len()).max().unwrap_or(1);
    let (mut positives, mut negatives) = (Vec::new(), Vec::new());
    for (tower, reads) in reader.towers.iter().zip(&readings) {
        let has = |sign: f32| reads.iter().any(|read| read.report.weight * sign > 0.0);
        let zeros_for_negative = reader.zeros_for_empty && !has(-1.0);
        let counted: Vec<&Read> = reads.iter().filter(counts).collect();
        let mut texts: BTreeSet<&[u32]> =
            counted.iter().flat_map(|read| &read.chunks).map(|chunk| &chunk.ids[..]).collect();
        let are_filled = counted.iter().any(|read| read.chunks.len() < count);
        if are_filled || !has(1.0) || guides && !has(-1.0) && !zeros_for_negative {
            texts.insert(&[]);
        }
        let mut chunks = Chunks::new(*tower, clip_skip, count, &texts, between)?;
        positives.push(chunks.blend(reads, 1.0)?);
        negatives.push(match guides {
            true if zeros_for_negative => {
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

fn read(tower: Tower, prompt: &Prompt, syntax: PromptSyntax) -> Result<Read, GenerateError> {
    let pieces = match syntax {
        PromptSyntax::Plain => vec![Piece::Text(prompt.text.clone(), 1.0)],
        PromptSyntax::Emphasis => emphasis::parse(&prompt.text),
    };
    let breaks = pieces.iter().filter(|piece| matches!(piece, Piece::Break)).count();
    if breaks > MOST_BREAKS {
        let message =
            format!("prompt: {breaks} BREAKs are more than the {MOST_BREAKS} that a prompt may have");
        return Err(GenerateError::new(ErrorKind::InvalidRequest, message));
    }
    // Start and end take two places of each chunk.
    let chunks = cut(tower.tokenizer, &pieces, tower.length() - 2)
        .map_err(|error| GenerateError::caused_by(ErrorKind::Internal, "cannot tokenize", error))?;
    let report = PromptReport {
        text: prompt.text.clone(),
        weight: prompt.weight,
        chunks: chunks.iter().map(Vec::len).collect(),
        truncated: 0,
    };
    Ok(Read { chunks: chunks.iter().map(|tokens| weighed(tokens, tower.length())).collect(), report })
}

/// The pieces' tokens with their weights, so many to a chunk. A break ends a chunk early, and two in a row leave
/// one empty; behind the last one no chunk begins by itself.
pub(crate) fn cut(
    tokenizer: &Tokenizer,
    pieces: &[Piece],
    most: usize,
) -> Result<Vec<Vec<(u32, f32)>>, LoadError> {
    let mut chunks: Vec<Vec<(u32, f32)>> = Vec::new();
    let mut chunk: Vec<(u32, f32)> = Vec::new();
    for piece in pieces {
        let Piece::Text(text, weight) = piece else {
            chunks.push(mem::take(&mut chunk));
            continue;
        };
        for id in tokenizer.ids(text)? {
            if chunk.len() == most {
                chunks.push(mem::take(&mut chunk));
            }
            chunk.push((id, *weight));
        }
    }
    if !chunk.is_empty() || chunks.is_empty() {
        chunks.push(chunk);
    }
    Ok(chunks)
}

/// A chunk's ids and weights. The embeddings of start, end and filling keep their weight.
fn weighed(tokens: &[(u32, f32)], length: usize) -> Chunk {
    let is_plain = tokens.iter().all(|(_, weight)| *weight == 1.0);
    let weights = (!is_plain).then(|| {
        let mut weights = vec![1.0];
        weights.extend(tokens.iter().map(|(_, weight)| *weight));
        weights.resize(length, 1.0);
        weights
    });
    Chunk { ids: tokens.iter().map(|(id, _)| *id).collect(), weights }
}

/// Multiplies each token's embedding, `[1, 77, hidden]`, and brings the mean of all values back to what it was.
/// Where one of both means is next to nothing beside the values, their ratio says nothing, and they stay.
fn weighted(states: &Tensor, weights: &[f32]) -> Result<Tensor> {
    let factors = Tensor::new(weights, &Device::Cpu)?.reshape((1, weights.len(), 1))?;
    let changed = states.broadcast_mul(&factors)?;
    let ([before, _], [after, spread]) = (mean_and_spread(states)?, mean_and_spread(&changed)?);
    let least = LEAST_MEAN * spread;
    if before.abs() <= least || after.abs() <= least {
        return Ok(changed);
    }
    changed * (before / after)
}

/// Means smaller than this share of the root mean square are rounding as much as meaning. Those of true encoders are
/// a hundred times larger.
const LEAST_MEAN: f64 = 1e-4;

/// Mean and root mean square of all values.
fn mean_and_spread(x: &Tensor) -> Result<[f64; 2]> {
    let values: Vec<f32> = x.flatten_all()?.to_vec1()?;
    let count = values.len() as f64;
    let sum: f64 = values.iter().map(|value| f64::from(*value)).sum();
    let squares: f64 = values.iter().map(|value| f64::from(*value).powi(2)).sum();
    Ok([sum / count, (squares / count).sqrt()])
}

/// Chunks that are encoded together: each more takes some megabytes while it passes the layers, and less is gained by it.
const ENCODED_AT_ONCE: usize = 4;

/// Encodes chunks with one encoder.
struct Chunks<'a> {
    tower: Tower<'a>,
    clip_skip: ClipSkip,
    /// How many chunks every text is filled up to.
    count: usize,
    /// What was encoded beforehand, by its ids: all chunks where they are few, else the empty one, if it is needed.
    kept: BTreeMap<&'a [u32], TextStates>,
    between: &'a mut dyn FnMut() -> Result<(), GenerateError>,
}

impl<'a> Chunks<'a> {
    /// Of these ids, and no others.
    fn new(
        tower: Tower<'a>,
        clip_skip: ClipSkip,
        count: usize,
        texts: &BTreeSet<&'a [u32]>,
        between: &'a mut dyn FnMut() -> Result<(), GenerateError>,
    ) -> Result<Self, GenerateError> {
        let are_few = texts.len() <= ENCODED_AT_ONCE;
        let kept = texts.iter().copied().filter(|ids| are_few || ids.is_empty()).collect();
        let mut chunks = Self { tower, clip_skip, count, kept: BTreeMap::new(), between };
        chunks.kept = chunks.encode(&kept)?;
        Ok(chunks)
    }

    /// What each of these ids is to the network.
    fn encode<'t>(
        &mut self,
        texts: &BTreeSet<&'t [u32]>,
    ) -> Result<BTreeMap<&'t [u32], TextStates>, GenerateError> {
        let mut encoded = BTreeMap::new();
        let texts: Vec<_> = texts.iter().copied().collect();
        for texts in texts.chunks(ENCODED_AT_ONCE) {
            (self.between)()?;
            let states = self.tower.encode(texts, self.clip_skip.get() - 1).map_err(internal)?;
            encoded.extend(texts.iter().copied().zip(states));
        }
        Ok(encoded)
    }

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
            let states = self.in_a_row(&read.chunks)?;
            if group.len() == 1 {
                return Ok(states);
            }
            let share = f64::from(read.report.weight).abs() / total;
            sum = Some(add(sum, states, share).map_err(internal)?);
        }
        match sum {
            Some(sum) => Ok(sum),
            None => self.in_a_row(&[]),
        }
    }

    /// One behind the other, filled up with empty ones.
    fn in_a_row(&mut self, chunks: &[Chunk]) -> Result<TextStates, GenerateError> {
        // What only this text has goes when it has been used.
        let ids = chunks.iter().map(|chunk| &chunk.ids[..]);
        let own = self.encode(&ids.filter(|ids| !self.kept.contains_key(ids)).collect())?;
        let empty = Chunk { ids: Vec::new(), weights: None };
        let (mut contexts, mut pooled) = (Vec::with_capacity(self.count), None);
        for index in 0..self.count {
            let chunk = chunks.get(index).unwrap_or(&empty);
            let Some(states) = own.get(&chunk.ids[..]).or_else(|| self.kept.get(&chunk.ids[..])) else {
                return Err(GenerateError::new(ErrorKind::Internal, "a chunk of a prompt was not encoded"));
            };
            contexts.push(match &chunk.weights {
                Some(weights) => weighted(&states.context, weights).map_err(internal)?,
                None => states.context.clone(),
            });
            // A pooled state is of the whole text and has no weights.
            pooled = pooled.or_else(|| states.pooled.clone());
        }
        Ok(TextStates { context: Tensor::cat(&contexts, 1).map_err(internal)?, pooled })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn states(values: [f32; 4]) -> Tensor {
        Tensor::from_vec(values.to_vec(), (1, 2, 2), &Device::Cpu).expect("states")
    }

    fn values(x: &Tensor) -> Vec<f32> {
        x.flatten_all().and_then(|flat| flat.to_vec1()).expect("values")
    }

    #[test]
    fn the_mean_is_what_it_was() {
        let changed = weighted(&states([1.0, 2.0, 3.0, 2.0]), &[1.0, 2.0]).expect("states");
        let mean = values(&changed).iter().sum::<f32>() / 4.0;
        assert!((mean - 2.0).abs() < 1e-6, "{mean}");
    }

    #[test]
    fn a_mean_of_nothing_is_left_alone() {
        // The weights alone: 0 would be multiplied, or divided by.
        for (before, weights, after) in [
            ([1.0, -1.0, 2.0, -2.0], [1.0, 3.0], [1.0, -1.0, 6.0, -6.0]),
            ([1.0, 1.0, -1.0, -1.0], [1.0, 2.0], [1.0, 1.0, -2.0, -2.0]),
            ([2.0, 2.0, -1.0, -1.0], [1.0, 2.0], [2.0, 2.0, -2.0, -2.0]),
        ] {
            let changed = weighted(&states(before), &weights).expect("states");
            assert_eq!(values(&changed), after);
        }
    }
}
