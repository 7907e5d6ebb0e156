//! What can go wrong with a tokenizer file, an id or a name; each with a stable code and a way out.

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
    /// Stable code, listed in docs/errors.md.
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

    /// What the user can do about it.
    pub fn fix(&self) -> &'static str {
        match self {
            Self::Line { .. } | Self::Damaged(_) => {
                "get the file again; it is incomplete or was changed"
            }
            Self::Unsupported(_) => {
                "use a tokenizer of the Llama 3 kind: byte-level BPE with Llama 3's split rule"
            }
            Self::UnknownId(_) => "decode with the tokenizer that made the ids",
            Self::UnknownSpecial(_) => "`special_tokens` lists the names that exist",
            Self::TooFewMerges { .. } => "train on more text or ask for a smaller vocabulary",
            Self::TooLarge(_) => "stay within the bound",
        }
    }
}
