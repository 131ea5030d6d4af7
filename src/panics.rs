//! Panics of libraries: caught, and without a trace on stderr.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::sync::Once;

thread_local! {
    /// Calls of [`caught`] that this thread is in.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

/// Result of a call into a library that panics on some inputs; `None` if it did.
///
/// The panic prints nothing: its message and the trace name files of the machine that built the program, and say
/// nothing about the input. A panic of another thread at the same time is printed as ever (`tests/guards.rs`). Any state that the panic
/// leaves half done must be dropped by the caller.
pub fn caught<T>(run: impl FnOnce() -> T) -> Option<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if DEPTH.get() == 0 {
                before(info);
            }
        }));
    });
    DEPTH.set(DEPTH.get() + 1);
    let result = catch_unwind(AssertUnwindSafe(run));
    DEPTH.set(DEPTH.get() - 1);
    result.ok()
}
