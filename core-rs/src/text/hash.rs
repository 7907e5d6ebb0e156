//! A 64-bit hash of normalised bytes that arrive one by one, so that no normalised string is ever built.
//! Stable: the same on every machine and version, because keys made from it may be stored.

const FIRST: u64 = 0x9e37_79b9_7f4a_7c15;
const SECOND: u64 = 0xd6e8_feb8_6659_fd93;

/// Folds the 128-bit product of both values: every input bit reaches every output bit.
#[inline]
#[must_use]
pub fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    let (low, high) = (product as u64, (product >> 64) as u64);
    low ^ high
}

/// Spreads a structured 64-bit value evenly (the finaliser of SplitMix64, a bijection).
#[inline]
#[must_use]
pub fn spread(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The hash of the bytes pushed since the last `finish`.
#[derive(Clone, Copy, Debug)]
pub struct Hash64 {
    state: u64,
    pending: u64,
    length: u64,
}

impl Default for Hash64 {
    fn default() -> Self {
        Self {
            state: FIRST,
            pending: 0,
            length: 0,
        }
    }
}

impl Hash64 {
    #[inline]
    pub fn push(&mut self, byte: u8) {
        self.pending = self.pending << 8 | u64::from(byte);
        self.length += 1;
        if self.length.is_multiple_of(8) {
            self.state = fold(self.state ^ self.pending, SECOND);
            self.pending = 0;
        }
    }

    /// As eight times `push`, from the highest byte to the lowest; only where a multiple of eight bytes came before.
    #[inline]
    pub fn push_eight(&mut self, bytes: u64) {
        debug_assert!(self.length.is_multiple_of(8));
        self.state = fold(self.state ^ bytes, SECOND);
        self.length += 8;
    }

    pub fn push_char(&mut self, c: char) {
        for &byte in c.encode_utf8(&mut [0; 4]).as_bytes() {
            self.push(byte);
        }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The hash, and a fresh start.
    #[inline]
    pub fn finish(&mut self) -> u64 {
        let hash = fold(self.state ^ self.pending, SECOND ^ self.length);
        *self = Self::default();
        hash
    }
}

/// The hash of fewer than eight bytes, the last one the lowest of `bytes`: equal to pushing them one by one.
#[inline]
#[must_use]
pub fn hash_word(bytes: u64, length: u64) -> u64 {
    fold(FIRST ^ bytes, SECOND ^ length)
}

/// The hash of bytes that lie together: equal to pushing them one by one.
#[must_use]
pub fn hash_bytes(bytes: &[u8]) -> u64 {
    let mut hash = Hash64::default();
    let mut eights = bytes.chunks_exact(8);
    for eight in &mut eights {
        let pending = u64::from_be_bytes(eight.try_into().expect("eight bytes"));
        hash.state = fold(hash.state ^ pending, SECOND);
        hash.length += 8;
    }
    for &byte in eights.remainder() {
        hash.push(byte);
    }
    hash.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn length_and_zero_bytes_matter() {
        let inputs: [&[u8]; 7] = [b"", b"\0", b"\0\0", b"a", b"a\0", b"\0a", b"12345678\0"];
        let hashes: HashSet<u64> = inputs.iter().map(|bytes| hash_bytes(bytes)).collect();
        assert_eq!(hashes.len(), inputs.len());
    }

    #[test]
    fn bytes_together_and_one_by_one_are_equal() {
        let bytes: Vec<u8> = (0..40).map(|n| (n * 37 % 251) as u8).collect();
        for length in 0..bytes.len() {
            let mut hash = Hash64::default();
            bytes[..length].iter().for_each(|&byte| hash.push(byte));
            assert_eq!(hash.finish(), hash_bytes(&bytes[..length]));
        }
    }

    #[test]
    fn a_finished_hash_starts_afresh() {
        let mut hash = Hash64::default();
        hash.push_char('é');
        assert_eq!(hash.finish(), hash_bytes("é".as_bytes()));
        hash.push(b'x');
        assert_eq!(hash.finish(), hash_bytes(b"x"));
    }
}
