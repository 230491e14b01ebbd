//! What makes drawing faster, as a parcel's text says it.

use super::{Bits64, message};
use pentimento_request::{Accelerations, GuidanceInterval};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StoredAccelerations {
    guidance_start: Bits64,
    guidance_end: Bits64,
}

impl StoredAccelerations {
    pub(super) fn of(accelerations: Accelerations) -> Self {
        let Accelerations { guidance_interval } = accelerations;
        Self {
            guidance_start: guidance_interval.start().into(),
            guidance_end: guidance_interval.end().into(),
        }
    }

    pub(super) fn back(self) -> Result<Accelerations, String> {
        let Self { guidance_start, guidance_end } = self;
        let interval = GuidanceInterval::new(guidance_start.into(), guidance_end.into());
        Ok(Accelerations { guidance_interval: interval.map_err(message)? })
    }
}

/// A parcel of a version that knew none.
impl Default for StoredAccelerations {
    fn default() -> Self {
        Self::of(Accelerations::NONE)
    }
}
