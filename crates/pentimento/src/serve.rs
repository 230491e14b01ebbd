//! `pentimento serve`: waits for the server crate.
use crate::{cli::ServeArgs, failure::Failure};
pub(crate) fn run(_: &ServeArgs) -> Result<(), Failure> {
    Err(Failure::Failed("not written yet".to_owned()))
}
