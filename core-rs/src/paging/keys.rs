//! Keys of the prefix cache: one 128-bit keyed hash per full block, chained along the sequence.
//!
//! The hash is SipHash-2-4 under a secret of the pool, so that nobody who only sends prompts can build two that
//! collide and read another's cache. A hit is nevertheless believed only after the tokens were compared.

use siphasher::sip128::{Hasher128, SipHasher24};
use std::hash::{BuildHasherDefault, Hasher};

/// Identifies everything up to the end of a full block: salt, adapter and all tokens so far.
pub type Key = u128;

/// The two hash functions of a pool. Copied freely: hashing needs no access to the pool.
#[derive(Clone, Copy)]
pub struct Keys {
    root: SipHasher24,
    chain: SipHasher24,
}

/// The keys of a token sequence: `root` before the first token, then one per full block.
pub struct Chain {
    pub root: Key,
    pub keys: Vec<Key>,
}

impl Keys {
    #[must_use]
    pub fn new(secret: &[u8]) -> Self {
        let material = blake3::derive_key("llama3 KV pool, prefix cache keys, version 1", secret);
        let half = |at: usize| {
            SipHasher24::new_with_key(material[at..at + 16].first_chunk().expect("16 of 32 bytes"))
        };
        Self {
            root: half(0),
            chain: half(16),
        }
    }

    /// Key of the empty sequence. Different salts or adapters never share a block.
    #[must_use]
    pub fn root(&self, salt: &[u8], adapter: u64) -> Key {
        let mut hasher = self.root;
        hasher.write(&adapter.to_le_bytes());
        hasher.write(salt);
        hasher.finish128().as_u128()
    }

    /// Key of the block that holds `tokens` and follows the block of key `parent`.
    #[must_use]
    pub fn next(&self, parent: Key, tokens: &[u32]) -> Key {
        let mut hasher = self.chain;
        hasher.write(&parent.to_le_bytes());
        for piece in tokens.chunks(16) {
            let mut bytes = [0u8; 64];
            for (four, token) in bytes.chunks_exact_mut(4).zip(piece) {
                four.copy_from_slice(&token.to_le_bytes());
            }
            hasher.write(&bytes[..4 * piece.len()]);
        }
        hasher.finish128().as_u128()
    }

    /// Keys of all full blocks of `tokens`.
    #[must_use]
    pub fn chain(&self, tokens: &[u32], block_size: usize, salt: &[u8], adapter: u64) -> Chain {
        let root = self.root(salt, adapter);
        let mut last = root;
        let keys = tokens.chunks_exact(block_size).map(|block| {
            last = self.next(last, block);
            last
        });
        Chain {
            root,
            keys: keys.collect(),
        }
    }
}

/// Hash map hasher for keys, which are uniform already.
#[derive(Default)]
pub struct Uniform(u64);

pub type UniformState = BuildHasherDefault<Uniform>;

impl Hasher for Uniform {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    #[allow(clippy::cast_possible_truncation)]
    fn write_u128(&mut self, key: u128) {
        self.0 = key as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_depend_on_secret_salt_adapter_parent_and_tokens() {
        let keys = Keys::new(b"one");
        let root = keys.root(b"", 0);
        let different = [
            root,
            Keys::new(b"two").root(b"", 0),
            keys.root(b"salt", 0),
            keys.root(b"", 1),
            keys.next(root, &[1, 2]),
            keys.next(root, &[2, 1]),
            keys.next(root, &[1, 2, 0]),
            keys.next(keys.root(b"", 1), &[1, 2]),
        ];
        let distinct: std::collections::HashSet<_> = different.iter().collect();
        assert_eq!(distinct.len(), different.len());
        assert_eq!(root, Keys::new(b"one").root(b"", 0));
    }

    #[test]
    fn a_chain_extends_its_prefix_and_ignores_the_partial_block() {
        let keys = Keys::new(b"secret");
        let tokens: Vec<u32> = (0..70).collect();
        let long = keys.chain(&tokens, 16, b"", 0);
        let short = keys.chain(&tokens[..35], 16, b"", 0);
        assert_eq!((long.keys.len(), short.keys.len()), (4, 2));
        assert_eq!(long.keys[..2], short.keys[..]);
    }
}
