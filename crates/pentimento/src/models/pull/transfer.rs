//! One file from a hub to the disk, whatever happens on the way: a broken transfer goes on where it broke off, in the
//! same run and in a later one, and a file stands under its name only after its hash was found right.

use super::hub::{FileHash, Hub, Opened, Refused, RemoteFile};
use anyhow::{Context, Result, anyhow, bail};
use indicatif::ProgressBar;
use reqwest::{StatusCode, header};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::time::sleep;

/// Attempts without a single new byte before a transfer is given up.
const MOST_FAILURES: u32 = 5;

/// Pause after the first failure; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// Where a file comes from.
pub(super) struct Origin<'a> {
    pub(super) hub: &'a Hub,
    pub(super) repository: &'a str,
    pub(super) commit: &'a str,
}

/// What a file has to be; the list's word stands above the answer's.
struct Expected {
    size: Option<u64>,
    hash: Option<FileHash>,
}

/// Fetches a file to `target`, unless it is there. Answers whether a hash confirmed it.
///
/// # Errors
/// One line that names the file. What came so far stays for the next run, unless it was wrong.
pub(super) async fn fetch(
    origin: &Origin<'_>,
    file: &RemoteFile,
    target: &Path,
    bar: &ProgressBar,
) -> Result<bool> {
    if target.is_file() {
        bar.inc(length(target));
        return Ok(file.hash.is_some());
    }
    if let Some(folder) = target.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let part = part_of(target);
    let expected = persist(origin, file, &part, bar).await?;
    let checked = check(&part, &expected).with_context(|| file.path.clone());
    if checked.is_err() {
        // Wrong bytes are nothing to go on from.
        let _ = fs::remove_file(&part);
    }
    checked?;
    fs::rename(&part, target).with_context(|| format!("cannot name {}", target.display()))?;
    Ok(expected.hash.is_some())
}

/// Tries until the file is complete, or nothing comes any more.
async fn persist(origin: &Origin<'_>, file: &RemoteFile, part: &Path, bar: &ProgressBar) -> Result<Expected> {
    let start = bar.position();
    let mut failures = 0;
    loop {
        let before = length(part);
        bar.set_position(start + before);
        let error = match attempt(origin, file, part, bar).await {
            Ok(expected) => return Ok(expected),
            Err(error) => error,
        };
        failures = if length(part) > before { 1 } else { failures + 1 };
        let is_final = error.is::<Refused>() || error.is::<io::Error>() || failures >= MOST_FAILURES;
        if is_final {
            return Err(error.context(format!("cannot fetch {}", file.path)));
        }
        sleep(FIRST_PAUSE * 2u32.pow(failures)).await;
    }
}

/// Asks for the rest of a file, and writes what comes.
async fn attempt(origin: &Origin<'_>, file: &RemoteFile, part: &Path, bar: &ProgressBar) -> Result<Expected> {
    let Origin { hub, repository, commit } = origin;
    let mut from = length(part);
    if file.size.is_some_and(|size| from > size) {
        fs::remove_file(part)?;
        from = 0;
    }
    if from > 0 && file.size == Some(from) {
        return Ok(Expected { size: file.size, hash: file.hash.clone() });
    }
    let Opened { mut answer, size, hash } = hub.open(repository, commit, &file.path, from).await?;
    let expected = Expected { size: file.size.or(size), hash: file.hash.clone().or(hash) };
    let mut out = match answer.status() {
        StatusCode::PARTIAL_CONTENT if begins_at(&answer, from) => {
            OpenOptions::new().append(true).open(part)?
        }
        StatusCode::RANGE_NOT_SATISFIABLE | StatusCode::PARTIAL_CONTENT => {
            // Not what was asked for: the next attempt begins anew.
            fs::remove_file(part)?;
            bail!("the hub does not go on where the transfer broke off");
        }
        // The whole file: this hub serves no ranges.
        _ => {
            bar.set_position(bar.position().saturating_sub(from));
            from = 0;
            File::create(part)?
        }
    };
    let announced = answer.content_length().map(|rest| from + rest);
    let mut written = from;
    while let Some(piece) = answer.chunk().await.map_err(|error| anyhow!(error.without_url()))? {
        written += piece.len() as u64;
        if expected.size.is_some_and(|size| written > size) {
            bail!(Refused::new("the hub sends more bytes than the file has"));
        }
        out.write_all(&piece)?;
        bar.inc(piece.len() as u64);
    }
    out.sync_data()?;
    match expected.size.or(announced) {
        Some(size) if written < size => bail!("the connection ended after {written} of {size} bytes"),
        _ => Ok(expected),
    }
}

/// Whether a partial answer is the part that was asked for: `content-range: bytes 5-9/10`.
fn begins_at(answer: &reqwest::Response, from: u64) -> bool {
    let range = answer.headers().get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
    let first = range.and_then(|range| range.strip_prefix("bytes ")?.split('-').next()?.parse().ok());
    first == Some(from)
}

fn check(part: &Path, expected: &Expected) -> Result<()> {
    let found = length(part);
    if let Some(size) = expected.size.filter(|size| *size != found) {
        bail!("it has {found} bytes instead of {size}; run the command again");
    }
    let (named, found) = match &expected.hash {
        None => return Ok(()),
        Some(FileHash::Sha256(named)) => (named, digest(part, Sha256::new())?),
        Some(FileHash::GitSha1(named)) => {
            // Git hashes a header before the bytes.
            (named, digest(part, Sha1::new().chain_update(format!("blob {found}\0")))?)
        }
    };
    if *named != found {
        bail!(
            "its bytes have the hash {found} instead of {named}, so they were thrown away; run the command again"
        );
    }
    Ok(())
}

fn digest<D: Digest>(path: &Path, mut hash: D) -> Result<String> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            count => hash.update(&buffer[..count]),
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Where a file grows until it is complete.
fn part_of(target: &Path) -> PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push(".part");
    PathBuf::from(name)
}

/// A file's length; one that is not there has none.
fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |found| found.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_that_git_and_sha256sum_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("hello");
        fs::write(&path, "hello\n").expect("it is written");
        let named = |hash: &str| Expected { size: Some(6), hash: FileHash::read(hash) };
        // `git hash-object` and `sha256sum` of "hello\n".
        let git = "ce013625030ba8dba906f756967f9e9ca394464a";
        let sha256 = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        assert!(check(&path, &named(git)).is_ok() && check(&path, &named(sha256)).is_ok());
        let wrong = check(&path, &named(&git.replace('c', "d"))).expect_err("another hash").to_string();
        assert!(wrong.contains(git), "{wrong}");
        let short = check(&path, &Expected { size: Some(7), hash: None }).expect_err("too short").to_string();
        assert!(short.contains("6 bytes instead of 7"), "{short}");
    }
}
