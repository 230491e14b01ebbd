//! Files that are read piece by piece, so that weights never hang on a file behind the engine's back.
//!
//! A mapped file that is cut short kills the process that looks at it, and one that is written over changes weights under the
//! engine's hands. Here every piece is copied, and a file that is no longer the one that was opened is an error.
//! Whoever replaces a model's file by renaming another one over it disturbs nobody: what is open stays readable.

use crate::{
    error::{LoadError, LoadErrorKind},
    files::Bytes,
};
use sha2::{Digest, Sha256};
use std::{
    borrow::Cow,
    fs::{File, Metadata},
    io,
    ops::Range,
    path::Path,
    sync::Arc,
};

/// How much of a file is hashed at once.
const HASHED_AT_ONCE: u64 = 1 << 20;

/// A file that is read piece by piece. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Blob {
    /// As messages name it.
    label: String,
    content: Content,
}

#[derive(Clone, Debug)]
enum Content {
    Held(Bytes),
    File(Arc<OpenFile>),
}

/// An open file, and what it was like when it was opened.
#[derive(Debug)]
struct OpenFile {
    file: File,
    length: u64,
    changed: Changed,
}

impl Blob {
    /// Bytes that are in memory anyway.
    pub fn held(label: impl Into<String>, bytes: Bytes) -> Self {
        Self { label: label.into(), content: Content::Held(bytes) }
    }

    /// A file on disk.
    ///
    /// # Errors
    /// Those of the system.
    pub fn open(label: impl Into<String>, path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let found = file.metadata()?;
        let open = OpenFile { length: found.len(), changed: last_change(&found), file };
        Ok(Self { label: label.into(), content: Content::File(Arc::new(open)) })
    }

    /// As messages name it.
    pub(crate) fn label(&self) -> &str {
        &self.label
    }

    /// Its length in bytes.
    pub(crate) fn length(&self) -> u64 {
        match &self.content {
            Content::Held(bytes) => bytes.len() as u64,
            Content::File(open) => open.length,
        }
    }

    /// A piece of it. Memory is taken only for what lies within the file.
    ///
    /// # Errors
    /// When the piece does not lie within the file, or when the file has changed since it was opened.
    pub(crate) fn piece(&self, range: Range<u64>) -> Result<Cow<'_, [u8]>, LoadError> {
        self.check(range.clone())?;
        match &self.content {
            // Both ends are within the slice, so they fit its index.
            Content::Held(bytes) => Ok(Cow::Borrowed(&bytes[range.start as usize..range.end as usize])),
            Content::File(_) => {
                let length = usize::try_from(range.end - range.start)
                    .map_err(|error| self.broken(format!("has a piece that is too large: {error}")))?;
                let mut bytes = vec![0; length];
                self.read_into(range.start, &mut bytes).map(|()| Cow::Owned(bytes))
            }
        }
    }

    /// Fills `bytes` with those from a place on.
    ///
    /// # Errors
    /// As [`Blob::piece`].
    pub(crate) fn read_into(&self, start: u64, bytes: &mut [u8]) -> Result<(), LoadError> {
        let end = start.saturating_add(bytes.len() as u64);
        self.check(start..end)?;
        match &self.content {
            Content::Held(held) => bytes.copy_from_slice(&held[start as usize..end as usize]),
            Content::File(open) => open.read(start, bytes).map_err(|error| {
                LoadError::caused_by(LoadErrorKind::Malformed, format!("cannot read {}", self.label), error)
            })?,
        }
        Ok(())
    }

    /// Whether a piece lies within it.
    ///
    /// # Errors
    /// When it does not.
    pub(crate) fn check(&self, range: Range<u64>) -> Result<(), LoadError> {
        if range.start > range.end || range.end > self.length() {
            return Err(self.broken(format!("is cut off: {} bytes, {} expected", self.length(), range.end)));
        }
        Ok(())
    }

    /// Feeds all bytes to a hash.
    ///
    /// # Errors
    /// As [`Blob::piece`].
    pub(crate) fn hash_into(&self, hash: &mut Sha256) -> Result<(), LoadError> {
        let mut start = 0;
        while start < self.length() {
            let end = self.length().min(start + HASHED_AT_ONCE);
            hash.update(self.piece(start..end)?);
            start = end;
        }
        Ok(())
    }

    /// An error about this file.
    pub(crate) fn broken(&self, what: impl std::fmt::Display) -> LoadError {
        LoadError::new(LoadErrorKind::Malformed, format!("{} {what}", self.label))
    }
}

impl OpenFile {
    fn read(&self, start: u64, bytes: &mut [u8]) -> io::Result<()> {
        let read = read_exact_at(&self.file, bytes, start);
        // Looked at after the bytes were taken: had they changed before, it would show.
        let now = self.file.metadata()?;
        if now.len() != self.length || last_change(&now) != self.changed {
            return Err(io::Error::other(
                "it has changed since it was opened; put a new file in its place by renaming, and load the model again",
            ));
        }
        read
    }
}

/// What the file system notes when a file was last written to. It is compared and never read as a time.
#[cfg(unix)]
type Changed = (i64, i64);
#[cfg(windows)]
type Changed = u64;

#[cfg(unix)]
fn last_change(found: &Metadata) -> Changed {
    use std::os::unix::fs::MetadataExt;
    (found.mtime(), found.mtime_nsec())
}

#[cfg(windows)]
fn last_change(found: &Metadata) -> Changed {
    std::os::windows::fs::MetadataExt::last_write_time(found)
}

#[cfg(unix)]
fn read_exact_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut bytes: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, bytes, offset)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => {
                bytes = &mut bytes[count..];
                offset += count as u64;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn pieces_are_those_of_the_file_and_changes_are_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        fs::write(&path, b"0123456789").expect("it is written");
        let blob = Blob::open("file", &path).expect("it is there");
        assert_eq!(&*blob.piece(3..7).expect("a piece"), b"3456");
        assert!(blob.piece(0..11).is_err() && blob.piece(u64::MAX - 1..u64::MAX).is_err());
        let mut hash = Sha256::new();
        blob.hash_into(&mut hash).expect("it is hashed");
        assert_eq!(hash.finalize(), Sha256::digest(b"0123456789"));

        // Renamed over: whoever has it open reads on.
        let other = folder.path().join("other");
        fs::write(&other, b"other").expect("it is written");
        fs::rename(&other, &path).expect("it is replaced");
        assert_eq!(&*blob.piece(0..2).expect("a piece"), b"01");

        // Cut short: an error, where a mapping would end the process.
        let blob = Blob::open("file", &path).expect("it is there");
        let file = fs::OpenOptions::new().write(true).open(&path).expect("it is there");
        file.set_len(1).expect("it is cut");
        let message = blob.piece(0..5).expect_err("it is cut").to_string();
        assert!(message.contains("file") && message.contains("changed"), "{message}");
    }
}
