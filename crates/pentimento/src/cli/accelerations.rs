//! What can be typed to draw faster at the picture's cost.

use super::ACCELERATIONS;
use clap::Args;
use pentimento_request::{Accelerations, GuidanceInterval, StepCache, TokenMerging};

/// What makes drawing faster; nothing of it is on unless asked for.
#[derive(Args, Clone, Debug)]
pub(crate) struct AccelerationArgs {
    /// Look at the negative prompts only between these shares of the steps, as in 0.2:0.8; a step outside costs half as much
    /// [default: 0:1]
    #[arg(long, value_name = "START:END", allow_negative_numbers = true, help_heading = ACCELERATIONS)]
    pub(crate) guidance_interval: Option<GuidanceInterval>,

    /// Run the whole network in one step of N; those between take over what its coarse layers gave then, and run its fine ones, down
    /// to skip connection BRANCH [default: 0, the finest]
    #[arg(long, value_name = "N[:BRANCH]", allow_negative_numbers = true, help_heading = ACCELERATIONS)]
    pub(crate) step_cache: Option<StepCache>,

    /// Share of the tokens, from 0 to 0.75, that are merged with those they are most like where a picture looks at itself at the finest
    /// level [default: 0]
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true, help_heading = ACCELERATIONS)]
    pub(crate) token_merging: Option<TokenMerging>,
}

impl AccelerationArgs {
    /// What was typed.
    pub(crate) fn resolve(&self) -> Accelerations {
        let Self { guidance_interval, step_cache, token_merging } = self;
        Accelerations {
            guidance_interval: guidance_interval.unwrap_or(GuidanceInterval::WHOLE),
            step_cache: *step_cache,
            token_merging: token_merging.unwrap_or(TokenMerging::NONE),
        }
    }
}
