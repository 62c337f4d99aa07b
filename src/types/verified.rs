//! `Verified<T>`: a value whose signatures were checked. The type is the trust level.
//!
//! A consensus core and the stations behind admission accept only `Verified`. The constructor may
//! be called only by the pipeline's verification and by the simulator; `tests/tidy.rs` enforces
//! that list.

use std::ops::Deref;

/// A value whose signatures were checked against the identities it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified<T>(T);

impl<T> Verified<T> {
    /// States that every signature in `value` was checked by the caller.
    pub fn by_checked_signatures(value: T) -> Self {
        Self(value)
    }

    /// The value.
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> Deref for Verified<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}
