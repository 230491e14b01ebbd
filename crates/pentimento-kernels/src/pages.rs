//! A pool of large buffers: an allocator that keeps what is freed for the next layer.
//!
//! A layer's result is a new buffer of up to some hundred megabytes, and the layer before has just freed one like it. The
//! system would take those pages back and hand out others, each cleared at its first touch, which costs 8 % of a UNet
//! step. [`PagePool`] keeps them instead: blocks of 256 KiB and more, 384 MiB in all, the oldest leave
//! first. Fresh ones are mapped each by itself, where that can be done: they are zeros without being written to, and leave no holes.
//! Those of 4 MiB and more are asked for in huge pages. Smaller blocks are the system's allocator's business.
//!
//! A program opts in with `#[global_allocator]`; without it everything here works, and nothing is kept.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::{Mutex, MutexGuard, PoisonError};

use half::bf16;

/// Bytes from which a block is kept.
const LARGE: usize = 256 << 10;

/// Bytes that are kept at most.
const MOST_KEPT: usize = 384 << 20;

/// Blocks that are kept at most.
const MOST_BLOCKS: usize = 256;

/// Alignment of every large block: a cache line, so that no register load crosses two.
const ALIGN: usize = 64;

/// The system's allocator with a pool of large blocks in front.
pub struct PagePool;

static KEPT: Mutex<Kept> = Mutex::new(Kept { blocks: [Block::NONE; MOST_BLOCKS], count: 0, bytes: 0 });

/// A free block.
#[derive(Clone, Copy)]
struct Block {
    address: usize,
    size: usize,
}

impl Block {
    const NONE: Block = Block { address: 0, size: 0 };
}

/// The free blocks, the oldest first.
struct Kept {
    blocks: [Block; MOST_BLOCKS],
    count: usize,
    bytes: usize,
}

impl Kept {
    fn lock() -> MutexGuard<'static, Kept> {
        KEPT.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The youngest block of this size, whose pages are likeliest to be in a cache.
    fn take(&mut self, size: usize) -> Option<Block> {
        let at = self.blocks[..self.count].iter().rposition(|block| block.size == size)?;
        Some(self.remove(at))
    }

    fn remove(&mut self, at: usize) -> Block {
        let block = self.blocks[at];
        self.blocks.copy_within(at + 1..self.count, at);
        self.count -= 1;
        self.bytes -= block.size;
        block
    }

    /// The oldest block, where `more` bytes and one more block do not find room beside it.
    fn excess(&mut self, more: usize) -> Option<Block> {
        let full = self.count == MOST_BLOCKS || self.bytes + more > MOST_KEPT;
        (full && self.count > 0).then(|| self.remove(0))
    }

    fn put(&mut self, block: Block) {
        self.blocks[self.count] = block;
        self.count += 1;
        self.bytes += block.size;
    }
}

/// The layout that a large block really has: a few sizes per power of two, so that most blocks find one of theirs again.
/// `None` for what is left to the system.
fn class(layout: Layout) -> Option<Layout> {
    if layout.size() < LARGE || layout.align() > ALIGN {
        return None;
    }
    // Eight sizes per power of two: an eighth is wasted at most, and never touched.
    let step = (1 << layout.size().ilog2()) / 8;
    Layout::from_size_align(layout.size().checked_next_multiple_of(step)?, ALIGN).ok()
}

// SAFETY: every small block comes from the system's allocator and goes back there, every large one comes from `fresh` or `resize` and
// goes to `free`. One of a class is handed out for layouts of that class alone, which it is large and aligned enough for.
unsafe impl GlobalAlloc for PagePool {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some(class) = class(layout) else {
            // SAFETY: the caller's promise.
            return unsafe { System.alloc(layout) };
        };
        let kept = Kept::lock().take(class.size());
        match kept {
            Some(block) => std::ptr::with_exposed_provenance_mut(block.address),
            None => fresh(class, false),
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let Some(class) = class(layout) else {
            // SAFETY: the caller's promise.
            return unsafe { System.alloc_zeroed(layout) };
        };
        let kept = Kept::lock().take(class.size());
        match kept {
            Some(block) => {
                let address: *mut u8 = std::ptr::with_exposed_provenance_mut(block.address);
                // SAFETY: the block is nobody else's, and holds the layout.
                unsafe { address.write_bytes(0, layout.size()) };
                address
            }
            None => fresh(class, true),
        }
    }

    unsafe fn dealloc(&self, address: *mut u8, layout: Layout) {
        let Some(class) = class(layout) else {
            // SAFETY: the caller's promise.
            return unsafe { System.dealloc(address, layout) };
        };
        if class.size() > MOST_KEPT {
            // SAFETY: the block was made with this layout, and is nobody's now.
            return unsafe { free(address, class) };
        }
        loop {
            let mut kept = Kept::lock();
            let Some(oldest) = kept.excess(class.size()) else {
                return kept.put(Block { address: address.expose_provenance(), size: class.size() });
            };
            drop(kept);
            give_back(oldest);
        }
    }

    unsafe fn realloc(&self, address: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let Ok(wanted) = Layout::from_size_align(new_size, layout.align()) else {
            return std::ptr::null_mut();
        };
        match (class(layout), class(wanted)) {
            // SAFETY: the caller's promise.
            (None, None) => unsafe { System.realloc(address, layout, new_size) },
            (Some(old), Some(new)) if old == new => address,
            // SAFETY: the block was made with the old class's layout, and belongs to the caller.
            (Some(old), Some(new)) => unsafe { resize(address, old, new) },
            (_, _) => {
                // SAFETY: a new block of the wanted layout; what both hold is copied, and the old one freed.
                unsafe {
                    let moved = self.alloc(wanted);
                    if !moved.is_null() {
                        moved.copy_from_nonoverlapping(address, layout.size().min(new_size));
                        self.dealloc(address, layout);
                    }
                    moved
                }
            }
        }
    }
}

/// Bytes from which a fresh block is asked for in huge pages: the first touch of a hundred megabytes of small pages takes longer than
/// a norm over them, a sixth of a picture's decoding in all, and a fifth of the work of loading a model. The system may decline.
#[cfg(all(target_os = "linux", not(miri)))]
const HUGE: usize = 4 << 20;

/// A block from the system, of zeros if that is asked for, null if it has none. Its allocator would write the zeros of a block that is
/// aligned to more than 16 bytes, page by small page, and thereby do the first touch of a model's weights on one thread: mapped
/// blocks are zeros anyway.
#[cfg(all(target_os = "linux", not(miri)))]
fn fresh(class: Layout, _zeroed: bool) -> *mut u8 {
    let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping, wherever the system finds room.
    let address = unsafe { libc::mmap(std::ptr::null_mut(), class.size(), access, kind, -1, 0) };
    if address == libc::MAP_FAILED {
        return std::ptr::null_mut();
    }
    if class.size() >= HUGE {
        // SAFETY: the block that was just mapped; the advice changes nothing of what it holds.
        unsafe { libc::madvise(address, class.size(), libc::MADV_HUGEPAGE) };
    }
    address.cast()
}

#[cfg(any(not(target_os = "linux"), miri))]
fn fresh(class: Layout, zeroed: bool) -> *mut u8 {
    // SAFETY: a class is not empty.
    unsafe { if zeroed { System.alloc_zeroed(class) } else { System.alloc(class) } }
}

/// Gives a block back to the system.
///
/// # Safety
/// It comes from [`fresh`] with this class, or from [`resize`] to it, and is nobody's now.
unsafe fn free(address: *mut u8, class: Layout) {
    #[cfg(all(target_os = "linux", not(miri)))]
    // SAFETY: the caller's promise.
    unsafe {
        libc::munmap(address.cast(), class.size());
    }
    #[cfg(any(not(target_os = "linux"), miri))]
    // SAFETY: the caller's promise.
    unsafe {
        System.dealloc(address, class);
    }
}

/// Makes a block larger or smaller and keeps what both hold; null, and the block as it was, if the system has no room.
///
/// # Safety
/// As [`free`], but that the block is the caller's.
unsafe fn resize(address: *mut u8, old: Layout, new: Layout) -> *mut u8 {
    #[cfg(all(target_os = "linux", not(miri)))]
    {
        // SAFETY: the caller's promise.
        let moved = unsafe { libc::mremap(address.cast(), old.size(), new.size(), libc::MREMAP_MAYMOVE) };
        if moved == libc::MAP_FAILED { std::ptr::null_mut() } else { moved.cast() }
    }
    #[cfg(any(not(target_os = "linux"), miri))]
    // SAFETY: the caller's promise; the alignment is the same.
    unsafe {
        System.realloc(address, old, new.size())
    }
}

fn give_back(block: Block) {
    if let Ok(class) = Layout::from_size_align(block.size, ALIGN) {
        // SAFETY: the block was kept by `dealloc`, which knew it to be made with this class, and is nobody's now.
        unsafe { free(std::ptr::with_exposed_provenance_mut(block.address), class) };
    }
}

/// Gives all kept blocks back to the system: for when no more layers follow.
pub fn release() {
    release_where(|_| true);
}

/// Gives back the kept blocks that are too small for values of so many bytes: for when all layers that follow are as large.
pub fn release_below(bytes: usize) {
    release_where(|size| size < bytes);
}

/// Gives back the kept blocks that are larger than what values of so many bytes take: for when no layer that follows is larger.
pub fn release_above(bytes: usize) {
    let most = Layout::from_size_align(bytes, ALIGN).ok().and_then(class).map_or(LARGE, |class| class.size());
    release_where(|size| size > most);
}

fn release_where(is_useless: impl Fn(usize) -> bool) {
    loop {
        let mut kept = Kept::lock();
        let blocks = &kept.blocks[..kept.count];
        let Some(at) = blocks.iter().rposition(|block| is_useless(block.size)) else { return };
        let block = kept.remove(at);
        drop(kept);
        give_back(block);
    }
}

/// Calls [`release`] when it is dropped.
#[derive(Debug)]
pub struct ReleaseOnDrop;

impl Drop for ReleaseOnDrop {
    fn drop(&mut self) {
        release();
    }
}

/// A buffer whose values are left over from earlier uses, for a kernel that writes all of it. It saves the time that
/// zeros take. In debug builds the values are NaN, so that one which is not written shows.
pub fn stale(len: usize) -> Vec<f32> {
    stale_or(f32::NAN, len)
}

/// The same of bfloat16.
pub fn stale_halves(len: usize) -> Vec<bf16> {
    stale_or(bf16::NAN, len)
}

/// `T` must have a value for every bit pattern.
fn stale_or<T: Clone>(in_debug_builds: T, len: usize) -> Vec<T> {
    if cfg!(any(debug_assertions, miri)) {
        return vec![in_debug_builds; len];
    }
    let mut values: Vec<T> = Vec::with_capacity(len);
    // SAFETY: an empty instruction that may, for all the compiler knows, have written to the memory behind its operand.
    // So the values are some numbers (all bit patterns are), not uninitialised.
    unsafe {
        std::arch::asm!("/* {} */", in(reg) values.as_mut_ptr(), options(nostack, preserves_flags));
    }
    // SAFETY: the capacity is `len`, and the values are initialised, to whatever they are.
    unsafe { values.set_len(len) };
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, 16).expect("a layout")
    }

    #[test]
    fn blocks_come_back_zeroed_grown_and_within_the_bound() {
        let pool = PagePool;
        // SAFETY: blocks are freed once, with their layouts, and written within them.
        unsafe {
            let first = pool.alloc(layout(LARGE + 1));
            first.write_bytes(7, LARGE + 1);
            pool.dealloc(first, layout(LARGE + 1));
            let zeroed = pool.alloc_zeroed(layout(LARGE + 5));
            assert_eq!(zeroed, first, "the same class finds the same block");
            assert!(std::slice::from_raw_parts(zeroed, LARGE + 5).iter().all(|byte| *byte == 0));
            zeroed.write(9);
            let grown = pool.realloc(zeroed, layout(LARGE + 5), 3 * LARGE);
            assert_eq!((grown.read(), grown.add(1).read()), (9, 0));
            let small = pool.realloc(grown, layout(3 * LARGE), 100);
            assert_eq!(small.read(), 9);
            let large = pool.realloc(small, layout(100), LARGE);
            assert_eq!(large.read(), 9);
            pool.dealloc(large, layout(LARGE));
            // Never touched, so no memory is needed for them.
            let many: Vec<_> = (0..2 * MOST_BLOCKS).map(|_| pool.alloc(layout(4 << 20))).collect();
            many.into_iter().for_each(|block| pool.dealloc(block, layout(4 << 20)));
            assert!((1..=MOST_KEPT).contains(&Kept::lock().bytes));
        }
        release_above(4 << 20);
        release_below(4 << 20);
        let bytes = Kept::lock().bytes;
        assert!(
            bytes > 0 && bytes.is_multiple_of(4 << 20),
            "only blocks of {} bytes are kept: {bytes}",
            4 << 20
        );
        release();
        let kept = Kept::lock();
        assert_eq!((kept.bytes, kept.count), (0, 0));
    }

    #[test]
    fn classes_hold_their_layouts_and_waste_little() {
        for size in [LARGE, LARGE + 1, 1 << 20, (1 << 20) + 1, 10_485_760, 1_999_999_999] {
            let class = class(layout(size)).expect("a large block").size();
            assert!(class >= size && class - size <= size / 8, "{size}: {class}");
        }
        assert_eq!(class(layout(LARGE - 1)), None);
    }
}
