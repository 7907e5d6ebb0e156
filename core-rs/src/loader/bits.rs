//! Token ids in as few bits as the vocabulary needs: id `i` is bits `i * bits` to `(i + 1) * bits` of the bytes, lowest
//! bit first. Rows come from memory or disk, which give bytes slower than the processor takes them apart: ids of 17 bits
//! are read twice as fast as words of 32.

/// Most bits of a packed id: wherever it begins inside a byte, 32 bits hold it.
const MOST_PACKED: u32 = 25;

/// Bytes that are fetched ahead of those that are read, within a row and of the next one.
pub const AHEAD: usize = 2048;

/// Bits per token for a vocabulary. The largest ones are not packed.
pub fn bits_of(vocab_size: u32) -> u32 {
    let bits = vocab_size.saturating_sub(1).max(1).ilog2() + 1;
    if bits > MOST_PACKED { 32 } else { bits }
}

/// Ids on their way into bytes; what does not fill a word waits for the next ones.
#[derive(Debug, Default)]
pub struct Packer {
    waiting: u64,
    filled: u32,
}

impl Packer {
    /// Appends the bytes that `ids` complete. Each id is below `2^bits`.
    pub fn pack(&mut self, ids: &[u32], bits: u32, out: &mut Vec<u8>) {
        for &id in ids {
            self.waiting |= u64::from(id) << self.filled;
            self.filled += bits;
            if self.filled >= 32 {
                out.extend((self.waiting as u32).to_le_bytes());
                self.waiting >>= 32;
                self.filled -= 32;
            }
        }
    }

    /// Appends what waits, filled up with zeros to a whole byte.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        let bytes = self.filled.div_ceil(8) as usize;
        out.extend(&self.waiting.to_le_bytes()[..bytes]);
        *self = Self::default();
    }
}

/// Appends the `count` ids that begin at bit `first` of `bytes`, which hold them all; returns the highest (0 of none).
pub fn unpack(bytes: &[u8], first: usize, bits: u32, count: usize, out: &mut Vec<u32>) -> u32 {
    out.reserve(count);
    #[cfg(target_arch = "x86_64")]
    if bits <= MOST_PACKED && is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2.
        let (done, highest) = unsafe { unpack_eights(bytes, first, bits, count, out) };
        let first = first + done * bits as usize;
        return highest.max(unpack_each(bytes, first, bits, count - done, out));
    }
    unpack_each(bytes, first, bits, count, out)
}

/// One id after the other.
fn unpack_each(bytes: &[u8], first: usize, bits: u32, count: usize, out: &mut Vec<u32>) -> u32 {
    let mask = (1 << bits) - 1;
    let mut highest = 0;
    out.extend((0..count).map(|i| {
        let at = first + i * bits as usize;
        let id = ((word(bytes, at / 8) >> (at % 8)) & mask) as u32; // `mask` has at most 32 bits
        highest = highest.max(id);
        id
    }));
    highest
}

/// The 8 bytes from `at` on, as zeros where there are none.
fn word(bytes: &[u8], at: usize) -> u64 {
    let rest = &bytes[at..];
    let mut word = [0; 8];
    match rest.first_chunk() {
        Some(whole) => word = *whole,
        None => word[..rest.len()].copy_from_slice(rest),
    }
    u64::from_le_bytes(word)
}

/// Eight ids at a time, as long as what is loaded lies inside `bytes`: how many were appended, and the highest.
///
/// Eight ids fill whole bytes, so all eights begin at the same bit of a byte, and where in them an id lies is computed
/// once.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn unpack_eights(
    bytes: &[u8],
    first: usize,
    bits: u32,
    count: usize,
    out: &mut Vec<u32>,
) -> (usize, u32) {
    use std::arch::x86_64::*;
    let phase = first as u32 % 8;
    let bytes = &bytes[first / 8..];
    let second = ((phase + 4 * bits) / 8) as usize; // where the last four of eight are loaded from
    let fit = (bytes.len() + bits as usize).saturating_sub(second + 16) / bits as usize;
    let eights = fit.min(count / 8);
    let (mut places, mut shifts) = ([0u8; 32], [0u32; 8]);
    for (id, shift) in shifts.iter_mut().enumerate() {
        let at = phase + id as u32 * bits;
        let loaded = if id < 4 { 0 } else { second as u32 };
        for byte in 0..4 {
            places[4 * id + byte] = (at / 8 - loaded) as u8 + byte as u8; // below 16: see `MOST_PACKED`
        }
        *shift = at % 8;
    }
    let from = out.len();
    // SAFETY: eight `i` loads the 16 bytes from `i * bits` and those from `i * bits + second` on, the latter being the
    // last, and `fit` counts the eights whose last byte lies inside `bytes`. `out` has room for `count` ids by the
    // caller, of which `8 * eights` are written. A prefetch reads nothing, wherever it points.
    unsafe {
        let places = _mm256_loadu_si256(places.as_ptr().cast());
        let shifts = _mm256_loadu_si256(shifts.as_ptr().cast());
        let mask = _mm256_set1_epi32((1 << bits) - 1);
        let mut highest = _mm256_setzero_si256();
        let mut next = bytes.as_ptr();
        let mut to = out.as_mut_ptr().add(from);
        for _ in 0..eights {
            _mm_prefetch::<_MM_HINT_T0>(next.wrapping_add(AHEAD).cast());
            let loaded = _mm256_loadu2_m128i(next.wrapping_add(second).cast(), next.cast());
            let words = _mm256_shuffle_epi8(loaded, places);
            let ids = _mm256_and_si256(_mm256_srlv_epi32(words, shifts), mask);
            highest = _mm256_max_epu32(highest, ids);
            _mm256_storeu_si256(to.cast(), ids);
            next = next.wrapping_add(bits as usize);
            to = to.wrapping_add(8);
        }
        out.set_len(from + 8 * eights);
        let mut lanes = [0u32; 8];
        _mm256_storeu_si256(lanes.as_mut_ptr().cast(), highest);
        (8 * eights, lanes.into_iter().max().unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packed(ids: &[u32], bits: u32, cut: usize) -> Vec<u8> {
        let (mut packer, mut bytes) = (Packer::default(), Vec::new());
        packer.pack(&ids[..cut], bits, &mut bytes);
        packer.pack(&ids[cut..], bits, &mut bytes);
        packer.finish(&mut bytes);
        bytes
    }

    #[test]
    fn a_vocabulary_needs_so_many_bits() {
        let found = [
            0,
            1,
            2,
            3,
            256,
            257,
            65_536,
            128_256,
            1 << 25,
            (1 << 25) + 1,
            1 << 31,
        ];
        let bits = found.map(bits_of);
        assert_eq!(bits, [1, 1, 1, 2, 8, 9, 16, 17, 25, 32, 32]);
    }

    #[test]
    fn the_lowest_bit_comes_first() {
        assert_eq!(packed(&[0b101, 0b011, 0b110], 3, 0), [0b1001_1101, 0b1]);
        assert_eq!(packed(&[0x01_02_03_04, 5], 32, 1), [4, 3, 2, 1, 5, 0, 0, 0]);
    }

    proptest! {
        #[test]
        fn ids_come_back_from_any_place(
            bits in prop_oneof![25 => 1u32..=25, 1 => Just(32u32)],
            ids in prop::collection::vec(any::<u32>(), 1..200),
            cut: prop::sample::Index,
            (start, end) in (any::<prop::sample::Index>(), any::<prop::sample::Index>()),
            more in 0usize..40,
        ) {
            let ids: Vec<u32> = ids.iter().map(|id| id & ((1u64 << bits) - 1) as u32).collect();
            let mut bytes = packed(&ids, bits, cut.index(ids.len()));
            prop_assert_eq!(bytes.len(), (ids.len() * bits as usize).div_ceil(8));
            bytes.resize(bytes.len() + more, 0xff); // what follows in a file is no part of an id
            let (start, end) = (start.index(ids.len()), end.index(ids.len() + 1));
            let wanted = &ids[start..end.max(start)];
            let at = start * bits as usize;
            let mut found = vec![7];
            let highest = unpack(&bytes[at / 8..], at % 8, bits, wanted.len(), &mut found);
            prop_assert_eq!(&found[1..], wanted);
            prop_assert_eq!(highest, wanted.iter().copied().max().unwrap_or(0));
            let mut each = vec![];
            prop_assert_eq!(unpack_each(&bytes[at / 8..], at % 8, bits, wanted.len(), &mut each), highest);
            prop_assert_eq!(each, wanted);
        }
    }
}
