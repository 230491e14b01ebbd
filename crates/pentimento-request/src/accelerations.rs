//! What makes drawing faster and the picture another one: each is off unless asked for.

use crate::{InvalidValue, Steps};
use std::{fmt, str::FromStr};

/// Everything that trades fidelity for time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Accelerations {
    /// The steps that are guided.
    pub guidance_interval: GuidanceInterval,
    /// What most steps take over from earlier ones. `None`: nothing.
    pub step_cache: Option<StepCache>,
    /// How many tokens stand for one another.
    pub token_merging: TokenMerging,
}

impl Accelerations {
    /// Every step is computed as the model's authors meant it.
    pub const NONE: Self = Self {
        guidance_interval: GuidanceInterval::WHOLE,
        step_cache: None,
        token_merging: TokenMerging::NONE,
    };
}

/// The share of the steps in which both halves of classifier-free guidance are computed; in the others the positive half is
/// all there is (Kynkäänniemi et al. 2024, "Applying Guidance in a Limited Interval Improves Sample and Distribution Quality in
/// Diffusion Models").
///
/// Of `n` steps those from `⌊start·n⌋` on and before `⌊end·n⌋` are guided, as diffusers' guiders count with `start` and `stop`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GuidanceInterval {
    start: f64,
    end: f64,
}

impl GuidanceInterval {
    /// Every step.
    pub const WHOLE: Self = Self { start: 0.0, end: 1.0 };

    /// The steps between these shares.
    ///
    /// # Errors
    /// When a share is outside 0 to 1 or no number, or `start` is not below `end`.
    pub fn new(start: f64, end: f64) -> Result<Self, InvalidValue> {
        if !(0.0 <= start && start < end && end <= 1.0) {
            return Err(InvalidValue::new(format!(
                "a guidance interval from {start} to {end} is not possible: 0 <= start < end <= 1"
            )));
        }
        Ok(Self { start, end })
    }

    /// Share of the steps before the first guided one.
    pub const fn start(self) -> f64 {
        self.start
    }

    /// Share of the steps behind which none is guided.
    pub const fn end(self) -> f64 {
        self.end
    }

    /// Whether a step, counted from 0, of so many is guided.
    pub fn guides(self, step: usize, of: usize) -> bool {
        let bound = |share: f64| (share * of as f64) as usize;
        (bound(self.start)..bound(self.end)).contains(&step)
    }
}

impl fmt::Display for GuidanceInterval {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.start, self.end)
    }
}

impl FromStr for GuidanceInterval {
    type Err = InvalidValue;

    /// Reads `START:END`.
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let malformed =
            || InvalidValue::new(format!("'{text}' is not an interval: write START:END, as 0.2:0.8"));
        let (start, end) = text.split_once(':').ok_or_else(malformed)?;
        Self::new(start.parse().map_err(|_| malformed())?, end.parse().map_err(|_| malformed())?)
    }
}

/// One step in `interval` runs the whole network, and those between run its finest layers alone, on what the coarser ones gave in the
/// last whole one (Ma et al. 2024, "DeepCache: Accelerating Diffusion Models for Free", uniform).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepCache {
    interval: usize,
    branch: usize,
}

impl StepCache {
    /// Whole steps this far apart, at most [`Steps::MAX`]; 1 runs all of them whole. `branch` is the skip connection, 0 for the
    /// finest, down to which the steps between run: `cache_branch_id` of the authors' `DeepCacheSDHelper`.
    ///
    /// # Errors
    /// When the interval is out of range. Which branches there are the model knows.
    pub fn new(interval: usize, branch: usize) -> Result<Self, InvalidValue> {
        if !(1..=Steps::MAX).contains(&interval) {
            return Err(InvalidValue::new(format!(
                "a step cache of interval {interval} is not possible: it goes from 1 to {}",
                Steps::MAX
            )));
        }
        Ok(Self { interval, branch })
    }

    /// Whole steps are this far apart.
    pub const fn interval(self) -> usize {
        self.interval
    }

    /// The skip connection down to which the steps between run.
    pub const fn branch(self) -> usize {
        self.branch
    }
}

impl fmt::Display for StepCache {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.interval, self.branch)
    }
}

impl FromStr for StepCache {
    type Err = InvalidValue;

    /// Reads `N` or `N:BRANCH`.
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let malformed =
            |_| InvalidValue::new(format!("'{text}' is not a step cache: write N or N:BRANCH, as 3 or 3:1"));
        let (interval, branch) = text.split_once(':').unwrap_or((text, "0"));
        Self::new(interval.parse().map_err(malformed)?, branch.parse().map_err(malformed)?)
    }
}

/// The share of its tokens that the finest level that attends to itself leaves out while it does, each represented by the one that it
/// is most like (Bolya & Hoffman 2023, "Token Merging for Fast Stable Diffusion").
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct TokenMerging(f64);

impl TokenMerging {
    /// Every token for itself.
    pub const NONE: Self = Self(0.0);

    /// One token of every two by two stays in any case.
    pub const MAX: f64 = 0.75;

    /// This share.
    ///
    /// # Errors
    /// Outside 0 to [`TokenMerging::MAX`], or not a number.
    pub fn new(ratio: f64) -> Result<Self, InvalidValue> {
        if !(0.0..=Self::MAX).contains(&ratio) {
            return Err(InvalidValue::new(format!(
                "a token merging of {ratio} is not possible: it goes from 0 to {}",
                Self::MAX
            )));
        }
        Ok(Self(ratio))
    }

    /// The share.
    pub const fn ratio(self) -> f64 {
        self.0
    }
}

impl fmt::Display for TokenMerging {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.0)
    }
}

impl FromStr for TokenMerging {
    type Err = InvalidValue;

    /// Reads a share.
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let malformed = |_| InvalidValue::new(format!("'{text}' is not a share: write a number, as 0.5"));
        Self::new(text.parse().map_err(malformed)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_read_as_they_are_written() {
        for text in ["0:1", "0.2:0.8", "0:0.05"] {
            assert_eq!(
                text.parse::<GuidanceInterval>().map(|interval| interval.to_string()),
                Ok(text.into())
            );
        }
        for wrong in ["", "0.5", "a:1", "0.8:0.2", "0.5:0.5", "-0.1:1", "0:1.1", "NaN:1", "0:1:1"] {
            assert!(wrong.parse::<GuidanceInterval>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn step_caches_are_read_as_they_are_written() {
        for (text, told) in [("3", "3:0"), ("1:0", "1:0"), ("5:11", "5:11")] {
            assert_eq!(text.parse::<StepCache>().map(|cache| cache.to_string()), Ok(told.into()));
        }
        for wrong in ["", "0", "x", "3:", ":1", "3:-1", "1001", "2:1:1", "2.5"] {
            assert!(wrong.parse::<StepCache>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn shares_of_tokens_are_read_as_they_are_written() {
        for text in ["0", "0.5", "0.75"] {
            assert_eq!(text.parse::<TokenMerging>().map(|merging| merging.to_string()), Ok(text.into()));
        }
        for wrong in ["", "x", "-0.1", "0.76", "NaN"] {
            assert!(wrong.parse::<TokenMerging>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn intervals_count_steps_as_diffusers_does() {
        let guided = |start, end, of| {
            let interval = GuidanceInterval::new(start, end).expect("an interval");
            (0..of).filter(|step| interval.guides(*step, of)).collect::<Vec<_>>()
        };
        assert_eq!(guided(0.0, 1.0, 4), [0, 1, 2, 3]);
        assert_eq!(guided(0.25, 0.75, 4), [1, 2]);
        assert_eq!(guided(0.2, 0.8, 6), [1, 2, 3]);
        assert_eq!(guided(0.1, 0.2, 4), [] as [usize; 0]);
    }
}
