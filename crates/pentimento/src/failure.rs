//! How commands end when they do not end well: one line on standard error and an exit code.

use std::{
    error::Error,
    io::{self, Write},
    process::ExitCode,
};

/// Why a command did not do what was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Nothing was asked; the help is shown instead.
    Help(String),
    /// What was typed has to be changed.
    Usage(String),
    /// What was typed is fine, and it failed.
    Failed(String),
    /// The user broke off.
    BrokenOff,
}

impl Failure {
    /// Tells the user, and answers the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        match self {
            Self::Help(text) => say(text.trim_end()),
            Self::Usage(message) | Self::Failed(message) => say(&format!("error: {message}")),
            Self::BrokenOff => say("error: broken off; no picture was written"),
        }
        ExitCode::from(self.code())
    }

    const fn code(&self) -> u8 {
        match self {
            Self::Help(_) | Self::Usage(_) => 2,
            Self::Failed(_) => 1,
            // 128 and SIGINT, as shells report it.
            Self::BrokenOff => 130,
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(in_one_line(&*error))
    }
}

/// Writes a line to standard error. Where nobody reads it, there is nobody left to tell.
pub(crate) fn say(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// An error and its causes, in one line. Causes that the message names already are not said twice.
pub(crate) fn in_one_line(error: &(dyn Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !line.contains(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        cause = error.source();
    }
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;

    #[test]
    fn causes_are_told_once_and_in_one_line() {
        let error = anyhow!("no such\nfile").context("cannot read a").context("cannot start: cannot read a");
        assert_eq!(in_one_line(&*error), "cannot start: cannot read a: no such file");
    }

    #[test]
    fn every_end_has_its_code() {
        let codes = [Failure::Usage(String::new()), Failure::Failed(String::new()), Failure::BrokenOff];
        assert_eq!(codes.map(|failure| failure.code()), [2, 1, 130]);
    }
}
