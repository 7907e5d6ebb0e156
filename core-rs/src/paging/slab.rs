//! Fixed int32 memory that Rust writes and NumPy reads. Values are counts and block ids, all below 2^31.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss
)]

use super::Error;
use std::sync::atomic::{AtomicI32, Ordering::Relaxed};

/// An int32 array of fixed length and address. Cells are atomics (plain moves on every CPU we know), because a
/// NumPy view may read them while Rust holds no exclusive borrow of that view.
pub struct Slab {
    cells: Box<[AtomicI32]>,
}

impl Slab {
    /// # Errors
    /// `Error::Memory` if the array cannot be allocated.
    pub fn zeros(len: usize) -> Result<Self, Error> {
        let mut cells = Vec::new();
        cells.try_reserve_exact(len).map_err(|_| Error::Memory)?;
        cells.resize_with(len, || AtomicI32::new(0));
        Ok(Self {
            cells: cells.into_boxed_slice(),
        })
    }

    #[must_use]
    pub fn get(&self, index: usize) -> usize {
        self.cells[index].load(Relaxed) as usize
    }

    pub fn set(&self, index: usize, value: usize) {
        self.cells[index].store(value as i32, Relaxed);
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.cells.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    /// First cell; valid as long as the slab lives, which never moves its memory.
    #[must_use]
    pub fn as_ptr(&self) -> *const i32 {
        self.cells.as_ptr().cast()
    }
}
