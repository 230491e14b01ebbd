//! What steering costs and what accelerations gain: steps of the same drawing with them and without, in turns, so that both meet
//! the same machine.

use super::whole;
use anyhow::{Result, bail};
use pentimento_diffusion::Model;
use pentimento_request::{
    Accelerations, Conditioning, ErrorKind, GenerationRequest, Generator, GuidanceInterval, Progress,
    Sampler, Size, Span, Stage, StepReport, Steps, Strength, Task,
};
use serde_json::{Value, json};
use std::{
    ops::ControlFlow,
    time::{Duration, Instant},
};

/// What is measured beside a plain drawing.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Steering {
    pub(super) conditioning: Conditioning,
    pub(super) accelerations: Accelerations,
}

impl Steering {
    /// A plain drawing.
    pub(super) const fn none() -> Self {
        Self { conditioning: Conditioning::none(), accelerations: Accelerations::NONE }
    }

    /// Steps behind the first one that show on average what all of them take.
    fn steps(&self) -> usize {
        let Accelerations { guidance_interval, step_cache, token_merging: _ } = self.accelerations;
        match step_cache {
            Some(cache) => cache.interval(),
            None if guidance_interval != GuidanceInterval::WHOLE => 10,
            None => 2,
        }
    }
}

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rounds {
    pub(super) count: u16,
    /// Measured steps of a round before it is the other's turn; one that is not measured comes before them.
    pub(super) steps: Option<usize>,
}

/// How long steps took on average, round by round, and what comes once before them.
#[derive(Debug, Default)]
pub(super) struct Steered {
    plain: Vec<Duration>,
    steered: Vec<Duration>,
    /// From the request to the first step.
    before: [Vec<Duration>; 2],
    /// Steps of a round.
    steps: usize,
}

/// Draws in turns.
///
/// # Errors
/// What the engine says of the request.
pub(super) fn measure(model: &Model, size: Size, steering: &Steering, rounds: Rounds) -> Result<Steered> {
    let steps = rounds.steps.unwrap_or_else(|| steering.steps());
    let mut measured = Steered { steps, ..Steered::default() };
    let plain = request(model, size, &Steering::none(), steps)?;
    let steered = request(model, size, steering, steps)?;
    for _ in 0..rounds.count {
        let [before_plain, before_steered] = &mut measured.before;
        before_plain.push(round(model, &plain, &mut measured.plain)?);
        before_steered.push(round(model, &steered, &mut measured.steered)?);
    }
    let [before_plain, before_steered] = &mut measured.before;
    [&mut measured.plain, &mut measured.steered, before_plain, before_steered]
        .into_iter()
        .for_each(|took| took.sort());
    Ok(measured)
}

/// Every step from noise, by a sampler that looks once a step and that CLIP may guide.
fn request(model: &Model, size: Size, steering: &Steering, steps: usize) -> Result<GenerationRequest> {
    let mut request = whole(model.name(), size)?;
    if let Task::ImageToImage { span, .. } = &mut request.task {
        *span = Span::of(Strength::FULL);
    }
    let Steering { conditioning, accelerations } = steering.clone();
    let (sampler, steps) = (Some(Sampler::KEulerAncestral), Steps::new(steps + 1)?);
    Ok(GenerationRequest { sampler, steps, conditioning, accelerations, ..request })
}

/// Adds how long a step of a drawing that is broken off behind them takes on average, and tells how long it took to come to the
/// first.
fn round(model: &Model, request: &GenerationRequest, took: &mut Vec<Duration>) -> Result<Duration> {
    let mut watch = Watch { since: Instant::now(), before: Duration::ZERO, steps: Vec::new() };
    match model.generate(request, &mut watch) {
        Err(error) if error.kind() == ErrorKind::Cancelled && watch.steps.len() == request.steps.get() => {
            let measured = &watch.steps[1..];
            took.push(measured.iter().sum::<Duration>() / measured.len().max(1) as u32);
            Ok(watch.before)
        }
        Err(error) => Err(error.into()),
        Ok(_) => bail!("nothing was measured"),
    }
}

/// Times every step.
struct Watch {
    since: Instant,
    before: Duration,
    steps: Vec<Duration>,
}

impl Watch {
    fn lap(&mut self) -> Duration {
        let now = Instant::now();
        now - std::mem::replace(&mut self.since, now)
    }
}

impl Progress for Watch {
    fn stage(&mut self, stage: Stage) -> ControlFlow<()> {
        if stage == Stage::Sample {
            self.before = self.lap();
        }
        ControlFlow::Continue(())
    }

    fn step(&mut self, report: &StepReport<'_>) -> ControlFlow<()> {
        let took = self.lap();
        self.steps.push(took);
        match report.step == report.of {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }
}

impl Steered {
    /// The median of times in order.
    fn median(took: &[Duration]) -> f64 {
        took.get(took.len() / 2).map_or(0.0, Duration::as_secs_f64)
    }

    /// How much longer a steered step takes, of a plain one.
    fn more(&self) -> f64 {
        Self::median(&self.steered) / Self::median(&self.plain).max(1e-9) - 1.0
    }

    pub(super) fn json(&self) -> Value {
        let [plain, steered] = &self.before;
        json!({
            "plain_s": Self::median(&self.plain),
            "steered_s": Self::median(&self.steered),
            "more": self.more(),
            "rounds": self.steered.len(),
            "steps": self.steps,
            "before_plain_s": Self::median(plain),
            "before_steered_s": Self::median(steered),
        })
    }

    /// In two lines.
    pub(super) fn told(&self) -> String {
        let [plain, steered] = &self.before;
        format!(
            "a step: {:.4} s; steered: {:.4} s, {:+.1} % (medians of {} rounds of {} steps)\nbefore the first step: {:.2} s; steered: {:.2} s\n",
            Self::median(&self.plain),
            Self::median(&self.steered),
            100.0 * self.more(),
            self.steered.len(),
            self.steps,
            Self::median(plain),
            Self::median(steered),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steered_step_is_told_beside_a_plain_one() {
        let took = |milliseconds: &[u64]| milliseconds.iter().copied().map(Duration::from_millis).collect();
        let measured = Steered {
            plain: took(&[90, 100, 300]),
            steered: took(&[100, 105, 110]),
            before: [took(&[1000]), took(&[2000])],
            steps: 2,
        };
        let told = measured.told();
        assert!(
            told.starts_with("a step: 0.1000 s; steered: 0.1050 s, +5.0 % (medians of 3 rounds of 2 steps)"),
            "{told}"
        );
        assert_eq!(measured.json()["before_steered_s"], 2.0);
    }
}
