//! Token shards and the order in which they are read.
//!
//! Row `i` of training is a pure function of (plan, phases, seed, i): a mixture picks the source (`mixture`), a keyed
//! permutation the window of its concatenated tokens (`order`, `permutation`), and the shard index says where
//! documents start inside the window (`rows`). So the whole state of a loader is one number, any world size reads the same
//! rows, and nothing is shuffled in memory or on disk.

mod bits;
mod buffers;
mod format;
mod mixture;
mod ngrams;
mod order;
mod permutation;
mod ring;
mod rows;
mod shard;
#[cfg(test)]
mod tests;
mod writer;

pub use buffers::Tokens;
pub use format::{BLOCK_BYTES, Header};
pub use mixture::{Mixture, Weights};
pub use ngrams::{DrawnRuns, count_ngrams, draw_runs};
pub use order::{Loader, Phase, Place, Source};
pub use permutation::Permutation;
pub use ring::{Batches, Prefetcher};
pub use rows::Rows;
pub use shard::{Shard, View};
pub use writer::ShardWriter;

use std::io;
use std::path::{Path, PathBuf};

/// What can be wrong with a shard, a plan or a request.
#[derive(Debug, thiserror::Error)]
pub enum LoaderError {
    /// The file system failed.
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    /// The file is not what its writer left. `offset` is the first byte of the damaged region.
    #[error("{path}: {what} (in the region that starts at byte {offset})")]
    Damaged {
        path: PathBuf,
        offset: u64,
        what: String,
    },
    /// The caller asked for something that cannot be.
    #[error("{0}")]
    Invalid(String),
}

/// Result of the loader's operations.
pub type Result<T> = std::result::Result<T, LoaderError>;

impl LoaderError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::Io {
            path: path.to_path_buf(),
            source,
        }
    }

    pub(crate) fn damaged(path: &Path, offset: u64, what: impl Into<String>) -> Self {
        Self::Damaged {
            path: path.to_path_buf(),
            offset,
            what: what.into(),
        }
    }
}
