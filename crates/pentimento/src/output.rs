//! Files and standard streams: a file is there as a whole or not at all.

use crate::failure::Failure;
use anyhow::{Context, Result, anyhow, bail};
use std::{
    fs,
    io::{self, ErrorKind, Read, Write},
    path::{Path, PathBuf},
};

/// Whether the user means a standard stream.
pub(crate) fn is_stream(path: &Path) -> bool {
    path == Path::new("-")
}

/// Prints text that was asked for. A reader that has seen enough (`| head`) is no failure.
///
/// # Errors
/// When the standard output cannot be written for another reason.
pub(crate) fn print(text: &[u8]) -> Result<(), Failure> {
    match write_stdout(text) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(anyhow!(error).context("cannot write the standard output").into())
        }
        _ => Ok(()),
    }
}

/// Reads a file, or the standard input for `-`.
///
/// # Errors
/// One line that names the file.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    if is_stream(path) {
        let mut bytes = Vec::new();
        io::stdin().lock().read_to_end(&mut bytes).context("cannot read the standard input")?;
        return Ok(bytes);
    }
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Writes a file, or the standard output for `-`. The file appears under its name only when all of it is written.
///
/// # Errors
/// One line that names the file. A reader of the standard output that left early did not get what it asked for.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    if is_stream(path) {
        return write_stdout(bytes).context("cannot write the standard output");
    }
    write_file(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

/// Refuses a place that [`write()`] could not write to, before any work is done.
///
/// # Errors
/// One line that says what is wrong with it.
pub(crate) fn check_writable(path: &Path) -> Result<()> {
    if is_stream(path) {
        return Ok(());
    }
    if path.is_dir() {
        bail!("cannot write {}: it is a folder", path.display());
    }
    let folder = folder_of(path);
    if !folder.is_dir() {
        bail!("cannot write {}: there is no folder {}", path.display(), folder.display());
    }
    Ok(())
}

/// Puts a file or folder under its name, in the place of what has that name, which is gone only when the new one is
/// there. Both must lie on one file system.
///
/// # Errors
/// One line that names the place; what was there is there again.
pub(crate) fn put_in_place(finished: &Path, goal: &Path) -> Result<()> {
    let failed = || format!("cannot put {} in its place", goal.display());
    if fs::symlink_metadata(goal).is_err() {
        return fs::rename(finished, goal).with_context(failed);
    }
    let holder =
        tempfile::Builder::new().prefix(".pentimento-").tempdir_in(folder_of(goal)).with_context(failed)?;
    let old = holder.path().join("old");
    fs::rename(goal, &old).with_context(failed)?;
    fs::rename(finished, goal).inspect_err(|_| drop(fs::rename(&old, goal))).with_context(failed)
}

/// Removes a file or a folder; there may be none.
///
/// # Errors
/// When it is there and cannot be removed.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn write_stdout(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    // A link stays a link: its target is replaced. A device or pipe cannot be replaced, only written.
    let target = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    if fs::metadata(&target).is_ok_and(|found| !found.is_file()) {
        return Ok(fs::write(&target, bytes)?);
    }
    let mut file = hidden_file(folder_of(&target))?;
    file.write_all(bytes)?;
    file.persist(&target)?;
    Ok(())
}

/// A file beside the target, so that renaming does not cross file systems; with the permissions that any new
/// file has.
fn hidden_file(folder: PathBuf) -> io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".pentimento-");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(folder)
}

fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_and_nothing_else_is_left() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.png");
        write(&path, b"one").expect("it is written");
        write(&path, b"two").expect("it is written again");
        assert_eq!(fs::read(&path).expect("it is there"), b"two");
        assert_eq!(fs::read_dir(folder.path()).expect("it is a folder").count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn links_and_devices_stay_what_they_are() {
        let folder = tempfile::tempdir().expect("a folder");
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        fs::write(&file, b"old").expect("it is written");
        std::os::unix::fs::symlink(&file, &link).expect("a link");
        write(&link, b"new").expect("it is written");
        assert!(link.is_symlink());
        assert_eq!(fs::read(&file).expect("it is there"), b"new");
        write(Path::new("/dev/null"), b"gone").expect("it is written");
        assert!(fs::metadata("/dev/null").is_ok_and(|null| !null.is_file()));
    }

    #[test]
    fn folders_and_files_take_the_place_of_what_was_there() {
        let folder = tempfile::tempdir().expect("a folder");
        let (new, goal) = (folder.path().join("new"), folder.path().join("goal"));
        for text in ["one", "two"] {
            fs::create_dir(&new).expect("a folder");
            fs::write(new.join("file"), text).expect("it is written");
            put_in_place(&new, &goal).expect("it is put there");
            assert_eq!(fs::read_to_string(goal.join("file")).ok().as_deref(), Some(text));
        }
        assert!(put_in_place(&folder.path().join("nothing"), &goal).is_err());
        assert!(goal.join("file").is_file(), "the old one is there again");
        remove(&goal).expect("it is removed");
        remove(&goal).expect("there was none");
        assert_eq!(fs::read_dir(folder.path()).expect("it is a folder").count(), 0);
    }

    #[test]
    fn a_missing_folder_is_found_before_the_work() {
        let message = check_writable(Path::new("no/such/folder/a.png")).expect_err("no folder").to_string();
        assert!(message.contains("no/such/folder/a.png"), "{message}");
        assert!(check_writable(Path::new("a.png")).is_ok());
    }
}
