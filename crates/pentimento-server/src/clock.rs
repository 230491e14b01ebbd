//! Two kinds of time: the wall clock, which somebody may set, and a steady one, which nobody can.
//!
//! Ages of tasks and results are measured on a [`Timeline`]: it starts at the wall clock's time when the server starts and
//! goes on steadily, so that a clock that is set while the server runs makes nothing expire and nothing last.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Where the server reads the time.
pub trait Clock: Send + Sync {
    /// The wall clock: what signatures are checked against.
    fn wall(&self) -> SystemTime;

    /// Steady time: what ages are measured with.
    fn steady(&self) -> Instant;
}

/// The system's clocks.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }

    fn steady(&self) -> Instant {
        Instant::now()
    }
}

/// Wall-clock time that was read once and goes on steadily.
#[derive(Clone)]
pub(crate) struct Timeline {
    clock: Arc<dyn Clock>,
    /// Milliseconds since 1970 at `begun`.
    wall: u64,
    begun: Instant,
}

impl Timeline {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        let wall = millis(clock.wall().duration_since(UNIX_EPOCH).unwrap_or_default());
        let begun = clock.steady();
        Self { clock, wall, begun }
    }

    /// Milliseconds since 1970.
    pub(crate) fn now(&self) -> u64 {
        self.wall.saturating_add(millis(self.clock.steady().saturating_duration_since(self.begun)))
    }

    /// How long ago that was; nothing where it lies in the future.
    pub(crate) fn age(&self, then: u64) -> Duration {
        Duration::from_millis(self.now().saturating_sub(then))
    }
}

impl fmt::Debug for Timeline {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Timeline({})", self.now())
    }
}

pub(crate) fn millis(length: Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX)
}
