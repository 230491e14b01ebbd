//! Cache-line aligned buffers, and a per-thread store of them so that the steady state allocates nothing.

use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};
use std::cell::RefCell;

/// Sixteen 32-bit words: one cache line, one AVX-512 register. Words are `f32` bits, or pairs of bf16 with the
/// earlier value in the lower half.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct Line(pub(crate) [u32; LANES]);

/// Words in a [`Line`].
pub(crate) const LANES: usize = 16;

impl Line {
    pub(crate) const ZERO: Line = Line([0; LANES]);
}

/// So many lines of zeros, which cost no memory until they are written to.
pub(crate) fn zeroed(lines: usize) -> Vec<Line> {
    let layout = Layout::array::<Line>(lines).expect("lines that memory could hold");
    if layout.size() == 0 {
        return Vec::new();
    }
    // SAFETY: the layout is not empty.
    let start: *mut Line = unsafe { alloc_zeroed(layout) }.cast();
    if start.is_null() {
        handle_alloc_error(layout);
    }
    // SAFETY: the memory was allocated for just so many lines, all of which are zeros, and belongs to nobody else.
    unsafe { Vec::from_raw_parts(start, lines, lines) }
}

/// The words of `lines`, as one slice.
pub(crate) fn words_mut(lines: &mut [Line]) -> &mut [u32] {
    // SAFETY: `Line` is `repr(C)` around `[u32; 16]`, of the same size (64 bytes), so the memory is a plain array of u32.
    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), lines.len() * LANES) }
}

/// The bits of `values`.
pub(crate) fn bits(values: &[f32]) -> &[u32] {
    // SAFETY: the same memory; every bit pattern is an `f32` and a `u32`.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), values.len()) }
}

/// The halves of `lines`' words, lower half first on the little-endian machines that use them as pairs.
pub(crate) fn halves_mut(lines: &mut [Line]) -> &mut [u16] {
    // SAFETY: as in `words_mut`; the same memory as twice as many u16, which need less alignment.
    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), lines.len() * LANES * 2) }
}

/// The bytes of `lines`, those of a word lowest first on the little-endian machines that use them as quads.
pub(crate) fn bytes_mut(lines: &mut [Line]) -> &mut [u8] {
    // SAFETY: as in `words_mut`; the same memory as bytes, which need no alignment.
    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), size_of_val(lines)) }
}

/// The words of `lines`, as writable `f32`.
pub(crate) fn floats_mut(lines: &mut [Line]) -> &mut [f32] {
    // SAFETY: as in `words_mut`; every bit pattern is an `f32` and a `u32`.
    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), lines.len() * LANES) }
}

/// Asks for the cache line at `address`, which may be any address: a hint, never a fault.
#[inline(always)]
pub(crate) fn prefetch(address: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is part of x86-64, and a prefetch does not access memory in the language's sense.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// The same for a run of so many words.
pub(crate) fn prefetch_row(from: *const f32, words: usize) {
    for at in (0..words).step_by(LANES) {
        prefetch(from.wrapping_add(at));
    }
}

thread_local! {
    static FREE: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) };
}

/// Calls `body` with at least `words` words of scratch, rounded up to whole lines. The contents are left over from
/// earlier uses. Buffers are kept by the thread; nested calls get buffers of their own.
pub(crate) fn with<R>(words: usize, body: impl FnOnce(&mut [Line]) -> R) -> R {
    let lines = words.div_ceil(LANES);
    let mut buffer = FREE.with_borrow_mut(Vec::pop).unwrap_or_default();
    if buffer.len() < lines {
        buffer.resize(lines, Line::ZERO);
    }
    let result = body(&mut buffer[..lines]);
    FREE.with_borrow_mut(|free| free.push(buffer));
    result
}

/// An output buffer that tasks on several threads write to, each its own part.
#[derive(Clone, Copy)]
pub(crate) struct SharedOut<T = f32> {
    start: *mut T,
    len: usize,
}

// SAFETY: the pointer comes from a `&mut [T]` of numbers that outlives the parallel section, and every access goes through
// `slice`, whose callers promise disjoint parts.
unsafe impl<T: Send> Send for SharedOut<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for SharedOut<T> {}

impl<T> SharedOut<T> {
    pub(crate) fn new(out: &mut [T]) -> SharedOut<T> {
        SharedOut { start: out.as_mut_ptr(), len: out.len() }
    }

    /// The part `[from, from + len)`.
    ///
    /// # Safety
    /// The buffer given to `new` is still borrowed, and no other live slice overlaps this part.
    #[allow(clippy::mut_from_ref)] // The point of this type: many tasks, disjoint parts.
    pub(crate) unsafe fn slice(&self, from: usize, len: usize) -> &mut [T] {
        assert!(from + len <= self.len, "part outside of the output");
        // SAFETY: in bounds by the assertion, exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(from), len) }
    }

    /// A pointer to element `from`.
    pub(crate) fn at(&self, from: usize) -> *mut T {
        debug_assert!(from <= self.len, "part outside of the output");
        self.start.wrapping_add(from)
    }
}
