//! What can go wrong with a tokenizer file, an id or a name.

use thiserror::Error;

/// All failures of this service. None is a panic: every input, however damaged, ends in one of these.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Error {
    #[error("line {line}: {reason}")]
    Line { line: usize, reason: String },
    #[error("{0}")]
    Damaged(String),
    #[error("{0}")]
    Unsupported(String),
    #[error("no token has the id {0}")]
    UnknownId(u32),
    #[error("no special token is named {0:?}")]
    UnknownSpecial(String),
    #[error("the text yields a vocabulary of {reached} tokens at most, {wanted} were asked for")]
    TooFewMerges { wanted: usize, reached: usize },
    #[error("{0}")]
    TooLarge(String),
}

impl Error {
    /// A stable name of the kind of error; Python gives it its code and fix (llama3/tokenizer/problems.py).
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Line { .. } | Self::Damaged(_) => "damaged",
            Self::Unsupported(_) => "unsupported",
            Self::UnknownId(_) => "unknown_id",
            Self::UnknownSpecial(_) => "unknown_special",
            Self::TooFewMerges { .. } => "too_few_merges",
            Self::TooLarge(_) => "too_large",
        }
    }
}
