//! What lasts beyond one run of the server: the folder `serve` in the data folder.
//!
//! ```text
//! serve/tasks.redb   tasks and their requests, an embedded database
//! serve/results/     finished pictures, where no other object store is configured
//! serve/link.key     32 random bytes that sign links to results
//! ```
//!
//! The folder is its owner's alone. One server at a time uses it: the database is locked while it is open.

mod database;
mod parcel;

pub(crate) use database::{Database, DatabaseError, EndState, StoredError, StoredTask, StoredVerdict};
pub(crate) use parcel::{pack, unpack};

use crate::error::{ServerError, ServerErrorKind};
use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

/// Length of the key that signs links.
pub(crate) const KEY_LENGTH: usize = 32;

/// An opened folder.
pub(crate) struct Keep {
    pub(crate) folder: PathBuf,
    pub(crate) database: Database,
    pub(crate) key: [u8; KEY_LENGTH],
}

impl Keep {
    /// Opens the folder, and makes what is missing.
    ///
    /// # Errors
    /// [`ServerErrorKind::Data`] with the path that cannot be used.
    pub(crate) fn open(data_dir: &Path) -> Result<Self, ServerError> {
        let folder = data_dir.join("serve");
        let failed = |what: &str, path: &Path, error: io::Error| {
            let message = format!("cannot {what} {}", path.display());
            ServerError::caused_by(ServerErrorKind::Data, message, error)
        };
        make_private(&folder).map_err(|error| failed("make the data folder", &folder, error))?;
        let key_path = folder.join("link.key");
        let key = key(&key_path).map_err(|error| failed("read or make the key", &key_path, error))?;
        let database = Database::open(folder.join("tasks.redb"))?;
        Ok(Self { folder, database, key })
    }
}

/// Makes a folder that only its owner may enter, unless it is there.
pub(crate) fn make_private(folder: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    if let Some(parent) = folder.parent() {
        // Folders above are made as the user usually makes them: models in them may be shared.
        fs::create_dir_all(parent)?;
    }
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

/// The key of this folder, made on its first use.
fn key(path: &Path) -> io::Result<[u8; KEY_LENGTH]> {
    match fs::read(path) {
        Ok(bytes) => bytes.try_into().map_err(|_| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                "it does not hold 32 bytes; remove it to have a new one made",
            )
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => new_key(path),
        Err(error) => Err(error),
    }
}

/// Written beside its place first, so that a process that is killed leaves no half key.
fn new_key(path: &Path) -> io::Result<[u8; KEY_LENGTH]> {
    let mut key = [0; KEY_LENGTH];
    getrandom::fill(&mut key).map_err(io::Error::other)?;
    let beside = path.with_extension("new");
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&beside)?;
    file.write_all(&key)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_made_once_and_for_its_owner_only() {
        let folder = tempfile::tempdir().expect("a folder");
        let first = Keep::open(&folder.path().join("deep/data")).expect("it is made").key;
        let again = Keep::open(&folder.path().join("deep/data")).expect("it opens").key;
        assert_eq!(first, again);
        let other = Keep::open(folder.path()).expect("it is made").key;
        assert_ne!(first, other);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = |path: &str| {
                fs::metadata(folder.path().join(path)).expect("it is there").permissions().mode() & 0o777
            };
            assert_eq!((mode("serve"), mode("serve/link.key")), (0o700, 0o600));
        }
    }

    #[test]
    fn a_folder_in_use_and_a_damaged_key_are_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let held = Keep::open(folder.path()).expect("it is made");
        let error = Keep::open(folder.path()).err().expect("it is in use").to_string();
        assert!(error.contains("another server"), "{error}");
        drop(held);
        fs::write(folder.path().join("serve/link.key"), b"short").expect("written");
        let error = Keep::open(folder.path()).err().expect("damaged").to_string();
        assert!(error.contains("link.key"), "{error}");
    }
}
