//! Step caching: most steps run the UNet's finest layers alone, on what its coarser ones gave some steps before.
//!
//! What is kept is what comes from below to the coarsest layer of the way up that still runs, `[B, C, h, w]`: for Stable Diffusion 1.5
//! at 512x512 and branch 0 10 MB. It belongs to one walk of a sampler and ends with it. Steps count, not calls: of samplers that
//! call the network twice a step either both calls are whole or neither is, and what the last whole call left is what is taken
//! over. A step whose halves are not all there is whole too: the first guided one behind steps that were not.
//! Source: Ma et al. 2024, "DeepCache"; branches and steps as in the authors' `DeepCacheSDHelper` with `skip_mode` "uniform".

use crate::error::Result;
use candle_core::Tensor;
use pentimento_request::StepCache;

/// What steps of one walk take over from earlier ones.
pub(crate) struct Cache {
    interval: usize,
    /// Skips, from the finest on, whose layers run in every step.
    skips: usize,
    below: Option<Tensor>,
    /// The steps that were run whole, in order.
    whole: Vec<usize>,
}

/// What a step takes over.
pub(crate) struct Kept {
    pub(crate) skips: usize,
    /// What the layers below them gave.
    pub(crate) below: Tensor,
}

impl Cache {
    /// An empty one.
    pub(crate) fn new(wanted: StepCache) -> Self {
        // Every layer of the way up takes a skip: branch 0 is the last one's.
        let skips = wanted.branch().saturating_add(1);
        Self { interval: wanted.interval(), skips, below: None, whole: Vec::new() }
    }

    pub(crate) fn skips(&self) -> usize {
        self.skips
    }

    /// The steps that were run whole.
    pub(crate) fn whole_steps(&self) -> &[usize] {
        &self.whole
    }

    /// What `step` takes over for a batch of so many items; `None` where it is run whole.
    pub(crate) fn kept_for(&self, step: usize, items: usize) -> Result<Option<Kept>> {
        let Some(below) = &self.below else { return Ok(None) };
        let there = below.dim(0)?;
        if step.is_multiple_of(self.interval) || self.whole.last() == Some(&step) || there < items {
            return Ok(None);
        }
        // Of both halves the positive one is the last.
        let below = below.narrow(0, there - items, items)?;
        Ok(Some(Kept { skips: self.skips, below }))
    }

    /// Keeps what a whole call left.
    pub(crate) fn keep(&mut self, step: usize, below: Option<Tensor>) {
        self.below = below;
        if self.whole.last() != Some(&step) {
            self.whole.push(step);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    fn below(items: usize) -> Option<Tensor> {
        Tensor::zeros((items, 1, 1, 1), DType::F32, &Device::Cpu).ok()
    }

    #[test]
    fn steps_between_take_over_and_a_missing_half_makes_a_step_whole() {
        let mut cache = Cache::new(StepCache::new(3, 0).expect("in range"));
        let mut whole = Vec::new();
        // Guided from step 4 on, two calls a step.
        for step in 0..8 {
            for _ in 0..2 {
                let items = if step < 4 { 1 } else { 2 };
                match cache.kept_for(step, items).expect("tensors") {
                    Some(kept) => assert_eq!(kept.below.dims(), [items, 1, 1, 1]),
                    None => {
                        whole.push(step);
                        cache.keep(step, below(items));
                    }
                }
            }
        }
        assert_eq!(whole, [0, 0, 3, 3, 4, 4, 6, 6]);
        assert_eq!(cache.whole_steps(), [0, 3, 4, 6]);
        // The positive half of both.
        let kept = cache.kept_for(7, 1).expect("tensors").expect("step 6 left it");
        assert_eq!(kept.below.dims(), [1, 1, 1, 1]);
    }
}
