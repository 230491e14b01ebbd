//! Token merging: tokens that are alike stand for one another while a layer attends to itself.
//!
//! Of every two by two tokens of the picture one, drawn by chance, may take others in. Each other token is compared with all of
//! those by the cosine of what comes into the block, and the `ratio` of all tokens that are nearest to one join it: the layer sees
//! their mean, and what it finds is given to all of them. The draw follows from the request's seed, the step and the layer
//! alone, each half of the guidance is merged by itself, and ties go to the first: nothing depends on threads or on the batch.
//!
//! Shapes: tokens `[B, T, C]` with `T = H·W`, merged ones `[B, T - r, C]`.
//! Source: Bolya & Hoffman 2023, "Token Merging for Fast Stable Diffusion", and the authors' `tomesd`, which draws with torch.

use crate::{
    error::Result,
    noise,
    ops::{self, Precision, products, stale},
};
use candle_core::{Device, Tensor};
use rayon::prelude::*;
use std::cmp::Ordering;

/// Which tokens are merged in a step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Merging {
    /// Share of the tokens that join others.
    pub(crate) ratio: f64,
    /// Of the draws.
    pub(crate) seed: u64,
    /// The step that is run.
    pub(crate) step: usize,
}

/// For each item of a batch, the merged token that each token belongs to.
pub(super) struct Merged {
    places: Vec<Vec<usize>>,
    /// Merged tokens of an item.
    count: usize,
}

impl Merging {
    /// Which of the tokens `x`, a picture of this height and width, become one in a layer; `None` where none do. `precision` is
    /// that in which they are compared.
    pub(super) fn of(
        self,
        x: &Tensor,
        (height, width): (usize, usize),
        layer: usize,
        precision: Precision,
    ) -> Result<Option<Merged>> {
        let (_, tokens, channels) = x.dims3()?;
        let (takes, joins) = self.split(height, width, layer);
        let joined = ((tokens as f64 * self.ratio) as usize).min(joins.len());
        if joined == 0 || takes.is_empty() {
            return Ok(None);
        }
        let places = ops::with_values(x, |x| {
            let items = x.chunks_exact(tokens * channels);
            items.map(|item| places(item, channels, &takes, &joins, joined, precision)).collect::<Result<_>>()
        })??;
        Ok(Some(Merged { places, count: tokens - joined }))
    }

    /// The tokens that may take others in, and the rest.
    fn split(self, height: usize, width: usize, layer: usize) -> (Vec<usize>, Vec<usize>) {
        let (rows, columns) = (height / 2, width / 2);
        let takes: Vec<usize> = (0..rows * columns)
            .map(|cell| {
                let corner = noise::quarter(self.seed, [cell as u32, layer as u32, self.step as u32]);
                let (row, column) = (2 * (cell / columns) + corner / 2, 2 * (cell % columns) + corner % 2);
                row * width + column
            })
            .collect();
        let mut is_joining = vec![true; height * width];
        takes.iter().for_each(|token| is_joining[*token] = false);
        let joins = (0..height * width).filter(|token| is_joining[*token]).collect();
        (takes, joins)
    }
}

/// The merged token that each token of an item belongs to, numbered in the order of the tokens that stand for them.
fn places(
    item: &[f32],
    channels: usize,
    takes: &[usize],
    joins: &[usize],
    joined: usize,
    precision: Precision,
) -> Result<Vec<usize>> {
    let unit = |tokens: &[usize]| unit_rows(item, channels, tokens);
    let alike = products(&unit(joins), &unit(takes), channels, precision)?;
    let nearest: Vec<(f32, usize)> = alike.par_chunks_exact(takes.len()).map(largest).collect();
    let mut order: Vec<usize> = (0..joins.len()).collect();
    order.sort_by(|a, b| nearest[*b].0.partial_cmp(&nearest[*a].0).unwrap_or(Ordering::Equal).then(a.cmp(b)));
    let mut stands_for: Vec<usize> = (0..item.len() / channels).collect();
    for join in &order[..joined] {
        stands_for[joins[*join]] = takes[nearest[*join].1];
    }
    let mut numbers = vec![0; stands_for.len()];
    let mut count = 0;
    for (token, taken_by) in stands_for.iter().enumerate() {
        if token == *taken_by {
            numbers[token] = count;
            count += 1;
        }
    }
    Ok(stands_for.into_iter().map(|taken_by| numbers[taken_by]).collect())
}

/// Rows of length 1 of some tokens.
fn unit_rows(item: &[f32], channels: usize, tokens: &[usize]) -> Vec<f32> {
    let mut rows = stale(tokens.len() * channels);
    rows.par_chunks_exact_mut(channels).zip(tokens).for_each(|(row, token)| {
        let token = &item[token * channels..][..channels];
        let length = token.iter().map(|value| value * value).sum::<f32>().sqrt();
        row.iter_mut().zip(token).for_each(|(unit, value)| *unit = value / length);
    });
    rows
}

/// The largest value with its index; of equal ones the first.
fn largest(row: &[f32]) -> (f32, usize) {
    let mut found = (f32::NEG_INFINITY, 0);
    for (index, value) in row.iter().enumerate() {
        if *value > found.0 {
            found = (*value, index);
        }
    }
    found
}

impl Merged {
    /// The means of the tokens that become one: `[B, T, C] -> [B, T - r, C]`
    pub(super) fn means(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, tokens, channels) = x.dims3()?;
        let mut means = stale(batch * self.count * channels);
        ops::with_values(x, |x| {
            let items = means.par_chunks_exact_mut(self.count * channels);
            items.zip(x.par_chunks_exact(tokens * channels)).zip(&self.places).for_each(
                |((means, item), places)| {
                    means.fill(0.0);
                    let mut counts = vec![0u32; self.count];
                    for (token, place) in item.chunks_exact(channels).zip(places) {
                        counts[*place] += 1;
                        let sum = &mut means[place * channels..][..channels];
                        sum.iter_mut().zip(token).for_each(|(sum, value)| *sum += value);
                    }
                    for (mean, count) in means.chunks_exact_mut(channels).zip(counts) {
                        if count > 1 {
                            mean.iter_mut().for_each(|value| *value /= count as f32);
                        }
                    }
                },
            );
        })?;
        Tensor::from_vec(means, (batch, self.count, channels), &Device::Cpu)
    }

    /// What was found for merged tokens, given to all that they stand for and added to `residual` `[B, T, C]`.
    pub(super) fn spread_onto(&self, found: &Tensor, residual: &Tensor) -> Result<Tensor> {
        let (_, tokens, channels) = residual.dims3()?;
        let mut spread = stale(residual.elem_count());
        ops::with_values(residual, |residual| {
            ops::with_values(found, |found| {
                let rows = spread.par_chunks_exact_mut(channels).zip(residual.par_chunks_exact(channels));
                rows.enumerate().for_each(|(row, (spread, residual))| {
                    let (item, token) = (row / tokens, row % tokens);
                    let place = item * self.count + self.places[item][token];
                    let found = &found[place * channels..][..channels];
                    for ((spread, residual), found) in spread.iter_mut().zip(residual).zip(found) {
                        *spread = residual + found;
                    }
                });
            })
        })??;
        Tensor::from_vec(spread, residual.dims(), &Device::Cpu)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two by four tokens in two squares: one of each may take others in.
    fn eight() -> Tensor {
        let near = |token: usize| [[1.0f32, 0.0], [0.0, 1.0]][usize::from(token % 4 > 1)];
        let values: Vec<f32> =
            (0..8).flat_map(|token| near(token).map(|x| x + token as f32 * 1e-3)).collect();
        Tensor::from_vec(values, (1, 8, 2), &Device::Cpu).expect("a tensor")
    }

    #[test]
    fn tokens_join_the_one_they_are_most_like_and_come_back_as_they_were() {
        let merging = Merging { ratio: 0.75, seed: 3, step: 1 };
        let x = eight();
        let merged = merging.of(&x, (2, 4), 0, Precision::F32).expect("tensors").expect("six of eight join");
        let means = merged.means(&x).expect("tensors");
        assert_eq!(means.dims(), [1, 2, 2]);
        // Each square of the picture is of one kind.
        let places = &merged.places[0];
        assert_eq!([places[0], places[1], places[4]], [places[5]; 3]);
        assert_eq!([places[2], places[3], places[6]], [places[7]; 3]);
        let back = merged.spread_onto(&means, &x.zeros_like().expect("zeros")).expect("tensors");
        let back: Vec<f32> = back.flatten_all().and_then(|flat| flat.to_vec1()).expect("values");
        assert!((back[0] - 1.0025).abs() < 1e-6 && back[..2] == back[2..4], "{back:?}");
    }

    #[test]
    fn nothing_joins_where_no_square_is_or_the_ratio_is_none() {
        let x = eight();
        for (ratio, size) in [(0.0, (2, 4)), (0.1, (2, 4)), (0.5, (1, 8))] {
            let merging = Merging { ratio, seed: 3, step: 1 };
            assert!(merging.of(&x, size, 0, Precision::F32).expect("tensors").is_none(), "{ratio} {size:?}");
        }
    }
}
