//! Tests of the crate from outside, by what they are about.

/// The vendor's examples and real clients' bodies, and the neutral requests they mean.
mod requests;

/// Bodies that break a rule, each with its exact answer, and bodies that break everything.
mod malformed;

/// Captured signatures, and forged, stale and altered ones.
mod signatures;

/// Paths, model ids, media types and what makes two requests the same work.
mod routing;

/// Pictures and errors in the vendor's words: JSON, bare pictures, streams, late failures.
mod answers;

/// Requests, pictures and protocols to test with.
mod fixtures;

/// Volcengine's protocol.
mod volcengine;
