//! The read-only tables behind encoding and decoding: bytes of every token, whole piece -> id, pair -> merge.
//! Built once at load, shared by all threads and forks.

use super::error::Error;
use foldhash::HashMap;
use foldhash::HashMapExt;
use std::borrow::Cow;

/// Marks "no id" and "no merge".
pub const NONE: u32 = u32::MAX;
/// Longest token that a vocabulary may hold (Llama 3's longest has 128 bytes).
pub const MAX_TOKEN_BYTES: usize = 1024;
/// Ids, specials included, stay below this: a merge packs into one 64-bit slot.
pub const MAX_TOKENS: usize = 1 << ID_BITS;
const MAX_MERGES: usize = (1 << RANK_BITS) - 1;
const ID_BITS: u32 = 21;
const RANK_BITS: u32 = 22;

/// Pieces up to this length are looked up by value (a `Key`).
pub const SHORT_BYTES: usize = 15;

/// A piece of 1 to 15 bytes as a number: its bytes, zeros, its length in the top byte. Never 0.
pub type Key = u128;

/// The key of `text[start..end]`, which is 1 to 15 bytes long.
#[inline]
pub fn key_of(text: &[u8], start: usize, end: usize) -> Key {
    let length = end - start;
    let window = text
        .get(start..start + 16)
        .and_then(|bytes| <[u8; 16]>::try_from(bytes).ok());
    let value = match window {
        Some(bytes) => u128::from_le_bytes(bytes) & ((1 << (8 * length)) - 1),
        None => {
            let mut bytes = [0; 16];
            bytes[..length].copy_from_slice(&text[start..end]);
            u128::from_le_bytes(bytes)
        }
    };
    value | (length as u128) << 120
}

/// Mixes a key into 64 well-spread bits (one wide multiplication, folded).
#[inline]
pub fn hash_of(key: Key) -> u64 {
    let (low, high) = (key as u64, (key >> 64) as u64);
    let product =
        u128::from(low ^ 0x9E37_79B9_7F4A_7C15) * u128::from(high ^ 0xD1B5_4A32_D192_ED03);
    (product as u64) ^ (product >> 64) as u64
}

/// Base vocabulary: ids 0..len, each a byte string, except those that added tokens have.
pub struct Vocab {
    bytes: Vec<u8>,
    starts: Vec<u32>,
    short: ShortTable,
    long: HashMap<Box<[u8]>, u32>,
    /// Tokens that no whole piece stands for.
    hidden: HashMap<Box<[u8]>, u32>,
    longest: usize,
    /// NONE for a byte that is no token; text loses such bytes.
    byte_ids: [u32; 256],
}

impl Vocab {
    /// Tokens in the order of their ids. An id for which `may_lack` holds may have none (an empty one).
    pub fn new(tokens: &[Vec<u8>], may_lack: impl Fn(u32) -> bool) -> Result<Self, Error> {
        if tokens.len() >= MAX_TOKENS {
            return Err(Error::TooLarge(format!(
                "{} tokens; at most {MAX_TOKENS} are possible",
                tokens.len()
            )));
        }
        let (mut bytes, mut starts) = (Vec::new(), vec![0u32]);
        let (mut short, mut long) = (ShortTable::with_room_for(tokens.len()), HashMap::new());
        let (mut byte_ids, mut longest) = ([NONE; 256], 0);
        for (id, token) in (0u32..).zip(tokens) {
            match token.len() {
                0 if may_lack(id) => {
                    starts.push(bytes.len() as u32);
                    continue;
                }
                0 => return Err(Error::Damaged(format!("token {id} is empty"))),
                1 => byte_ids[usize::from(token[0])] = id,
                length if length > MAX_TOKEN_BYTES => {
                    let what = format!(
                        "token {id} has {length} bytes; at most {MAX_TOKEN_BYTES} are possible"
                    );
                    return Err(Error::TooLarge(what));
                }
                _ => {}
            }
            let earlier = if token.len() <= SHORT_BYTES {
                short.insert(key_of(token, 0, token.len()), id)
            } else {
                long.insert(token.clone().into_boxed_slice(), id)
            };
            if let Some(earlier) = earlier {
                return Err(Error::Damaged(format!(
                    "tokens {earlier} and {id} have the same bytes"
                )));
            }
            longest = longest.max(token.len());
            bytes.extend_from_slice(token);
            starts.push(bytes.len() as u32); // at most MAX_TOKENS * MAX_TOKEN_BYTES = 2^31
        }
        Ok(Self {
            bytes,
            starts,
            short,
            long,
            hidden: HashMap::new(),
            longest,
            byte_ids,
        })
    }

    /// The first byte that is no token.
    pub fn missing_byte(&self) -> Option<u8> {
        (0..=255).find(|&byte| self.byte_id(byte) == NONE)
    }

    /// `bytes` without those that are no tokens.
    pub fn known_bytes<'b>(&self, bytes: &'b [u8]) -> Cow<'b, [u8]> {
        let is_known = |byte: &u8| self.byte_id(*byte) != NONE;
        if bytes.iter().all(is_known) {
            Cow::Borrowed(bytes)
        } else {
            Cow::Owned(bytes.iter().copied().filter(is_known).collect())
        }
    }

    /// Whole pieces no longer stand for these tokens; `id` still finds them.
    pub fn hide(&mut self, ids: &[u32]) {
        if ids.is_empty() {
            return;
        }
        for &id in ids {
            let token: Box<[u8]> = self.token(id).unwrap_or_default().into();
            self.long.remove(&token);
            self.hidden.insert(token, id);
        }
        let mut short = ShortTable::with_room_for(self.len());
        for (id, token) in (0u32..).zip(self.tokens()) {
            if (1..=SHORT_BYTES).contains(&token.len()) && !self.hidden.contains_key(token) {
                short.insert(key_of(token, 0, token.len()), id);
            }
        }
        self.short = short;
    }

    /// Number of ids up to the highest of a base token.
    pub fn len(&self) -> usize {
        self.starts.len() - 1
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of a base token.
    #[inline]
    pub fn token(&self, id: u32) -> Option<&[u8]> {
        let id = id as usize;
        let (&start, &end) = (self.starts.get(id)?, self.starts.get(id + 1)?);
        self.bytes
            .get(start as usize..end as usize)
            .filter(|token| !token.is_empty())
    }

    /// All tokens in the order of their ids, empty where an added token has the id or none has it.
    pub fn tokens(&self) -> impl Iterator<Item = &[u8]> {
        self.starts
            .windows(2)
            .map(|pair| &self.bytes[pair[0] as usize..pair[1] as usize])
    }

    #[inline]
    pub fn byte_id(&self, byte: u8) -> u32 {
        self.byte_ids[usize::from(byte)]
    }

    /// Id of the token with exactly these bytes.
    pub fn id(&self, bytes: &[u8]) -> Option<u32> {
        let shown = match bytes.len() {
            0 => None,
            1..=SHORT_BYTES => {
                let key = key_of(bytes, 0, bytes.len());
                self.short.get(key, hash_of(key))
            }
            _ => self.long_id(bytes),
        };
        shown.or_else(|| self.hidden.get(bytes).copied())
    }

    #[inline]
    pub fn short_id(&self, key: Key, hash: u64) -> Option<u32> {
        self.short.get(key, hash)
    }

    /// As `id`, for more than 15 bytes; hashes nothing longer than the longest token.
    #[inline]
    pub fn long_id(&self, bytes: &[u8]) -> Option<u32> {
        if bytes.len() > self.longest {
            None
        } else {
            self.long.get(bytes).copied()
        }
    }
}

/// Open-addressing table from keys to ids, at most half full.
struct ShortTable {
    keys: Vec<Key>,
    ids: Vec<u32>,
    mask: usize,
}

impl ShortTable {
    fn with_room_for(count: usize) -> Self {
        let slots = (2 * count).next_power_of_two().max(16);
        Self {
            keys: vec![0; slots],
            ids: vec![NONE; slots],
            mask: slots - 1,
        }
    }

    /// Returns the id that the key had, if any.
    fn insert(&mut self, key: Key, id: u32) -> Option<u32> {
        let slot = self.slot(key, hash_of(key));
        let earlier = (self.keys[slot] == key).then_some(self.ids[slot]);
        (self.keys[slot], self.ids[slot]) = (key, id);
        earlier
    }

    #[inline]
    fn get(&self, key: Key, hash: u64) -> Option<u32> {
        let slot = self.slot(key, hash);
        (self.keys[slot] == key).then_some(self.ids[slot])
    }

    /// Where the key is, or the free slot where it would be.
    #[inline]
    fn slot(&self, key: Key, hash: u64) -> usize {
        let mut slot = hash as usize & self.mask;
        while self.keys[slot] != key && self.keys[slot] != 0 {
            slot = (slot + 1) & self.mask;
        }
        slot
    }
}

/// The order of merges.
pub enum MergeOrder {
    /// tiktoken's rule: two neighbours merge if their bytes together are a token; the lowest id goes first.
    ByRank,
    /// Hugging Face's rule: an explicit list of (left, right), first entry first.
    Listed(Vec<(u32, u32)>),
}

/// All pairs that merge, with rank and result.
pub struct Merges {
    order: MergeOrder,
    /// left id, right id, rank packed in 21 + 21 + 22 bits; `u64::MAX` is a free slot.
    slots: Vec<u64>,
    mask: usize,
    /// Rank of two neighbouring bytes, the start of every merge.
    byte_pairs: Vec<u32>,
    /// Result of the merge of each rank; empty where rank and id are the same.
    results: Vec<u32>,
}

/// tiktoken's rule as a list: every way to cut every token in two tokens, ordered by (whole, left, right).
pub fn all_splits(vocab: &Vocab) -> Vec<(u32, u32, u32)> {
    let mut splits = Vec::new();
    for (id, token) in (0u32..).zip(vocab.tokens()) {
        let first = splits.len();
        for cut in 1..token.len() {
            if let (Some(left), Some(right)) = (vocab.id(&token[..cut]), vocab.id(&token[cut..])) {
                splits.push((id, left, right));
            }
        }
        splits[first..].sort_unstable();
    }
    splits
}

impl Merges {
    /// tiktoken's rule.
    pub fn by_rank(vocab: &Vocab) -> Result<Self, Error> {
        Self::from_splits(vocab, &all_splits(vocab))
    }

    /// An explicit list; the same list as tiktoken's rule gives is recognised as that rule.
    pub fn listed(vocab: &Vocab, list: Vec<(u32, u32)>) -> Result<Self, Error> {
        let splits = all_splits(vocab);
        if splits
            .iter()
            .map(|&(_, left, right)| (left, right))
            .eq(list.iter().copied())
        {
            return Self::from_splits(vocab, &splits);
        }
        let mut merges = Self::with_room_for(list.len())?;
        let mut whole = Vec::new();
        for (rank, &(left, right)) in (0u32..).zip(&list) {
            whole.clear();
            for part in [left, right] {
                whole.extend_from_slice(vocab.token(part).ok_or(Error::UnknownId(part))?);
            }
            let result = vocab.id(&whole).ok_or_else(|| {
                Error::Damaged(format!(
                    "merge {rank} makes a token that is not in the vocabulary"
                ))
            })?;
            merges.results.push(result);
            merges.insert(left, right, rank);
        }
        merges.order = MergeOrder::Listed(list);
        Ok(merges.with_byte_pairs(vocab))
    }

    fn from_splits(vocab: &Vocab, splits: &[(u32, u32, u32)]) -> Result<Self, Error> {
        let mut merges = Self::with_room_for(splits.len())?;
        for &(id, left, right) in splits {
            merges.insert(left, right, id);
        }
        Ok(merges.with_byte_pairs(vocab))
    }

    fn with_room_for(count: usize) -> Result<Self, Error> {
        if count > MAX_MERGES {
            return Err(Error::TooLarge(format!(
                "{count} merges; at most {MAX_MERGES} are possible"
            )));
        }
        // At most two thirds full: short probes in half the memory of the next power of two.
        let slots = (count + count / 2).next_power_of_two().max(16);
        Ok(Self {
            order: MergeOrder::ByRank,
            slots: vec![u64::MAX; slots],
            mask: slots - 1,
            byte_pairs: Vec::new(),
            results: Vec::new(),
        })
    }

    fn with_byte_pairs(mut self, vocab: &Vocab) -> Self {
        let id = |byte: usize| vocab.byte_id(byte as u8);
        let rank = |left: u32, right: u32| match left.max(right) {
            NONE => NONE,
            _ => self.rank(left, right),
        };
        self.byte_pairs = (0..1 << 16)
            .map(|pair| rank(id(pair >> 8), id(pair & 0xFF)))
            .collect();
        self
    }

    /// Keeps the last rank of a pair that is listed twice, as Hugging Face does.
    fn insert(&mut self, left: u32, right: u32, rank: u32) {
        let pair = pack(left, right);
        let mut slot = self.home(pair);
        while self.slots[slot] != u64::MAX {
            if self.slots[slot] >> RANK_BITS == pair {
                break;
            }
            slot = (slot + 1) & self.mask;
        }
        self.slots[slot] = pair << RANK_BITS | u64::from(rank);
    }

    #[inline]
    fn home(&self, pair: u64) -> usize {
        let product = u128::from(pair ^ 0x9E37_79B9_7F4A_7C15) * 0xD1B5_4A32_D192_ED03_u128;
        ((product as u64) ^ (product >> 64) as u64) as usize & self.mask
    }

    /// Rank at which two neighbours merge, or NONE.
    #[inline]
    pub fn rank(&self, left: u32, right: u32) -> u32 {
        let pair = pack(left, right);
        let mut slot = self.home(pair);
        loop {
            let found = self.slots[slot];
            if found >> RANK_BITS == pair {
                return (found & ((1 << RANK_BITS) - 1)) as u32;
            }
            if found == u64::MAX {
                return NONE;
            }
            slot = (slot + 1) & self.mask;
        }
    }

    #[inline]
    pub fn byte_pair_rank(&self, left: u8, right: u8) -> u32 {
        self.byte_pairs[usize::from(left) << 8 | usize::from(right)]
    }

    /// The token that the merge of this rank makes.
    #[inline]
    pub fn result(&self, rank: u32) -> u32 {
        if self.results.is_empty() {
            rank
        } else {
            self.results[rank as usize]
        }
    }

    pub fn order(&self) -> &MergeOrder {
        &self.order
    }
}

#[inline]
fn pack(left: u32, right: u32) -> u64 {
    u64::from(left) << ID_BITS | u64::from(right)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_the_same_wherever_the_piece_stands() {
        let text = b"abcdefghijklmnopqrstuvwxyz";
        for start in 0..text.len() {
            for end in start + 1..=text.len().min(start + SHORT_BYTES) {
                let alone = &text[start..end];
                assert_eq!(key_of(text, start, end), key_of(alone, 0, alone.len()));
            }
        }
        assert_ne!(key_of(b"a", 0, 1), key_of(b"a\0", 0, 2));
    }

    #[test]
    fn twins_and_empty_tokens_are_refused_and_missing_bytes_told() {
        let mut tokens: Vec<Vec<u8>> = (0..=255u8).map(|byte| vec![byte]).collect();
        let new = |tokens: &[Vec<u8>]| Vocab::new(tokens, |_| false);
        assert_eq!(new(&tokens[..255]).unwrap().missing_byte(), Some(255));
        assert_eq!(new(&tokens).unwrap().missing_byte(), None);
        tokens.push(b"a".to_vec());
        assert!(new(&tokens).is_err());
        tokens[256] = Vec::new();
        assert!(new(&tokens).is_err());
        assert_eq!(
            Vocab::new(&tokens, |id| id == 256).unwrap().token(256),
            None
        );
        tokens[256] = vec![b'x'; MAX_TOKEN_BYTES + 1];
        assert!(new(&tokens).is_err());
    }
}
