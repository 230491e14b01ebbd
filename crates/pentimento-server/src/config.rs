//! What the server can be told, with the defaults and why they are so.

use crate::{
    clock::{Clock, SystemClock},
    error::{ServerError, ServerErrorKind},
    fetch::FetchConfig,
    quota::Quotas,
    results::ResultsConfig,
    tls::Tls,
};
use std::{fmt, net::SocketAddr, num::NonZeroU32, path::PathBuf, sync::Arc, time::Duration};

/// Everything that shapes a server. [`ServerConfig::new`] documents the defaults; every field may be changed after.
#[derive(Clone)]
pub struct ServerConfig {
    /// Address to listen on. Port 0 takes a free one; [`Server::local_addr`](crate::Server::local_addr) tells which.
    pub listen: SocketAddr,
    /// Certificate and key. `None`: cleartext.
    pub tls: Option<Tls>,
    /// Jobs that may wait beside the one that runs. Default 16.
    pub queue_places: usize,
    /// Bytes of the decoded pictures that wait in the queue, all together. One job alone may be larger. Default 512 MiB.
    /// Tasks wait on the disk and do not count.
    pub queue_memory: usize,
    /// What each caller may have.
    pub quotas: Quotas,
    /// Jobs that may be begun per minute, in bursts of as many; further ones are told to come back later. A retry that
    /// joins its running job counts for nothing. Default `None`: no limit.
    pub jobs_per_minute: Option<NonZeroU32>,
    /// How long a job is kept after its last client left, if that client announced that it would try again. Default
    /// 900 ms, so that an abandoned job is cancelled within a second. Raise it where pictures take longer than the
    /// clients' read timeout: a retry that comes later finds its job gone and starts anew.
    pub retry_grace: Duration,
    /// Longest time from a job's admission to its picture, waiting included. Default 15 minutes; `None`: no limit.
    pub deadline: Option<Duration>,
    /// Whether slow answers are kept alive with early heads and beats. Default off: the early head commits to a
    /// success status before the outcome is known.
    pub keep_alive: Option<KeepAliveTiming>,
    /// Time for a whole request body to arrive. Default 60 s.
    pub body_timeout: Duration,
    /// Time for a request's head, and for the TLS handshake. Default 15 s.
    pub header_timeout: Duration,
    /// Time after which a connection on which nothing happens is closed, also where its peer does not take an answer.
    /// A running job is no idleness. Default 75 s.
    pub idle_timeout: Duration,
    /// Connections held at once; further ones wait in the system's backlog. Default 512, which leaves room under the
    /// usual limit of 1024 open files.
    pub max_connections: usize,
    /// Bytes of all request bodies held in memory at once. Default 512 MiB. A body that finds no room for
    /// [`ServerConfig::intake_wait`] is refused.
    pub body_memory: usize,
    /// Requests that are verified and decoded at once, each on its own thread. Default: one per processor, 2 to 8.
    pub decoders: usize,
    /// How long a request waits for memory or for a decoder before it is refused. Default 10 s.
    pub intake_wait: Duration,
    /// Longest time from the shutdown signal to the end of [`Server::run`](crate::Server::run). The running job may
    /// finish in it. Default 50 s, at most [`ServerConfig::MAX_SHUTDOWN`].
    pub shutdown_timeout: Duration,
    /// Folder that holds tasks and results over ends of the server. `None`: there are no tasks and no links.
    pub data_dir: Option<PathBuf>,
    /// How results are kept and linked.
    pub results: ResultsConfig,
    /// What pictures may be fetched, and from where.
    pub fetch: FetchConfig,
    /// How often tasks and results are looked for whose time is over. Default 60 s.
    pub sweep_every: Duration,
    /// Where the time is read.
    pub clock: Arc<dyn Clock>,
}

impl fmt::Debug for ServerConfig {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            listen,
            tls,
            queue_places,
            queue_memory,
            quotas,
            jobs_per_minute,
            retry_grace,
            deadline,
            keep_alive,
            body_timeout,
            header_timeout,
            idle_timeout,
            max_connections,
            body_memory,
            decoders,
            intake_wait,
            shutdown_timeout,
            data_dir,
            results,
            fetch,
            sweep_every,
            clock: _,
        } = self;
        out.debug_struct("ServerConfig")
            .field("listen", listen)
            .field("tls", tls)
            .field("queue", &(queue_places, queue_memory, quotas, jobs_per_minute))
            .field("times", &(retry_grace, deadline, keep_alive, body_timeout, header_timeout))
            .field("more_times", &(idle_timeout, intake_wait, shutdown_timeout, sweep_every))
            .field("intake", &(max_connections, body_memory, decoders))
            .field("lasting", &(data_dir, results, fetch))
            .finish()
    }
}

impl ServerConfig {
    /// Process supervisors commonly kill after a minute or more; the process must have ended by itself before.
    pub const MAX_SHUTDOWN: Duration = Duration::from_secs(55);

    /// The defaults that each field documents.
    pub fn new(listen: SocketAddr) -> Self {
        let processors = std::thread::available_parallelism().map_or(2, |count| count.get());
        Self {
            listen,
            tls: None,
            queue_places: 16,
            queue_memory: 512 << 20,
            quotas: Quotas::default(),
            jobs_per_minute: None,
            retry_grace: Duration::from_millis(900),
            deadline: Some(Duration::from_secs(15 * 60)),
            keep_alive: None,
            body_timeout: Duration::from_secs(60),
            header_timeout: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(75),
            max_connections: 512,
            body_memory: 512 << 20,
            decoders: processors.clamp(2, 8),
            intake_wait: Duration::from_secs(10),
            shutdown_timeout: Duration::from_secs(50),
            data_dir: None,
            results: ResultsConfig::default(),
            fetch: FetchConfig::default(),
            sweep_every: Duration::from_secs(60),
            clock: Arc::new(SystemClock),
        }
    }

    /// Refuses values that cannot work, by name.
    pub(crate) fn check(&self) -> Result<(), ServerError> {
        let wrong = |what: &str| Err(ServerError::new(ServerErrorKind::InvalidConfig, what));
        if self.max_connections == 0 {
            return wrong("max_connections must be at least 1");
        }
        if self.decoders == 0 {
            return wrong("decoders must be at least 1");
        }
        if self.sweep_every.is_zero() {
            return wrong("sweep_every must be longer than nothing");
        }
        if self.results.lifetime < Duration::from_secs(1) {
            return wrong("results.lifetime must be at least 1 second");
        }
        if self.shutdown_timeout > Self::MAX_SHUTDOWN {
            return wrong("shutdown_timeout must be at most 55 seconds");
        }
        if self.keep_alive.is_some_and(|timing| timing.every < KeepAliveTiming::SHORTEST) {
            return wrong("keep_alive.every must be at least 10 milliseconds");
        }
        if self.keep_alive.is_some_and(|timing| timing.every > self.idle_timeout / 2) {
            return wrong("keep_alive.every must be at most half of idle_timeout");
        }
        Ok(())
    }
}

/// When a slow answer is begun early, and how often it is given a sign of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepAliveTiming {
    /// Time after which the head of the answer is sent. Failures before it still have their own status.
    pub after: Duration,
    /// Time between two beats, at least 10 ms and at most half of [`ServerConfig::idle_timeout`].
    pub every: Duration,
}

impl KeepAliveTiming {
    /// Faster beats would only burn processor time.
    const SHORTEST: Duration = Duration::from_millis(10);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_pass_and_impossible_values_are_named() {
        let config = ServerConfig::new(([127, 0, 0, 1], 0).into());
        assert!(config.check().is_ok());
        let second = Duration::from_secs(1);
        let keeping = |every| Some(KeepAliveTiming { after: second, every });
        let wrong = [
            ("max_connections", ServerConfig { max_connections: 0, ..config.clone() }),
            ("decoders", ServerConfig { decoders: 0, ..config.clone() }),
            ("shutdown_timeout", ServerConfig { shutdown_timeout: second * 56, ..config.clone() }),
            ("at least 10", ServerConfig { keep_alive: keeping(Duration::ZERO), ..config.clone() }),
            ("at most half", ServerConfig { keep_alive: keeping(second * 60), ..config }),
        ];
        for (field, config) in wrong {
            let error = config.check().expect_err(field);
            assert_eq!(error.kind(), ServerErrorKind::InvalidConfig);
            assert!(error.to_string().contains(field), "{error}");
        }
    }
}
