//! The embedded database of tasks.
//!
//! redb: one file, transactions that are on the disk when they are committed, no C library. After an error of the disk it
//! has to be opened anew, which is done at its next use; whoever used it got the error.
//!
//! A task's record is small; its request, with pictures, lies in a table of its own until the task has ended.

use crate::error::{ServerError, ServerErrorKind};
use pentimento_request::{ErrorKind, GenerateError, Verdict};
use redb::{ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

/// Records by the task's id, in JSON.
const TASKS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("tasks");

/// Parcels by the task's id.
const REQUESTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("requests");

/// What the tables' form is.
const ABOUT: TableDefinition<'_, &str, u64> = TableDefinition::new("about");
const FORM: u64 = 1;

/// redb's own default is 1 GiB.
const CACHE: usize = 16 << 20;

/// A task as it is kept. Times are milliseconds since 1970.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct StoredTask {
    pub(crate) scope: String,
    pub(crate) caller: Option<String>,
    pub(crate) submitted: u64,
    /// How often it was begun.
    pub(crate) attempts: u32,
    /// How it ended, and when. `None`: it has not.
    pub(crate) end: Option<(u64, EndState)>,
}

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum EndState {
    /// Its picture lies in the object store under this key.
    Done { result: String, seed: u64, verdict: StoredVerdict },
    /// With this error.
    Failed(StoredError),
    /// Its caller broke it off.
    Cancelled,
    /// It did not come to be drawn in time.
    Expired,
}

/// What the content filter said of a picture, by its name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct StoredVerdict(String);

impl StoredVerdict {
    pub(crate) fn of(verdict: Verdict) -> Self {
        Self(verdict.name().to_owned())
    }

    pub(crate) fn back(&self) -> Verdict {
        let known = Verdict::ALL.into_iter().find(|verdict| verdict.name() == self.0);
        known.unwrap_or(Verdict::Unchecked)
    }
}

/// An error of generation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct StoredError {
    kind: String,
    message: String,
}

/// The kinds that a task can fail with; others are kept as internal errors.
const KINDS: [(ErrorKind, &str); 6] = [
    (ErrorKind::InvalidRequest, "invalid_request"),
    (ErrorKind::Unsupported, "unsupported"),
    (ErrorKind::ModelNotFound, "model_not_found"),
    (ErrorKind::NoFace, "no_face"),
    (ErrorKind::PromptRefused, "prompt_refused"),
    (ErrorKind::Internal, "internal"),
];

impl StoredError {
    pub(crate) fn of(error: &GenerateError) -> Self {
        let known = KINDS.iter().find(|(kind, _)| *kind == error.kind());
        let (_, name) = known.unwrap_or(&KINDS[KINDS.len() - 1]);
        Self { kind: (*name).to_owned(), message: error.message().to_owned() }
    }

    pub(crate) fn back(&self) -> GenerateError {
        let known = KINDS.iter().find(|(_, name)| *name == self.kind);
        GenerateError::new(known.map_or(ErrorKind::Internal, |(kind, _)| *kind), self.message.clone())
    }
}

/// Why the database did not do it. The text is for the log.
#[derive(Debug)]
pub(crate) struct DatabaseError(Box<dyn std::error::Error + Send + Sync>);

impl fmt::Display for DatabaseError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

impl std::error::Error for DatabaseError {}

impl<E: Into<redb::Error>> From<E> for DatabaseError {
    fn from(error: E) -> Self {
        Self(Box::new(error.into()))
    }
}

impl DatabaseError {
    pub(crate) fn other(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self(Box::new(error))
    }
}

/// The database. Every method blocks; a write returns when it is on the disk.
pub(crate) struct Database {
    path: PathBuf,
    /// `None` after an error, until its next use.
    open: Mutex<Option<redb::Database>>,
}

impl Database {
    /// Opens the file, or makes it.
    pub(crate) fn open(path: PathBuf) -> Result<Self, ServerError> {
        let failed = |message: String, error: DatabaseError| {
            ServerError::caused_by(ServerErrorKind::Data, message, error)
        };
        let shown = path.display();
        let database = match create(&path) {
            Ok(database) => database,
            Err(redb::Error::DatabaseAlreadyOpen) => {
                let message = format!(
                    "{shown} is in use by another server: give each its own data folder (--data-dir)"
                );
                return Err(ServerError::new(ServerErrorKind::Data, message));
            }
            Err(error) => return Err(failed(format!("cannot open {shown}"), error.into())),
        };
        prepare(&database).map_err(|error| failed(format!("cannot use {shown}"), error))?;
        Ok(Self { path, open: Mutex::new(Some(database)) })
    }

    /// Every task that is kept. A record that cannot be read is left out and told about.
    pub(crate) fn all(&self) -> Result<Vec<(String, StoredTask)>, DatabaseError> {
        self.with(|database| {
            let read = database.begin_read()?;
            let table = read.open_table(TASKS)?;
            let mut tasks = vec![];
            for entry in table.iter()? {
                let (id, record) = entry?;
                match serde_json::from_slice(record.value()) {
                    Ok(record) => tasks.push((id.value().to_owned(), record)),
                    Err(error) => tracing::error!(task = id.value(), %error, "a task cannot be read"),
                }
            }
            Ok(tasks)
        })
    }

    /// Keeps a new task with its request.
    pub(crate) fn insert(&self, id: &str, task: &StoredTask, request: &[u8]) -> Result<(), DatabaseError> {
        let record = serde_json::to_vec(task).map_err(DatabaseError::other)?;
        self.with(|database| {
            let write = database.begin_write()?;
            write.open_table(TASKS)?.insert(id, record.as_slice())?;
            write.open_table(REQUESTS)?.insert(id, request)?;
            Ok(write.commit()?)
        })
    }

    /// The request of a task that has not ended.
    pub(crate) fn request(&self, id: &str) -> Result<Option<Vec<u8>>, DatabaseError> {
        self.with(|database| {
            let table = database.begin_read()?.open_table(REQUESTS)?;
            Ok(table.get(id)?.map(|request| request.value().to_vec()))
        })
    }

    /// Changes a task that has not ended. Answers the task as it then stands: one that has ended stays as it was.
    pub(crate) fn change(
        &self,
        id: &str,
        change: impl Fn(&mut StoredTask),
    ) -> Result<Option<StoredTask>, DatabaseError> {
        self.with(|database| {
            let write = database.begin_write()?;
            let mut task: StoredTask = match write.open_table(TASKS)?.get(id)? {
                Some(record) => serde_json::from_slice(record.value()).map_err(DatabaseError::other)?,
                None => return Ok(None),
            };
            if task.end.is_some() {
                return Ok(Some(task));
            }
            change(&mut task);
            let record = serde_json::to_vec(&task).map_err(DatabaseError::other)?;
            write.open_table(TASKS)?.insert(id, record.as_slice())?;
            if task.end.is_some() {
                write.open_table(REQUESTS)?.remove(id)?;
            }
            write.commit()?;
            Ok(Some(task))
        })
    }

    /// Forgets tasks.
    pub(crate) fn remove(&self, ids: &[String]) -> Result<(), DatabaseError> {
        self.with(|database| {
            let write = database.begin_write()?;
            for id in ids {
                write.open_table(TASKS)?.remove(id.as_str())?;
                write.open_table(REQUESTS)?.remove(id.as_str())?;
            }
            Ok(write.commit()?)
        })
    }

    fn with<T>(
        &self,
        work: impl FnOnce(&redb::Database) -> Result<T, DatabaseError>,
    ) -> Result<T, DatabaseError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let database = match open.take() {
            Some(database) => database,
            None => create(&self.path)?,
        };
        let result = work(&database);
        if result.is_ok() {
            *open = Some(database);
        }
        result
    }
}

fn create(path: &std::path::Path) -> Result<redb::Database, redb::Error> {
    Ok(redb::Database::builder().set_cache_size(CACHE).create(path)?)
}

/// Makes the tables, and refuses those of another form.
fn prepare(database: &redb::Database) -> Result<(), DatabaseError> {
    let write = database.begin_write()?;
    let form = write.open_table(ABOUT)?.get("form")?.map_or(FORM, |form| form.value());
    if form != FORM {
        let message = format!("its tables have the form {form}; this program knows the form {FORM}");
        return Err(DatabaseError::other(std::io::Error::other(message)));
    }
    write.open_table(ABOUT)?.insert("form", FORM)?;
    write.open_table(TASKS)?;
    write.open_table(REQUESTS)?;
    Ok(write.commit()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task() -> StoredTask {
        StoredTask { scope: "s".to_owned(), caller: None, submitted: 5, attempts: 0, end: None }
    }

    fn done(result: &str) -> EndState {
        EndState::Done { result: result.to_owned(), seed: 3, verdict: StoredVerdict::of(Verdict::Clean) }
    }

    #[test]
    fn what_was_kept_is_there_after_opening_it_anew() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("tasks.redb");
        let database = Database::open(path.clone()).expect("it is made");
        database.insert("1", &task(), b"parcel").expect("kept");
        drop(database);
        let database = Database::open(path).expect("it opens");
        assert_eq!(database.all().expect("read"), [("1".to_owned(), task())]);
        assert_eq!(database.request("1").expect("read").as_deref(), Some(&b"parcel"[..]));
    }

    #[test]
    fn the_first_end_stands() {
        let folder = tempfile::tempdir().expect("a folder");
        let database = Database::open(folder.path().join("tasks.redb")).expect("it is made");
        database.insert("1", &task(), b"parcel").expect("kept");
        let begun = database.change("1", |task| task.attempts += 1).expect("changed").expect("there");
        assert_eq!(begun.attempts, 1);
        let ended = database.change("1", |task| task.end = Some((7, done("a")))).expect("changed");
        assert_eq!(ended.and_then(|task| task.end), Some((7, done("a"))));
        let again = database.change("1", |task| task.end = Some((8, EndState::Cancelled))).expect("read");
        assert_eq!(again.and_then(|task| task.end), Some((7, done("a"))));
        assert_eq!(database.request("1").expect("read"), None, "its request is not needed any more");
        assert_eq!(database.change("2", |_| {}).expect("read"), None);
        database.remove(&["1".to_owned()]).expect("removed");
        assert!(database.all().expect("read").is_empty());
    }

    #[test]
    fn errors_keep_their_kind() {
        for (kind, _) in KINDS {
            let back = StoredError::of(&GenerateError::new(kind, "m")).back();
            assert_eq!((back.kind(), back.message()), (kind, "m"));
        }
        let other = StoredError::of(&GenerateError::new(ErrorKind::Cancelled, "m")).back();
        assert_eq!(other.kind(), ErrorKind::Internal);
    }
}
