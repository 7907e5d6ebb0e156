//! Prefetch: threads make the next batches while the caller works; they arrive in order, the same for any number
//! of threads.

use super::{Loader, LoaderError, Result, Rows};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Which rows the batches are: batch `b` of rank `r` is rows `start + b * batch + r`, `+ world`, ...
#[derive(Clone, Copy, Debug)]
pub struct Batches {
    pub start: u64,
    pub batch: u64,
    pub rank: u64,
    pub world: u64,
}

impl Batches {
    /// # Errors
    /// `Invalid` when there is no rank `rank` in `world`, or a rank would get no row.
    pub fn check(&self) -> Result<()> {
        if self.rank >= self.world || self.batch < self.world {
            let Self {
                batch, rank, world, ..
            } = self;
            return Err(LoaderError::Invalid(format!(
                "a batch of {batch} rows has none for rank {rank} of {world}"
            )));
        }
        Ok(())
    }

    fn rows(&self, loader: &Loader, b: u64, stop: &AtomicBool) -> Result<Rows> {
        let first = b
            .checked_mul(self.batch)
            .and_then(|row| row.checked_add(self.start));
        let first = first.and_then(|row| row.checked_add(self.rank));
        let first =
            first.ok_or_else(|| LoaderError::Invalid(format!("batch {b} lies beyond 64 bits")))?;
        let count = (self.batch - self.rank).div_ceil(self.world);
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        loader.rows_unless(first, count, self.world, stop)
    }
}

struct State {
    claimed: u64,
    delivered: u64,
    done: BTreeMap<u64, Result<Rows>>,
    /// Workers that wait for room.
    idle: usize,
    /// Callers that wait for a batch.
    hungry: usize,
}

struct Shared {
    loader: Arc<Loader>,
    batches: Batches,
    depth: u64,
    state: Mutex<State>,
    room: Condvar,
    ready: Condvar,
    /// Set with the lock held, so that no worker misses it; read without, between two rows.
    stop: AtomicBool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// A worker: claims the next batch while there is room, makes it, puts it down.
    fn work(&self) {
        loop {
            let mut state = self.lock();
            while !self.stopped() && state.claimed >= state.delivered + self.depth {
                state.idle += 1;
                state = wait(&self.room, state);
                state.idle -= 1;
            }
            if self.stopped() {
                return;
            }
            let b = state.claimed;
            state.claimed += 1;
            drop(state);
            // A panic must reach the consumer as an error: it would wait for this batch for ever.
            let rows = catch_unwind(AssertUnwindSafe(|| {
                self.batches.rows(&self.loader, b, &self.stop)
            }))
            .unwrap_or_else(|_| {
                Err(LoaderError::Invalid(format!(
                    "batch {b} could not be made (a bug)"
                )))
            });
            let mut state = self.lock();
            state.done.insert(b, rows);
            if state.hungry > 0 {
                self.ready.notify_all();
            }
        }
    }
}

fn wait<'a>(signal: &Condvar, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
    signal.wait(state).unwrap_or_else(PoisonError::into_inner)
}

/// An endless stream of batches, up to `depth` of them made ahead.
pub struct Prefetcher {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    pid: u32,
}

impl Prefetcher {
    /// # Errors
    /// `Invalid` for batches that cannot be; `Io` when no thread starts.
    pub fn new(
        loader: Arc<Loader>,
        batches: Batches,
        depth: usize,
        threads: usize,
    ) -> Result<Self> {
        batches.check()?;
        let shared = Arc::new(Shared {
            loader,
            batches,
            depth: depth.max(1) as u64,
            state: Mutex::new(State {
                claimed: 0,
                delivered: 0,
                done: BTreeMap::new(),
                idle: 0,
                hungry: 0,
            }),
            room: Condvar::new(),
            ready: Condvar::new(),
            stop: AtomicBool::new(false),
        });
        let mut prefetcher = Self {
            shared,
            workers: Vec::new(),
            pid: std::process::id(),
        };
        for _ in 0..threads.max(1) {
            let shared = Arc::clone(&prefetcher.shared);
            let worker = std::thread::Builder::new()
                .name("llama3-loader".into())
                .spawn(move || shared.work());
            let failed = |source| LoaderError::Io {
                path: "a loader thread".into(),
                source,
            };
            prefetcher.workers.push(worker.map_err(failed)?);
        }
        Ok(prefetcher)
    }

    /// The next batch, waiting for it if need be.
    ///
    /// # Errors
    /// What making the batch met; asking again asks for the one after. `Invalid` in a forked child, which has no
    /// threads.
    pub fn next_batch(&self) -> Result<Rows> {
        if self.pid != std::process::id() {
            return Err(LoaderError::Invalid(
                "this stream belongs to the parent process; start one here".into(),
            ));
        }
        let mut state = self.shared.lock();
        loop {
            let wanted = state.delivered;
            if let Some(rows) = state.done.remove(&wanted) {
                state.delivered += 1;
                if state.idle > 0 {
                    self.shared.room.notify_one();
                }
                return rows;
            }
            state.hungry += 1;
            state = wait(&self.shared.ready, state);
            state.hungry -= 1;
        }
    }
}

impl Drop for Prefetcher {
    fn drop(&mut self) {
        if self.pid != std::process::id() {
            // The threads live in the parent, and one may have held the lock at the fork: touch neither.
            std::mem::forget(std::mem::take(&mut self.workers));
            return;
        }
        let state = self.shared.lock();
        self.shared.stop.store(true, Ordering::Relaxed);
        drop(state);
        self.shared.room.notify_all();
        for worker in self.workers.drain(..) {
            let _ = worker.join(); // its panics were caught
        }
    }
}
