//! The worker: one blocking thread that owns all calls to the generator.
//!
//! A panic ends the job it happened in, and nothing else. Encoding the picture happens here too, so that it never holds
//! up the threads that serve connections.

use super::{Drawn, Job, Outcome, Shared, Work};
use crate::{
    error::{chain, kind_name},
    metrics::Metrics,
};
use pentimento_imaging::Format;
use pentimento_request::{
    Cancel, ErrorKind, GenerateError, GeneratedImage, Generator, Progress, Stage, StepReport,
};
use std::{
    any::Any,
    ops::ControlFlow,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Instant,
};
use tokio::sync::watch;
use tracing::{debug, error};

/// Takes jobs until the queue is closed and empty.
pub(super) fn run(shared: &Shared, generator: &dyn Generator) {
    let _end = Ended(&shared.ended);
    while let Some(job) = shared.take() {
        let started = Instant::now();
        shared.metrics.queue_wait(started - job.queued);
        let outcome = draw_caught(&job, generator, &shared.metrics);
        note(&job, &outcome, started, &shared.metrics);
        shared.finish(&job, outcome);
    }
}

/// Tells that the thread has ended, however it ends.
struct Ended<'a>(&'a watch::Sender<bool>);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.send_replace(true);
    }
}

fn draw_caught(job: &Job, generator: &dyn Generator, metrics: &Metrics) -> Outcome {
    // Unwind safety: what a panic may leave half-done belongs to this job, or is the generator's own to guard.
    catch_unwind(AssertUnwindSafe(|| draw(job, generator, metrics))).unwrap_or_else(|payload| {
        metrics.panicked();
        let message = format!("the generator panicked: {}", panic_message(&*payload));
        Err(GenerateError::new(ErrorKind::Internal, message))
    })
}

fn draw(job: &Job, generator: &dyn Generator, metrics: &Metrics) -> Outcome {
    let mut watcher = Watcher { cancel: &job.cancel, metrics, stage: None };
    let kept;
    let request = match &job.work {
        Work::Request(request) => request,
        Work::Kept(fetch) => {
            kept = fetch()?;
            &kept
        }
    };
    let image = generator.generate(request, &mut watcher)?;
    watcher.stage_done();
    if job.cancel.is_cancelled() {
        return Err(GenerateError::new(ErrorKind::Cancelled, "cancelled before encoding"));
    }
    encode(&image)
}

fn encode(image: &GeneratedImage) -> Outcome {
    let png =
        pentimento_imaging::encode(&image.picture, Format::Png, Some(&image.receipt)).map_err(|error| {
            GenerateError::caused_by(ErrorKind::Internal, "the picture cannot be encoded", error)
        })?;
    Ok(Drawn { png: png.into(), seed: image.receipt.seed, verdict: image.receipt.verdict })
}

fn note(job: &Job, outcome: &Outcome, started: Instant, metrics: &Metrics) {
    let took = started.elapsed();
    let name = outcome.as_ref().err().map_or("done", |error| kind_name(error.kind()));
    metrics.job(name, took);
    let (number, took_ms) = (job.number, took.as_millis() as u64);
    match outcome {
        Err(cause) if cause.kind() == ErrorKind::Internal => {
            error!(job = number, took_ms, error = chain(cause), "job failed");
        }
        _ => debug!(job = number, took_ms, outcome = name, "job ended"),
    }
}

fn panic_message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}

/// Passes the switch on to the generator, and measures the stages that are finished.
struct Watcher<'a> {
    cancel: &'a Cancel,
    metrics: &'a Metrics,
    stage: Option<(Stage, Instant)>,
}

impl Watcher<'_> {
    fn stage_done(&mut self) {
        if let Some((stage, started)) = self.stage.take() {
            self.metrics.stage(stage, started.elapsed());
        }
    }
}

impl Progress for Watcher<'_> {
    fn stage(&mut self, stage: Stage) -> ControlFlow<()> {
        self.stage_done();
        self.stage = Some((stage, Instant::now()));
        self.cancel.flow()
    }

    fn part(&mut self) -> ControlFlow<()> {
        self.cancel.flow()
    }

    fn switch(&self) -> Option<Cancel> {
        Some(self.cancel.clone())
    }

    fn step(&mut self, _: &StepReport<'_>) -> ControlFlow<()> {
        self.cancel.flow()
    }
}
