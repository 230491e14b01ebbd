//! The binary: the only crate that names both the engine and the server.
//!
//! [`cli`] is what can be typed; each command resolves it in its own module. Standard output carries only
//! what was asked for, an error is one line on standard error, and [`failure`] gives the exit codes.

mod bench;
mod catalogue;
mod cli;
mod config;
mod credentials;
mod embedded;
mod failure;
mod generate;
mod library;
mod lora;
mod memory;
mod models;
mod output;
mod places;
mod progress;
mod room;
mod serve;
mod source;
mod styles;
mod words;

use clap::{CommandFactory, Parser, error::ErrorKind};
use cli::{Cli, Command};
use failure::Failure;
use pentimento_kernels::pages::PagePool;
use std::{process::ExitCode, time::Instant};

/// Keeps the large buffers of a layer for the next one.
#[global_allocator]
static ALLOCATOR: PagePool = PagePool;

fn main() -> ExitCode {
    let started = Instant::now();
    let done = match Cli::try_parse() {
        Ok(cli) => run(cli.command, started),
        Err(error) => explain(&error),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(command: Command, started: Instant) -> Result<(), Failure> {
    match command {
        Command::Generate(args) => generate::run(&args),
        Command::Serve(args) => serve::run(args),
        Command::Models(args) => models::run(&args.command),
        Command::Lora(args) => lora::run(&args.command),
        Command::Bench(args) => bench::run(&args, started),
        Command::Styles => styles::run(),
        Command::Completions { shell } => completions(shell),
        Command::Man { command } => manual(command.as_deref()),
    }
}

/// Prints help and version as clap means them, and turns mistakes into one line.
fn explain(error: &clap::Error) -> Result<(), Failure> {
    let text = error.render().to_string();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => output::print(text.as_bytes()),
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => Err(Failure::Help(text)),
        _ => Err(Failure::Usage(in_one_line(&text))),
    }
}

/// What clap says in a paragraph, without the usage that follows it.
fn in_one_line(text: &str) -> String {
    let is_told = |line: &&str| !line.starts_with("Usage:") && !line.starts_with("For more information");
    let lines: Vec<_> =
        text.lines().take_while(is_told).map(str::trim).filter(|line| !line.is_empty()).collect();
    let line = lines.join(" ");
    format!("{} (see --help)", line.strip_prefix("error: ").unwrap_or(&line))
}

fn completions(shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "pentimento", &mut script);
    output::print(&script)
}

fn manual(command: Option<&str>) -> Result<(), Failure> {
    let mut program = Cli::command();
    program.build();
    let described = match command {
        None => program,
        Some(name) => match program.find_subcommand(name) {
            Some(found) => found.clone(),
            None => return Err(Failure::Usage(format!("there is no command '{name}' (see --help)"))),
        },
    };
    let mut page = Vec::new();
    clap_mangen::Man::new(described).render(&mut page).map_err(anyhow::Error::from)?;
    output::print(&page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_errors_fit_in_a_line() {
        let typed = |words: &[&str]| {
            let error = Cli::try_parse_from([&["pentimento"], words].concat()).expect_err("it is wrong");
            in_one_line(&error.render().to_string())
        };
        let missing = typed(&["generate", "--prompt", "x"]);
        assert_eq!(missing, "the following required arguments were not provided: --out <FILE> (see --help)");
        let unknown = typed(&["generate", "--prompt", "x", "--out", "y", "--sampler", "K_FOO"]);
        assert!(unknown.contains("'K_FOO'") && unknown.contains("K_DPMPP_2M"), "{unknown}");
        assert!(!unknown.contains('\n'), "{unknown}");
    }
}
