//! The project's own chores.
//!
//! ```text
//! cargo xtask check     everything that CI runs: fmt, clippy, documentation, tidy, tests, clients
//! cargo xtask test      the tests: those of Rust, and the clients' own programs against a running server
//! cargo xtask clients   the second half of these alone
//! cargo xtask tidy      the invariants of ARCHITECTURE.md that no compiler checks
//! cargo xtask load PROGRAM [CLIENTS [SECONDS [clients]]]   many clients against a server of its own: latencies, errors, memory
//! cargo xtask man DIR   manual pages and shell completions, as packages want them
//! cargo xtask numerics  measures how far the engine is from its references, and writes docs/numerics.md
//! ```

mod clients;
mod load;
mod manual;
mod numerics;
mod run;
mod tidy;

use anyhow::{Result, bail};
use run::{Step, root};
use std::{path::Path, process::ExitCode, time::Duration};

const USAGE: &str = "usage: cargo xtask check | test | clients | tidy | load PROGRAM [CLIENTS [SECONDS [clients]]] | man DIR | numerics";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match chore(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn chore(words: &[&str]) -> Result<()> {
    match words {
        ["check"] => check(),
        ["test"] => test(),
        ["clients"] => clients::test(),
        ["tidy"] => tidy(),
        ["load", program] => load(load::run, program, "200", "180"),
        ["load", program, clients] => load(load::run, program, clients, "180"),
        ["load", program, clients, seconds] => load(load::run, program, clients, seconds),
        ["load", program, clients, seconds, "clients"] => load(load::run_clients, program, clients, seconds),
        ["man", folder] => manual::write(Path::new(folder)),
        ["numerics"] => numerics::write(),
        _ => bail!("{USAGE}"),
    }
}

/// The cheap steps come first, so that a slip is told within seconds.
fn check() -> Result<()> {
    Step::cargo("formatting", &["fmt", "--all", "--check"]).run()?;
    tidy()?;
    deny()?;
    Step::cargo(
        "lints",
        &["clippy", "--workspace", "--all-targets", "--locked", "--quiet", "--", "-D", "warnings"],
    )
    .run()?;
    Step::cargo("documentation", &["doc", "--workspace", "--no-deps", "--locked", "--quiet"])
        .env("RUSTDOCFLAGS", "-D warnings")
        .run()?;
    test()
}

fn load(
    run: fn(&Path, usize, Duration) -> Result<()>,
    program: &str,
    clients: &str,
    seconds: &str,
) -> Result<()> {
    run(Path::new(program), clients.parse()?, Duration::from_secs(seconds.parse()?))
}

fn test() -> Result<()> {
    Step::cargo("tests", &["test", "--workspace", "--locked"]).run()?;
    clients::test()
}

fn tidy() -> Result<()> {
    let violations = tidy::violations(&root())?;
    for violation in &violations {
        eprintln!("{violation}");
    }
    match violations.len() {
        0 => Ok(()),
        count => bail!("tidy: {count} violations"),
    }
}

/// Licences, advisories and bans, where cargo-deny is installed. It wants the network, which a check must not need.
fn deny() -> Result<()> {
    if !run::works("cargo", &["deny", "--version"]) {
        eprintln!("== licences: skipped, since cargo-deny is not installed");
        return Ok(());
    }
    Step::cargo("licences", &["deny", "--offline", "check", "bans", "licenses", "sources"]).run()
}
