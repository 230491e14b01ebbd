//! What is fuzzed. The functions are plain ones, so that a test of the workspace runs them over the corpora too.

pub mod targets;
