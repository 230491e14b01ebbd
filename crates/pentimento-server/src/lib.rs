//! The HTTP server: raw requests in, one queue, one worker, answers out.
//!
//! HTTP/1.1 and HTTP/2 (prior knowledge, or ALPN over TLS) share one port. The server names no vendor: a
//! [`Protocol`](pentimento_protocols::Protocol) claims a raw request target, understands the request and writes the
//! answer; a [`Generator`](pentimento_request::Generator) draws. Between the two stands one bounded queue with one worker
//! thread, and no endpoint reaches the generator another way.
//!
//! ```text
//! connection   sockets, TLS, limits, watch over idle peers
//!  └ routes    raw target -> a health page or a protocol
//!     └ intake    the body within its limits -> Protocol::receive on a blocking thread -> Call
//!        └ fetch     pictures that the request names by URL, from public addresses only
//!        └ execute   seed, submit, wait, keep alive, finish, link -> Protocol::answer
//!           └ tasks     requests that are answered later, over ends and starts of the server
//!           └ jobs      ledger (who waits for what) and worker (the thread that owns the generator)
//! keep         the data folder: the database of tasks, the key of links
//! results      finished pictures in an object store, and links to them
//! ```
//!
//! A client that leaves takes its job with it: hyper drops the future or body that stands for the request, that drops
//! its ticket, and the last ticket's drop cancels the job.

mod assembly;
mod clock;
mod config;
mod connection;
mod error;
mod execute;
mod fetch;
mod intake;
mod jobs;
mod keep;
mod metrics;
mod quota;
mod record;
mod respond;
mod results;
mod routes;
mod server;
mod tasks;
mod tls;

pub use clock::{Clock, SystemClock};
pub use config::{KeepAliveTiming, ServerConfig};
pub use error::{ServerError, ServerErrorKind};
pub use fetch::{FetchConfig, Origin, Resolver, Resolving, SystemResolver};
pub use quota::{Quota, Quotas};
pub use results::{ResultStore, ResultsConfig, S3Store};
pub use server::{Controls, Server, serve};
pub use tls::{Authorities, Tls};
