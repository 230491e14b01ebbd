//! A whole file mapped read-only into memory: the safe door to `mmap` for the rest of the workspace.
//!
//! Condition: nobody truncates or rewrites the file while it is mapped. Rust cannot check this. A model file that
//! is replaced must be replaced by renaming a new file over it (the mapping then keeps the old contents), never by
//! writing into it: a truncated mapping ends the process with SIGBUS, a rewritten one changes weights under the
//! engine's hands. Errors: those of the operating system.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::path::Path;

/// The bytes of a file, mapped for as long as this value lives.
#[derive(Debug)]
pub struct MappedFile {
    /// Absent for an empty file, which cannot be mapped everywhere.
    map: Option<memmap2::Mmap>,
}

impl MappedFile {
    /// Maps the whole of `path` for reading. See the module's header for the condition on the file.
    pub fn open(path: impl AsRef<Path>) -> io::Result<MappedFile> {
        let file = File::open(path)?;
        if file.metadata()?.len() == 0 {
            return Ok(MappedFile { map: None });
        }
        // SAFETY: the mapping is read-only and private to us; that nobody changes the file meanwhile is the
        // documented condition of this type.
        let map = unsafe { memmap2::Mmap::map(&file)? };
        Ok(MappedFile { map: Some(map) })
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.map.as_deref().unwrap_or(&[])
    }
}

impl AsRef<[u8]> for MappedFile {
    fn as_ref(&self) -> &[u8] {
        self
    }
}
