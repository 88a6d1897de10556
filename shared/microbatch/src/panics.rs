//! Keeps a panic of the user's code from becoming everybody's (P7).

use std::panic::{AssertUnwindSafe, catch_unwind};

/// The code panicked. What it said went through the panic hook; the value is never looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Panicked;

/// Runs the user's code, containing its panic.
pub(crate) fn contain<T>(run: impl FnOnce() -> T) -> Result<T, Panicked> {
    // Unwind safety: what the closure touched is dropped or was the user's own.
    catch_unwind(AssertUnwindSafe(run)).map_err(|payload| {
        // A payload's own destructor may panic as well: a few bytes leaked are the cheaper risk.
        std::mem::forget(payload);
        Panicked
    })
}

/// Drops the user's value, containing a panic of its destructor.
pub(crate) fn drop_contained<T>(value: T) -> Result<(), Panicked> {
    contain(move || drop(value))
}
