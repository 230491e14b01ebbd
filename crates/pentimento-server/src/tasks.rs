//! Tasks: requests that are answered with an id, and later with their picture, over ends and starts of the server.
//!
//! A task is accepted when its record and its request are on the disk; only then its id is answered. It waits in the same
//! queue as everything else. How it ended is told when that is on the disk, and never changes after: where the disk
//! refuses, the end is tried again every second and the task counts as running meanwhile.
//!
//! A server that is ended or killed leaves its tasks in the database; the next one queues them again, with the seed that was
//! drawn at first, so that the picture is the same. A task that was begun [`MOST_ATTEMPTS`] times and never ended is
//! reported as failed: it may be what kills the server.
//!
//! Time: [`TASK_LIFETIME`] after its end a task is forgotten; one that has waited as long is expired.

use crate::{
    clock::Timeline,
    error::{ServerError, ServerErrorKind, chain},
    jobs::{Ask, Drawn, Job, Jobs, Outcome, Ticket, Work},
    keep::{DatabaseError, EndState, Keep, StoredError, StoredTask, StoredVerdict, pack, unpack},
    metrics::Metrics,
    results::Results,
};
use pentimento_protocols::{TaskName, TaskState};
use pentimento_request::{ErrorKind, GenerateError, GenerationRequest};
use std::{
    cell::Cell,
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::watch,
    task,
    time::{interval, sleep},
};
use tracing::{error, info, warn};

/// How long a task is known after its end, and how long it may wait.
pub(crate) const TASK_LIFETIME: Duration = Duration::from_secs(12 * 3600);

/// How often a task is begun before it counts as what ends the server.
const MOST_ATTEMPTS: u32 = 3;

/// How often an end that could not be kept is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// What has become of a task.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) id: String,
    pub(crate) state: TaskState,
    /// The picture of one that is done.
    pub(crate) picture: Option<Drawn>,
}

/// The tasks of one server.
pub(crate) struct Tasks {
    keep: Arc<Keep>,
    results: Arc<Results>,
    time: Timeline,
    metrics: Metrics,
    index: Mutex<HashMap<String, Known>>,
    /// Tasks that are waited for.
    open: watch::Sender<usize>,
}

/// A task as it is on the disk, and its job in this run of the server.
struct Known {
    task: StoredTask,
    job: Option<Arc<Job>>,
}

impl Tasks {
    /// Reads the tasks of earlier runs, and queues again what has not ended.
    pub(crate) fn restore(
        keep: Arc<Keep>,
        results: Arc<Results>,
        time: Timeline,
        jobs: &Jobs,
        metrics: Metrics,
    ) -> Result<Arc<Self>, ServerError> {
        let mut kept = keep
            .database
            .all()
            .map_err(|error| ServerError::caused_by(ServerErrorKind::Data, "cannot read the tasks", error))?;
        kept.sort_by_key(|(_, task)| task.submitted);
        let (index, open) = (Mutex::default(), watch::Sender::new(0));
        let tasks = Arc::new(Self { keep, results, time, metrics, index, open });
        let mut restored = 0;
        for (id, task) in kept {
            if task.end.is_some() {
                tasks.index().insert(id, Known { task, job: None });
                continue;
            }
            restored += 1;
            tasks.metrics.task_event("restored");
            tasks.requeue(id, task, jobs);
        }
        if restored > 0 {
            info!(restored, "tasks of an earlier run are queued again");
        }
        Ok(tasks)
    }

    fn requeue(self: &Arc<Self>, id: String, task: StoredTask, jobs: &Jobs) {
        let left = TASK_LIFETIME.saturating_sub(self.time.age(task.submitted));
        let caller = task.caller.clone();
        let ask = Ask { key: None, caller: caller.as_deref(), cost: 0, deadline: Some(left) };
        let ticket = jobs.restore(&ask, self.work(&id));
        self.follow(id, task, ticket);
    }

    /// Accepts a task.
    ///
    /// # Errors
    /// Of kind `Overloaded`, `RateLimited`, `Unavailable` or `Internal`; there is no task then.
    pub(crate) async fn submit(
        self: &Arc<Self>,
        jobs: &Arc<Jobs>,
        request: GenerationRequest,
        scope: String,
        caller: Option<String>,
    ) -> Result<Told, GenerateError> {
        let (tasks, jobs) = (Arc::clone(self), Arc::clone(jobs));
        // On its own, so that a client that leaves between two steps leaves no half-accepted task.
        let accepting = task::spawn(async move { tasks.accept(&jobs, request, scope, caller).await });
        accepting.await.unwrap_or_else(|error| Err(internal("accepting a task failed", error)))
    }

    async fn accept(
        self: &Arc<Self>,
        jobs: &Jobs,
        request: GenerationRequest,
        scope: String,
        caller: Option<String>,
    ) -> Result<Told, GenerateError> {
        let asked_by = caller.clone();
        let ask = Ask { key: None, caller: asked_by.as_deref(), cost: 0, deadline: Some(TASK_LIFETIME) };
        jobs.has_room(&ask)?;
        let id = new_id()?;
        let task = StoredTask { scope, caller, submitted: self.time.now(), attempts: 0, end: None };
        self.store(&id, &task, request).await?;
        let ticket = match jobs.submit(&ask, || self.work(&id), false) {
            Ok(ticket) => ticket,
            Err(refused) => {
                self.forget(vec![id]).await;
                return Err(refused);
            }
        };
        self.follow(id.clone(), task, ticket);
        self.metrics.task_event("submitted");
        Ok(Told { id, state: TaskState::Queued, picture: None })
    }

    async fn store(
        &self,
        id: &str,
        stored: &StoredTask,
        request: GenerationRequest,
    ) -> Result<(), GenerateError> {
        let (keep, id, stored) = (Arc::clone(&self.keep), id.to_owned(), stored.clone());
        let kept = task::spawn_blocking(move || {
            let parcel = pack(&request).map_err(|error| internal("a task cannot be packed", error))?;
            let kept = keep.database.insert(&id, &stored, &parcel);
            kept.map_err(|error| internal("a task cannot be kept", error))
        });
        kept.await.unwrap_or_else(|error| Err(internal("keeping a task failed", error)))
    }

    /// What the worker does first: it counts the attempt and reads the request.
    fn work(self: &Arc<Self>, id: &str) -> Work {
        let (keep, id) = (Arc::clone(&self.keep), id.to_owned());
        Work::Kept(Box::new(move || {
            let begun = keep.database.change(&id, |task| task.attempts += 1);
            match begun {
                Ok(Some(task)) if task.end.is_some() => {
                    return Err(GenerateError::new(ErrorKind::Cancelled, "the task has ended"));
                }
                Ok(Some(task)) if task.attempts > MOST_ATTEMPTS => {
                    let message = "the server ended each time while it drew this task";
                    return Err(GenerateError::new(ErrorKind::Internal, message));
                }
                Ok(_) => {}
                // A full disk does not keep the task from being drawn.
                Err(error) => warn!(task = id, error = chain(&error), "an attempt cannot be counted"),
            }
            let parcel =
                keep.database.request(&id).map_err(|error| internal("a task cannot be read", error))?;
            let parcel = parcel.ok_or_else(|| {
                GenerateError::new(ErrorKind::Internal, "the request of a task is not there any more")
            })?;
            unpack(&parcel).map_err(|message| GenerateError::new(ErrorKind::Internal, message))
        }))
    }

    /// Notes the task, and waits for its outcome beside everything else.
    fn follow(self: &Arc<Self>, id: String, task: StoredTask, ticket: Ticket) {
        let job = Some(Arc::clone(ticket.job()));
        self.index().insert(id.clone(), Known { task, job });
        self.open.send_modify(|open| *open += 1);
        let tasks = Arc::clone(self);
        task::spawn(async move {
            let counted = Counted(&tasks.open);
            tasks.wait(&id, ticket).await;
            drop(counted);
        });
    }

    async fn wait(&self, id: &str, mut ticket: Ticket) {
        let outcome = ticket.outcome().await;
        let Some(end) = self.end_of(id, &outcome).await else {
            return self.leave_to_the_next(id, ticket.job().has_begun()).await;
        };
        let mut told = false;
        while let Err(error) = self.end(id, end.clone()).await {
            if !std::mem::replace(&mut told, true) {
                error!(task = id, error = chain(&error), "the end of a task cannot be kept yet");
            }
            sleep(TRY_AGAIN).await;
        }
    }

    /// An orderly end of the server is no attempt that failed.
    async fn leave_to_the_next(&self, id: &str, begun: bool) {
        if !begun {
            return;
        }
        let (keep, id) = (Arc::clone(&self.keep), id.to_owned());
        let change =
            move || keep.database.change(&id, |task| task.attempts = task.attempts.saturating_sub(1));
        if let Ok(Err(error)) = task::spawn_blocking(change).await {
            warn!(error = chain(&error), "a task's attempts cannot be corrected");
        }
    }

    /// How a task ends that has this outcome. `None`: not in this run of the server.
    async fn end_of(&self, id: &str, outcome: &Outcome) -> Option<EndState> {
        Some(match outcome {
            Ok(drawn) => match self.results.keep(id, drawn.png.clone(), 2 * TASK_LIFETIME).await {
                Ok(result) => {
                    EndState::Done { result, seed: drawn.seed, verdict: StoredVerdict::of(drawn.verdict) }
                }
                Err(cause) => {
                    let error = internal("a task's picture cannot be kept", cause);
                    EndState::Failed(StoredError::of(&error))
                }
            },
            Err(error) => match error.kind() {
                ErrorKind::Unavailable => return None,
                ErrorKind::DeadlineExceeded => EndState::Expired,
                ErrorKind::Cancelled => EndState::Cancelled,
                _ => EndState::Failed(StoredError::of(error)),
            },
        })
    }

    /// Brings an end to the disk, and then tells it. The first end stands.
    async fn end(&self, id: &str, end: EndState) -> Result<Option<StoredTask>, DatabaseError> {
        let (keep, key, now) = (Arc::clone(&self.keep), id.to_owned(), self.time.now());
        let event = state_name(&end);
        let changed = task::spawn_blocking(move || {
            let was_first = Cell::new(false);
            let task = keep.database.change(&key, |task| {
                was_first.set(true);
                task.end = Some((now, end.clone()));
            })?;
            Ok((task, was_first.get()))
        });
        let (task, was_first) = changed.await.unwrap_or_else(|error| Err(DatabaseError::other(error)))?;
        if let Some(task) = task.as_ref().filter(|_| was_first) {
            self.metrics.task_ended(event, self.time.age(task.submitted));
        }
        let mut index = self.index();
        match (&task, index.get_mut(id)) {
            (Some(task), Some(known)) => *known = Known { task: task.clone(), job: None },
            _ => drop(index.remove(id)),
        }
        Ok(task)
    }

    /// What has become of a task.
    ///
    /// # Errors
    /// That of a task that failed; of kind `Unavailable` where its picture cannot be read for now.
    pub(crate) async fn poll(&self, name: &TaskName) -> Result<Told, GenerateError> {
        let told = |state| Told { id: name.id.clone(), state, picture: None };
        let Some((task, begun)) = self.known(name) else { return Ok(told(TaskState::NotFound)) };
        let Some((ended, end)) = task.end else {
            return Ok(told(if begun { TaskState::Running } else { TaskState::Queued }));
        };
        if self.time.age(ended) > TASK_LIFETIME {
            return Ok(told(TaskState::NotFound));
        }
        match end {
            EndState::Failed(error) => Err(error.back()),
            EndState::Cancelled => Ok(told(TaskState::Cancelled)),
            EndState::Expired => Ok(told(TaskState::Expired)),
            EndState::Done { result, seed, verdict } => {
                let png = self.results.read(&result).await.map_err(|cause| {
                    error!(task = name.id, error = chain(&cause), "a task's picture cannot be read");
                    GenerateError::caused_by(
                        ErrorKind::Unavailable,
                        "the picture cannot be read for now",
                        cause,
                    )
                })?;
                let picture = Some(Drawn { png, seed, verdict: verdict.back() });
                Ok(Told { picture, ..told(TaskState::Done) })
            }
        }
    }

    /// Breaks a task off, unless it has ended; answers how it then stands.
    ///
    /// # Errors
    /// As [`Tasks::poll`]; of kind `Internal` where it cannot be kept that it was broken off.
    pub(crate) async fn cancel(&self, jobs: &Jobs, name: &TaskName) -> Result<Told, GenerateError> {
        let Some((task, _)) = self.known(name) else { return self.poll(name).await };
        if task.end.is_none() {
            let job = self.index().get(&name.id).and_then(|known| known.job.clone());
            let ended = self.end(&name.id, EndState::Cancelled).await;
            ended.map_err(|error| internal("a task cannot be broken off", error))?;
            if let Some(job) = job {
                jobs.break_off(&job, GenerateError::new(ErrorKind::Cancelled, "its caller broke it off"));
            }
        }
        self.poll(name).await
    }

    /// The task, if it is this scope's, and whether it has been begun.
    fn known(&self, name: &TaskName) -> Option<(StoredTask, bool)> {
        let index = self.index();
        let known = index.get(&name.id).filter(|known| known.task.scope == name.scope)?;
        Some((known.task.clone(), known.job.as_ref().is_some_and(|job| job.has_begun())))
    }

    /// Tells the metrics how many tasks are known in each state.
    pub(crate) fn count(&self, metrics: &Metrics) {
        let mut counts = STATES.map(|state| (state, 0));
        for known in self.index().values() {
            let state = match (&known.task.end, &known.job) {
                (Some((_, end)), _) => state_name(end),
                (None, Some(job)) if job.has_begun() => "running",
                (None, _) => "queued",
            };
            counts.iter_mut().filter(|(name, _)| *name == state).for_each(|(_, count)| *count += 1);
        }
        counts.into_iter().for_each(|(state, count)| metrics.tasks(state, count));
    }

    /// Returns when no task is waited for any more: those that ran have ended, and it is kept how.
    pub(crate) async fn settled(&self) {
        // An error would mean that the sender is gone, but it lives in `self`.
        let _ = self.open.subscribe().wait_for(|open| *open == 0).await;
    }

    /// Forgets tasks and results whose time is over, again and again.
    pub(crate) async fn sweep(self: Arc<Self>, every: Duration) {
        let mut ticks = interval(every);
        loop {
            ticks.tick().await;
            self.sweep_once().await;
        }
    }

    async fn sweep_once(&self) {
        let over = |known: &Known| {
            known.task.end.as_ref().is_some_and(|(ended, _)| self.time.age(*ended) > TASK_LIFETIME)
        };
        let ids: Vec<String> =
            self.index().iter().filter(|(_, known)| over(known)).map(|(id, _)| id.clone()).collect();
        if !ids.is_empty() {
            ids.iter().for_each(|_| self.metrics.task_event("forgotten"));
            self.forget(ids.clone()).await;
            self.index().retain(|id, _| !ids.contains(id));
        }
        if let Err(error) = self.results.sweep().await {
            warn!(error = chain(&error), "old results cannot be deleted for now");
        }
    }

    async fn forget(&self, ids: Vec<String>) {
        let keep = Arc::clone(&self.keep);
        let forgotten = task::spawn_blocking(move || keep.database.remove(&ids)).await;
        if let Ok(Err(error)) = forgotten {
            warn!(error = chain(&error), "tasks cannot be forgotten for now");
        }
    }

    fn index(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The states of tasks, as metrics name them.
const STATES: [&str; 6] = ["queued", "running", "done", "failed", "cancelled", "expired"];

fn state_name(end: &EndState) -> &'static str {
    match end {
        EndState::Done { .. } => "done",
        EndState::Failed(_) => "failed",
        EndState::Cancelled => "cancelled",
        EndState::Expired => "expired",
    }
}

/// Counts a task as waited for until it is dropped.
struct Counted<'a>(&'a watch::Sender<usize>);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|open| *open -= 1);
    }
}

/// 19 digits, as clouds number their tasks; 62 random bits.
fn new_id() -> Result<String, GenerateError> {
    let random = getrandom::u64().map_err(|error| internal("the system gives no random numbers", error))?;
    Ok((LEAST_ID + random % (i64::MAX as u64 - LEAST_ID)).to_string())
}

/// The least number of 19 digits.
const LEAST_ID: u64 = 1_000_000_000_000_000_000;

fn internal(message: &str, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> GenerateError {
    let error = GenerateError::caused_by(ErrorKind::Internal, message, cause);
    error!(error = chain(&error), "a task's error");
    error
}
