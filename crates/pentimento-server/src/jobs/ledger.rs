//! Who waits for which job: pure bookkeeping, without threads or timers.
//!
//! A job is in `entries` while somebody waits for it, or may come back for it. It is in `by_key` while further requests
//! for the same work may join it, in `queue` until the worker takes it, and in `running` until the worker is done with
//! it, even if it was broken off before. The first outcome that is published stands.

use super::{Job, Limits, Outcome};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use pentimento_request::{ErrorKind, GenerateError, GenerationRequest};
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

/// Requests that may wait for one job. Clients retry one after the other, three to five times in all; what goes far
/// beyond that holds decoded pictures in memory for nothing.
const MOST_WAITERS: usize = 16;

pub(crate) struct Ledger {
    places: usize,
    rate: Option<DefaultDirectRateLimiter>,
    retry_grace: Duration,
    deadline: Option<Duration>,
    last_number: u64,
    entries: HashMap<u64, Entry>,
    by_key: HashMap<String, u64>,
    queue: VecDeque<Arc<Job>>,
    running: Option<Arc<Job>>,
    closed: bool,
}

struct Entry {
    job: Arc<Job>,
    /// Under which key the job can be joined, as long as it can.
    key: Option<String>,
    waiters: usize,
    /// Until when the job is kept although nobody waits.
    keep_until: Instant,
}

/// How a request was admitted.
pub(crate) struct Admission {
    pub(crate) job: Arc<Job>,
    pub(crate) joined: bool,
}

/// What became of a job whose waiter left.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Absence {
    /// Others wait, or there is nothing to decide any more.
    Settled,
    /// Nobody waits; decide again then.
    Until(Instant),
    /// Nobody waited, and the job was cancelled while it was doing this.
    Abandoned(&'static str),
}

impl Ledger {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            places: limits.places,
            rate: limits.per_minute.map(|count| RateLimiter::direct(Quota::per_minute(count))),
            retry_grace: limits.retry_grace,
            deadline: limits.deadline,
            last_number: 0,
            entries: HashMap::new(),
            by_key: HashMap::new(),
            queue: VecDeque::new(),
            running: None,
            closed: false,
        }
    }

    /// Joins the job of the same key, or queues a new one.
    pub(crate) fn admit(
        &mut self,
        request: &GenerationRequest,
        key: Option<&str>,
        now: Instant,
    ) -> Result<Admission, GenerateError> {
        if self.closed {
            return Err(unavailable());
        }
        if let Some(job) = key.and_then(|key| self.join(key)) {
            return job.map(|job| Admission { job, joined: true });
        }
        // The worker may not yet have taken up a job that it is free to take: count places beside the running one.
        if self.queue.len() + self.running() > self.places {
            return Err(overloaded("the queue is full"));
        }
        if self.rate.as_ref().is_some_and(|rate| rate.check().is_err()) {
            return Err(overloaded("more jobs were begun in the last minute than the configuration allows"));
        }
        let job = self.queue_up(request, key, now);
        Ok(Admission { job, joined: false })
    }

    fn join(&mut self, key: &str) -> Option<Result<Arc<Job>, GenerateError>> {
        let entry = self.entries.get_mut(self.by_key.get(key)?)?;
        if entry.waiters >= MOST_WAITERS {
            return Some(Err(overloaded("too many requests wait for the same work")));
        }
        entry.waiters += 1;
        Some(Ok(Arc::clone(&entry.job)))
    }

    fn queue_up(&mut self, request: &GenerationRequest, key: Option<&str>, now: Instant) -> Arc<Job> {
        self.last_number += 1;
        let number = self.last_number;
        let deadline = self.deadline.and_then(|limit| now.checked_add(limit));
        let job = Arc::new(Job::new(number, request.clone(), now, deadline));
        let key = key.map(str::to_owned);
        if let Some(key) = &key {
            self.by_key.insert(key.clone(), number);
        }
        self.entries.insert(number, Entry { job: Arc::clone(&job), key, waiters: 1, keep_until: now });
        self.queue.push_back(Arc::clone(&job));
        job
    }

    /// A waiter leaves; `returns` says whether it announced to come back for an answer that it did not get.
    pub(crate) fn leave(&mut self, number: u64, returns: bool, now: Instant) -> Absence {
        let keep_until = now + self.retry_grace;
        let Some(entry) = self.entries.get_mut(&number) else { return Absence::Settled };
        entry.waiters = entry.waiters.saturating_sub(1);
        if returns && !self.closed {
            entry.keep_until = entry.keep_until.max(keep_until);
        }
        self.settle(number, now)
    }

    /// Decides about a job for which perhaps nobody waits any more.
    pub(crate) fn settle(&mut self, number: u64, now: Instant) -> Absence {
        let Some(entry) = self.entries.get(&number) else { return Absence::Settled };
        if entry.waiters > 0 {
            return Absence::Settled;
        }
        if entry.key.is_some() && entry.keep_until > now {
            return Absence::Until(entry.keep_until);
        }
        self.forget(number)
    }

    /// The next job for the worker, which then counts as running.
    pub(crate) fn take(&mut self) -> Option<Arc<Job>> {
        self.running = self.queue.pop_front();
        self.running.clone()
    }

    /// The worker is done with its job.
    pub(crate) fn finish(&mut self, job: &Job, outcome: Outcome, now: Instant) {
        self.running = None;
        let kept_for_retry = outcome.is_ok();
        job.publish(outcome);
        let Some(entry) = self.entries.get(&job.number) else { return };
        if entry.waiters == 0 && kept_for_retry && entry.keep_until > now {
            return;
        }
        self.unkey(job.number);
        self.settle(job.number, now);
    }

    /// Ends a job early with this error for all who wait for it.
    pub(crate) fn break_off(&mut self, job: &Job, error: GenerateError) {
        job.cancel.cancel();
        job.publish(Err(error));
        self.queue.retain(|queued| queued.number != job.number);
        self.unkey(job.number);
    }

    /// Admits nothing more, and answers whoever waits for a job that has not begun.
    pub(crate) fn close(&mut self) {
        self.closed = true;
        for job in self.queue.clone() {
            self.break_off(&job, unavailable());
        }
        let unwanted: Vec<u64> =
            self.entries.iter().filter(|(_, entry)| entry.waiters == 0).map(|(number, _)| *number).collect();
        for number in unwanted {
            self.forget(number);
        }
    }

    /// Closes, and breaks the running job off too.
    pub(crate) fn abort(&mut self) {
        self.close();
        if let Some(job) = self.running.clone() {
            self.break_off(&job, unavailable());
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    pub(crate) fn waiting(&self) -> usize {
        self.queue.len()
    }

    pub(crate) fn running(&self) -> usize {
        usize::from(self.running.is_some())
    }

    fn unkey(&mut self, number: u64) {
        if let Some(key) = self.entries.get_mut(&number).and_then(|entry| entry.key.take()) {
            self.by_key.remove(&key);
        }
    }

    fn forget(&mut self, number: u64) -> Absence {
        self.unkey(number);
        let Some(Entry { job, .. }) = self.entries.remove(&number) else { return Absence::Settled };
        if job.is_done() {
            return Absence::Settled;
        }
        let queued = self.queue.len();
        self.break_off(&job, GenerateError::new(ErrorKind::Cancelled, "every client left"));
        Absence::Abandoned(if self.queue.len() < queued { "queued" } else { "running" })
    }
}

fn unavailable() -> GenerateError {
    GenerateError::new(ErrorKind::Unavailable, "the server is shutting down")
}

fn overloaded(message: &str) -> GenerateError {
    GenerateError::new(ErrorKind::Overloaded, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::{Drawn, tests::request};
    use bytes::Bytes;
    use pentimento_request::Verdict;
    use std::num::NonZeroU32;

    const GRACE: Duration = Duration::from_secs(5);

    fn ledger(places: usize) -> Ledger {
        Ledger::new(&limits(places))
    }

    fn limits(places: usize) -> Limits {
        Limits { places, per_minute: None, retry_grace: GRACE, deadline: None }
    }

    fn admit(ledger: &mut Ledger, key: Option<&str>, now: Instant) -> Arc<Job> {
        ledger.admit(&request(1), key, now).expect("a free place").job
    }

    fn drawn() -> Outcome {
        Ok(Drawn { png: Bytes::new(), seed: 1, verdict: Verdict::Unchecked })
    }

    fn kind(job: &Job) -> Option<ErrorKind> {
        let outcome = job.outcome.borrow().clone()?;
        outcome.as_ref().as_ref().err().map(GenerateError::kind)
    }

    #[test]
    fn places_are_counted_beside_the_running_job() {
        let (mut ledger, now) = (ledger(2), Instant::now());
        for _ in 0..3 {
            admit(&mut ledger, None, now);
        }
        let refused = ledger.admit(&request(1), None, now).err().expect("full before the worker woke up");
        assert_eq!(refused.kind(), ErrorKind::Overloaded);
        let running = ledger.take().expect("a job");
        assert!(ledger.admit(&request(1), None, now).is_err(), "two wait, one runs");
        ledger.finish(&running, drawn(), now);
        assert!(ledger.admit(&request(1), None, now).is_ok());
    }

    #[test]
    fn jobs_beyond_the_rate_are_refused_and_those_that_join_are_not_counted() {
        let mut ledger = Ledger::new(&Limits { per_minute: NonZeroU32::new(2), ..limits(9) });
        let now = Instant::now();
        for key in ["a", "a", "a", "b"] {
            admit(&mut ledger, Some(key), now);
        }
        let refused = ledger.admit(&request(1), Some("c"), now).err().expect("a third job");
        assert_eq!(refused.kind(), ErrorKind::Overloaded);
        assert!(ledger.admit(&request(1), Some("b"), now).expect("joins").joined);
    }

    #[test]
    fn a_queued_job_gives_its_place_back_when_its_client_leaves() {
        let (mut ledger, now) = (ledger(0), Instant::now());
        let job = admit(&mut ledger, None, now);
        assert_eq!(ledger.leave(job.number, false, now), Absence::Abandoned("queued"));
        assert_eq!((ledger.waiting(), kind(&job)), (0, Some(ErrorKind::Cancelled)));
        assert!(ledger.admit(&request(1), None, now).is_ok());
    }

    #[test]
    fn the_last_waiter_to_leave_cancels() {
        let (mut ledger, now) = (ledger(1), Instant::now());
        let job = admit(&mut ledger, Some("a"), now);
        let again = ledger.admit(&request(2), Some("a"), now).expect("joins");
        assert!(again.joined && again.job.number == job.number);
        ledger.take();
        assert_eq!(ledger.leave(job.number, false, now), Absence::Settled);
        assert!(!job.cancel.is_cancelled());
        assert_eq!(ledger.leave(job.number, false, now), Absence::Abandoned("running"));
        assert!(job.cancel.is_cancelled());
        assert!(!ledger.admit(&request(1), Some("a"), now).expect("a place").joined, "the old job is lost");
    }

    #[test]
    fn a_client_that_returns_in_time_finds_its_job() {
        let (mut ledger, now) = (ledger(1), Instant::now());
        let job = admit(&mut ledger, Some("a"), now);
        assert_eq!(ledger.leave(job.number, true, now), Absence::Until(now + GRACE));
        assert!(ledger.admit(&request(1), Some("a"), now).expect("joins").joined);
        assert_eq!(ledger.settle(job.number, now + GRACE), Absence::Settled, "somebody waits again");
        let later = now + Duration::from_secs(1);
        assert_eq!(ledger.leave(job.number, true, later), Absence::Until(later + GRACE));
        assert_eq!(ledger.settle(job.number, now + GRACE), Absence::Until(later + GRACE));
        assert_eq!(ledger.settle(job.number, later + GRACE), Absence::Abandoned("queued"));
    }

    #[test]
    fn a_picture_that_is_finished_while_its_client_is_away_waits_for_it() {
        let (mut ledger, now) = (ledger(1), Instant::now());
        let job = admit(&mut ledger, Some("a"), now);
        ledger.take();
        ledger.leave(job.number, true, now);
        ledger.finish(&job, drawn(), now);
        let again = ledger.admit(&request(1), Some("a"), now).expect("joins");
        assert!(again.joined && again.job.is_done());
        ledger.leave(job.number, false, now + GRACE);
        assert!(ledger.entries.is_empty() && ledger.by_key.is_empty());
    }

    #[test]
    fn an_answered_job_leaves_nothing_behind() {
        let (mut ledger, now) = (ledger(1), Instant::now());
        for returns in [false, true] {
            let job = admit(&mut ledger, Some("a"), now);
            ledger.take();
            ledger.finish(&job, drawn(), now);
            assert!(ledger.by_key.is_empty(), "a finished job with a waiter is not joined");
            assert_eq!(ledger.leave(job.number, returns, now), Absence::Settled);
            assert!(ledger.entries.is_empty());
        }
    }

    #[test]
    fn a_failure_is_not_kept_for_a_retry() {
        let (mut ledger, now) = (ledger(1), Instant::now());
        let job = admit(&mut ledger, Some("a"), now);
        ledger.take();
        ledger.leave(job.number, true, now);
        ledger.finish(&job, Err(GenerateError::new(ErrorKind::Internal, "lost")), now);
        assert!(ledger.entries.is_empty() && ledger.by_key.is_empty());
    }

    #[test]
    fn the_first_outcome_stands() {
        let (mut ledger, now) = (ledger(1), Instant::now());
        let job = admit(&mut ledger, Some("a"), now);
        ledger.take();
        ledger.break_off(&job, GenerateError::new(ErrorKind::DeadlineExceeded, "too long"));
        assert_eq!(ledger.running(), 1, "the worker is not back yet");
        assert!(!ledger.admit(&request(1), Some("a"), now).expect("a place").joined, "no joining a dead job");
        ledger.finish(&job, drawn(), now);
        assert_eq!(kind(&job), Some(ErrorKind::DeadlineExceeded));
    }

    #[test]
    fn closing_answers_the_queue_and_spares_the_running_job_while_it_is_wanted() {
        let (mut ledger, now) = (ledger(4), Instant::now());
        let running = admit(&mut ledger, None, now);
        let queued = admit(&mut ledger, None, now);
        ledger.take();
        ledger.close();
        assert_eq!((kind(&queued), kind(&running)), (Some(ErrorKind::Unavailable), None));
        assert!(!running.cancel.is_cancelled());
        let refused = ledger.admit(&request(1), None, now).err().expect("closed");
        assert_eq!(refused.kind(), ErrorKind::Unavailable);
        assert_eq!(
            ledger.leave(running.number, true, now),
            Absence::Abandoned("running"),
            "no grace any more"
        );
    }

    #[test]
    fn closing_cancels_a_running_job_that_nobody_waits_for() {
        let (mut ledger, now) = (ledger(4), Instant::now());
        let running = admit(&mut ledger, Some("a"), now);
        ledger.take();
        ledger.leave(running.number, true, now);
        ledger.close();
        assert!(running.cancel.is_cancelled());
    }

    #[test]
    fn one_job_has_so_many_waiters_and_no_more() {
        let (mut ledger, now) = (ledger(1), Instant::now());
        for _ in 0..MOST_WAITERS {
            assert!(ledger.admit(&request(1), Some("a"), now).is_ok());
        }
        assert!(ledger.admit(&request(1), Some("a"), now).is_err());
    }
}
