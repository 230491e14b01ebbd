//! One connection: TLS, both HTTP versions, and a watch over peers that do nothing.
//!
//! A connection on which nothing happens for too long is asked to end, and dropped soon after: its peer sends no first
//! request, half a head, nothing more, or does not take its answer. Bodies have their own time limit (see `intake`), jobs
//! have the deadline.

use crate::{config::ServerConfig, respond::ResponseBody, routes, server::App};
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

/// The same where nothing was answered, and only HTTP/2's good-bye is to be sent.
const SHORT_LINGER: Duration = Duration::from_millis(200);

/// Largest request head, in bytes. A signed request with a session token and metadata has about 16 KiB at most.
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
        let (app, answering) = (Arc::clone(&app), Answering::new(&activity));
        async move {
            let response = routes::answer(app, request, secure).await;
            Ok::<_, Infallible>(response.map(|body| answering.sending(body)))
        }
    });
    let ServerConfig { header_timeout, idle_timeout, .. } = app.config;
    let serving = IdleLimits { first: header_timeout, later: idle_timeout, stalled: idle_timeout };
    let ending = IdleLimits { first: SHORT_LINGER, later: LINGER, stalled: idle_timeout };

    let builder = builder(idle_timeout);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    select! {
        result = connection.as_mut() => return ended(peer, result),
        () = app.closing() => {}
        () = activity.idle(&serving) => {}
    }
    activity.change(|_| {});
    connection.as_mut().graceful_shutdown();
    select! {
        result = connection.as_mut() => ended(peer, result),
        () = activity.idle(&ending) => debug!(%peer, "connection dropped: the peer does nothing"),
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

/// What a connection is at, and since when nothing happened on it.
struct Activity(Mutex<ActivityState>);

struct ActivityState {
    /// Requests whose answer does not exist yet.
    answering: usize,
    /// Answers that hyper has not taken whole.
    sending: usize,
    touched: Instant,
    any_request: bool,
}

/// How long nothing may happen on a connection.
struct IdleLimits {
    /// Before its first request.
    first: Duration,
    /// After an answer.
    later: Duration,
    /// While the peer does not take an answer.
    stalled: Duration,
}

impl Activity {
    fn new() -> Self {
        let touched = Instant::now();
        Self(Mutex::new(ActivityState { answering: 0, sending: 0, touched, any_request: false }))
    }

    /// Changes the state, which counts as something that happened.
    fn change(&self, change: impl FnOnce(&mut ActivityState)) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state);
        state.touched = Instant::now();
    }

    /// Returns once nothing happened for too long.
    async fn idle(&self, limits: &IdleLimits) {
        loop {
            let (now, too_long) = (Instant::now(), self.too_long(limits));
            if too_long <= now {
                return;
            }
            sleep_until(too_long.into()).await;
        }
    }

    /// The earliest time at which it will have been too long, or when to look again while an answer is awaited.
    fn too_long(&self, limits: &IdleLimits) -> Instant {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match *state {
            ActivityState { answering: 1.., .. } => Instant::now() + limits.first.min(limits.later),
            ActivityState { sending: 1.., touched, .. } => touched + limits.stalled,
            ActivityState { any_request: true, touched, .. } => touched + limits.later,
            ActivityState { touched, .. } => touched + limits.first,
        }
    }
}

/// A request that is being answered.
struct Answering(Arc<Activity>);

impl Answering {
    fn new(activity: &Arc<Activity>) -> Self {
        activity.change(|state| {
            state.answering += 1;
            state.any_request = true;
        });
        Self(Arc::clone(activity))
    }

    /// The answer exists: from now on it is being sent.
    fn sending(self, body: ResponseBody) -> Watched {
        self.0.change(|state| state.sending += 1);
        Watched { body, activity: Arc::clone(&self.0) }
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.change(|state| state.answering -= 1);
    }
}

/// An answer's body that tells when it is taken.
struct Watched {
    body: ResponseBody,
    activity: Arc<Activity>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.activity.change(|state| state.sending -= 1);
    }
}

impl Body for Watched {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if frame.is_ready() {
            self.activity.change(|_| {});
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
