//! The memory of batches, used again and again: fresh memory costs a page fault every 4 KiB, and memory that was in use a
//! moment ago lies in the cache.

use std::collections::TryReserveError;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard};

/// Buffers that wait for their next use, at most; more are alive while callers hold more.
const KEPT: usize = 8;

/// Buffers that nobody holds.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    free: Mutex<Vec<Vec<u32>>>,
}

impl Buffers {
    /// Room for `len` tokens, filled with none.
    ///
    /// # Errors
    /// When there is no such memory.
    pub fn take(self: &Arc<Self>, len: usize) -> Result<Tokens, TryReserveError> {
        let free = self.lock().and_then(|mut free| free.pop());
        let fits = |values: &Vec<u32>| (len..=len.saturating_mul(2)).contains(&values.capacity());
        let mut values = free.filter(fits).unwrap_or_default();
        values.clear();
        values.try_reserve_exact(len)?;
        Ok(Tokens {
            values,
            home: Arc::clone(self),
        })
    }

    fn give(&self, values: Vec<u32>) {
        if let Some(mut free) = self.lock().filter(|free| free.len() < KEPT) {
            free.push(values);
        }
    }

    /// None where another thread is just here, perhaps one that a fork left behind: memory then comes from, and goes
    /// to, the allocator.
    fn lock(&self) -> Option<MutexGuard<'_, Vec<Vec<u32>>>> {
        self.free.try_lock().ok()
    }
}

/// Tokens in a buffer that goes back when they are dropped.
#[derive(Debug)]
pub struct Tokens {
    values: Vec<u32>,
    home: Arc<Buffers>,
}

impl Deref for Tokens {
    type Target = Vec<u32>;

    fn deref(&self) -> &Vec<u32> {
        &self.values
    }
}

impl DerefMut for Tokens {
    fn deref_mut(&mut self) -> &mut Vec<u32> {
        &mut self.values
    }
}

impl Drop for Tokens {
    fn drop(&mut self) {
        self.home.give(std::mem::take(&mut self.values));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_once_it_was_dropped_and_not_before() {
        let buffers = Arc::new(Buffers::default());
        let first = buffers.take(100).unwrap();
        let place = first.as_ptr();
        let second = buffers.take(100).unwrap();
        assert_ne!(second.as_ptr(), place, "the first is still held");
        drop(first);
        let third = buffers.take(100).unwrap();
        assert_eq!((third.as_ptr(), third.len()), (place, 0));
    }

    #[test]
    fn neither_a_small_nor_a_far_too_large_buffer_is_used() {
        let buffers = Arc::new(Buffers::default());
        drop(buffers.take(100).unwrap());
        assert!(buffers.take(101).unwrap().capacity() >= 101);
        drop(buffers.take(1000).unwrap());
        assert!(buffers.take(100).unwrap().capacity() < 1000);
    }

    #[test]
    fn what_waits_is_bounded() {
        let buffers = Arc::new(Buffers::default());
        drop(
            (0..50)
                .map(|_| buffers.take(10).unwrap())
                .collect::<Vec<_>>(),
        );
        assert_eq!(buffers.free.lock().unwrap().len(), KEPT);
    }

    #[test]
    fn memory_that_is_not_there_is_an_error() {
        assert!(Arc::new(Buffers::default()).take(usize::MAX).is_err());
    }
}
