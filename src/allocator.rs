//! The memory allocator of the program and its benches.

use std::ffi::{c_int, c_long};

/// Global allocator of the binaries: every step allocates and frees large tensors, and the system's allocator returns
/// their pages to the system each time.
pub use mimalloc::MiMalloc;

/// `mi_option_purge_delay` of mimalloc 2 and 3.
const PURGE_DELAY: c_int = 15;

/// Delay before freed pages are returned: a day, in milliseconds, longer than any stage, so that pages are returned
/// only on request. "Never" is another setting, under which a request has no effect either.
const KEPT_FOR: c_long = 24 * 60 * 60 * 1000;

#[expect(
    unsafe_code,
    reason = "an option and a function of mimalloc that its crate does not name"
)]
// SAFETY: these are the signatures in `mimalloc.h`. The first writes a number into mimalloc's table of options without
// locking it, so it is called before there is a second thread. The second works on the heap of the calling thread.
unsafe extern "C" {
    safe fn mi_option_set_default(option: c_int, value: c_long);
    safe fn mi_collect(force: bool);
}

/// Keeps freed pages for the next tensor: the system zeroes new pages first, which takes a sixth of a training step's
/// time. `MIMALLOC_PURGE_DELAY` in the environment takes precedence.
///
/// Called first in `main`, before other threads start.
pub fn keep_freed_pages() {
    mi_option_set_default(PURGE_DELAY, KEPT_FOR);
}

/// Returns freed pages to the system. Called between stages, because the next stage has tensors of other sizes.
pub fn give_freed_pages_back() {
    mi_collect(true);
    rayon::broadcast(|_| mi_collect(true));
}
