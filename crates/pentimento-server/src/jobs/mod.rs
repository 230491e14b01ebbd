//! The one queue before the one worker, and the tickets with which requests wait for their job.
//!
//! Locking: one mutex guards the [`ledger`]; it is held for bookkeeping only, never while anything is drawn or awaited.
//! Outcomes travel through a watch channel per job, so that any number of requests can wait for the same one.

mod fair;
mod ledger;
mod worker;

use crate::{
    error::{ServerError, ServerErrorKind},
    metrics::Metrics,
    quota::Quotas,
};
use bytes::Bytes;
use ledger::{Absence, Ledger};
use pentimento_request::{Cancel, ErrorKind, GenerateError, GenerationRequest, Generator, Verdict};
use std::{
    num::NonZeroU32,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{runtime::Handle, sync::watch, time};

/// A drawn picture as it is kept.
#[derive(Clone, Debug)]
pub(crate) struct Drawn {
    /// The encoded PNG file, its receipt included.
    pub(crate) png: Bytes,
    /// The seed really used.
    pub(crate) seed: u64,
    /// What the content filter said of it.
    pub(crate) verdict: Verdict,
}

pub(crate) type Outcome = Result<Drawn, GenerateError>;

/// What a job draws.
pub(crate) enum Work {
    /// This.
    Request(Box<GenerationRequest>),
    /// What is kept elsewhere until the worker takes it up.
    Kept(Box<dyn Fn() -> Result<GenerationRequest, GenerateError> + Send + Sync>),
}

/// What the queue has to know of a job.
#[derive(Clone, Copy)]
pub(crate) struct Ask<'a> {
    /// Under which jobs of the same work are joined.
    pub(crate) key: Option<&'a str>,
    /// Whose job it is.
    pub(crate) caller: Option<&'a str>,
    /// Bytes that it holds while it waits.
    pub(crate) cost: usize,
    /// How long it may take, waiting included.
    pub(crate) deadline: Option<Duration>,
}

/// One piece of work, shared by the worker and all who wait for it.
pub(crate) struct Job {
    number: u64,
    caller: Option<String>,
    cost: usize,
    work: Work,
    cancel: Cancel,
    queued: Instant,
    begun: AtomicBool,
    deadline: Option<Instant>,
    outcome: watch::Sender<Option<Arc<Outcome>>>,
}

impl Job {
    fn new(number: u64, ask: &Ask<'_>, work: Work, queued: Instant) -> Self {
        Self {
            number,
            caller: ask.caller.map(str::to_owned),
            cost: ask.cost,
            work,
            cancel: Cancel::default(),
            queued,
            begun: AtomicBool::new(false),
            deadline: ask.deadline.and_then(|limit| queued.checked_add(limit)),
            outcome: watch::Sender::new(None),
        }
    }

    fn begin(&self) {
        self.begun.store(true, Ordering::Relaxed);
    }

    /// Whether the worker has taken it up, be it done or not.
    pub(crate) fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
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
    pub(crate) memory: usize,
    pub(crate) per_minute: Option<NonZeroU32>,
    pub(crate) retry_grace: Duration,
    pub(crate) deadline: Option<Duration>,
    pub(crate) quotas: Quotas,
}

/// The queue. Dropping it breaks everything off.
pub(crate) struct Jobs {
    shared: Arc<Shared>,
    generator: Arc<dyn Generator>,
    /// Longest time of a job that a client waits for.
    pub(crate) deadline: Option<Duration>,
}

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
        let (worker, drawing) = (Arc::clone(&shared), Arc::clone(&generator));
        std::thread::Builder::new()
            .name("pentimento-worker".to_owned())
            .spawn(move || worker::run(&worker, &*drawing))
            .map_err(|error| {
                ServerError::caused_by(ServerErrorKind::Internal, "cannot start the worker's thread", error)
            })?;
        Ok(Self { shared, generator, deadline: limits.deadline })
    }

    /// Who can be asked what would be refused at once; drawing is the worker's alone.
    pub(crate) fn generator(&self) -> Arc<dyn Generator> {
        Arc::clone(&self.generator)
    }

    /// Queues work, or joins the job of the same key. `may_retry`: the client may leave and ask again.
    pub(crate) fn submit(
        &self,
        ask: &Ask<'_>,
        work: impl FnOnce() -> Work,
        may_retry: bool,
    ) -> Result<Ticket, GenerateError> {
        let shared = &self.shared;
        let admission = shared.with(|ledger| ledger.admit(ask, work, Instant::now()))?;
        if admission.joined {
            shared.metrics.coalesced();
        } else {
            shared.bell.notify_one();
        }
        Ok(self.ticket(admission.job, may_retry))
    }

    /// Queues what an earlier server had admitted.
    pub(crate) fn restore(&self, ask: &Ask<'_>, work: Work) -> Ticket {
        let job = self.shared.with(|ledger| ledger.restore(ask, work, Instant::now()));
        self.shared.bell.notify_one();
        self.ticket(job, false)
    }

    /// Whether there would be a place, as things stand.
    pub(crate) fn has_room(&self, ask: &Ask<'_>) -> Result<(), GenerateError> {
        self.shared.with(|ledger| ledger.has_room(ask))
    }

    /// Ends a job early, for all who wait for it.
    pub(crate) fn break_off(&self, job: &Job, error: GenerateError) {
        self.shared.with(|ledger| ledger.break_off(job, error));
    }

    /// What callers may have from now on.
    pub(crate) fn set_quotas(&self, quotas: Quotas) {
        self.shared.with(|ledger| ledger.set_quotas(quotas));
    }

    fn ticket(&self, job: Arc<Job>, may_retry: bool) -> Ticket {
        let outcome = job.outcome.subscribe();
        Ticket { shared: Arc::clone(&self.shared), job, outcome, may_retry, answered: false }
    }

    /// Admits nothing more and answers those who wait in the queue. The running job goes on if anybody waits for it.
    pub(crate) fn close(&self) {
        self.shared.with(Ledger::close);
        self.shared.bell.notify_all();
    }

    /// Closes, and breaks the running job off too.
    pub(crate) fn abort(&self) {
        self.shared.with(Ledger::abort);
        self.shared.bell.notify_all();
    }

    /// Whether the worker lives.
    pub(crate) fn is_alive(&self) -> bool {
        !*self.shared.ended.borrow()
    }

    /// Waits until the worker's thread has ended; it does so once the queue is closed and its last job returned.
    pub(crate) async fn ended(&self) {
        // An error would mean that the sender is gone, but it lives in `self`.
        let _ = self.shared.ended.subscribe().wait_for(|ended| *ended).await;
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

    /// The job that is waited for.
    pub(crate) fn job(&self) -> &Arc<Job> {
        &self.job
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
        Accelerations, Canvas, ClipSkip, Conditioning, GuidanceScale, NoiseSource, PromptSyntax,
        SolverOptions, Steps, Task,
    };

    pub(super) fn job(number: u64, caller: Option<&str>) -> Arc<Job> {
        let ask = Ask { key: None, caller, cost: 0, deadline: None };
        Arc::new(Job::new(number, &ask, Work::Request(Box::new(request(1))), Instant::now()))
    }

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
            accelerations: Accelerations::NONE,
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
