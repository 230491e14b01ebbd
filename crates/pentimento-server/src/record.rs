//! One log line and one count per request, whatever becomes of it.
//!
//! The line tells who asked for what and how it ended. It never holds a body, a prompt, a header's value or the query,
//! any of which may carry secrets.

use crate::metrics::{Metrics, RequestLabels};
use hyper::Method;
use pentimento_protocols::{Call, Delivery, Operation, Reply};
use std::time::{Duration, Instant};
use tracing::info;

/// What nginx's logs call a request whose client closed the connection before the answer.
const CLIENT_LEFT: u16 = 499;

/// Longest path that is logged in full.
const PATH_SHOWN: usize = 200;

/// A request's record. It is written when dropped: a request that was not answered by then lost its client.
pub(crate) struct Record {
    metrics: Metrics,
    arrived: Instant,
    request_id: String,
    method: Method,
    path: String,
    protocol: &'static str,
    operation: &'static str,
    delivery: &'static str,
    job: Option<u64>,
    seed: Option<u64>,
    answered: Option<(u16, &'static str)>,
    received: u64,
    sent: u64,
}

impl Record {
    pub(crate) fn new(metrics: Metrics, request_id: &str, method: &Method, path: &str) -> Self {
        Self {
            metrics,
            arrived: Instant::now(),
            request_id: request_id.to_owned(),
            method: method.clone(),
            path: path.chars().take(PATH_SHOWN).collect(),
            protocol: "none",
            operation: "none",
            delivery: "none",
            job: None,
            seed: None,
            answered: None,
            received: 0,
            sent: 0,
        }
    }

    /// Time since the request's head arrived.
    pub(crate) fn age(&self) -> Duration {
        self.arrived.elapsed()
    }

    pub(crate) fn protocol(&mut self, name: &'static str) {
        self.protocol = name;
    }

    pub(crate) fn received(&mut self, bytes: usize) {
        self.received = bytes as u64;
    }

    pub(crate) fn understood(&mut self, call: &Call) {
        self.operation = match call.operation {
            Operation::Generate { .. } => "generate",
            Operation::Submit { .. } => "submit",
            Operation::Poll(_) => "poll",
            Operation::Cancel(_) => "cancel",
        };
        self.delivery = match call.delivery {
            Delivery::Json => "json",
            Delivery::Picture => "picture",
            Delivery::Events => "events",
            Delivery::PictureEvents => "picture_events",
        };
    }

    pub(crate) fn job(&mut self, number: u64) {
        self.job = Some(number);
    }

    pub(crate) fn seed(&mut self, seed: u64) {
        self.seed = Some(seed);
    }

    pub(crate) fn sent(&mut self, bytes: usize) {
        self.sent += bytes as u64;
    }

    /// The answer is this reply.
    pub(crate) fn replied(&mut self, reply: &Reply) {
        self.sent(reply.body.len());
        self.answered(reply.status, reply.error.unwrap_or("none"));
    }

    /// The answer has this status, and this is its error's name.
    pub(crate) fn answered(&mut self, status: u16, error: &'static str) {
        self.answered = Some((status, error));
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let took = self.age();
        let (status, error) = self.answered.unwrap_or((CLIENT_LEFT, "client_left"));
        let Self { protocol, operation, delivery, .. } = *self;
        self.metrics.request(&RequestLabels { protocol, operation, delivery, status, error }, took);
        self.metrics.bytes(protocol, self.received, self.sent);
        info!(
            request_id = %self.request_id,
            protocol,
            operation,
            method = %self.method,
            // As text, which the log's format escapes in its own way.
            path = self.path,
            status,
            error,
            latency_ms = took.as_millis() as u64,
            job = self.job,
            seed = self.seed,
            "request"
        );
    }
}
