//! The one queue before the one worker, and the tickets with which requests wait for their job.
//!
//! Locking: one mutex guards the [`ledger`]; it is held for bookkeeping only, never while anything is drawn or awaited.
//! Outcomes travel through a watch channel per job, so that any number of requests can wait for the same one.

mod ledger;
mod worker;

use crate::{
    error::{ServerError, ServerErrorKind},
    metrics::Metrics,
};
use bytes::Bytes;
use ledger::{Absence, Ledger};
use pentimento_request::{Cancel, ErrorKind, GenerateError, GenerationRequest, Generator, Verdict};
use std::{
    num::NonZeroU32,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::{runtime::Handle, sync::watch, time};

/// A finished picture as it is sent.
#[derive(Debug)]
pub(crate) struct Drawn {
    /// The encoded PNG file, its receipt included.
    pub(crate) png: Bytes,
    /// The seed really used.
    pub(crate) seed: u64,
    /// What the content filter said of it.
    pub(crate) verdict: Verdict,
}

pub(crate) type Outcome = Result<Drawn, GenerateError>;

/// One piece of work, shared by the worker and all who wait for it.
pub(crate) struct Job {
    number: u64,
    request: GenerationRequest,
    cancel: Cancel,
    queued: Instant,
    deadline: Option<Instant>,
    outcome: watch::Sender<Option<Arc<Outcome>>>,
}

impl Job {
    fn new(number: u64, request: GenerationRequest, queued: Instant, deadline: Option<Instant>) -> Self {
        let outcome = watch::Sender::new(None);
        Self { number, request, cancel: Cancel::default(), queued, deadline, outcome }
    }

    /// Tells all who wait, unless they were told something before.
    fn publish(&self, outcome: Outcome) {
        self.outcome.send_if_modified(|slot| {
            let first = slot.is_none();
            if first {
                *slot = Some(Arc::new(outcome));
            }
            first
        });
    }

    fn is_done(&self) -> bool {
        self.outcome.borrow().is_some()
    }
}

/// The queue's limits; `ServerConfig` explains them.
pub(crate) struct Limits {
    pub(crate) places: usize,
    pub(crate) per_minute: Option<NonZeroU32>,
    pub(crate) retry_grace: Duration,
    pub(crate) deadline: Option<Duration>,
}

/// The queue. Dropping it breaks everything off.
pub(crate) struct Jobs(Arc<Shared>);

struct Shared {
    ledger: Mutex<Ledger>,
    /// Rung when there may be something for the worker to do.
    bell: Condvar,
    /// Whether the worker's thread has ended.
    ended: watch::Sender<bool>,
    metrics: Metrics,
    runtime: Handle,
}

impl Jobs {
    /// Starts the worker's thread. Must be called within a runtime, which carries the timers.
    pub(crate) fn start(
        generator: Arc<dyn Generator>,
        limits: &Limits,
        metrics: Metrics,
    ) -> Result<Self, ServerError> {
        let shared = Arc::new(Shared {
            ledger: Mutex::new(Ledger::new(limits)),
            bell: Condvar::new(),
            ended: watch::Sender::new(false),
            metrics,
            runtime: Handle::current(),
        });
        let worker = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("pentimento-worker".to_owned())
            .spawn(move || worker::run(&worker, &*generator))
            .map_err(|error| {
                ServerError::caused_by(ServerErrorKind::Internal, "cannot start the worker's thread", error)
            })?;
        Ok(Self(shared))
    }

    /// Queues a request, or joins the job of the same key. `may_retry`: the client may leave and ask again.
    pub(crate) fn submit(
        &self,
        request: &GenerationRequest,
        key: Option<&str>,
        may_retry: bool,
    ) -> Result<Ticket, GenerateError> {
        let shared = Arc::clone(&self.0);
        let admission = shared.with(|ledger| ledger.admit(request, key, Instant::now()))?;
        if admission.joined {
            shared.metrics.coalesced();
        } else {
            shared.bell.notify_one();
        }
        let outcome = admission.job.outcome.subscribe();
        Ok(Ticket { shared, job: admission.job, outcome, may_retry, answered: false })
    }

    /// Admits nothing more and answers those who wait in the queue. The running job goes on if anybody waits for it.
    pub(crate) fn close(&self) {
        self.0.with(Ledger::close);
        self.0.bell.notify_all();
    }

    /// Closes, and breaks the running job off too.
    pub(crate) fn abort(&self) {
        self.0.with(Ledger::abort);
        self.0.bell.notify_all();
    }

    /// Whether the worker lives.
    pub(crate) fn is_alive(&self) -> bool {
        !*self.0.ended.borrow()
    }

    /// Waits until the worker's thread has ended; it does so once the queue is closed and its last job returned.
    pub(crate) async fn ended(&self) {
        // An error would mean that the sender is gone, but it lives in `self`.
        let _ = self.0.ended.subscribe().wait_for(|ended| *ended).await;
    }
}

impl Drop for Jobs {
    fn drop(&mut self) {
        self.abort();
    }
}

impl Shared {
    /// Does some bookkeeping and keeps the gauges true.
    fn with<T>(&self, work: impl FnOnce(&mut Ledger) -> T) -> T {
        let mut ledger = self.lock();
        let result = work(&mut ledger);
        self.metrics.queue(ledger.waiting(), ledger.running());
        result
    }

    /// A panic while the lock was held cannot leave the ledger worse than a lost job: go on.
    fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The worker's next job; `None` once the queue is closed and empty. Blocks.
    fn take(&self) -> Option<Arc<Job>> {
        let mut ledger = self.lock();
        loop {
            if let Some(job) = ledger.take() {
                self.metrics.queue(ledger.waiting(), ledger.running());
                return Some(job);
            }
            if ledger.is_closed() {
                return None;
            }
            ledger = self.bell.wait(ledger).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn finish(&self, job: &Job, outcome: Outcome) {
        self.with(|ledger| ledger.finish(job, outcome, Instant::now()));
    }

    /// Acts on a job that was perhaps left by its last waiter: notes a cancellation, or looks again later.
    fn see_to(self: &Arc<Self>, number: u64, absence: Absence) {
        match absence {
            Absence::Settled => {}
            Absence::Abandoned(phase) => self.metrics.cancelled(phase),
            Absence::Until(then) => {
                let shared = Arc::clone(self);
                self.runtime.spawn(async move {
                    time::sleep_until(then.into()).await;
                    let absence = shared.with(|ledger| ledger.settle(number, Instant::now()));
                    shared.see_to(number, absence);
                });
            }
        }
    }
}

/// A request's claim on a job. Dropping it is how a request leaves.
pub(crate) struct Ticket {
    shared: Arc<Shared>,
    job: Arc<Job>,
    outcome: watch::Receiver<Option<Arc<Outcome>>>,
    may_retry: bool,
    answered: bool,
}

impl Ticket {
    /// The job's number in logs.
    pub(crate) fn number(&self) -> u64 {
        self.job.number
    }

    /// Waits for the outcome. May be dropped and called again.
    pub(crate) async fn outcome(&mut self) -> Arc<Outcome> {
        loop {
            self.wait().await;
            let outcome = self.outcome.borrow().clone();
            if let Some(outcome) = outcome {
                self.answered = true;
                return outcome;
            }
            let error = GenerateError::new(ErrorKind::DeadlineExceeded, "the job took longer than it may");
            self.shared.with(|ledger| ledger.break_off(&self.job, error));
        }
    }

    /// Returns when there is an outcome, or when the deadline has passed.
    async fn wait(&mut self) {
        let told = self.outcome.wait_for(Option::is_some);
        match self.job.deadline {
            Some(deadline) => drop(time::timeout_at(deadline.into(), told).await),
            None => drop(told.await),
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let returns = self.may_retry && !self.answered;
        let number = self.job.number;
        let absence = self.shared.with(|ledger| ledger.leave(number, returns, Instant::now()));
        self.shared.see_to(number, absence);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use pentimento_request::{
        Canvas, ClipSkip, Conditioning, GuidanceScale, NoiseSource, PromptSyntax, SolverOptions, Steps, Task,
    };

    pub(crate) fn request(seed: u64) -> GenerationRequest {
        GenerationRequest {
            model: "fake".to_owned(),
            prompts: vec![],
            task: Task::TextToImage,
            canvas: Canvas::Native(None),
            sampler: None,
            schedule: None,
            steps: Steps::new(1).expect("one step"),
            guidance_scale: GuidanceScale::new(1.0).expect("in range"),
            guidance_rescale: 0.0,
            syntax: PromptSyntax::Emphasis,
            clip_skip: ClipSkip::LAST,
            hires: None,
            solver: SolverOptions::USUAL,
            noise: NoiseSource::TorchCpu,
            conditioning: Conditioning::none(),
            filter: None,
            seed,
        }
    }
}
