//! From hyper's request to a protocol's call: bodies within their limits, decoding beside the async threads.
//!
//! Limits: a body's announced length first, then its counted bytes; a time for the whole of it; a budget of memory for
//! all bodies together; and a number of requests that are verified and decoded at once.
//!
//! The budget has two parts. The beginning of every body is taken from the smaller one as it arrives, so that who announces
//! much and sends little holds little. The rest of a long body is taken from the larger part at once: bodies that took
//! theirs bit by bit would in the end all hold some and wait for more, and none would be finished. In return the rest has to
//! keep coming at a least rate.

use crate::{assembly::Assembly, config::ServerConfig, respond};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::{
    Response, StatusCode, Uri, Version,
    body::{Body, Frame, Incoming},
    header::EXPECT,
    http::request::Parts,
};
use pentimento_protocols::{Context, HttpRequest, Protocol, Received, Refusal, Reply};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task,
    time::{Instant, timeout, timeout_at},
};
use tracing::{debug, error, warn};

/// The unit in which memory is counted: a permit is so many bytes.
const PERMIT: usize = 1024;

/// The share of the budget that beginnings have: an eighth. So many of them fit into it at least, of so many bytes at most.
const BEGINNINGS: usize = 8;
const MANY: usize = 64;
const LONGEST_BEGINNING: usize = 64 << 10;

/// Least bytes per second of the rest of a long body, once this time has passed.
const LEAST_RATE: u64 = 128 << 10;
const SLACK: Duration = Duration::from_secs(10);

/// What is read and thrown away of a body that is refused, so that its sender gets to read why.
const MOST_DRAINED: usize = 256 << 20;
const DRAIN_TIME: Duration = Duration::from_secs(10);

/// The limits that all requests share.
pub(crate) struct Intake {
    beginnings: Share,
    rests: Share,
    /// Bytes of a body that are its beginning.
    beginning: usize,
    decoders: Arc<Semaphore>,
    wait: Duration,
    body_timeout: Duration,
}

/// A part of the budget of memory.
struct Share {
    semaphore: Arc<Semaphore>,
    /// Permits in all.
    permits: usize,
}

impl Share {
    fn of(permits: usize) -> Self {
        let permits = permits.min(Semaphore::MAX_PERMITS);
        Self { semaphore: Arc::new(Semaphore::new(permits)), permits }
    }

    fn bytes(&self) -> usize {
        self.permits * PERMIT
    }

    fn held(&self) -> usize {
        (self.permits - self.semaphore.available_permits()) * PERMIT
    }

    /// Takes so many bytes, waiting a while for others to give some back.
    async fn take(&self, bytes: usize, wait: Duration) -> Result<OwnedSemaphorePermit, Trouble> {
        let permits =
            u32::try_from(bytes.div_ceil(PERMIT)).map_err(|_| Trouble::Refused(Refusal::BodyTooLarge))?;
        let taken = timeout(wait, Arc::clone(&self.semaphore).acquire_many_owned(permits)).await;
        taken.ok().and_then(Result::ok).ok_or(Trouble::Refused(Refusal::Overloaded))
    }
}

/// Why there is no call.
pub(crate) enum Rejection {
    /// The protocol's own answer.
    Reply(Reply),
    /// The server's answer to a body that broke off; most likely nobody reads it.
    Broken,
}

impl Rejection {
    pub(crate) fn broken() -> Response<respond::ResponseBody> {
        respond::message(StatusCode::BAD_REQUEST, "the request's body broke off")
    }
}

/// A body with the memory it was granted.
pub(crate) struct HeldBody {
    bytes: Bytes,
    memory: Grant,
}

/// The memory that a body was granted.
#[derive(Default)]
struct Grant {
    beginning: Option<OwnedSemaphorePermit>,
    rest: Option<OwnedSemaphorePermit>,
    /// When the rest had to begin to come.
    since: Option<Instant>,
}

impl Grant {
    /// Gives back what a body whose rest has so many bytes does not need.
    fn trim(&mut self, rest: usize) {
        let needed = rest.div_ceil(PERMIT);
        if let Some(rest) = &mut self.rest {
            drop(rest.split(rest.num_permits().saturating_sub(needed)));
        }
    }

    /// Until when the next bytes have to be there, of a body of which so many are.
    fn patience(&self, bytes: usize) -> Option<Instant> {
        let rest = bytes as u64;
        Some(self.since? + SLACK + Duration::from_millis(rest * 1000 / LEAST_RATE))
    }
}

impl HeldBody {
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }
}

/// Why a body was not read to its end.
enum Trouble {
    Refused(Refusal),
    Broken,
}

impl Intake {
    pub(crate) fn new(config: &ServerConfig) -> Self {
        let permits = config.body_memory.div_ceil(PERMIT);
        let beginnings = permits.div_ceil(BEGINNINGS);
        Self {
            beginnings: Share::of(beginnings),
            rests: Share::of(permits - beginnings),
            beginning: (beginnings * PERMIT / MANY).clamp(PERMIT, LONGEST_BEGINNING),
            decoders: Arc::new(Semaphore::new(config.decoders)),
            wait: config.intake_wait,
            body_timeout: config.body_timeout,
        }
    }

    /// Bytes of bodies that are held at this moment.
    pub(crate) fn held(&self) -> usize {
        self.beginnings.held() + self.rests.held()
    }

    /// Reads the whole body.
    pub(crate) async fn body(
        &self,
        parts: &Parts,
        mut incoming: Incoming,
        protocol: &dyn Protocol,
        context: &Context,
    ) -> Result<HeldBody, Rejection> {
        let limit = protocol.body_limit();
        let read = timeout(self.body_timeout, self.read(&mut incoming, limit));
        let trouble = match read.await {
            Ok(Ok(body)) => return Ok(body),
            Ok(Err(trouble)) => trouble,
            Err(_) => Trouble::Refused(Refusal::BodyTooSlow),
        };
        match trouble {
            Trouble::Broken => Err(Rejection::Broken),
            Trouble::Refused(refusal) => {
                // A client that asked first is waiting for the answer and sends nothing.
                if refusal != Refusal::BodyTooSlow && !parts.headers.contains_key(EXPECT) {
                    let drained = task::spawn(drain(incoming));
                    // Node's HTTP/2 client resets a stream that is answered before it sent everything, and shows its
                    // user that reset instead of the answer.
                    if parts.version == Version::HTTP_2 {
                        let _ = drained.await;
                    }
                }
                Err(Rejection::Reply(protocol.refuse(refusal, context)))
            }
        }
    }

    async fn read(&self, incoming: &mut Incoming, limit: usize) -> Result<HeldBody, Trouble> {
        let announced = incoming.size_hint().lower();
        if announced > limit as u64 {
            return Err(Trouble::Refused(Refusal::BodyTooLarge));
        }
        // What there never is need not be waited for.
        if announced > (self.beginning + self.rests.bytes()) as u64 {
            return Err(Trouble::Refused(Refusal::Overloaded));
        }
        let expected = if announced == 0 { limit } else { announced as usize };
        let mut bytes = Assembly::expecting(expected);
        let mut memory = Grant::default();
        while let Some(frame) = next(incoming, memory.patience(bytes.len())).await? {
            let frame = frame.map_err(|error| {
                debug!(%error, "a body broke off");
                Trouble::Broken
            })?;
            let Ok(data) = frame.into_data() else { continue };
            if bytes.len() + data.len() > limit {
                return Err(Trouble::Refused(Refusal::BodyTooLarge));
            }
            self.grant(&mut memory, bytes.len() + data.len(), expected).await?;
            bytes.push(&data).map_err(|error| {
                warn!(%error, "there is no memory for a body");
                Trouble::Refused(Refusal::Overloaded)
            })?;
        }
        memory.trim(bytes.len().saturating_sub(self.beginning));
        Ok(HeldBody { bytes: bytes.whole(), memory })
    }

    /// Grows a grant to so many bytes of a body that may have so many in all.
    async fn grant(&self, memory: &mut Grant, bytes: usize, expected: usize) -> Result<(), Trouble> {
        let granted = memory.beginning.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let missing = bytes.min(self.beginning).div_ceil(PERMIT).saturating_sub(granted);
        if missing > 0 {
            let more = self.beginnings.take(missing * PERMIT, self.wait).await?;
            match &mut memory.beginning {
                Some(beginning) => beginning.merge(more),
                None => memory.beginning = Some(more),
            }
        }
        if bytes > self.beginning && memory.rest.is_none() {
            let rest = (expected.max(bytes) - self.beginning).min(self.rests.bytes());
            memory.rest = Some(self.rests.take(rest, self.wait).await?);
            memory.since = Some(Instant::now());
        }
        let rest = memory.rest.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        match bytes <= self.beginning + rest * PERMIT {
            true => Ok(()),
            false => Err(Trouble::Refused(Refusal::Overloaded)),
        }
    }

    /// Lets the protocol verify and understand the request on a blocking thread.
    pub(crate) async fn receive(
        &self,
        parts: &Parts,
        body: HeldBody,
        protocol: &Arc<dyn Protocol>,
        context: &Context,
    ) -> Result<Received, Reply> {
        let HeldBody { bytes, memory } = body;
        let request = raw_request(parts, bytes);
        let (reader, its_context) = (Arc::clone(protocol), context.clone());
        self.decoding(protocol, context, move || {
            let result = reader.receive(&request, &its_context);
            drop((request, memory));
            result
        })
        .await
    }

    /// Does a part of a protocol's work on a blocking thread, once there is a place for it.
    pub(crate) async fn decoding<T: Send + 'static>(
        &self,
        protocol: &Arc<dyn Protocol>,
        context: &Context,
        work: impl FnOnce() -> Result<T, Reply> + Send + 'static,
    ) -> Result<T, Reply> {
        let decoder = timeout(self.wait, Arc::clone(&self.decoders).acquire_owned()).await;
        let Some(decoder) = decoder.ok().and_then(Result::ok) else {
            return Err(protocol.refuse(Refusal::Overloaded, context));
        };
        let worked = task::spawn_blocking(move || {
            let result = work();
            drop(decoder);
            result
        });
        worked.await.unwrap_or_else(|error| {
            error!(request_id = context.request_id, %error, "reading a request failed");
            Err(protocol.refuse(Refusal::Internal, context))
        })
    }
}

/// The body's next frame, unless it comes too late.
async fn next(
    incoming: &mut Incoming,
    patience: Option<Instant>,
) -> Result<Option<Result<Frame<Bytes>, hyper::Error>>, Trouble> {
    match patience {
        None => Ok(incoming.frame().await),
        Some(until) => {
            timeout_at(until, incoming.frame()).await.map_err(|_| Trouble::Refused(Refusal::BodyTooSlow))
        }
    }
}

async fn drain(mut incoming: Incoming) {
    let _ = timeout(DRAIN_TIME, async {
        let mut drained = 0;
        while let Some(Ok(frame)) = incoming.frame().await {
            drained += frame.data_ref().map_or(0, Bytes::len);
            if drained > MOST_DRAINED {
                break;
            }
        }
    })
    .await;
}

/// Path and query as they were sent. Of a proxy's absolute form only they are the protocols' business.
pub(crate) fn raw_target(uri: &Uri) -> &str {
    uri.path_and_query().map_or("", |target| target.as_str())
}

/// The request in the protocols' plain form.
fn raw_request(parts: &Parts, body: Bytes) -> HttpRequest {
    let mut headers = Vec::with_capacity(parts.headers.len() + 2);
    if let (Version::HTTP_2, Some(authority)) = (parts.version, parts.uri.authority()) {
        let value = authority.as_str().as_bytes().to_vec();
        if !parts.headers.contains_key("host") {
            headers.push(("host".to_owned(), value.clone()));
        }
        headers.push((":authority".to_owned(), value));
    }
    let sent = parts.headers.iter();
    headers.extend(sent.map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())));
    let target = raw_target(&parts.uri).to_owned();
    HttpRequest { method: parts.method.as_str().to_owned(), target, headers, body }
}
