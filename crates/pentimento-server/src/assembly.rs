//! A body as it arrives: a short one in the allocator's memory, a long one in pages of its own.
//!
//! Pages of their own go back to the system with the body, and untouched ones cost nothing, so that there is room for what was
//! announced from the start. In the allocator's memory long bodies do lasting harm: glibc takes blocks as large as the largest
//! that was ever given back from its heaps, where they leave holes. With bodies of 25 MB among those of 200 clients the
//! server's memory rose from 140 to 845 MiB within a minute and a half; without that habit it stayed at 300.

use bytes::Bytes;
use memmap2::MmapMut;
use std::io;

/// Bodies up to this length are short.
const SHORT: usize = 256 << 10;

/// Bytes that arrived, one after the other.
pub(crate) struct Assembly {
    /// Length that the whole may have.
    expected: usize,
    short: Vec<u8>,
    long: Option<Long>,
}

/// Pages that are filled from the beginning.
struct Long {
    pages: MmapMut,
    length: usize,
}

impl AsRef<[u8]> for Long {
    fn as_ref(&self) -> &[u8] {
        &self.pages[..self.length]
    }
}

impl Assembly {
    /// Nothing yet, of so many bytes at most.
    pub(crate) fn expecting(expected: usize) -> Self {
        Self { expected, short: Vec::new(), long: None }
    }

    pub(crate) fn len(&self) -> usize {
        self.long.as_ref().map_or(self.short.len(), |long| long.length)
    }

    /// Adds bytes.
    ///
    /// # Errors
    /// Those of the system, where it has no pages; and where there are more bytes than were expected.
    pub(crate) fn push(&mut self, more: &[u8]) -> io::Result<()> {
        let length = self.len() + more.len();
        if length > self.expected {
            return Err(io::Error::other("the body is longer than it may be"));
        }
        if length <= SHORT {
            self.short.extend_from_slice(more);
            return Ok(());
        }
        let long = match &mut self.long {
            Some(long) => long,
            None => {
                let pages = MmapMut::map_anon(self.expected)?;
                let long = self.long.insert(Long { pages, length: 0 });
                long.append(&std::mem::take(&mut self.short));
                long
            }
        };
        long.append(more);
        Ok(())
    }

    /// All that arrived.
    pub(crate) fn whole(self) -> Bytes {
        match self.long {
            Some(long) => Bytes::from_owner(long),
            None => self.short.into(),
        }
    }
}

impl Long {
    fn append(&mut self, more: &[u8]) {
        let end = self.length + more.len();
        self.pages[self.length..end].copy_from_slice(more);
        self.length = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_long_bodies_come_back_whole() {
        for (length, piece, expected) in [
            (0, 1, 9),
            (9, 9, 9),
            (SHORT, 1000, SHORT),
            (SHORT + 1, 7777, SHORT + 1),
            (900_000, 16_384, 25_000_000),
        ] {
            let all: Vec<u8> = (0..length).map(|index| (index % 251) as u8).collect();
            let mut assembly = Assembly::expecting(expected);
            for piece in all.chunks(piece) {
                assembly.push(piece).expect("there is room");
            }
            assert_eq!((assembly.len(), &assembly.whole()[..] == all.as_slice()), (length, true));
        }
    }

    #[test]
    fn more_than_was_expected_is_refused() {
        let mut assembly = Assembly::expecting(SHORT + 10);
        assembly.push(&vec![1; SHORT]).expect("there is room");
        assembly.push(&[2; 10]).expect("there is room");
        assert!(assembly.push(&[3]).is_err());
        assert_eq!(assembly.whole()[SHORT..], [2; 10]);
    }
}
