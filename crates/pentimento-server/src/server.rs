//! The server as a whole: listening, accepting, and an end that comes in time whatever peers do.
//!
//! The end, from the shutdown signal on: no connection is accepted any more, readiness is refused, queued jobs and
//! unfinished bodies are answered, tasks that wait are left to the next start, idle connections are closed. The running job may finish until
//! [`ServerConfig::shutdown_timeout`] less a reserve in which it is broken off and answered. What is still open after
//! that is dropped.

use crate::{
    clock::Timeline,
    config::ServerConfig,
    connection,
    error::{ServerError, ServerErrorKind},
    fetch::Fetcher,
    intake::Intake,
    jobs::{Jobs, Limits},
    keep::Keep,
    metrics::Metrics,
    quota::Quotas,
    results::Results,
    tasks::Tasks,
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
    join,
    net::{TcpListener, TcpStream},
    select,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
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
    keep: Option<Keep>,
    changes: (mpsc::UnboundedSender<Change>, mpsc::UnboundedReceiver<Change>),
}

/// What of a running server can be changed. Clones change the same server; after its end they change nothing.
#[derive(Clone)]
pub struct Controls(mpsc::UnboundedSender<Change>);

enum Change {
    Quotas(Quotas),
}

impl Controls {
    /// Admits further jobs by these quotas.
    pub fn replace_quotas(&self, quotas: Quotas) {
        let _ = self.0.send(Change::Quotas(quotas));
    }
}

impl Server {
    /// Checks the configuration, listens, and takes hold of the data folder.
    ///
    /// # Errors
    /// [`ServerErrorKind::InvalidConfig`], [`ServerErrorKind::Bind`] and [`ServerErrorKind::Data`].
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
        let keep = config.data_dir.as_deref().map(Keep::open).transpose()?;
        Ok(Self { config, listener, address, keep, changes: mpsc::unbounded_channel() })
    }

    /// A handle with which the server can be changed while it runs.
    pub fn controls(&self) -> Controls {
        Controls(self.changes.0.clone())
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
    /// [`ServerErrorKind::Internal`] when the worker cannot be started, [`ServerErrorKind::Data`] when the data folder
    /// cannot be used. Failures of peers or jobs never end the server.
    pub async fn run(
        self,
        protocols: Vec<Arc<dyn Protocol>>,
        generator: Arc<dyn Generator>,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), ServerError> {
        let app = Arc::new(App::new(self.config, self.address, self.keep, protocols, generator)?);
        info!(address = %self.address, tls = app.config.tls.is_some(), "listening");
        let mut connections = JoinSet::new();
        let mut upkeep = JoinSet::new();
        upkeep.spawn(keep_up(app.metrics.clone()));
        upkeep.spawn(change(Arc::clone(&app), self.changes.1));
        if let Some(lasting) = &app.lasting {
            upkeep.spawn(Arc::clone(&lasting.tasks).sweep(app.config.sweep_every));
        }
        accept_until(pin!(shutdown), &app, &self.listener, &mut connections).await;
        drop(self.listener);
        end(&app, connections).await;
        Ok(())
    }
}

/// What all connections share.
pub(crate) struct App {
    pub(crate) config: ServerConfig,
    pub(crate) address: SocketAddr,
    pub(crate) protocols: Vec<Arc<dyn Protocol>>,
    pub(crate) jobs: Arc<Jobs>,
    pub(crate) lasting: Option<Lasting>,
    pub(crate) intake: Intake,
    pub(crate) fetcher: Fetcher,
    pub(crate) metrics: Metrics,
    closing: watch::Sender<bool>,
}

/// What outlives a run of the server.
pub(crate) struct Lasting {
    pub(crate) tasks: Arc<Tasks>,
    pub(crate) results: Arc<Results>,
}

impl App {
    fn new(
        config: ServerConfig,
        address: SocketAddr,
        keep: Option<Keep>,
        protocols: Vec<Arc<dyn Protocol>>,
        generator: Arc<dyn Generator>,
    ) -> Result<Self, ServerError> {
        let metrics = Metrics::new();
        let limits = Limits {
            places: config.queue_places,
            memory: config.queue_memory,
            quotas: config.quotas.clone(),
            per_minute: config.jobs_per_minute,
            retry_grace: config.retry_grace,
            deadline: config.deadline,
        };
        let jobs = Arc::new(Jobs::start(generator, &limits, metrics.clone())?);
        let lasting = keep.map(|keep| Lasting::open(keep, &config, &jobs, &metrics)).transpose()?;
        let intake = Intake::new(&config);
        let fetcher = Fetcher::new(config.fetch.clone(), metrics.clone());
        let closing = watch::Sender::new(false);
        Ok(Self { config, address, protocols, jobs, lasting, intake, fetcher, metrics, closing })
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

impl Lasting {
    fn open(keep: Keep, config: &ServerConfig, jobs: &Jobs, metrics: &Metrics) -> Result<Self, ServerError> {
        let time = Timeline::new(Arc::clone(&config.clock));
        let keep = Arc::new(keep);
        let results = Results::open(&config.results, &keep, time.clone(), metrics.clone())?;
        let results = Arc::new(results);
        let tasks = Tasks::restore(keep, Arc::clone(&results), time, jobs, metrics.clone())?;
        Ok(Self { tasks, results })
    }
}

/// Carries out what the server's controls ask for.
async fn change(app: Arc<App>, mut changes: mpsc::UnboundedReceiver<Change>) {
    while let Some(change) = changes.recv().await {
        match change {
            Change::Quotas(quotas) => app.jobs.set_quotas(quotas),
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
    if timeout_at(last - reserve, all_done(app, &mut connections)).await.is_err() {
        warn!(connections = connections.len(), "the time is almost up: breaking off what still runs");
        app.jobs.abort();
        // A fifth of the reserve is left for the worker to return from what was broken off.
        let _ = timeout_at(last - reserve / 5, all_done(app, &mut connections)).await;
    }
    let dropped = connections.len();
    connections.abort_all();
    app.jobs.abort();
    let worker_ended = timeout_at(last, app.jobs.ended()).await.is_ok();
    info!(dropped, worker_ended, "ended");
}

/// Returns when every connection has ended, and the task that ran, if one did.
async fn all_done(app: &App, connections: &mut JoinSet<()>) {
    let tasks = async {
        if let Some(lasting) = &app.lasting {
            lasting.tasks.settled().await;
        }
    };
    join!(all_ended(connections), tasks);
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
