//! How far the words of a document are from those of a corpus: the Kullback-Leibler divergence of its word
//! distribution (Dubey et al. 2024, section 3.1.1), in two passes over the corpus.
//!
//! Words fall into a fixed number of buckets by their hash, so that memory does not grow with the corpus.

use super::TextBatch;
use super::counter::Counter;
use super::words::for_each_word;
use rayon::prelude::*;
use std::sync::atomic::{AtomicU64, Ordering};

/// Words of a corpus by bucket. Adding is commutative: the same counts for any order and number of threads.
#[derive(Debug)]
pub struct Distribution {
    counts: Vec<AtomicU64>,
}

impl Distribution {
    pub const MOST_BITS: u32 = 28;

    /// 2^bits buckets, at most 2^28.
    #[must_use]
    pub fn new(bits: u32) -> Self {
        let buckets = 1usize << bits.min(Self::MOST_BITS);
        Self {
            counts: (0..buckets).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    fn bucket(&self, hash: u64) -> usize {
        hash as usize & (self.counts.len() - 1)
    }

    #[must_use]
    pub fn buckets(&self) -> usize {
        self.counts.len()
    }

    /// Words seen so far.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts
            .iter()
            .map(|count| count.load(Ordering::Relaxed))
            .sum()
    }

    /// Counts the words of all documents.
    pub fn add(&self, batch: TextBatch<'_>) {
        (0..batch.len()).into_par_iter().for_each(|document| {
            for_each_word(batch.get(document), |word| {
                self.counts[self.bucket(word.hash)].fetch_add(1, Ordering::Relaxed);
            });
        });
    }

    /// What was counted, by bucket: to be added to what another process has counted.
    #[must_use]
    pub fn counts(&self) -> Vec<u64> {
        self.counts
            .iter()
            .map(|count| count.load(Ordering::Relaxed))
            .collect()
    }

    /// Adds counts of as many buckets.
    pub fn add_counts(&self, counts: &[u64]) {
        for (own, more) in self.counts.iter().zip(counts) {
            own.fetch_add(*more, Ordering::Relaxed);
        }
    }

    /// Bits per word by which each document differs: the sum over its buckets, in the order in which they first occur,
    /// of p log2(p / q), with p = count / words and q = (count in the corpus + 1 / buckets) / (words of the corpus + 1):
    /// one word more, spread over all buckets, keeps it finite. 0 for a document without words.
    #[must_use]
    pub fn divergence(&self, batch: TextBatch<'_>) -> Vec<f64> {
        let all = self.total() as f64 + 1.0;
        let unseen = 1.0 / self.counts.len() as f64;
        let of_one = |(buckets, counter): &mut (Vec<u32>, Counter), document: usize| {
            buckets.clear();
            for_each_word(batch.get(document), |word| {
                buckets.push(self.bucket(word.hash) as u32);
            });
            counter.reset(buckets.len());
            let words = buckets.len() as f64;
            buckets.retain(|&bucket| counter.increment(u64::from(bucket)) == 1);
            buckets.iter().fold(0.0, |sum, &bucket| {
                let p = f64::from(counter.count(u64::from(bucket))) / words;
                let seen = self.counts[bucket as usize].load(Ordering::Relaxed);
                let q = (seen as f64 + unseen) / all;
                sum + p * (p / q).log2()
            })
        };
        (0..batch.len())
            .into_par_iter()
            .map_init(|| (vec![], Counter::default()), of_one)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        let text = "a a b b";
        let both = [0i64, 7];
        let distribution = Distribution::new(1);
        let batch = TextBatch::new(text.as_bytes(), &both).unwrap();
        distribution.add(batch);
        assert_eq!(distribution.total(), 4);
        let found = distribution.divergence(batch)[0];
        // Both words in one bucket: p = 1, q = 4.5 / 5; in two: p = 1 / 2, q = 2.5 / 5.
        assert!(found == 0.0 || found == (1.0f64 / (4.5 / 5.0)).log2());
        let joined = Distribution::new(1);
        joined.add(batch);
        joined.add_counts(&distribution.counts());
        assert_eq!(joined.total(), 8);
        assert_eq!(
            joined.counts(),
            distribution
                .counts()
                .iter()
                .map(|n| 2 * n)
                .collect::<Vec<_>>()
        );
        let empty = [0i64, 0];
        let none = TextBatch::new(b"", &empty).unwrap();
        assert_eq!(distribution.divergence(none), [0.0]);
    }
}
