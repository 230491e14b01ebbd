//! The server on loopback, with a fake protocol and a fake generator.
//!
//! - `transport`: both HTTP versions, TLS, raw targets, what protocols are shown, the server's own pages
//! - `bodies`: limits of size, time and memory
//! - `jobs`: the queue, clients that leave, retries that join, deadlines, panics
//! - `keep_alive`: answers that are begun early
//! - `shutdown`: an end in time, whatever peers do
//! - `faults`: a full disk
//! - `fetching`: pictures behind URLs, most of them hostile
//! - `secure_fetching`: the same over TLS
//! - `tasks`: their states, over ends and kills of the server; links to results
//! - `quotas`: what single callers may ask for, and turns between them
//! - `s3`: results in a bucket, and a store that does not answer
//! - `observed`: metrics and logs
//!
//! Nothing here sleeps to let something happen: tests wait for what they need to see, with a generous limit.

mod bodies;
mod client;
mod fake;
mod faults;
mod fetching;
mod jobs;
mod keep_alive;
mod observed;
mod quotas;
mod s3;
mod secure_fetching;
mod shutdown;
mod tasks;
mod transport;
