//! The server as a whole: listening, accepting, and an end that comes in time whatever peers do.
//!
//! The end, from the shutdown signal on: no connection is accepted any more, readiness is refused, queued jobs and
//! unfinished bodies are answered, idle connections are closed. The running job may finish until
//! [`ServerConfig::shutdown_timeout`] less a reserve in which it is broken off and answered. What is still open after
//! that is dropped.

use crate::{
    config::ServerConfig,
    connection,
    error::{ServerError, ServerErrorKind},
    intake::Intake,
    jobs::{Jobs, Limits},
    metrics::Metrics,
};
use pentimento_protocols::Protocol;
use pentimento_request::Generator;
use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    select,
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::{JoinError, JoinSet},
    time::{Instant, interval, sleep, timeout_at},
};
use tracing::{error, info, warn};

/// How long to wait before accepting again when the system has no file or memory for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// How often the metrics' raw samples are moved into their buckets.
const UPKEEP: Duration = Duration::from_secs(5);

/// Time at the end of a shutdown for breaking off what runs and answering it, at most.
const LONGEST_RESERVE: Duration = Duration::from_secs(5);

/// Binds and runs in one call.
///
/// # Errors
/// As [`Server::bind`] and [`Server::run`].
pub async fn serve(
    config: ServerConfig,
    protocols: Vec<Arc<dyn Protocol>>,
    generator: Arc<dyn Generator>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServerError> {
    Server::bind(config).await?.run(protocols, generator, shutdown).await
}

/// A server that listens, but does not answer yet.
pub struct Server {
    config: ServerConfig,
    listener: TcpListener,
    address: SocketAddr,
}

impl Server {
    /// Checks the configuration and listens.
    ///
    /// # Errors
    /// [`ServerErrorKind::InvalidConfig`] and [`ServerErrorKind::Bind`].
    pub async fn bind(config: ServerConfig) -> Result<Self, ServerError> {
        config.check()?;
        let failed = |error: io::Error| {
            ServerError::caused_by(
                ServerErrorKind::Bind,
                format!("cannot listen on {}", config.listen),
                error,
            )
        };
        let listener = TcpListener::bind(config.listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { config, listener, address })
    }

    /// The address that is listened on, with the port that was taken.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Answers requests until `shutdown` is done, and then ends within [`ServerConfig::shutdown_timeout`].
    ///
    /// A request is offered to `protocols` in their order.
    ///
    /// # Errors
    /// [`ServerErrorKind::Internal`] when the worker cannot be started. Failures of peers or jobs never end the server.
    pub async fn run(
        self,
        protocols: Vec<Arc<dyn Protocol>>,
        generator: Arc<dyn Generator>,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), ServerError> {
        let app = Arc::new(App::new(self.config, protocols, generator)?);
        info!(address = %self.address, tls = app.config.tls.is_some(), "listening");
        let mut connections = JoinSet::new();
        let mut upkeep = JoinSet::new();
        upkeep.spawn(keep_up(app.metrics.clone()));
        accept_until(pin!(shutdown), &app, &self.listener, &mut connections).await;
        drop(self.listener);
        end(&app, connections).await;
        Ok(())
    }
}

/// What all connections share.
pub(crate) struct App {
    pub(crate) config: ServerConfig,
    pub(crate) protocols: Vec<Arc<dyn Protocol>>,
    pub(crate) jobs: Jobs,
    pub(crate) intake: Intake,
    pub(crate) metrics: Metrics,
    closing: watch::Sender<bool>,
}

impl App {
    fn new(
        config: ServerConfig,
        protocols: Vec<Arc<dyn Protocol>>,
        generator: Arc<dyn Generator>,
    ) -> Result<Self, ServerError> {
        let metrics = Metrics::new();
        let limits = Limits {
            places: config.queue_places,
            per_minute: config.jobs_per_minute,
            retry_grace: config.retry_grace,
            deadline: config.deadline,
        };
        let jobs = Jobs::start(generator, &limits, metrics.clone())?;
        let intake = Intake::new(&config);
        Ok(Self { config, protocols, jobs, intake, metrics, closing: watch::Sender::new(false) })
    }

    /// Whether the server is shutting down.
    pub(crate) fn is_closing(&self) -> bool {
        *self.closing.borrow()
    }

    /// Returns once the server is shutting down.
    pub(crate) async fn closing(&self) {
        // An error would mean that the sender is gone, but it lives in `self`.
        let _ = self.closing.subscribe().wait_for(|closing| *closing).await;
    }

    /// Does this unless the server is shutting down, or begins to before it is done.
    pub(crate) async fn unless_closing<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        select! {
            result = work => Some(result),
            () = self.closing() => None,
        }
    }
}

async fn keep_up(metrics: Metrics) {
    let mut ticks = interval(UPKEEP);
    loop {
        ticks.tick().await;
        metrics.upkeep();
    }
}

async fn accept_until(
    mut shutdown: Pin<&mut impl Future<Output = ()>>,
    app: &Arc<App>,
    listener: &TcpListener,
    connections: &mut JoinSet<()>,
) {
    let places = Arc::new(Semaphore::new(app.config.max_connections.min(Semaphore::MAX_PERMITS)));
    loop {
        let accepted = select! {
            biased;
            () = shutdown.as_mut() => return,
            Some(ended) = connections.join_next() => {
                note(ended);
                continue;
            }
            accepted = accept(listener, &places) => accepted,
        };
        let (place, stream, peer) = accepted;
        let app = Arc::clone(app);
        connections.spawn(async move {
            connection::serve(app, stream, peer).await;
            drop(place);
        });
    }
}

/// The next connection, once there is a place for it.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> (Option<OwnedSemaphorePermit>, TcpStream, SocketAddr) {
    // The semaphore is never closed, so there always is a permit to hold in the end.
    let place = Arc::clone(places).acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => return (place, stream, peer),
            Err(error) if is_the_peers(&error) => {}
            Err(error) => {
                warn!(%error, "cannot accept connections for now");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Whether accepting failed because a peer was gone already.
fn is_the_peers(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// Ends everything within the configured time.
async fn end(app: &App, mut connections: JoinSet<()>) {
    let timeout = app.config.shutdown_timeout;
    let last = Instant::now() + timeout;
    let reserve = LONGEST_RESERVE.min(timeout / 4);
    info!(connections = connections.len(), "shutting down");
    app.closing.send_replace(true);
    app.jobs.close();
    if timeout_at(last - reserve, all_ended(&mut connections)).await.is_err() {
        warn!(connections = connections.len(), "the time is almost up: breaking off what still runs");
        app.jobs.abort();
        // A fifth of the reserve is left for the worker to return from what was broken off.
        let _ = timeout_at(last - reserve / 5, all_ended(&mut connections)).await;
    }
    let dropped = connections.len();
    connections.abort_all();
    app.jobs.abort();
    let worker_ended = timeout_at(last, app.jobs.ended()).await.is_ok();
    info!(dropped, worker_ended, "ended");
}

async fn all_ended(connections: &mut JoinSet<()>) {
    while let Some(ended) = connections.join_next().await {
        note(ended);
    }
}

fn note(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        error!(%error, "a connection's task failed");
    }
}
