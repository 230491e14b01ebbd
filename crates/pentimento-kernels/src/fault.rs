//! A panic inside a kernel's task, for tests of what stands around kernels. Builds without debug assertions hold none of it.

#[cfg(debug_assertions)]
use std::sync::atomic::{AtomicUsize, Ordering};

/// Tasks until the panic; 0 for none.
#[cfg(debug_assertions)]
static LEFT: AtomicUsize = AtomicUsize::new(0);

/// Lets the task of a linear layer that comes as the `count`-th from now on panic, on the thread that runs it, once.
#[cfg(debug_assertions)]
pub fn panic_in_task(count: usize) {
    LEFT.store(count, Ordering::SeqCst);
}

/// Where a task may be told to panic.
#[inline(always)]
pub(crate) fn point() {
    #[cfg(debug_assertions)]
    {
        let counted = LEFT.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        assert!(counted != Ok(1), "a kernel's task was told to panic");
    }
}
