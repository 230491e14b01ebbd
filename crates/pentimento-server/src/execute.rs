//! Carrying out a call: choose the seed, submit, wait, answer.
//!
//! The future that waits, or the body that keeps the connection alive, owns the ticket. Hyper drops either as soon as the
//! client is gone, and the job is left with it.

use crate::{
    config::KeepAliveTiming,
    error::kind_name,
    jobs::{Drawn, Jobs, Outcome, Ticket},
    record::Record,
    respond::{self, ResponseBody},
};
use bytes::Bytes;
use futures_util::stream;
use http_body_util::StreamBody;
use hyper::{
    Response,
    body::{Body, Frame},
};
use pentimento_protocols::{Answer, Call, Context, Finished, KeepAlive, Operation, Protocol, Refusal, Seed};
use pentimento_request::{ErrorKind, GenerateError, GenerationRequest};
use std::{borrow::Cow, convert::Infallible, sync::Arc, time::Duration};
use tokio::{task, time::timeout};
use tracing::error;

/// A call on its way to its answer.
pub(crate) struct Execution {
    pub(crate) protocol: Arc<dyn Protocol>,
    pub(crate) call: Arc<Call>,
    pub(crate) context: Context,
    pub(crate) record: Record,
}

impl Execution {
    /// Submits the call's job and answers with its outcome.
    pub(crate) async fn run(
        mut self,
        jobs: &Jobs,
        keep_alive: Option<KeepAliveTiming>,
    ) -> Response<ResponseBody> {
        let mut ticket = match self.submit(jobs) {
            Ok(ticket) => ticket,
            Err(error) => return self.answer(Arc::new(Err(error))).await,
        };
        self.record.job(ticket.number());
        let Some((timing, keep_alive)) = keep_alive.zip(self.protocol.keep_alive(&self.call)) else {
            let outcome = ticket.outcome().await;
            return self.answer(outcome).await;
        };
        match timeout(timing.after, ticket.outcome()).await {
            Ok(outcome) => self.answer(outcome).await,
            Err(_) => self.answer_late(ticket, keep_alive, timing.every),
        }
    }

    fn submit(&self, jobs: &Jobs) -> Result<Ticket, GenerateError> {
        let Call { operation, same_work, may_retry, .. } = &*self.call;
        let Operation::Generate { request, seed } = operation else {
            return Err(GenerateError::new(ErrorKind::Unsupported, "tasks are not kept here"));
        };
        jobs.submit(&*seeded(request, *seed)?, same_work.as_deref(), *may_retry)
    }

    async fn answer(mut self, outcome: Arc<Outcome>) -> Response<ResponseBody> {
        let reply = self.write(outcome, |protocol, call, outcome| protocol.answer(call, outcome)).await;
        let reply = reply.unwrap_or_else(|| self.protocol.refuse(Refusal::Internal, &self.context));
        self.record.replied(&reply);
        respond::reply(reply)
    }

    /// Begins the answer now, and gives signs of life until its rest is known.
    fn answer_late(self, ticket: Ticket, keep_alive: KeepAlive, every: Duration) -> Response<ResponseBody> {
        let KeepAlive { head, beat } = keep_alive;
        let waiting = Waiting { execution: self, ticket, beat, every, status: head.status };
        respond::with_body(head, beats(waiting))
    }

    /// Lets the protocol put an outcome into bytes, on a blocking thread: pictures are megabytes of base64.
    async fn write<T: Send + 'static>(
        &mut self,
        outcome: Arc<Outcome>,
        how: fn(&dyn Protocol, &Call, Result<&Answer, &GenerateError>) -> T,
    ) -> Option<T> {
        let latency = self.record.age();
        if let Ok(drawn) = &*outcome {
            self.record.seed(drawn.seed);
        }
        let (protocol, call) = (Arc::clone(&self.protocol), Arc::clone(&self.call));
        let written = task::spawn_blocking(move || {
            let finished = match &*outcome {
                Ok(drawn) => finished(drawn, &call, latency),
                Err(error) => return how(&*protocol, &call, Err(error)),
            };
            how(&*protocol, &call, finished.as_ref())
        });
        let request_id = &self.context.request_id;
        written.await.map_err(|error| error!(request_id, %error, "writing an answer failed")).ok()
    }
}

/// A drawn picture as the call wants it.
fn finished(drawn: &Drawn, call: &Call, latency: Duration) -> Result<Answer, GenerateError> {
    let Drawn { png, seed, verdict } = drawn;
    let file = match call.finish.apply(png) {
        Ok(Cow::Borrowed(_)) => png.clone(),
        Ok(Cow::Owned(file)) => file.into(),
        Err(error) => {
            let message = "the drawn picture cannot be finished";
            error!(request_id = call.request_id, %error, message);
            return Err(GenerateError::caused_by(ErrorKind::Internal, message, error));
        }
    };
    Ok(Answer::Picture(Finished { file, link: None, seed: *seed, verdict: *verdict, latency }))
}

/// An answer that was begun early.
struct Waiting {
    execution: Execution,
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
        let rest =
            self.execution.write(outcome, |protocol, call, outcome| protocol.late_answer(call, outcome));
        let rest = rest.await.unwrap_or_default();
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
