//! The crate's own rayon pool, so that neither the process-wide pool nor its settings are touched.
//! Threads do not survive a fork: the first use in a child process builds a fresh pool there.

use rayon::{ThreadPool, ThreadPoolBuilder};
use std::process;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

struct Pool {
    pid: u32,
    wanted: usize,
    threads: ThreadPool,
}

static CURRENT: AtomicPtr<Pool> = AtomicPtr::new(ptr::null_mut());
static WANTED: AtomicUsize = AtomicUsize::new(0);

/// Threads for all parallel work of this crate; 0 means one per core. No result depends on it.
pub fn set_num_threads(threads: usize) {
    WANTED.store(threads, Ordering::Relaxed);
}

/// Threads that parallel work runs on now.
pub fn num_threads() -> usize {
    current().map_or(1, |pool| pool.threads.current_num_threads())
}

/// Runs `work` inside the pool: rayon's parallel iterators in it use the pool's threads.
/// Where the machine lets us start no thread at all, `work` runs on the caller's.
pub fn install<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    match current() {
        Some(pool) => pool.threads.install(work),
        None => work(),
    }
}

/// The pool of this process with the wanted number of threads. Lock-free, because a lock that another
/// thread holds at the moment of a fork stays locked in the child for ever.
fn current() -> Option<&'static Pool> {
    let (pid, wanted) = (process::id(), WANTED.load(Ordering::Relaxed));
    let seen = CURRENT.load(Ordering::Acquire);
    // SAFETY: the pointer is null or came from `Box::leak` below and is never freed.
    let known = unsafe { seen.as_ref() };
    if let Some(pool) = known.filter(|pool| pool.pid == pid && pool.wanted == wanted) {
        return Some(pool);
    }
    let threads = build(wanted).or_else(|| build(1))?;
    // Leaked on purpose: a replaced pool may still be at work, and a parent's pool must not be joined in a child.
    let fresh: &'static Pool = Box::leak(Box::new(Pool {
        pid,
        wanted,
        threads,
    }));
    CURRENT.store(ptr::from_ref(fresh).cast_mut(), Ordering::Release);
    Some(fresh)
}

fn build(threads: usize) -> Option<ThreadPool> {
    ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|index| format!("llama3-{index}"))
        .build()
        .ok()
}

#[cfg(test)]
pub mod testing {
    use std::sync::{Mutex, PoisonError};

    static SETTING: Mutex<()> = Mutex::new(());

    /// Runs `work` with that many threads; tests that change the setting wait for each other.
    pub fn with_threads<R>(threads: usize, work: impl FnOnce() -> R) -> R {
        let _held = SETTING.lock().unwrap_or_else(PoisonError::into_inner);
        super::set_num_threads(threads);
        let result = work();
        super::set_num_threads(0);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rayon::prelude::*;

    #[test]
    fn the_number_of_threads_follows_the_setting() {
        testing::with_threads(3, || {
            assert_eq!(num_threads(), 3);
            assert_eq!(install(rayon::current_num_threads), 3);
            let squares: Vec<u64> =
                install(|| (0..1000u64).into_par_iter().map(|x| x * x).collect());
            assert_eq!(squares[999], 998_001);
        });
    }
}
