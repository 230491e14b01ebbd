//! Activations as kernels take and give them: in f32, or rounded to bf16 where whoever reads them would round them anyway.
//!
//! A kernel that gives bf16 computes as for f32 and rounds last, so the bytes of what follows are the same either way; half as
//! much is written and read.

use half::bf16;
use half::slice::HalfFloatSliceExt;

use crate::bf16::round_slice;
use crate::isa::Isa;
use crate::scratch::{SharedOut, prefetch_row};

/// Activations that a kernel reads.
#[derive(Clone, Copy, Debug)]
pub enum Rows<'a> {
    /// Single precision.
    F32(&'a [f32]),
    /// bfloat16.
    Bf16(&'a [bf16]),
}

impl<'a> Rows<'a> {
    /// Number of elements.
    pub fn len(self) -> usize {
        match self {
            Rows::F32(values) => values.len(),
            Rows::Bf16(values) => values.len(),
        }
    }

    /// Whether there are no elements.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// A range of the elements.
    pub(crate) fn part(self, range: std::ops::Range<usize>) -> Rows<'a> {
        match self {
            Rows::F32(values) => Rows::F32(&values[range]),
            Rows::Bf16(values) => Rows::Bf16(&values[range]),
        }
    }
}

/// Room for the activations that a kernel writes.
#[derive(Debug)]
pub enum RowsMut<'a> {
    /// Single precision.
    F32(&'a mut [f32]),
    /// Rounded to bfloat16: nearest, ties to even.
    Bf16(&'a mut [bf16]),
}

impl RowsMut<'_> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            RowsMut::F32(values) => values.len(),
            RowsMut::Bf16(values) => values.len(),
        }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// [`RowsMut`] that tasks on several threads write to, each its own part.
#[derive(Clone, Copy)]
pub(crate) enum SharedRows {
    F32(SharedOut),
    /// Bits of bf16.
    Bf16(SharedOut<u16>),
}

impl SharedRows {
    pub(crate) fn new(out: RowsMut) -> SharedRows {
        match out {
            RowsMut::F32(values) => SharedRows::F32(SharedOut::new(values)),
            RowsMut::Bf16(values) => SharedRows::Bf16(SharedOut::new(values.reinterpret_cast_mut())),
        }
    }

    /// Asks for so many elements from one on, which may lie behind the end.
    pub(crate) fn prefetch(&self, from: usize, len: usize) {
        let (start, words) = match self {
            SharedRows::F32(out) => (out.at(from), len),
            SharedRows::Bf16(out) => (out.at(from).cast(), len / 2),
        };
        prefetch_row(start, words);
    }

    /// Writes elements `[from, from + values.len())`.
    ///
    /// # Safety
    /// As [`SharedOut::slice`].
    pub(crate) unsafe fn store(&self, isa: Isa, from: usize, values: &[f32]) {
        match self {
            // SAFETY: the caller's promise.
            SharedRows::F32(out) => unsafe { out.slice(from, values.len()) }.copy_from_slice(values),
            // SAFETY: as above.
            SharedRows::Bf16(out) => round_slice(isa, values, unsafe { out.slice(from, values.len()) }),
        }
    }
}

/// The words that pairs of values make where they lie, the earlier value in the lower half: `None` where they make none.
pub(crate) fn pairs(values: &[bf16]) -> Option<&[u32]> {
    let words = values.as_ptr().cast::<u32>();
    let are_whole = values.len().is_multiple_of(2) && words.is_aligned();
    // SAFETY: the same memory as half as many words, for which it is aligned; every bit pattern is one.
    (cfg!(target_endian = "little") && are_whole)
        .then(|| unsafe { std::slice::from_raw_parts(words, values.len() / 2) })
}
