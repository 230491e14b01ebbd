//! Running other programs, each as a step that says what it is and how long it took.

use anyhow::{Context, Result, bail};
use std::{
    env,
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

/// The workspace's folder.
pub(crate) fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().expect("xtask lies in the workspace").to_owned()
}

/// Whether this runs unattended. What would be skipped elsewhere is then a failure.
pub(crate) fn in_ci() -> bool {
    env::var_os("CI").is_some_and(|value| !value.is_empty() && value != "false" && value != "0")
}

/// Whether a program is there and ends well. It prints nothing.
pub(crate) fn works(program: impl AsRef<OsStr>, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// A program to run.
pub(crate) struct Step {
    name: String,
    command: Command,
}

impl Step {
    /// A program with its arguments, run in the workspace's folder.
    pub(crate) fn new<A: AsRef<OsStr>>(name: &str, program: impl AsRef<OsStr>, arguments: &[A]) -> Self {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(root());
        Self { name: name.to_owned(), command }
    }

    /// The cargo that runs this program.
    pub(crate) fn cargo(name: &str, arguments: &[&str]) -> Self {
        Self::new(name, env::var_os("CARGO").unwrap_or_else(|| "cargo".into()), arguments)
    }

    /// Sets a variable of its environment.
    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Sets its folder.
    pub(crate) fn within(mut self, folder: impl AsRef<Path>) -> Self {
        self.command.current_dir(folder);
        self
    }

    /// Runs it and lets it print.
    ///
    /// # Errors
    /// When it cannot be started or does not end well.
    pub(crate) fn run(mut self) -> Result<()> {
        eprintln!("== {}", self.name);
        let since = Instant::now();
        let status = self.command.status().with_context(|| format!("{} cannot be started", self.name))?;
        if !status.success() {
            bail!("{} failed ({status})", self.name);
        }
        eprintln!("== {}: {:.0} s", self.name, since.elapsed().as_secs_f64());
        Ok(())
    }

    /// Runs it and answers what it printed on its standard output.
    ///
    /// # Errors
    /// When it cannot be started or does not end well.
    pub(crate) fn output(mut self) -> Result<Vec<u8>> {
        let output = self.command.stderr(Stdio::inherit()).output();
        let output = output.with_context(|| format!("{} cannot be started", self.name))?;
        if !output.status.success() {
            bail!("{} failed ({})", self.name, output.status);
        }
        Ok(output.stdout)
    }
}
