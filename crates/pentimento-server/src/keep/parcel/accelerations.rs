//! What makes drawing faster, as a parcel's text says it.

use super::{Bits64, message};
use pentimento_request::{Accelerations, GuidanceInterval, StepCache, TokenMerging};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StoredAccelerations {
    guidance_start: Bits64,
    guidance_end: Bits64,
    /// Interval and branch.
    step_cache: Option<(usize, usize)>,
    token_merging: Bits64,
}

impl StoredAccelerations {
    pub(super) fn of(accelerations: Accelerations) -> Self {
        let Accelerations { guidance_interval, step_cache, token_merging } = accelerations;
        Self {
            guidance_start: guidance_interval.start().into(),
            guidance_end: guidance_interval.end().into(),
            step_cache: step_cache.map(|cache| (cache.interval(), cache.branch())),
            token_merging: token_merging.ratio().into(),
        }
    }

    pub(super) fn back(self) -> Result<Accelerations, String> {
        let Self { guidance_start, guidance_end, step_cache, token_merging } = self;
        let interval = GuidanceInterval::new(guidance_start.into(), guidance_end.into());
        let step_cache = step_cache.map(|(interval, branch)| StepCache::new(interval, branch));
        Ok(Accelerations {
            guidance_interval: interval.map_err(message)?,
            step_cache: step_cache.transpose().map_err(message)?,
            token_merging: TokenMerging::new(token_merging.into()).map_err(message)?,
        })
    }
}

/// A parcel of a version that knew none.
impl Default for StoredAccelerations {
    fn default() -> Self {
        Self::of(Accelerations::NONE)
    }
}
