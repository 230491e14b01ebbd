//! `pentimento models pull`: a model from a hub into the folder of models.
//!
//! All files are of one commit. They gather in a hidden folder beside their goal and move there as a whole, so a model is
//! there completely or not at all; the hidden folder stays after a failure, for the next run to go on from.

mod choose;
mod hub;
mod transfer;

use super::args::PullArgs;
use crate::{
    failure::{Failure, say},
    output,
    places::Places,
    source::{Source, is_model_name},
};
use anyhow::{Context, Result, anyhow, bail};
use choose::{Wanted, choose};
use hub::{Hub, Listing, RemoteFile};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::{
    fs::{self, File, TryLockError},
    io::{self, IsTerminal},
    path::{Path, PathBuf},
    time::Duration,
};
use transfer::{Origin, fetch};

/// Fetches what was asked for, and prints where it is.
pub(super) fn run(args: &PullArgs) -> Result<(), Failure> {
    check_names(args).map_err(Failure::Usage)?;
    let hub = Hub::from_environment(|name| std::env::var(name).ok())?;
    let folder = Places::typed(&args.data).for_new_models()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start what talks to the hub")?;
    let path = runtime.block_on(pull(args, &hub, &folder))?;
    if let (Err(reason), false) = (Source::at(&path).inspect(), args.quiet) {
        say(&format!("it was fetched, but this version cannot run it: {reason:#}"));
    }
    output::print(format!("{}\n", path.display()).as_bytes())
}

/// A repository is one or two plain words; anything else would name another address of the hub.
fn check_names(args: &PullArgs) -> Result<(), String> {
    let words: Vec<_> = args.repository.split('/').collect();
    if words.len() > 2 || !words.iter().all(|word| is_model_name(word)) {
        return Err(format!("'{}' is no repository: write OWNER/NAME", args.repository));
    }
    if args.revision.is_empty() || args.revision.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(format!("--revision: '{}' is none", args.revision));
    }
    match &args.name {
        Some(name) if !is_model_name(name) => Err(format!("--as: '{name}' is no name for a model")),
        _ => Ok(()),
    }
}

async fn pull(args: &PullArgs, hub: &Hub, folder: &Path) -> Result<PathBuf> {
    let listing = hub.list(&args.repository, &args.revision).await?;
    let Listing { commit, files } = listing;
    let wanted = choose(&files, args.file.as_deref(), args.variant.as_deref())
        .with_context(|| args.repository.clone())?;
    let goal = folder.join(goal_name(args, &wanted)?);
    if goal.exists() && !args.force {
        bail!("{} is there already: --force replaces it, --as gives another name", goal.display());
    }
    let source = format!("{} {} {commit}\n", hub.name(), args.repository);
    let staging = Staging::enter(&goal, &source)?;
    let origin = Origin { hub, repository: &args.repository, commit: &commit };
    let arrived = match &wanted {
        Wanted::Folder(files) => {
            let root = staging.folder.join("model");
            fetch_all(&origin, files, &root, args.quiet).await?;
            root
        }
        Wanted::File(file) => {
            let path = staging.folder.join("model.file");
            let renamed = [(file.clone(), path.clone())];
            fetch_each(&origin, &renamed, args.quiet).await?;
            path
        }
    };
    output::put_in_place(&arrived, &goal)?;
    staging.leave();
    Ok(goal)
}

/// What the model is called in the folder of models.
fn goal_name(args: &PullArgs, wanted: &Wanted) -> Result<String> {
    let last = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    let name = match wanted {
        Wanted::Folder(_) => args.name.clone().unwrap_or_else(|| last(&args.repository)),
        Wanted::File(file) => match (&args.name, file.path.rsplit_once('.')) {
            (Some(name), Some((_, ending))) => format!("{name}.{ending}"),
            _ => last(&file.path),
        },
    };
    if !is_model_name(&name) {
        bail!("'{name}' is no name for a model: give one with --as");
    }
    Ok(name)
}

async fn fetch_all(origin: &Origin<'_>, files: &[RemoteFile], root: &Path, quiet: bool) -> Result<()> {
    let placed: Vec<_> = files.iter().map(|file| (file.clone(), root.join(&file.path))).collect();
    fetch_each(origin, &placed, quiet).await
}

async fn fetch_each(origin: &Origin<'_>, files: &[(RemoteFile, PathBuf)], quiet: bool) -> Result<()> {
    let bar = progress(files.iter().filter_map(|(file, _)| file.size).sum(), quiet);
    let mut unconfirmed = Vec::new();
    for (file, target) in files {
        bar.set_message(file.path.clone());
        if !fetch(origin, file, target, &bar).await? {
            unconfirmed.push(file.path.as_str());
        }
    }
    bar.finish_and_clear();
    if !unconfirmed.is_empty() && !quiet {
        say(&format!("the hub names no hash of {}; only lengths were checked", unconfirmed.join(", ")));
    }
    Ok(())
}

fn progress(bytes: u64, quiet: bool) -> ProgressBar {
    if quiet || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(Some(bytes), ProgressDrawTarget::stderr());
    let form = "{wide_msg} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
    bar.set_style(ProgressStyle::with_template(form).unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// The hidden folder in which a model gathers. Two runs for the same model exclude each other.
struct Staging {
    folder: PathBuf,
    _lock: File,
}

impl Staging {
    /// Enters the folder for `goal`. What lies there of another source is thrown away.
    fn enter(goal: &Path, source: &str) -> Result<Self> {
        let name = goal.file_name().unwrap_or_default().to_string_lossy();
        let folder = goal.with_file_name(format!(".pull-{name}"));
        let failed = || format!("cannot use {}", folder.display());
        fs::create_dir_all(&folder).with_context(failed)?;
        let lock = File::create(folder.join("lock")).with_context(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!("another run fetches {name} at this moment"),
            Err(TryLockError::Error(error)) => return Err(anyhow!(error)).with_context(failed),
        }
        let note = folder.join("source");
        if fs::read_to_string(&note).ok().as_deref() != Some(source) {
            output::remove(&folder.join("model")).with_context(failed)?;
            for rest in ["model.file", "model.file.part"] {
                output::remove(&folder.join(rest)).with_context(failed)?;
            }
            fs::write(&note, source).with_context(failed)?;
        }
        Ok(Self { folder, _lock: lock })
    }

    /// Removes what is left when all is done; leftovers would do no harm.
    fn leave(self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}
