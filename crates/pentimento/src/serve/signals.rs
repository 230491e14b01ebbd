//! The signals that end the server, the first one gracefully and the second one at once, and the one that makes it read
//! its configuration anew.

use anyhow::{Context, Result};
use std::process;
use tracing::info;

/// Exit code of a server that was not given the time to end: 128 and SIGINT, as shells report it.
const AT_ONCE: i32 = 130;

/// Listens for SIGINT and SIGTERM.
#[cfg(unix)]
pub(super) struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    /// Listens from now on.
    ///
    /// # Errors
    /// When the system does not allow it.
    pub(super) fn listen() -> Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Listens for Ctrl-C.
#[cfg(not(unix))]
pub(super) struct Signals;

#[cfg(not(unix))]
impl Signals {
    /// Listens from now on.
    ///
    /// # Errors
    /// Never here.
    pub(super) fn listen() -> Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Listens for SIGHUP, which asks for the configuration to be read anew.
#[cfg(unix)]
pub(super) struct Hangups(tokio::signal::unix::Signal);

#[cfg(unix)]
impl Hangups {
    /// Listens from now on; a hangup no longer ends the process.
    ///
    /// # Errors
    /// When the system does not allow it.
    pub(super) fn listen() -> Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self(signal(SignalKind::hangup()).context("cannot listen for signals")?))
    }

    /// Is done at the next one.
    pub(super) async fn next(&mut self) {
        if self.0.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    }
}

/// There is no such signal here.
#[cfg(not(unix))]
pub(super) struct Hangups;

#[cfg(not(unix))]
impl Hangups {
    /// Listens to nothing.
    ///
    /// # Errors
    /// Never here.
    pub(super) fn listen() -> Result<Self> {
        Ok(Self)
    }

    /// Is never done.
    pub(super) async fn next(&mut self) {
        std::future::pending::<()>().await;
    }
}

impl Signals {
    /// Is done at the first signal. From then on a second one ends the process.
    pub(super) async fn asked_to_end(mut self) {
        self.next().await;
        info!("asked to end; a second signal ends at once");
        tokio::spawn(async move {
            self.next().await;
            process::exit(AT_ONCE);
        });
    }
}
