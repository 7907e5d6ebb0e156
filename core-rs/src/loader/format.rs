//! The `.tok` file: one header page, the tokens, where documents end, who they are, and a hash per block.
//!
//! ```text
//! 0                header (4096 bytes), its own blake3 in the last 32
//! 4096             tokens, `bits` each (see `bits`)
//! doc_ends         u64 per document: index of the token after its last
//! doc_ids          u64 per document: first 8 bytes of its identity
//! hashes           blake3 (32 bytes) of each block of [4096, hashes)
//! file_bytes - 64  footer: magic, file_bytes, the header's blake3
//! ```
//! Every section starts at a multiple of 64 bytes. The sections' places follow from the counts, so a header has no
//! freedom to point anywhere. Blocks are small (256 KiB) because rows are read in random order and a block is
//! hashed when its first row is: large blocks would make the first steps read far more than they need.
//!
//! Version 1 had words of 2 or 4 bytes, which are ids of 16 or 32 bits: such files are read, and no more written.

use super::bits::bits_of;
use super::{LoaderError, Result};
use std::path::Path;

pub const MAGIC: &[u8; 8] = b"L3TOKENS";
pub const END_MAGIC: &[u8; 8] = b"L3TOKEND";
pub const VERSION: u32 = 2;
/// The version whose tokens are whole words.
const WORDS: u32 = 1;
pub const HEADER_BYTES: u64 = 4096;
pub const FOOTER_BYTES: u64 = 64;
pub const HASH_BYTES: u64 = 32;
/// Token ids are below this: array libraries have no unsigned words of 32 bits to look them up with.
pub const MOST_VOCABULARY: u32 = 1 << 31;
/// Bytes that are hashed together.
pub const BLOCK_BYTES: u64 = 1 << 18;

const TOKENIZER_AT: usize = 80;
const ROOT_AT: usize = 112;
const SELF_HASH_AT: usize = HEADER_BYTES as usize - 32;

/// What a shard says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// 1 or 2.
    pub version: u32,
    /// Bits per token.
    pub bits: u32,
    /// Every token is below this.
    pub vocab_size: u32,
    pub tokens: u64,
    pub documents: u64,
    /// Size of a hashed block; a power of two, at least 64.
    pub block_bytes: u64,
    /// blake3 of the tokenizer that made the tokens.
    pub tokenizer: [u8; 32],
    /// blake3 of the table of block hashes: stands for the whole content.
    pub root: [u8; 32],
}

/// Where the sections lie. All values are byte offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    pub tokens_end: u64,
    pub doc_ends: u64,
    pub doc_ids: u64,
    pub hashes: u64,
    pub footer: u64,
    pub file_bytes: u64,
}

/// The next multiple of 64, if it fits.
pub fn align(offset: u64) -> Option<u64> {
    offset.checked_next_multiple_of(64)
}

impl Header {
    /// Places of the sections; None where the counts overflow 64 bits.
    pub fn layout(&self) -> Option<Layout> {
        let tokens_bits = self.tokens.checked_mul(u64::from(self.bits))?;
        let column = self.documents.checked_mul(8)?;
        let tokens_end = HEADER_BYTES + tokens_bits.div_ceil(8);
        let doc_ends = align(tokens_end)?;
        let doc_ids = align(doc_ends.checked_add(column)?)?;
        let hashes = align(doc_ids.checked_add(column)?)?;
        let blocks = (hashes - HEADER_BYTES).div_ceil(self.block_bytes);
        let footer = align(hashes.checked_add(blocks.checked_mul(HASH_BYTES)?)?)?;
        Some(Layout {
            tokens_end,
            doc_ends,
            doc_ids,
            hashes,
            footer,
            file_bytes: footer.checked_add(FOOTER_BYTES)?,
        })
    }

    /// The header page. Callers make sure that the counts have a layout.
    pub fn encode(&self, layout: &Layout) -> Vec<u8> {
        let mut page = Vec::with_capacity(HEADER_BYTES as usize);
        page.extend(MAGIC);
        let unit = if self.version == WORDS { 8 } else { 1 };
        for value in [self.version, self.bits / unit, self.vocab_size, 0] {
            page.extend(value.to_le_bytes());
        }
        for value in [self.tokens, self.documents, self.block_bytes] {
            page.extend(value.to_le_bytes());
        }
        for value in [
            layout.doc_ends,
            layout.doc_ids,
            layout.hashes,
            layout.file_bytes,
        ] {
            page.extend(value.to_le_bytes());
        }
        page.extend(self.tokenizer);
        page.extend(self.root);
        page.resize(SELF_HASH_AT, 0);
        let own = blake3::hash(&page);
        page.extend(own.as_bytes());
        page
    }

    /// Reads and checks a header page.
    ///
    /// # Errors
    /// `Damaged` when the page is short, of another kind or version, or does not match its own hash.
    pub fn decode(page: &[u8], path: &Path) -> Result<(Self, Layout)> {
        let damaged = |what: &str| LoaderError::damaged(path, 0, what);
        if page.len() < HEADER_BYTES as usize || !page.starts_with(MAGIC) {
            return Err(damaged(
                "this is not a token shard, or its header is damaged",
            ));
        }
        let (body, own) = page[..HEADER_BYTES as usize].split_at(SELF_HASH_AT);
        if blake3::hash(body).as_bytes() != own {
            return Err(damaged("the header does not match its checksum"));
        }
        let word = |at: usize| u32::from_le_bytes(array(body, at));
        let long = |at: usize| u64::from_le_bytes(array(body, at));
        let version = word(8);
        if !(WORDS..=VERSION).contains(&version) {
            return Err(damaged(&format!(
                "shard version {version} is not known here ({WORDS} to {VERSION} are)"
            )));
        }
        let header = Self {
            version,
            bits: if version == WORDS {
                word(12).saturating_mul(8)
            } else {
                word(12)
            },
            vocab_size: word(16),
            tokens: long(24),
            documents: long(32),
            block_bytes: long(40),
            tokenizer: array(body, TOKENIZER_AT),
            root: array(body, ROOT_AT),
        };
        let sane = header.vocab_size <= MOST_VOCABULARY
            && header.bits == bits_in(version, header.vocab_size)
            && header.documents >= 1
            && header.documents <= header.tokens
            && header.block_bytes >= 64
            && header.block_bytes.is_power_of_two();
        let layout = if sane { header.layout() } else { None };
        let layout = layout.ok_or_else(|| damaged("the header contradicts itself"))?;
        let stored = Layout {
            doc_ends: long(48),
            doc_ids: long(56),
            hashes: long(64),
            file_bytes: long(72),
            ..layout
        };
        if stored != layout {
            return Err(damaged("the header contradicts itself"));
        }
        Ok((header, layout))
    }

    /// The last 64 bytes of the file.
    pub fn footer(page: &[u8], layout: &Layout) -> Vec<u8> {
        let mut footer = END_MAGIC.to_vec();
        footer.extend(layout.file_bytes.to_le_bytes());
        footer.extend(blake3::hash(page).as_bytes());
        footer.resize(FOOTER_BYTES as usize, 0);
        footer
    }
}

/// Bits per token that a version gives a vocabulary.
fn bits_in(version: u32, vocab_size: u32) -> u32 {
    match version {
        WORDS if vocab_size <= 1 << 16 => 16,
        WORDS => 32,
        _ => bits_of(vocab_size),
    }
}

/// `N` bytes at `at`. The page's length was checked by the caller.
fn array<const N: usize>(page: &[u8], at: usize) -> [u8; N] {
    let mut value = [0; N];
    value.copy_from_slice(&page[at..at + N]);
    value
}
