//! MinHash signatures (Broder 1997) with u32 lanes, and the band keys made from them.
//!
//! Hash k of a shingle x (32 well-mixed bits) is `a[k] * x + b[k]` modulo 2^32 with odd a[k]; the signature holds
//! the minimum of each over the document. The chance that two documents agree in one entry is their Jaccard
//! similarity J, so they share a band of r rows with J^r, and one of b bands with 1 - (1 - J^r)^b.

use super::shingle::for_each_shingle;
use crate::text::TextBatch;
use crate::text::hash::{fold, spread};
use crate::text::words::Word;
use rayon::prelude::*;

/// Shingles that are taken in one go: they stay in the first-level cache while all lanes run over them.
const BLOCK: usize = 1024;
/// Hash functions whose minima stay in registers together.
const LANES: usize = 16;

/// A family of hash functions, padded to whole groups of lanes.
pub struct MinHash {
    ngram: usize,
    hashes: usize,
    groups: Vec<Lanes>,
    minima: MinimaFn,
}

#[derive(Clone, Copy)]
struct Lanes {
    a: [u32; LANES],
    b: [u32; LANES],
}

type MinimaFn = fn(&[Lanes], &[u32], &mut [[u32; LANES]]);

struct Scratch {
    words: Vec<Word>,
    block: Vec<u32>,
    minima: Vec<[u32; LANES]>,
}

impl MinHash {
    /// `hashes` functions over shingles of `ngram` words; the functions depend on their number in the family only.
    #[must_use]
    pub fn new(ngram: usize, hashes: usize) -> Self {
        let parameter =
            |k: usize, which: u64| spread(0x006c_6c61_6d61_3300 ^ (k as u64) << 1 ^ which);
        let lanes = |group: usize| Lanes {
            a: std::array::from_fn(|lane| (parameter(group * LANES + lane, 0) >> 32) as u32 | 1),
            b: std::array::from_fn(|lane| (parameter(group * LANES + lane, 1) >> 32) as u32),
        };
        Self {
            ngram,
            hashes,
            groups: (0..hashes.div_ceil(LANES)).map(lanes).collect(),
            minima: best_minima(),
        }
    }

    /// The signatures of all documents, one row of `hashes` per document.
    #[must_use]
    pub fn signatures(&self, batch: TextBatch<'_>) -> Vec<u32> {
        let mut signatures = vec![0; batch.len() * self.hashes];
        signatures
            .par_chunks_mut(self.hashes.max(1))
            .enumerate()
            .for_each_init(
                || self.scratch(),
                |scratch, (i, row)| row.copy_from_slice(self.sign(batch.get(i), scratch)),
            );
        signatures
    }

    /// One key per band and document, a row of `bands` per document: equal keys mean (up to 64-bit chance) equal
    /// rows of the band. The number of hashes must be `bands * rows`.
    #[must_use]
    pub fn band_keys(&self, batch: TextBatch<'_>, bands: usize) -> Vec<u64> {
        let rows = self.hashes / bands.max(1);
        let mut keys = vec![0; batch.len() * bands];
        keys.par_chunks_mut(bands.max(1)).enumerate().for_each_init(
            || self.scratch(),
            |scratch, (i, out)| {
                let signature = self.sign(batch.get(i), scratch);
                for (band, key) in out.iter_mut().enumerate() {
                    *key = band_key(band, &signature[band * rows..(band + 1) * rows]);
                }
            },
        );
        keys
    }

    fn scratch(&self) -> Scratch {
        Scratch {
            words: vec![],
            block: Vec::with_capacity(BLOCK),
            minima: vec![[0; LANES]; self.groups.len()],
        }
    }

    fn sign<'s>(&self, text: &str, scratch: &'s mut Scratch) -> &'s [u32] {
        let Scratch {
            words,
            block,
            minima,
        } = scratch;
        block.clear();
        minima.fill([u32::MAX; LANES]);
        for_each_shingle(text, self.ngram, words, |shingle| {
            block.push((shingle >> 32) as u32);
            if block.len() == BLOCK {
                (self.minima)(&self.groups, block, minima);
                block.clear();
            }
        });
        (self.minima)(&self.groups, block, minima);
        &minima.as_flattened()[..self.hashes]
    }
}

/// Mixes the rows of a band with the number of the band.
#[must_use]
pub fn band_key(band: usize, rows: &[u32]) -> u64 {
    let start = spread(band as u64 + 1);
    spread(rows.iter().fold(start, |key, &row| {
        fold(key ^ u64::from(row), 0x9e37_79b9_7f4a_7c15)
    }))
}

/// The plain version, and the oracle of the others.
#[inline(always)]
fn minima_plain(groups: &[Lanes], shingles: &[u32], minima: &mut [[u32; LANES]]) {
    for (lanes, minimum) in groups.iter().zip(minima) {
        let mut least = *minimum;
        for &x in shingles {
            for (least, (a, b)) in least.iter_mut().zip(lanes.a.iter().zip(&lanes.b)) {
                *least = (*least).min(a.wrapping_mul(x).wrapping_add(*b));
            }
        }
        *minimum = least;
    }
}

/// The plain version compiled for AVX2: SSE2, the baseline of x86-64, has no 32-bit multiply or unsigned minimum.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn minima_avx2(groups: &[Lanes], shingles: &[u32], minima: &mut [[u32; LANES]]) {
    minima_plain(groups, shingles, minima);
}

/// The plain version compiled for AVX-512: one register holds all lanes.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn minima_avx512(groups: &[Lanes], shingles: &[u32], minima: &mut [[u32; LANES]]) {
    minima_plain(groups, shingles, minima);
}

#[cfg(target_arch = "x86_64")]
fn best_minima() -> MinimaFn {
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the processor has AVX-512F, the only thing the function needs beyond the baseline.
        |groups, shingles, minima| unsafe { minima_avx512(groups, shingles, minima) }
    } else if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2, the only thing the function needs beyond the baseline.
        |groups, shingles, minima| unsafe { minima_avx2(groups, shingles, minima) }
    } else {
        minima_plain
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn best_minima() -> MinimaFn {
    minima_plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn signature(text: &str, minima: MinimaFn) -> Vec<u32> {
        let family = MinHash {
            minima,
            ..MinHash::new(3, 37)
        };
        family.signatures(TextBatch::new(text.as_bytes(), &[0, text.len() as i64]).unwrap())
    }

    proptest! {
        #[test]
        fn instruction_sets_agree(words in prop::collection::vec("[a-z]{1,8}", 0..2500)) {
            let text = words.join(" ");
            prop_assert_eq!(signature(&text, minima_plain), signature(&text, best_minima()));
        }

        #[test]
        fn order_of_shingles_does_not_matter(mut shingles in prop::collection::vec(any::<u32>(), 1..50)) {
            let family = MinHash::new(5, 20);
            let minima = |shingles: &[u32]| {
                let mut out = vec![[u32::MAX; LANES]; 2];
                (family.minima)(&family.groups, shingles, &mut out);
                out
            };
            let before = minima(&shingles);
            shingles.reverse();
            prop_assert_eq!(before, minima(&shingles));
        }
    }

    #[test]
    fn a_longer_family_begins_like_a_shorter_one() {
        let text = "one two three four five six seven";
        let offsets = [0, text.len() as i64];
        let batch = TextBatch::new(text.as_bytes(), &offsets).unwrap();
        assert_eq!(
            MinHash::new(5, 112).signatures(batch)[..20],
            MinHash::new(5, 20).signatures(batch)
        );
    }

    #[test]
    fn bands_tell_themselves_apart() {
        assert_ne!(band_key(0, &[1, 2]), band_key(1, &[1, 2]));
        assert_ne!(band_key(0, &[1, 2]), band_key(0, &[2, 1]));
    }
}
