//! What can be typed to draw faster at the picture's cost.

use super::ACCELERATIONS;
use clap::Args;
use pentimento_request::{Accelerations, GuidanceInterval};

/// What makes drawing faster; nothing of it is on unless asked for.
#[derive(Args, Clone, Debug)]
pub(crate) struct AccelerationArgs {
    /// Look at the negative prompts only between these shares of the steps, as in 0.2:0.8; a step outside costs half as much
    /// [default: 0:1]
    #[arg(long, value_name = "START:END", allow_negative_numbers = true, help_heading = ACCELERATIONS)]
    pub(crate) guidance_interval: Option<GuidanceInterval>,
}

impl AccelerationArgs {
    /// What was typed.
    pub(crate) fn resolve(&self) -> Accelerations {
        let Self { guidance_interval } = self;
        Accelerations { guidance_interval: guidance_interval.unwrap_or(GuidanceInterval::WHOLE) }
    }
}
