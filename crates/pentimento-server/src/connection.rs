//! One connection: TLS, both HTTP versions, and a watch over peers that do nothing.
//!
//! A connection counts as busy from a request's head until its response's body was handed over. What is not busy for too
//! long is asked to end, and dropped [`LINGER`] later: a peer that sends no first request, half a head, nothing more, or
//! that does not read its answer. Bodies have their own time limit (see `intake`), running jobs have the deadline.

use crate::{respond::ResponseBody, routes, server::App};
use bytes::Bytes;
use hyper::{
    Request,
    body::{Body, Frame, Incoming, SizeHint},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use socket2::{SockRef, TcpKeepalive};
use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    select,
    time::{sleep_until, timeout},
};
use tracing::debug;

/// Time for the last bytes of an answer to leave after the connection was asked to end.
const LINGER: Duration = Duration::from_secs(5);

/// Largest request head, in bytes. Botocore's own limit for the other direction is 128 KiB; a signed request with a
/// session token has about 4 KiB.
const MAX_HEAD: u32 = 64 << 10;
const MAX_HEADERS: usize = 128;

/// Streams per HTTP/2 connection; more than the queue has places, so that the queue's answer is the one clients see.
const MAX_STREAMS: u32 = 64;

/// Bytes of a body that an HTTP/2 peer may send before they are read, per stream and per connection.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;

/// Streams that a peer opened and reset and that wait to be noticed; beyond it the connection is closed
/// (CVE-2023-44487). Hyper's defaults, stated because they are our protection.
const MAX_PENDING_RESETS: usize = 20;
const MAX_LOCAL_RESETS: usize = 1024;

/// How soon a peer that vanished without a word is noticed: pings on HTTP/2, probes of the TCP stack on HTTP/1.1.
const PROBE_EVERY: Duration = Duration::from_secs(20);

/// Serves a connection to its end.
pub(crate) async fn serve(app: Arc<App>, stream: TcpStream, peer: SocketAddr) {
    if let Err(error) = prepare(&stream) {
        debug!(%peer, %error, "a socket's options cannot be set");
    }
    let Some(tls) = &app.config.tls else {
        return drive(app, stream, peer, false).await;
    };
    let handshake = timeout(app.config.header_timeout, tls.acceptor().accept(stream));
    match app.unless_closing(handshake).await {
        Some(Ok(Ok(stream))) => drive(app, stream, peer, true).await,
        Some(Ok(Err(error))) => debug!(%peer, %error, "TLS handshake failed"),
        Some(Err(_)) => debug!(%peer, "TLS handshake took too long"),
        None => {}
    }
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let probes = TcpKeepalive::new().with_time(PROBE_EVERY).with_interval(PROBE_EVERY);
    SockRef::from(stream).set_tcp_keepalive(&probes)
}

async fn drive<S>(app: Arc<App>, stream: S, peer: SocketAddr, secure: bool)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let activity = Arc::new(Activity::new());
    let service = service_fn(|request: Request<Incoming>| {
        let (app, busy) = (Arc::clone(&app), Busy::new(&activity));
        async move {
            let response = routes::answer(app, request, secure).await;
            Ok::<_, Infallible>(response.map(|body| Watched { body, _busy: busy }))
        }
    });
    let builder = builder(app.config.idle_timeout);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    select! {
        result = connection.as_mut() => return ended(peer, result),
        () = app.closing() => {}
        () = activity.idle(app.config.header_timeout, app.config.idle_timeout) => {}
    }
    activity.touch();
    connection.as_mut().graceful_shutdown();
    select! {
        result = connection.as_mut() => ended(peer, result),
        () = activity.idle(LINGER, LINGER) => debug!(%peer, "connection dropped: the peer does nothing"),
    }
}

fn ended(peer: SocketAddr, result: Result<(), Box<dyn std::error::Error + Send + Sync>>) {
    if let Err(error) = result {
        debug!(%peer, error = crate::error::chain(&*error), "connection ended");
    }
}

/// Both HTTP versions, told apart by the first bytes, with every limit stated.
fn builder(idle_timeout: Duration) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        // The first head has a shorter time, see `Activity`; this one also ends kept connections.
        .header_read_timeout(idle_timeout)
        .max_buf_size(MAX_HEAD as usize)
        .max_headers(MAX_HEADERS)
        .half_close(false);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(MAX_HEAD)
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(MAX_LOCAL_RESETS)
        .keep_alive_interval(PROBE_EVERY)
        .keep_alive_timeout(PROBE_EVERY);
    builder
}

/// Whether a connection is busy, and since when it is not.
struct Activity(Mutex<ActivityState>);

struct ActivityState {
    requests: usize,
    idle_since: Instant,
    any_request: bool,
}

impl Activity {
    fn new() -> Self {
        Self(Mutex::new(ActivityState { requests: 0, idle_since: Instant::now(), any_request: false }))
    }

    fn with<T>(&self, work: impl FnOnce(&mut ActivityState) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Counts idleness from now on.
    fn touch(&self) {
        self.with(|state| state.idle_since = Instant::now());
    }

    /// Returns once the connection was idle for `first` before its first request, or for `later` after one.
    async fn idle(&self, first: Duration, later: Duration) {
        loop {
            let now = Instant::now();
            let look_again = self.with(|state| {
                let limit = if state.any_request { later } else { first };
                if state.requests > 0 { now + limit } else { state.idle_since + limit }
            });
            if look_again <= now {
                return;
            }
            sleep_until(look_again.into()).await;
        }
    }
}

/// A request that is being answered.
struct Busy(Arc<Activity>);

impl Busy {
    fn new(activity: &Arc<Activity>) -> Self {
        activity.with(|state| {
            state.requests += 1;
            state.any_request = true;
        });
        Self(Arc::clone(activity))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.with(|state| {
            state.requests -= 1;
            state.idle_since = Instant::now();
        });
    }
}

/// A response's body that keeps its connection busy.
struct Watched {
    body: ResponseBody,
    _busy: Busy,
}

impl Body for Watched {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
