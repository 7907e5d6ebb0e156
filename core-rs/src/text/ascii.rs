//! Words of ASCII text, 64 bytes at a time: one bit per byte says whether it is a letter or digit, so that finding the
//! ends of a word costs no branch per byte, and a word is hashed by whole registers.

use super::hash::{Hash64, hash_word};
use super::words::Word;

const BLOCK: usize = 64;

/// Bit `i` of a mask stands for byte `i` of a block: is it an ASCII letter or digit?
type MasksFn = fn(&[u8], &mut Vec<u64>);

/// Calls `found` with every word of `bytes`, which must be ASCII. `masks` is scratch memory.
pub fn for_each_ascii_word(bytes: &[u8], masks: &mut Vec<u64>, mut found: impl FnMut(Word)) {
    masks.clear();
    best_masks()(bytes, masks);
    let mut begun = None;
    for (block, &mask) in masks.iter().enumerate() {
        let before = u64::from(begun.is_some());
        let mut turns = mask ^ (mask << 1 | before);
        while turns != 0 {
            let at = block * BLOCK + turns.trailing_zeros() as usize;
            turns &= turns - 1;
            begun = match begun {
                None => Some(at),
                Some(start) => {
                    found(word(bytes, start, at));
                    None
                }
            };
        }
    }
    if let Some(start) = begun {
        found(word(bytes, start, bytes.len()));
    }
}

/// Letters and digits in lower case: of ASCII only their bit 0x20 differs, and digits have it set.
#[inline]
fn word(bytes: &[u8], start: usize, end: usize) -> Word {
    const LOWER: u64 = 0x2020_2020_2020_2020;
    let length = end - start;
    let hash = match bytes.get(start..start + 8) {
        Some(first) if length < 8 => {
            let first = u64::from_be_bytes(first.try_into().expect("eight bytes")) | LOWER;
            hash_word(first >> (64 - 8 * length), length as u64)
        }
        _ => {
            let mut hash = Hash64::default();
            let mut eights = bytes[start..end].chunks_exact(8);
            for eight in eights.by_ref() {
                hash.push_eight(u64::from_be_bytes(eight.try_into().expect("eight bytes")) | LOWER);
            }
            eights
                .remainder()
                .iter()
                .for_each(|byte| hash.push(byte | 0x20));
            hash.finish()
        }
    };
    Word {
        hash,
        chars: u32::try_from(length).unwrap_or(u32::MAX),
    }
}

/// The plain version, and the oracle of the others.
fn masks_plain(bytes: &[u8], masks: &mut Vec<u64>) {
    masks.extend(bytes.chunks(BLOCK).map(|block| {
        let bit = |(i, byte): (usize, &u8)| u64::from(byte.is_ascii_alphanumeric()) << i;
        block.iter().enumerate().map(bit).sum::<u64>()
    }));
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn masks_avx2(bytes: &[u8], masks: &mut Vec<u64>) {
    use std::arch::x86_64::{
        __m256i, _mm256_cmpeq_epi8, _mm256_loadu_si256, _mm256_min_epu8, _mm256_movemask_epi8,
        _mm256_or_si256, _mm256_set1_epi8, _mm256_sub_epi8,
    };
    let within = |x: __m256i, first: u8, count: i8| {
        let place = _mm256_sub_epi8(x, _mm256_set1_epi8(first as i8));
        _mm256_cmpeq_epi8(_mm256_min_epu8(place, _mm256_set1_epi8(count - 1)), place)
    };
    let half = |half: &[u8]| {
        // SAFETY: halves of a block hold the 32 bytes that are loaded.
        let x = unsafe { _mm256_loadu_si256(half.as_ptr().cast::<__m256i>()) };
        let letters = within(_mm256_or_si256(x, _mm256_set1_epi8(0x20)), b'a', 26);
        let either = _mm256_or_si256(letters, within(x, b'0', 10));
        u64::from(_mm256_movemask_epi8(either) as u32)
    };
    let mask = |block: &[u8; BLOCK]| {
        let (low, high) = block.split_at(BLOCK / 2);
        half(low) | half(high) << 32
    };
    let (blocks, rest) = bytes.as_chunks::<BLOCK>();
    for block in blocks {
        masks.push(mask(block));
    }
    if !rest.is_empty() {
        let mut last = [0; BLOCK];
        last[..rest.len()].copy_from_slice(rest);
        masks.push(mask(&last));
    }
}

#[cfg(target_arch = "x86_64")]
fn best_masks() -> MasksFn {
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2, the only thing the function needs beyond the baseline.
        |bytes, masks| unsafe { masks_avx2(bytes, masks) }
    } else {
        masks_plain
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn best_masks() -> MasksFn {
    masks_plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn instruction_sets_agree(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let (mut plain, mut best) = (vec![], vec![]);
            masks_plain(&bytes, &mut plain);
            best_masks()(&bytes, &mut best);
            prop_assert_eq!(plain, best);
        }
    }
}
