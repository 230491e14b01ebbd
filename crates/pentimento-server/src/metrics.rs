//! What the server counts, in Prometheus' text format.
//!
//! Each server owns its recorder, so nothing is installed globally and two servers in one process do not mix. Units
//! stand in the names: `_seconds`, `_bytes`, `_total`.

use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder, Unit};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use pentimento_request::Stage;
use std::{sync::Arc, time::Duration};

const REQUESTS: &str = "pentimento_requests_total";
const REQUEST_SECONDS: &str = "pentimento_request_seconds";
const REQUEST_BYTES: &str = "pentimento_request_bytes_total";
const RESPONSE_BYTES: &str = "pentimento_response_bytes_total";
const QUEUE_LENGTH: &str = "pentimento_queue_length";
const JOBS_RUNNING: &str = "pentimento_jobs_running";
const QUEUE_WAIT_SECONDS: &str = "pentimento_queue_wait_seconds";
const JOB_SECONDS: &str = "pentimento_job_seconds";
const STAGE_SECONDS: &str = "pentimento_stage_seconds";
const JOBS: &str = "pentimento_jobs_total";
const COALESCED: &str = "pentimento_coalesced_total";
const CANCELLED: &str = "pentimento_cancelled_total";
const PANICS: &str = "pentimento_panics_total";
const BODY_MEMORY: &str = "pentimento_body_memory_bytes";
const TASKS: &str = "pentimento_tasks";
const TASK_EVENTS: &str = "pentimento_task_events_total";
const TASK_SECONDS: &str = "pentimento_task_seconds";
const FETCHES: &str = "pentimento_fetches_total";
const FETCH_SECONDS: &str = "pentimento_fetch_seconds";
const FETCHED_BYTES: &str = "pentimento_fetched_bytes_total";
const STORE_OPERATIONS: &str = "pentimento_store_operations_total";
const STORE_SECONDS: &str = "pentimento_store_seconds";

/// Upper bounds of the histograms' buckets, from a cached text stage to an hour on a slow processor.
const SECONDS: [f64; 14] =
    [0.005, 0.02, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 180.0, 600.0, 3600.0];

/// A request's outcome, as metrics tell requests apart.
pub(crate) struct RequestLabels {
    pub(crate) protocol: &'static str,
    pub(crate) operation: &'static str,
    pub(crate) delivery: &'static str,
    pub(crate) status: u16,
    pub(crate) error: &'static str,
}

/// The counters of one server. Clones share them.
#[derive(Clone)]
pub(crate) struct Metrics(Arc<Inner>);

struct Inner {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let builder = PrometheusBuilder::new();
        let recorder = builder.set_buckets(&SECONDS).expect("the buckets are not empty").build_recorder();
        describe(&recorder);
        let metrics = Self(Arc::new(Inner { handle: recorder.handle(), recorder }));
        metrics.queue(0, 0);
        for unlabelled in [COALESCED, PANICS, FETCHED_BYTES] {
            metrics.counter(unlabelled, vec![]).increment(0);
        }
        metrics
    }

    /// Everything counted so far, as a scraper reads it.
    pub(crate) fn render(&self) -> String {
        self.0.handle.render()
    }

    /// Moves raw samples into their buckets; without it they would pile up where nobody scrapes.
    pub(crate) fn upkeep(&self) {
        self.0.handle.run_upkeep();
    }

    pub(crate) fn request(&self, labels: &RequestLabels, took: Duration) {
        let all = vec![
            Label::new("protocol", labels.protocol),
            Label::new("operation", labels.operation),
            Label::new("delivery", labels.delivery),
            Label::new("status", labels.status.to_string()),
            Label::new("error", labels.error),
        ];
        self.counter(REQUESTS, all).increment(1);
        let protocol = vec![Label::new("protocol", labels.protocol)];
        self.histogram(REQUEST_SECONDS, protocol).record(took);
    }

    pub(crate) fn bytes(&self, protocol: &'static str, received: u64, sent: u64) {
        let label = || vec![Label::new("protocol", protocol)];
        self.counter(REQUEST_BYTES, label()).increment(received);
        self.counter(RESPONSE_BYTES, label()).increment(sent);
    }

    pub(crate) fn queue(&self, waiting: usize, running: usize) {
        self.gauge(QUEUE_LENGTH).set(waiting as f64);
        self.gauge(JOBS_RUNNING).set(running as f64);
    }

    pub(crate) fn queue_wait(&self, waited: Duration) {
        self.histogram(QUEUE_WAIT_SECONDS, vec![]).record(waited);
    }

    pub(crate) fn stage(&self, stage: Stage, took: Duration) {
        self.histogram(STAGE_SECONDS, vec![Label::new("stage", stage.name())]).record(took);
    }

    pub(crate) fn job(&self, outcome: &'static str, took: Duration) {
        self.counter(JOBS, vec![Label::new("outcome", outcome)]).increment(1);
        self.histogram(JOB_SECONDS, vec![]).record(took);
    }

    pub(crate) fn coalesced(&self) {
        self.counter(COALESCED, vec![]).increment(1);
    }

    pub(crate) fn cancelled(&self, phase: &'static str) {
        self.counter(CANCELLED, vec![Label::new("phase", phase)]).increment(1);
    }

    pub(crate) fn panicked(&self) {
        self.counter(PANICS, vec![]).increment(1);
    }

    /// Bytes of bodies that are held at this moment.
    pub(crate) fn body_memory(&self, bytes: usize) {
        self.gauge(BODY_MEMORY).set(bytes as f64);
    }

    /// How many tasks are known in this state.
    pub(crate) fn tasks(&self, state: &'static str, count: usize) {
        self.labelled_gauge(TASKS, vec![Label::new("state", state)]).set(count as f64);
    }

    pub(crate) fn task_event(&self, event: &'static str) {
        self.counter(TASK_EVENTS, vec![Label::new("event", event)]).increment(1);
    }

    /// A task ended, so long after its submission.
    pub(crate) fn task_ended(&self, event: &'static str, took: Duration) {
        self.task_event(event);
        self.histogram(TASK_SECONDS, vec![]).record(took);
    }

    /// All that one request named by URL was fetched, or not.
    pub(crate) fn fetched(&self, outcome: &'static str, bytes: usize, took: Duration) {
        self.counter(FETCHES, vec![Label::new("outcome", outcome)]).increment(1);
        self.counter(FETCHED_BYTES, vec![]).increment(bytes as u64);
        self.histogram(FETCH_SECONDS, vec![]).record(took);
    }

    /// The store of results did something, or could not.
    pub(crate) fn stored(&self, operation: &'static str, outcome: &'static str, took: Duration) {
        let operation = Label::new("operation", operation);
        let labels = vec![operation.clone(), Label::new("outcome", outcome)];
        self.counter(STORE_OPERATIONS, labels).increment(1);
        self.histogram(STORE_SECONDS, vec![operation]).record(took);
    }

    fn counter(&self, name: &'static str, labels: Vec<Label>) -> Counter {
        self.0.recorder.register_counter(&Key::from_parts(name, labels), &METADATA)
    }

    fn gauge(&self, name: &'static str) -> Gauge {
        self.labelled_gauge(name, vec![])
    }

    fn labelled_gauge(&self, name: &'static str, labels: Vec<Label>) -> Gauge {
        self.0.recorder.register_gauge(&Key::from_parts(name, labels), &METADATA)
    }

    fn histogram(&self, name: &'static str, labels: Vec<Label>) -> Histogram {
        self.0.recorder.register_histogram(&Key::from_parts(name, labels), &METADATA)
    }
}

static METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, Some(module_path!()));

fn describe(recorder: &PrometheusRecorder) {
    let counters = [
        (REQUESTS, "Requests answered, by protocol, operation, delivery, status and the vendor's error name"),
        (REQUEST_BYTES, "Bytes of request bodies read"),
        (RESPONSE_BYTES, "Bytes of response bodies made"),
        (JOBS, "Jobs that the worker took up, by outcome"),
        (COALESCED, "Requests that joined the job of an earlier one"),
        (CANCELLED, "Jobs whose last client left, by what they were doing"),
        (PANICS, "Jobs that panicked"),
        (TASK_EVENTS, "What happened to tasks"),
        (FETCHES, "Requests whose pictures lay behind URLs, by what became of that"),
        (FETCHED_BYTES, "Bytes of pictures fetched"),
        (STORE_OPERATIONS, "What the store of results was asked, by outcome"),
    ];
    for (name, text) in counters {
        recorder.describe_counter(name.into(), None, text.into());
    }
    let gauges = [
        (QUEUE_LENGTH, "Jobs waiting for the worker"),
        (JOBS_RUNNING, "Jobs the worker is at"),
        (BODY_MEMORY, "Bytes of request bodies held"),
        (TASKS, "Tasks known, by state"),
    ];
    for (name, text) in gauges {
        recorder.describe_gauge(name.into(), None, text.into());
    }
    let histograms = [
        (REQUEST_SECONDS, "Time from a request's head to its answer"),
        (QUEUE_WAIT_SECONDS, "Time that jobs waited for the worker"),
        (JOB_SECONDS, "Time that the worker spent on a job"),
        (STAGE_SECONDS, "Time that finished stages of generation took"),
        (TASK_SECONDS, "Time from tasks' submission to their end"),
        (FETCH_SECONDS, "Time that a request's fetches took"),
        (STORE_SECONDS, "Time that the store of results took to answer"),
    ];
    for (name, text) in histograms {
        recorder.describe_histogram(name.into(), Some(Unit::Seconds), text.into());
    }
}
