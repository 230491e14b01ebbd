//! Carrying out a call: choose the seed, submit, wait, finish, link, answer; or see to a task.
//!
//! The future that waits, or the body that keeps the connection alive, owns the ticket. Hyper drops either as soon as the
//! client is gone, and the job is left with it. A task has no such client: once it is accepted it goes on.

use crate::{
    error::{chain, kind_name},
    jobs::{Ask, Drawn, Outcome, Ticket, Work},
    record::Record,
    respond::{self, ResponseBody},
    server::App,
    tasks::Told,
};
use bytes::Bytes;
use futures_util::stream;
use http_body_util::StreamBody;
use hyper::{
    Response,
    body::{Body, Frame},
};
use pentimento_protocols::{
    Answer, Call, Context, Finished, KeepAlive, Operation, Protocol, Refusal, Seed, TaskReport,
};
use pentimento_request::{ErrorKind, Faces, GenerateError, GenerationRequest, Hint, Picture, Task};
use std::{borrow::Cow, convert::Infallible, sync::Arc, time::Duration};
use tokio::{task, time::timeout};
use tracing::error;

/// A call on its way to its answer.
pub(crate) struct Execution {
    pub(crate) protocol: Arc<dyn Protocol>,
    pub(crate) call: Arc<Call>,
    pub(crate) context: Context,
    pub(crate) record: Record,
    /// Scheme and host by which the client reached this server.
    pub(crate) asked_at: String,
}

/// What a call came to.
enum Came {
    /// A job's outcome, which others may share.
    Drawn(Arc<Outcome>),
    /// What became of a task, or an error of this call alone.
    Told(Result<Told, GenerateError>),
}

impl Came {
    fn error(&self) -> Option<&GenerateError> {
        match self {
            Self::Drawn(outcome) => outcome.as_ref().as_ref().err(),
            Self::Told(told) => told.as_ref().err(),
        }
    }

    fn picture(&self) -> Option<Drawn> {
        match self {
            Self::Drawn(outcome) => outcome.as_ref().as_ref().ok().cloned(),
            Self::Told(told) => told.as_ref().ok().and_then(|told| told.picture.clone()),
        }
    }
}

impl Execution {
    /// Carries the call out and answers with what came of it.
    pub(crate) async fn run(mut self, app: &Arc<App>) -> Response<ResponseBody> {
        if let Err(error) = self.admitted(app).await {
            return self.answer(app, Came::Told(Err(error))).await;
        }
        if let Some(told) = self.task(app).await.transpose() {
            return self.answer(app, Came::Told(told)).await;
        }
        let mut ticket = match self.submit(app) {
            Ok(ticket) => ticket,
            Err(error) => return self.answer(app, Came::Told(Err(error))).await,
        };
        self.record.job(ticket.number());
        let Some((timing, keep_alive)) = app.config.keep_alive.zip(self.protocol.keep_alive(&self.call))
        else {
            let outcome = ticket.outcome().await;
            return self.answer(app, Came::Drawn(outcome)).await;
        };
        match timeout(timing.after, ticket.outcome()).await {
            Ok(outcome) => self.answer(app, Came::Drawn(outcome)).await,
            Err(_) => self.answer_late(Arc::clone(app), ticket, keep_alive, timing.every),
        }
    }

    /// Refuses, before it waits for its turn, what the generator would not take up.
    async fn admitted(&self, app: &App) -> Result<(), GenerateError> {
        if matches!(self.call.operation, Operation::Poll(_) | Operation::Cancel(_)) {
            return Ok(());
        }
        let (generator, call) = (app.jobs.generator(), Arc::clone(&self.call));
        // Comparing a long prompt with a long list is no work for the threads that serve connections.
        let asked = task::spawn_blocking(move || match &call.operation {
            Operation::Generate { request, .. } | Operation::Submit { request, .. } => {
                generator.admit(request)
            }
            Operation::Poll(_) | Operation::Cancel(_) => Ok(()),
        });
        asked.await.unwrap_or_else(|error| {
            let message = "asking whether a picture can be drawn failed";
            Err(GenerateError::caused_by(ErrorKind::Internal, message, error))
        })
    }

    /// Sees to the task that the call is about, if it is about one.
    async fn task(&self, app: &App) -> Result<Option<Told>, GenerateError> {
        let tasks = || match &app.lasting {
            Some(lasting) => Ok(&lasting.tasks),
            None => Err(GenerateError::new(ErrorKind::Unsupported, "tasks are not kept here")),
        };
        match &self.call.operation {
            Operation::Generate { .. } => Ok(None),
            Operation::Poll(name) => tasks()?.poll(name).await.map(Some),
            Operation::Cancel(name) => tasks()?.cancel(&app.jobs, name).await.map(Some),
            Operation::Submit { request, seed, scope } => {
                let tasks = tasks()?;
                let (request, scope) = (seeded(request, *seed)?.into_owned(), scope.clone());
                tasks.submit(&app.jobs, request, scope, self.call.caller.clone()).await.map(Some)
            }
        }
    }

    fn submit(&self, app: &App) -> Result<Ticket, GenerateError> {
        let Call { operation, same_work, may_retry, caller, .. } = &*self.call;
        let Operation::Generate { request, seed } = operation else {
            return Err(GenerateError::new(ErrorKind::Internal, "a task is no job that is waited for"));
        };
        if self.call.link && app.lasting.is_none() {
            return Err(GenerateError::new(ErrorKind::Unsupported, "results are not kept here"));
        }
        let request = seeded(request, *seed)?;
        let ask = Ask {
            key: same_work.as_deref(),
            caller: caller.as_deref(),
            cost: cost(&request),
            deadline: app.jobs.deadline,
        };
        app.jobs.submit(&ask, || Work::Request(Box::new(request.into_owned())), *may_retry)
    }

    async fn answer(mut self, app: &App, came: Came) -> Response<ResponseBody> {
        let reply = self.write(app, came, |protocol, call, outcome| protocol.answer(call, outcome)).await;
        let reply = reply.unwrap_or_else(|| self.protocol.refuse(Refusal::Internal, &self.context));
        self.record.replied(&reply);
        respond::reply(reply)
    }

    /// Begins the answer now, and gives signs of life until its rest is known.
    fn answer_late(
        self,
        app: Arc<App>,
        ticket: Ticket,
        keep_alive: KeepAlive,
        every: Duration,
    ) -> Response<ResponseBody> {
        let KeepAlive { head, beat } = keep_alive;
        let waiting = Waiting { execution: self, app, ticket, beat, every, status: head.status };
        respond::with_body(head, beats(waiting))
    }

    /// Lets the protocol put what came into bytes, on a blocking thread: pictures are megabytes of base64.
    async fn write<T: Send + 'static>(
        &mut self,
        app: &App,
        came: Came,
        how: fn(&dyn Protocol, &Call, Result<&Answer, &GenerateError>) -> T,
    ) -> Option<T> {
        let finished = match came.picture() {
            Some(drawn) => {
                self.record.seed(drawn.seed);
                Some(self.finished(app, drawn).await)
            }
            None => None,
        };
        let (protocol, call) = (Arc::clone(&self.protocol), Arc::clone(&self.call));
        let written = task::spawn_blocking(move || {
            if let Some(error) = came.error() {
                return how(&*protocol, &call, Err(error));
            }
            how(&*protocol, &call, answer_of(came, finished).as_ref())
        });
        let request_id = &self.context.request_id;
        written.await.map_err(|error| error!(request_id, %error, "writing an answer failed")).ok()
    }

    /// A drawn picture as the call wants it.
    async fn finished(&self, app: &App, drawn: Drawn) -> Result<Finished, GenerateError> {
        let Drawn { png, seed, verdict } = drawn;
        let latency = self.record.age();
        let call = Arc::clone(&self.call);
        let file = task::spawn_blocking(move || match call.finish.apply(&png) {
            Ok(Cow::Borrowed(_)) => Ok(png.clone()),
            Ok(Cow::Owned(file)) => Ok(Bytes::from(file)),
            Err(error) => Err(error),
        });
        let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
            let message = "the drawn picture cannot be finished";
            error!(request_id = self.context.request_id, error = chain(&*error), message);
            GenerateError::caused_by(ErrorKind::Internal, message, error)
        };
        let file = file.await.map_err(|error| failed(error.into()))?.map_err(|error| failed(error.into()))?;
        let Some(lasting) = app.lasting.as_ref().filter(|_| self.call.link) else {
            return Ok(Finished { file, link: None, seed, verdict, latency });
        };
        let scope = self.call.caller.as_deref().unwrap_or_default();
        let link = lasting.results.link(file, scope, &self.asked_at).await.map_err(|error| {
            let message = "the picture cannot be kept for its link";
            error!(request_id = self.context.request_id, error = chain(&error), message);
            GenerateError::caused_by(ErrorKind::Internal, message, error)
        })?;
        Ok(Finished { file: Bytes::new(), link: Some(link), seed, verdict, latency })
    }
}

/// The answer to what came well.
fn answer_of(came: Came, finished: Option<Result<Finished, GenerateError>>) -> Result<Answer, GenerateError> {
    let finished = finished.transpose()?;
    match came {
        Came::Told(told) => {
            let Told { id, state, picture: _ } = told?;
            Ok(Answer::Task(TaskReport { id, state, finished }))
        }
        Came::Drawn(_) => finished
            .map(Answer::Picture)
            .ok_or_else(|| GenerateError::new(ErrorKind::Internal, "a job ended without a picture")),
    }
}

/// Bytes of all pictures that a request holds.
fn cost(request: &GenerationRequest) -> usize {
    let of = |picture: &Arc<Picture>| picture.pixels().len();
    let mask = match &request.task {
        Task::Repaint { mask, .. } => mask.values().len(),
        Task::TextToImage | Task::ImageToImage { .. } => 0,
    };
    let conditioning = &request.conditioning;
    let hints = conditioning.controls.iter().map(|control| match &control.hint {
        Hint::Picture(picture) => of(picture),
        Hint::Edges(_) => 0,
    });
    let prompts = conditioning.image_prompts.iter().flat_map(|prompt| &prompt.pictures).map(of);
    let faces = match conditioning.identity.as_ref().map(|identity| &identity.faces) {
        Some(Faces::Of(pictures)) => pictures.iter().map(of).sum(),
        Some(Faces::OfInput) | None => 0,
    };
    request.task.init().map_or(0, of) + mask + hints.sum::<usize>() + prompts.sum::<usize>() + faces
}

/// An answer that was begun early.
struct Waiting {
    execution: Execution,
    app: Arc<App>,
    ticket: Ticket,
    beat: Bytes,
    every: Duration,
    status: u16,
}

impl Waiting {
    /// The next bytes, and whether they are the last.
    async fn next(&mut self) -> (Bytes, bool) {
        let Ok(outcome) = timeout(self.every, self.ticket.outcome()).await else {
            self.execution.record.sent(self.beat.len());
            return (self.beat.clone(), false);
        };
        let error = outcome.as_ref().as_ref().err().map_or("none", |error| kind_name(error.kind()));
        let late = |protocol: &dyn Protocol, call: &Call, outcome: Result<&Answer, &GenerateError>| {
            protocol.late_answer(call, outcome)
        };
        let rest = self.execution.write(&self.app, Came::Drawn(outcome), late).await.unwrap_or_default();
        self.execution.record.sent(rest.len());
        self.execution.record.answered(self.status, error);
        (rest, true)
    }
}

/// Beats until the outcome is known, then the rest of the answer. Dropping the body leaves the job.
fn beats(waiting: Waiting) -> impl Body<Data = Bytes, Error = Infallible> + Send {
    StreamBody::new(stream::unfold(Some(waiting), |waiting| async {
        let mut waiting = waiting?;
        let (bytes, last) = waiting.next().await;
        Some((Ok(Frame::data(bytes)), (!last).then_some(waiting)))
    }))
}

/// The request with its seed, drawn from the system's randomness where that is asked for.
fn seeded(request: &GenerationRequest, seed: Seed) -> Result<Cow<'_, GenerationRequest>, GenerateError> {
    let Seed::Drawn { max } = seed else { return Ok(Cow::Borrowed(request)) };
    let random = getrandom::u64().map_err(|error| {
        GenerateError::caused_by(ErrorKind::Internal, "the system gives no random numbers", error)
    })?;
    Ok(Cow::Owned(GenerationRequest { seed: one_to(max, random), ..request.clone() }))
}

/// Maps all 64-bit numbers evenly onto 1 to `max`: the high half of their product, as Lemire 2019, "Fast random
/// integer generation in an interval". Without his rejection step the bias is below `max`/2^64.
fn one_to(max: u64, random: u64) -> u64 {
    let below_max = (u128::from(random) * u128::from(max)) >> 64;
    (below_max as u64).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::one_to;

    #[test]
    fn drawn_seeds_reach_both_ends_and_nothing_beyond() {
        for max in [1, 2, 4_294_967_295, u64::MAX] {
            assert_eq!(one_to(max, 0), 1);
            assert_eq!(one_to(max, u64::MAX), max);
        }
        assert_eq!(one_to(10, u64::MAX / 2), 5);
    }
}
