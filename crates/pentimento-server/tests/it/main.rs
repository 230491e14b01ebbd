//! The server on loopback, with a fake protocol and a fake generator.
//!
//! - `transport`: both HTTP versions, TLS, raw targets, what protocols are shown, the server's own pages
//! - `bodies`: limits of size, time and memory
//! - `jobs`: the queue, clients that leave, retries that join, deadlines, panics
//! - `keep_alive`: answers that are begun early
//! - `shutdown`: an end in time, whatever peers do
//! - `observed`: metrics and logs
//!
//! Nothing here sleeps to let something happen: tests wait for what they need to see, with a generous limit.

mod bodies;
mod client;
mod fake;
mod jobs;
mod keep_alive;
mod observed;
mod shutdown;
mod transport;
