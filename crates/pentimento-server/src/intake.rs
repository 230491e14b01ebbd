//! From hyper's request to a protocol's call: bodies within their limits, decoding beside the async threads.
//!
//! Limits: a body's announced length first, then its counted bytes; a time for the whole of it; a budget of memory for
//! all bodies together, taken as bytes arrive, so that a slow sender holds only what it has sent; and a number of
//! requests that are verified and decoded at once.

use crate::{config::ServerConfig, respond};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::{
    Response, StatusCode, Uri, Version,
    body::{Body, Incoming},
    header::EXPECT,
    http::request::Parts,
};
use pentimento_protocols::{Context, HttpRequest, Protocol, Received, Refusal, Reply};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task,
    time::timeout,
};
use tracing::{debug, error};

/// The unit in which memory is counted: a permit is so many bytes.
const PERMIT: usize = 1024;

/// What is read and thrown away of a body that is refused, so that its sender gets to read why.
const MOST_DRAINED: usize = 256 << 20;
const DRAIN_TIME: Duration = Duration::from_secs(10);

/// The limits that all requests share.
pub(crate) struct Intake {
    memory: Arc<Semaphore>,
    decoders: Arc<Semaphore>,
    wait: Duration,
    body_timeout: Duration,
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
    memory: Option<OwnedSemaphorePermit>,
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
        Self {
            memory: Arc::new(Semaphore::new(config.body_memory.div_ceil(PERMIT))),
            decoders: Arc::new(Semaphore::new(config.decoders)),
            wait: config.intake_wait,
            body_timeout: config.body_timeout,
        }
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
        let mut bytes = Vec::new();
        let mut memory = None;
        while let Some(frame) = incoming.frame().await {
            let frame = frame.map_err(|error| {
                debug!(%error, "a body broke off");
                Trouble::Broken
            })?;
            let Ok(data) = frame.into_data() else { continue };
            if bytes.len() + data.len() > limit {
                return Err(Trouble::Refused(Refusal::BodyTooLarge));
            }
            self.grant(&mut memory, bytes.len() + data.len()).await?;
            bytes.extend_from_slice(&data);
        }
        Ok(HeldBody { bytes: bytes.into(), memory })
    }

    /// Grows a grant of memory to so many bytes, waiting a while for others to give some back.
    async fn grant(&self, memory: &mut Option<OwnedSemaphorePermit>, bytes: usize) -> Result<(), Trouble> {
        let granted = memory.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let missing = bytes.div_ceil(PERMIT).saturating_sub(granted);
        if missing == 0 {
            return Ok(());
        }
        let missing = u32::try_from(missing).map_err(|_| Trouble::Refused(Refusal::BodyTooLarge))?;
        let more = timeout(self.wait, Arc::clone(&self.memory).acquire_many_owned(missing)).await;
        let more = more.ok().and_then(Result::ok).ok_or(Trouble::Refused(Refusal::Overloaded))?;
        match memory {
            Some(memory) => memory.merge(more),
            None => *memory = Some(more),
        }
        Ok(())
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
