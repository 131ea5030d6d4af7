//! The memory allocator of the program and its benches.

use std::ffi::{c_int, c_long};

/// What a binary names as its global allocator: large tensors come and go at every step, and the system's allocator gives
/// their pages back each time.
pub use mimalloc::MiMalloc;

/// `mi_option_purge_delay` of mimalloc 2 and 3.
const PURGE_DELAY: c_int = 15;

/// A day, in milliseconds: longer than any stage, in which nothing is given back unless it is asked for. Never is another
/// setting, under which nothing can be.
const KEPT_FOR: c_long = 24 * 60 * 60 * 1000;

#[expect(
    unsafe_code,
    reason = "an option and a function of mimalloc that its crate does not name"
)]
// SAFETY: these are the signatures in `mimalloc.h`. The first writes a number into mimalloc's table of options; it does not
// lock it, so it is called before there is a second thread. The second works on the heap of the thread that calls it.
unsafe extern "C" {
    safe fn mi_option_set_default(option: c_int, value: c_long);
    safe fn mi_collect(force: bool);
}

/// Keeps pages that were freed for the next tensor: pages that the system hands out anew are zeroed first, which is a sixth
/// of a training step's time. `MIMALLOC_PURGE_DELAY` in the environment has the last word.
///
/// Called first thing in `main`, before other threads start.
pub fn keep_freed_pages() {
    mi_option_set_default(PURGE_DELAY, KEPT_FOR);
}

/// Gives the system what was freed. Called between stages, whose tensors have other sizes than those before.
pub fn give_freed_pages_back() {
    mi_collect(true);
    rayon::broadcast(|_| mi_collect(true));
}
