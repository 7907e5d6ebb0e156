//! Byte-level BPE: training (by Llama 3's split rule), encoding, decoding, streaming, file formats.
//!
//! A text is cut at its added tokens (`added`), the rest into pieces (`split`); each piece is looked up whole (`vocab`)
//! and merged (`merge`) if it is no token.

pub mod added;
pub mod decode;
mod encode;
mod error;
pub mod formats;
mod merge;
mod meta;
pub mod split;
pub mod train;
pub mod unicode;
mod vocab;

use crate::threads;
pub use added::{AddedToken, AddedTokens, Allowed};
pub use decode::Utf8Stream;
pub use encode::{Options, Rows};
pub use error::Error;
pub use split::Rule;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
pub use train::Trainer;
pub use vocab::{MAX_TOKEN_BYTES, MergeOrder, Merges, Vocab};

/// A tokenizer: immutable tables, shared freely between threads.
pub struct Tokenizer {
    vocab: Arc<Vocab>,
    merges: Arc<Merges>,
    added: AddedTokens,
    rule: Arc<Rule>,
    /// A piece that is a token becomes that token, whether or not merging reaches it.
    ignore_merges: bool,
    /// Control token that the tokenizer's file puts before every text.
    first: Option<u32>,
    /// Tells this tokenizer's entries from others' in per-thread memory.
    tag: u32,
}

/// Everything that a tokenizer's file may state.
pub struct Parts {
    /// Base tokens in the order of their ids, empty where an added token has the id or none has it.
    pub tokens: Vec<Vec<u8>>,
    /// Pairs of ids, the first to merge first; None: by tiktoken's rule.
    pub merges: Option<Vec<(u32, u32)>>,
    pub added: Vec<AddedToken>,
    pub rule: Rule,
    pub ignore_merges: bool,
    pub nfc: bool,
    pub first: Option<u32>,
    /// Ids that no token has are fine.
    pub has_holes: bool,
}

static NEXT_TAG: AtomicU32 = AtomicU32::new(0);

impl Tokenizer {
    /// Llama 3's kind: base tokens in the order of their ids, merged by tiktoken's rule, and special tokens
    /// (id, name). All 256 bytes must be tokens.
    pub fn new(tokens: &[Vec<u8>], specials: Vec<(u32, String)>) -> Result<Self, Error> {
        let special = |(id, name)| AddedToken::special(id, name);
        let tokenizer = Self::build(Parts {
            tokens: tokens.to_vec(),
            merges: None,
            added: specials.into_iter().map(special).collect(),
            rule: Rule::llama3(),
            ignore_merges: true,
            nfc: false,
            first: None,
            has_holes: false,
        })?;
        match tokenizer.vocab.missing_byte() {
            Some(byte) => Err(Error::Damaged(format!(
                "no token for the single byte 0x{byte:02X}"
            ))),
            None => Ok(tokenizer),
        }
    }

    pub fn build(mut parts: Parts) -> Result<Self, Error> {
        let added_ids: HashSet<u32> = parts.added.iter().map(|token| token.id).collect();
        let may_lack = |id| parts.has_holes || added_ids.contains(&id);
        // Behind the last base token there is no hole: no file could tell of it.
        while parts.tokens.last().is_some_and(Vec::is_empty)
            && may_lack(parts.tokens.len() as u32 - 1)
        {
            parts.tokens.pop();
        }
        let mut vocab = Vocab::new(&parts.tokens, may_lack)?;
        let merges = match parts.merges {
            Some(list) => Merges::listed(&vocab, list)?,
            None => Merges::by_rank(&vocab)?,
        };
        if !parts.ignore_merges {
            let unreached = unreached(&vocab, &merges);
            vocab.hide(&unreached);
        }
        let added = AddedTokens::new(&vocab, parts.added, parts.nfc)?;
        Ok(Self {
            vocab: Arc::new(vocab),
            merges: Arc::new(merges),
            added,
            rule: Arc::new(parts.rule),
            ignore_merges: parts.ignore_merges,
            first: parts.first,
            tag: NEXT_TAG.fetch_add(1, Ordering::Relaxed),
        })
    }

    /// The same tokenizer, to which these added tokens are control tokens. It shares the tables of this one.
    pub fn with_special(&self, names: &[String]) -> Result<Self, Error> {
        Ok(Self {
            vocab: Arc::clone(&self.vocab),
            merges: Arc::clone(&self.merges),
            added: self.added.with_special(&self.vocab, names)?,
            rule: Arc::clone(&self.rule),
            ..*self
        })
    }

    /// Control token that the tokenizer's file puts before every text.
    pub fn first(&self) -> Option<u32> {
        self.first
    }

    pub fn rule(&self) -> &Rule {
        &self.rule
    }

    pub fn ignore_merges(&self) -> bool {
        self.ignore_merges
    }

    /// Whether text is split, and pieces are looked up, as Llama 3's reference does.
    pub fn is_llama3_kind(&self) -> bool {
        self.rule.is_llama3() && self.ignore_merges && !self.added.nfc()
    }

    pub fn vocab(&self) -> &Vocab {
        &self.vocab
    }

    pub fn merges(&self) -> &Merges {
        &self.merges
    }

    pub fn added(&self) -> &AddedTokens {
        &self.added
    }

    /// Rows that an embedding table needs: one more than the highest id.
    pub fn vocab_size(&self) -> usize {
        self.vocab.len().max(self.added.end())
    }

    /// Bytes of the tokens, added ones by their names.
    pub fn decode(&self, ids: &[u32]) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        decode::decode(&self.vocab, &self.added, ids, &mut bytes)?;
        Ok(bytes)
    }

    /// Bytes of one token.
    pub fn token_bytes(&self, id: u32) -> Result<&[u8], Error> {
        decode::token_bytes(&self.vocab, &self.added, id)
    }

    /// blake3 over everything that decides ids: tokens, merge order, added tokens, and the split rule, where it is not
    /// Llama 3's. Equal hash, equal tokenizer.
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
        for token in self.added.iter() {
            hasher.update(&token.id.to_le_bytes());
            hasher
                .update(&(token.name.len() as u64).to_le_bytes())
                .update(token.name.as_bytes());
            if !token.is_plain_special() {
                let flags = [token.special, token.lstrip, token.rstrip, token.normalized];
                hasher.update(b"\0flags").update(&flags.map(u8::from));
            }
        }
        if !self.is_llama3_kind() {
            hasher
                .update(b"\0rule")
                .update(&formats::pipeline::describe(self));
        }
        hasher.finalize().to_hex().to_string()
    }
}

/// Tokens that merging their own bytes does not give.
fn unreached(vocab: &Vocab, merges: &Merges) -> Vec<u32> {
    let mut merger = merge::Merger::default();
    let mut ids = Vec::new();
    let mut is_reached = |id: u32, token: &[u8]| {
        ids.clear();
        merger.merge(vocab, merges, &vocab.known_bytes(token), &mut ids);
        ids == [id]
    };
    let tokens = (0u32..).zip(vocab.tokens());
    tokens
        .filter(|&(id, token)| token.len() > 1 && !is_reached(id, token))
        .map(|(id, _)| id)
        .collect()
}

#[cfg(test)]
mod tests;
