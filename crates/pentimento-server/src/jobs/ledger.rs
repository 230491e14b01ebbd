//! Who waits for which job: pure bookkeeping, without threads or timers.
//!
//! A job is in `entries` while somebody waits for it, or may come back for it. It is in `by_key` while further requests
//! for the same work may join it, in `queue` until the worker takes it, and in `running` until the worker is done with
//! it, even if it was broken off before. The first outcome that is published stands.
//!
//! Admission looks, in this order, at the queue's places, at what the caller may have at once, at the memory of the
//! pictures that wait, and at rates.

use super::{Ask, Job, Limits, Outcome, Work, fair::FairQueue};
use crate::quota::Quotas;
use governor::{DefaultDirectRateLimiter, Quota as Rate, RateLimiter};
use pentimento_request::{ErrorKind, GenerateError};
use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, Instant},
};

/// Requests that may wait for one job. Clients retry one after the other, three to five times in all; what goes far
/// beyond that holds decoded pictures in memory for nothing.
const MOST_WAITERS: usize = 16;

pub(crate) struct Ledger {
    places: usize,
    memory: usize,
    rate: Option<DefaultDirectRateLimiter>,
    quotas: Quotas,
    /// Of callers with a rate of their own; with the rate, which a new configuration may change.
    rates: HashMap<String, (NonZeroU32, DefaultDirectRateLimiter)>,
    retry_grace: Duration,
    last_number: u64,
    entries: HashMap<u64, Entry>,
    by_key: HashMap<String, u64>,
    queue: FairQueue,
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
            memory: limits.memory,
            rate: limits.per_minute.map(|count| RateLimiter::direct(Rate::per_minute(count))),
            quotas: limits.quotas.clone(),
            rates: HashMap::new(),
            retry_grace: limits.retry_grace,
            last_number: 0,
            entries: HashMap::new(),
            by_key: HashMap::new(),
            queue: FairQueue::default(),
            running: None,
            closed: false,
        }
    }

    /// What callers may have from now on.
    pub(crate) fn set_quotas(&mut self, quotas: Quotas) {
        self.rates.retain(|caller, (rate, _)| quotas.of(Some(caller)).per_minute == Some(*rate));
        self.quotas = quotas;
    }

    /// Joins the job of the same key, or queues a new one.
    pub(crate) fn admit(
        &mut self,
        ask: &Ask<'_>,
        work: impl FnOnce() -> Work,
        now: Instant,
    ) -> Result<Admission, GenerateError> {
        if self.closed {
            return Err(unavailable());
        }
        if let Some(job) = ask.key.and_then(|key| self.join(key)) {
            return job.map(|job| Admission { job, joined: true });
        }
        self.has_room(ask)?;
        self.keeps_its_rate(ask.caller)?;
        Ok(Admission { job: self.queue_up(ask, work(), now), joined: false })
    }

    /// Queues what was admitted in an earlier life of the server: no limit is asked.
    pub(crate) fn restore(&mut self, ask: &Ask<'_>, work: Work, now: Instant) -> Arc<Job> {
        self.queue_up(ask, work, now)
    }

    /// Whether a job would find a place.
    pub(crate) fn has_room(&self, ask: &Ask<'_>) -> Result<(), GenerateError> {
        if self.closed {
            return Err(unavailable());
        }
        // The worker may not yet have taken up a job that it is free to take: count places beside the running one.
        if self.queue.len() + self.running() > self.places {
            return Err(overloaded("the queue is full"));
        }
        let quota = self.quotas.of(ask.caller);
        let waiting = self.queue.of(ask.caller);
        let running =
            usize::from(self.running.as_ref().is_some_and(|job| job.caller.as_deref() == ask.caller));
        if quota.at_once.is_some_and(|most| waiting + running >= most.get()) {
            return Err(overloaded("the caller has as many jobs at once as it may"));
        }
        // As above: beside the one that runs, or could run.
        if waiting + self.running() > quota.places(self.places) {
            return Err(overloaded("the caller's share of the queue is full"));
        }
        let held: usize = self.queue.all().iter().chain(&self.running).map(|job| job.cost).sum();
        if held > 0 && held + ask.cost > self.memory {
            return Err(overloaded("the pictures that wait fill the memory they may"));
        }
        Ok(())
    }

    fn keeps_its_rate(&mut self, caller: Option<&str>) -> Result<(), GenerateError> {
        if let Some(rate) = self.quotas.of(caller).per_minute {
            let caller = caller.unwrap_or_default();
            let (_, limiter) = self
                .rates
                .entry(caller.to_owned())
                .or_insert_with(|| (rate, RateLimiter::direct(Rate::per_minute(rate))));
            if limiter.check().is_err() {
                return Err(too_often("the caller begins more jobs per minute than it may"));
            }
        }
        if self.rate.as_ref().is_some_and(|rate| rate.check().is_err()) {
            return Err(too_often("more jobs were begun in the last minute than the configuration allows"));
        }
        Ok(())
    }

    fn join(&mut self, key: &str) -> Option<Result<Arc<Job>, GenerateError>> {
        let entry = self.entries.get_mut(self.by_key.get(key)?)?;
        if entry.waiters >= MOST_WAITERS {
            return Some(Err(overloaded("too many requests wait for the same work")));
        }
        entry.waiters += 1;
        Some(Ok(Arc::clone(&entry.job)))
    }

    fn queue_up(&mut self, ask: &Ask<'_>, work: Work, now: Instant) -> Arc<Job> {
        self.last_number += 1;
        let number = self.last_number;
        let job = Arc::new(Job::new(number, ask, work, now));
        let key = ask.key.map(str::to_owned);
        if let Some(key) = &key {
            self.by_key.insert(key.clone(), number);
        }
        self.entries.insert(number, Entry { job: Arc::clone(&job), key, waiters: 1, keep_until: now });
        self.queue.push(Arc::clone(&job));
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
        self.running = self.queue.pop();
        if let Some(job) = &self.running {
            job.begin();
        }
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
        self.queue.remove(job);
        self.unkey(job.number);
    }

    /// Admits nothing more, and answers whoever waits for a job that has not begun.
    pub(crate) fn close(&mut self) {
        self.closed = true;
        for job in self.queue.all() {
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

fn too_often(message: &str) -> GenerateError {
    GenerateError::new(ErrorKind::RateLimited, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        jobs::{Drawn, tests::request},
        quota::Quota,
    };
    use bytes::Bytes;
    use pentimento_request::Verdict;
    use std::num::{NonZeroU32, NonZeroUsize};

    const GRACE: Duration = Duration::from_secs(5);

    fn ledger(places: usize) -> Ledger {
        Ledger::new(&limits(places))
    }

    fn limits(places: usize) -> Limits {
        Limits {
            places,
            memory: 1000,
            per_minute: None,
            retry_grace: GRACE,
            deadline: None,
            quotas: Quotas::default(),
        }
    }

    fn asking(key: Option<&str>) -> Ask<'_> {
        Ask { key, caller: None, cost: 0, deadline: None }
    }

    fn of<'a>(caller: &'a str) -> Ask<'a> {
        Ask { caller: Some(caller), ..asking(None) }
    }

    fn work() -> Work {
        Work::Request(Box::new(request(1)))
    }

    fn try_admit(ledger: &mut Ledger, key: Option<&str>, now: Instant) -> Result<Admission, GenerateError> {
        ledger.admit(&asking(key), work, now)
    }

    fn admit(ledger: &mut Ledger, key: Option<&str>, now: Instant) -> Arc<Job> {
        try_admit(ledger, key, now).expect("a free place").job
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
        let refused = try_admit(&mut ledger, None, now).err().expect("full before the worker woke up");
        assert_eq!(refused.kind(), ErrorKind::Overloaded);
        let running = ledger.take().expect("a job");
        assert!(try_admit(&mut ledger, None, now).is_err(), "two wait, one runs");
        ledger.finish(&running, drawn(), now);
        assert!(try_admit(&mut ledger, None, now).is_ok());
    }

    #[test]
    fn jobs_beyond_the_rate_are_refused_and_those_that_join_are_not_counted() {
        let mut ledger = Ledger::new(&Limits { per_minute: NonZeroU32::new(2), ..limits(9) });
        let now = Instant::now();
        for key in ["a", "a", "a", "b"] {
            admit(&mut ledger, Some(key), now);
        }
        let refused = try_admit(&mut ledger, Some("c"), now).err().expect("a third job");
        assert_eq!(refused.kind(), ErrorKind::RateLimited);
        assert!(try_admit(&mut ledger, Some("b"), now).expect("joins").joined);
    }

    #[test]
    fn each_caller_has_its_own_limits_and_a_new_configuration_counts_at_once() {
        let (mut ledger, now) = (ledger(8), Instant::now());
        let quota = |per_minute, at_once, queue_share| Quota {
            per_minute: NonZeroU32::new(per_minute),
            at_once: NonZeroUsize::new(at_once),
            queue_share,
        };
        let named =
            [("rate", quota(1, 0, None)), ("few", quota(0, 2, None)), ("share", quota(0, 0, Some(0.25)))];
        let named = named.map(|(name, quota)| (name.to_owned(), quota));
        ledger.set_quotas(Quotas { of: named.into(), ..Quotas::default() });
        let mut kinds = |caller: &'static str| {
            let asked =
                [(); 4].map(|()| ledger.admit(&of(caller), work, now).err().map(|error| error.kind()));
            asked.map(|kind| kind.unwrap_or(ErrorKind::Cancelled))
        };
        use ErrorKind::{Cancelled as Fine, Overloaded, RateLimited};
        assert_eq!(kinds("rate"), [Fine, RateLimited, RateLimited, RateLimited]);
        assert_eq!(kinds("few"), [Fine, Fine, Overloaded, Overloaded]);
        assert_eq!(
            kinds("share"),
            [Fine, Fine, Fine, Overloaded],
            "a quarter of 8 wait beside the one that may run"
        );
        ledger.set_quotas(Quotas::default());
        assert!(ledger.admit(&of("rate"), work, now).is_ok());
    }

    #[test]
    fn pictures_that_wait_have_a_bound_together() {
        let (mut ledger, now) = (ledger(8), Instant::now());
        let costing = |cost| Ask { cost, ..asking(None) };
        assert!(ledger.admit(&costing(5000), work, now).is_ok(), "one alone may be as large as it is");
        assert!(ledger.admit(&costing(1), work, now).is_err());
        let first = ledger.take().expect("a job");
        ledger.finish(&first, drawn(), now);
        assert!(ledger.admit(&costing(900), work, now).is_ok());
        assert!(ledger.admit(&costing(200), work, now).is_err());
        assert!(ledger.admit(&costing(100), work, now).is_ok());
    }

    #[test]
    fn what_is_restored_finds_its_place_however_full_the_queue_is() {
        let (mut ledger, now) = (ledger(1), Instant::now());
        for _ in 0..5 {
            ledger.restore(&asking(None), work(), now);
        }
        assert_eq!(ledger.waiting(), 5);
        assert!(try_admit(&mut ledger, None, now).is_err());
    }

    #[test]
    fn a_queued_job_gives_its_place_back_when_its_client_leaves() {
        let (mut ledger, now) = (ledger(0), Instant::now());
        let job = admit(&mut ledger, None, now);
        assert_eq!(ledger.leave(job.number, false, now), Absence::Abandoned("queued"));
        assert_eq!((ledger.waiting(), kind(&job)), (0, Some(ErrorKind::Cancelled)));
        assert!(try_admit(&mut ledger, None, now).is_ok());
    }

    #[test]
    fn the_last_waiter_to_leave_cancels() {
        let (mut ledger, now) = (ledger(1), Instant::now());
        let job = admit(&mut ledger, Some("a"), now);
        let again = try_admit(&mut ledger, Some("a"), now).expect("joins");
        assert!(again.joined && again.job.number == job.number);
        ledger.take();
        assert_eq!(ledger.leave(job.number, false, now), Absence::Settled);
        assert!(!job.cancel.is_cancelled());
        assert_eq!(ledger.leave(job.number, false, now), Absence::Abandoned("running"));
        assert!(job.cancel.is_cancelled());
        assert!(!try_admit(&mut ledger, Some("a"), now).expect("a place").joined, "the old job is lost");
    }

    #[test]
    fn a_client_that_returns_in_time_finds_its_job() {
        let (mut ledger, now) = (ledger(1), Instant::now());
        let job = admit(&mut ledger, Some("a"), now);
        assert_eq!(ledger.leave(job.number, true, now), Absence::Until(now + GRACE));
        assert!(try_admit(&mut ledger, Some("a"), now).expect("joins").joined);
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
        let again = try_admit(&mut ledger, Some("a"), now).expect("joins");
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
        assert!(!try_admit(&mut ledger, Some("a"), now).expect("a place").joined, "no joining a dead job");
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
        let refused = try_admit(&mut ledger, None, now).err().expect("closed");
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
            assert!(try_admit(&mut ledger, Some("a"), now).is_ok());
        }
        assert!(try_admit(&mut ledger, Some("a"), now).is_err());
    }
}
