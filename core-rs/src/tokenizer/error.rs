//! What can go wrong with a tokenizer file, an id or a name.

use std::collections::HashMap;
use thiserror::Error;

/// All failures of this service. None is a panic: every input, however damaged, ends in one of these.
///
/// What a user reads is declared in Python, once for each code (llama3/tokenizer/problems.py). The texts here are those
/// details that a declaration takes as a field, and what a Rust test prints.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Error {
    #[error("line {line}: {reason}")]
    Line { line: usize, reason: String },
    #[error("{0}")]
    Damaged(String),
    #[error("{0}")]
    Unsupported(String),
    #[error("unknown id {0}")]
    UnknownId(u32),
    #[error("unknown special token {0:?}")]
    UnknownSpecial(String),
    #[error("{reached} tokens at most, {wanted} wanted")]
    TooFewMerges { wanted: usize, reached: usize },
    #[error("{0}")]
    TooLarge(String),
}

impl Error {
    /// The stable code under which Python declares this error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Line { .. } | Self::Damaged(_) => "L3-TOK-001",
            Self::Unsupported(_) => "L3-TOK-002",
            Self::UnknownId(_) => "L3-TOK-003",
            Self::UnknownSpecial(_) => "L3-TOK-004",
            Self::TooFewMerges { .. } => "L3-TOK-005",
            Self::TooLarge(_) => "L3-TOK-006",
        }
    }

    /// The fields of the declared sentences.
    pub fn fields(&self) -> HashMap<&'static str, String> {
        match self {
            Self::UnknownId(id) => HashMap::from([("id", id.to_string())]),
            Self::UnknownSpecial(name) => HashMap::from([("name", name.clone())]),
            Self::TooFewMerges { wanted, reached } => HashMap::from([
                ("wanted", wanted.to_string()),
                ("reached", reached.to_string()),
            ]),
            other => HashMap::from([("detail", other.to_string())]),
        }
    }
}
