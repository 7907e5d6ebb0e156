//! Byte-level BPE with Llama 3's split rule: training, encoding, decoding, streaming, file formats.
//!
//! A text is cut into pieces (`split`), each piece looked up whole (`vocab`), and merged (`merge`) if it is no token.

pub mod decode;
mod encode;
mod error;
pub mod formats;
mod merge;
mod meta;
pub mod special;
pub mod split;
pub mod train;
pub mod unicode;
mod vocab;

use crate::pool;
pub use decode::Utf8Stream;
pub use encode::{Options, Rows};
pub use error::Error;
pub use special::{Allowed, Specials};
use std::sync::atomic::{AtomicU32, Ordering};
pub use train::Trainer;
pub use vocab::{MAX_TOKEN_BYTES, MergeOrder, Merges, Vocab};

/// A tokenizer: immutable tables, shared freely between threads.
pub struct Tokenizer {
    vocab: Vocab,
    merges: Merges,
    specials: Specials,
    /// Control token that the tokenizer's file puts before every text.
    first: Option<u32>,
    /// Tells this tokenizer's entries from others' in per-thread memory.
    tag: u32,
}

static NEXT_TAG: AtomicU32 = AtomicU32::new(0);

impl Tokenizer {
    /// Base tokens in the order of their ids, merged by tiktoken's rule, and special tokens (id, name).
    pub fn new(tokens: &[Vec<u8>], specials: Vec<(u32, String)>) -> Result<Self, Error> {
        let vocab = Vocab::new(tokens)?;
        let merges = Merges::by_rank(&vocab)?;
        Self::assemble(vocab, merges, specials)
    }

    /// As `new`, with an explicit merge list.
    pub fn with_merges(
        tokens: &[Vec<u8>],
        merges: Vec<(u32, u32)>,
        specials: Vec<(u32, String)>,
    ) -> Result<Self, Error> {
        let vocab = Vocab::new(tokens)?;
        let merges = Merges::listed(&vocab, merges)?;
        Self::assemble(vocab, merges, specials)
    }

    fn assemble(vocab: Vocab, merges: Merges, specials: Vec<(u32, String)>) -> Result<Self, Error> {
        let specials = Specials::new(&vocab, specials)?;
        Ok(Self {
            vocab,
            merges,
            specials,
            first: None,
            tag: NEXT_TAG.fetch_add(1, Ordering::Relaxed),
        })
    }

    /// The same tokenizer, whose file puts this token before every text.
    pub fn beginning_with(self, first: Option<u32>) -> Self {
        Self { first, ..self }
    }

    /// Control token that the tokenizer's file puts before every text.
    pub fn first(&self) -> Option<u32> {
        self.first
    }

    pub fn vocab(&self) -> &Vocab {
        &self.vocab
    }

    pub fn merges(&self) -> &Merges {
        &self.merges
    }

    pub fn specials(&self) -> &Specials {
        &self.specials
    }

    /// Rows that an embedding table needs: one more than the highest id.
    pub fn vocab_size(&self) -> usize {
        self.vocab.len().max(self.specials.end())
    }

    /// Bytes of the tokens, special tokens by their names.
    pub fn decode(&self, ids: &[u32]) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        decode::decode(&self.vocab, &self.specials, ids, &mut bytes)?;
        Ok(bytes)
    }

    /// Bytes of one token.
    pub fn token_bytes(&self, id: u32) -> Result<&[u8], Error> {
        decode::token_bytes(&self.vocab, &self.specials, id)
    }

    /// blake3 over everything that decides ids: tokens, merge order, specials. Equal hash, equal tokenizer.
    pub fn hash(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for token in self.vocab.tokens() {
            hasher
                .update(&(token.len() as u64).to_le_bytes())
                .update(token);
        }
        if let MergeOrder::Listed(list) = self.merges.order() {
            hasher.update(b"\0merges");
            for (left, right) in list {
                hasher
                    .update(&left.to_le_bytes())
                    .update(&right.to_le_bytes());
            }
        }
        hasher.update(b"\0specials");
        for (id, name) in self.specials.iter() {
            hasher.update(&id.to_le_bytes());
            hasher
                .update(&(name.len() as u64).to_le_bytes())
                .update(name.as_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }
}

#[cfg(test)]
mod tests;
