//! Paged KV cache accounting: block pool, block tables, prefix cache, forks.
//!
//! The pool knows which block of the cache holds which tokens of which sequence; the keys and values themselves live
//! in tensors elsewhere. A *row* is one running sequence: a line of the block table. Admission can promise a row
//! room up to a length, so that it never has to be swapped out (Llama 3 paper 4.2.2). Rows with a common prefix share its
//! full blocks; rows made by a fork share the partial last block too, until one of them writes.
//!
//! Contract with the caller: the keys and values of admitted and stepped tokens are computed right after the call,
//! in the order of the calls, because full blocks are published at once; `take_copies` is applied before that, all
//! sources read before any target is written.

mod audit;
mod blocks;
mod keys;
mod pool;
mod rows;
mod slab;

pub use keys::{Chain, Keys};
pub use pool::{Admission, KvPool, Stats};
pub use slab::Slab;

/// Why a request was not carried out. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Config(String),
    #[error("not enough memory for the tables of the pool")]
    Memory,
    #[error("row {0} is not running (never admitted, or freed already)")]
    Row(i64),
    #[error("row {0} is named twice in one step")]
    Repeated(i64),
    #[error("a sequence needs at least one token")]
    NoTokens,
    #[error(
        "a sequence of {tokens} tokens needs {blocks} blocks; the pool can give one sequence at most {limit}"
    )]
    NeverFits {
        tokens: usize,
        blocks: usize,
        limit: usize,
    },
    #[error("row {row} is full: its line of the block table holds {limit} blocks")]
    RowFull { row: i64, limit: usize },
    #[error("row {0} has drafts that were not accepted or truncated yet")]
    Drafts(i64),
    #[error("row {row} has {drafts} drafts, {given} tokens were given")]
    TooManyAccepted {
        row: i64,
        drafts: usize,
        given: usize,
    },
    #[error("row {row} has {len} tokens and cannot be cut to {wanted}")]
    Truncate { row: i64, len: usize, wanted: usize },
    #[error("no block is left for the copy that the next token of row {0} would need")]
    NoSpace(i64),
    #[error("there is no pin {0}")]
    Pin(u64),
    #[error("rows, tokens and slots must have one length, got {0}, {1} and {2}")]
    Lengths(usize, usize, usize),
}
