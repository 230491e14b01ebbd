//! The clouds' wire protocols: bytes to [`GenerationRequest`]s, outcomes back to bytes.
//!
//! Pure functions: no web framework, no runtime, no engine, no clock and no randomness of their own. The server brings
//! the time and a request id ([`Context`]) and carries out what [`Protocol::receive`] understood.
//!
//! Sibling folders have the same files: `wire` (the vendor's structs, nothing resolved), `decode` (wire to neutral),
//! `encode` (neutral to wire, the only place with status codes), `auth` (signatures and keys).

pub mod bedrock;
pub mod volcengine;

mod digest;
mod escaping;
mod json;
mod styles;
mod timestamp;

pub use styles::StylePreset;

use bytes::Bytes;
use pentimento_imaging::Finish;
use pentimento_request::{
    Accelerations, ControlNetwork, FilterMode, GenerateError, GenerationRequest, Verdict,
};
use std::{
    any::Any,
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

/// An HTTP request as it arrived, over HTTP/1.1 or HTTP/2.
#[derive(Clone, Debug)]
pub struct HttpRequest {
    /// The method in capitals.
    pub method: String,
    /// Raw path and query as they were sent, nothing decoded.
    pub target: String,
    /// Header names in lower case with their values, in order of arrival. HTTP/2's `:authority` stands under that
    /// name, and a `host` entry of the same value is added where none was sent.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The whole body.
    pub body: Bytes,
}

impl HttpRequest {
    /// The first value of a header as text. `None` when it is absent or not visible ASCII or UTF-8.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(key, _)| key == name)?;
        std::str::from_utf8(value).ok()
    }

    /// The raw path, without the query.
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }
}

/// What the server knows about a request beyond its bytes.
#[derive(Clone, Debug)]
pub struct Context {
    /// The server's time when the request arrived.
    pub now: SystemTime,
    /// Unique name of this request: a UUID in lower case.
    pub request_id: String,
    /// Whether the request came over TLS.
    pub secure: bool,
    /// How long the request has taken so far.
    pub stopwatch: Stopwatch,
}

/// Tells how long something has taken. The server brings it: nothing here reads a clock.
#[derive(Clone)]
pub struct Stopwatch(Arc<dyn Fn() -> Duration + Send + Sync>);

impl Stopwatch {
    /// A stopwatch that is read by this.
    pub fn new(read: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    /// What it shows now.
    pub fn elapsed(&self) -> Duration {
        (self.0)()
    }
}

impl fmt::Debug for Stopwatch {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Stopwatch")
    }
}

/// A model as protocols see it: enough to decide sizes, nothing to run it with.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelProfile {
    /// The name by which the generator knows it.
    pub name: String,
    /// Guidance rescale used where a protocol has no such field.
    pub guidance_rescale: f32,
    /// What makes it draw faster at the picture's cost.
    pub accelerations: Accelerations,
    /// What is done with pictures that its content filter objects to; `None` is the generator's own rule.
    pub filter: Option<FilterMode>,
    /// Whether it has a control network for edges.
    pub draws_edges: bool,
    /// Whether it can be shown a person's face.
    pub shows_faces: bool,
    /// The names of its own adapters.
    pub loras: Vec<String>,
}

impl ModelProfile {
    /// A model of this name and nothing that it could be steered with, drawn without guidance rescale and as it was meant to be.
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            guidance_rescale: 0.0,
            accelerations: Accelerations::NONE,
            filter: None,
            draws_edges: false,
            shows_faces: false,
            loras: Vec::new(),
        }
    }

    /// The network that is shown a picture's edges where nothing else is configured.
    pub fn own_control(&self) -> Option<ControlNetwork> {
        self.draws_edges.then_some(ControlNetwork::Canny)
    }
}

/// What a protocol made of a request.
#[derive(Debug)]
pub enum Received {
    /// It may be carried out.
    Call(Box<Call>),
    /// Pictures that it names by URL are needed first.
    Fetch(Fetch),
}

/// A request that was understood but for pictures that lie elsewhere.
pub struct Fetch {
    /// Where they lie, as the caller wrote it. Hostile until proved otherwise.
    pub urls: Vec<String>,
    /// Largest file in bytes.
    pub byte_limit: usize,
    /// Goes on with the files in the order of `urls`, or with why one cannot be had.
    pub resume: Box<Resume>,
}

/// The rest of understanding a request, once its pictures are there.
pub type Resume = dyn FnOnce(Result<Vec<Bytes>, FetchError>) -> Result<Call, Reply> + Send;

impl fmt::Debug for Fetch {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        // URLs may carry signatures.
        out.debug_struct("Fetch").field("urls", &self.urls.len()).finish_non_exhaustive()
    }
}

/// Why a picture cannot be had from its URL. The details go to the log: they would tell a caller about the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchError {
    /// Not an address that is fetched from here.
    Refused,
    /// Nothing there, or not in time.
    Failed,
    /// More bytes than are read.
    TooLarge,
}

/// A request that was understood and may be carried out.
#[derive(Clone, Debug)]
pub struct Call {
    /// What to do.
    pub operation: Operation,
    /// How the answer is wanted.
    pub delivery: Delivery,
    /// What becomes of the drawn picture before it is sent.
    pub finish: Finish,
    /// Whether the picture is answered as a link that expires, not as bytes.
    pub link: bool,
    /// Public name of the key that asks, for quotas and logs; `None` where nobody has to say.
    pub caller: Option<String>,
    /// Requests with the same key ask for the very same work: they are answered by one job. It contains the caller's
    /// identity, so that one caller never sees another one's picture.
    pub same_work: Option<String>,
    /// Whether the client announced that it will try again if the connection breaks.
    pub may_retry: bool,
    /// The server's name of this request.
    pub request_id: String,
    /// What the protocol itself has to know when it answers. Nobody else looks at it.
    pub memo: Option<Arc<dyn Any + Send + Sync>>,
}

/// What a call asks for.
#[derive(Clone, Debug)]
pub enum Operation {
    /// Draw a picture and answer with it.
    Generate {
        /// The request, complete but for a seed left to chance.
        request: Box<GenerationRequest>,
        /// Where the seed comes from.
        seed: Seed,
    },
    /// Take the same as a task, and answer with its id at once.
    Submit {
        /// The request, complete but for a seed left to chance.
        request: Box<GenerationRequest>,
        /// Where the seed comes from.
        seed: Seed,
        /// Who may ask for the task: [`TaskName::scope`].
        scope: String,
    },
    /// Answer what has become of a task.
    Poll(TaskName),
    /// Break a task off, unless it is done.
    Cancel(TaskName),
}

/// A task as a caller names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskName {
    /// The id that was answered when it was submitted.
    pub id: String,
    /// Caller and everything else that has to be the same as when it was submitted; another scope finds nothing.
    pub scope: String,
}

/// What there is to answer.
#[derive(Clone, Debug)]
pub enum Answer {
    /// To [`Operation::Generate`].
    Picture(Finished),
    /// To all others.
    Task(TaskReport),
}

/// What has become of a task. Of one that failed the outcome is the error it failed with.
#[derive(Clone, Debug)]
pub struct TaskReport {
    /// Its id.
    pub id: String,
    /// Where it stands.
    pub state: TaskState,
    /// The picture of a task that is done, when it was polled.
    pub finished: Option<Finished>,
}

/// Where a task stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskState {
    /// Accepted, not begun.
    Queued,
    /// Being drawn.
    Running,
    /// Its picture is there.
    Done,
    /// Broken off by its caller.
    Cancelled,
    /// There is none, or it ended too long ago.
    NotFound,
    /// It was there, and its time is over.
    Expired,
}

/// Where a request's seed comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seed {
    /// The request's own.
    Given,
    /// The server draws one from 1 to `max` and writes it into the request.
    Drawn {
        /// Largest seed the protocol can express.
        max: u64,
    },
}

/// How a call's answer is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// One body in the vendor's JSON.
    Json,
    /// One body that is the picture itself.
    Picture,
    /// A stream of the vendor's event frames, the vendor's JSON in them.
    Events,
    /// A stream of the vendor's event frames, the picture itself in them.
    PictureEvents,
}

/// A picture ready to be sent.
#[derive(Clone, Debug)]
pub struct Finished {
    /// The encoded file, finished as [`Call::finish`] says.
    pub file: Bytes,
    /// Where it can be had for a while, when [`Call::link`] asks for it; `file` is empty then.
    pub link: Option<String>,
    /// The seed really used.
    pub seed: u64,
    /// What the content filter said of it, and what became of it.
    pub verdict: Verdict,
    /// Time from the request's arrival to the finished picture.
    pub latency: Duration,
}

/// An HTTP response.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// Header names in lower case with their values. `content-length` and `date` are the server's.
    pub headers: Vec<(&'static str, String)>,
    /// The whole body.
    pub body: Bytes,
    /// The vendor's name of the error, for logs and metrics; `None` for a success.
    pub error: Option<&'static str>,
}

/// How a connection is kept alive while a picture is drawn: the head of a response that is sent early, and the bytes
/// sent every few seconds until [`Protocol::late_answer`] is ready.
#[derive(Clone, Debug)]
pub struct KeepAlive {
    /// Status and headers; its body is empty.
    pub head: Reply,
    /// Bytes that every client of this protocol skips.
    pub beat: Bytes,
}

/// Why the server turned a request away before the protocol could read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The body is larger than [`Protocol::body_limit`].
    BodyTooLarge,
    /// The body did not arrive in time.
    BodyTooSlow,
    /// The server holds as many requests as it can.
    Overloaded,
    /// The server is shutting down.
    ShuttingDown,
    /// Something in the server went wrong.
    Internal,
}

/// A vendor's protocol.
pub trait Protocol: Send + Sync {
    /// Short name for logs and metrics.
    fn name(&self) -> &'static str;

    /// Whether requests with this method and raw target are this protocol's to answer.
    fn claims(&self, method: &str, target: &str) -> bool;

    /// Largest body in bytes that is read at all.
    fn body_limit(&self) -> usize;

    /// Verifies and understands a request.
    ///
    /// # Errors
    /// The vendor's own answer to what is wrong with it.
    fn receive(&self, request: &HttpRequest, context: &Context) -> Result<Received, Reply>;

    /// The answer to a request that was not read to its end.
    fn refuse(&self, refusal: Refusal, context: &Context) -> Reply;

    /// The answer to a call, nothing having been sent yet.
    fn answer(&self, call: &Call, outcome: Result<&Answer, &GenerateError>) -> Reply;

    /// How this call's connection can be kept alive. `None`: not at all, since no byte may precede the answer (a bare
    /// picture); its only answer is then [`Protocol::answer`].
    fn keep_alive(&self, call: &Call) -> Option<KeepAlive>;

    /// The rest of the body after [`KeepAlive::head`] and any number of beats were sent.
    fn late_answer(&self, call: &Call, outcome: Result<&Answer, &GenerateError>) -> Bytes;
}
