//! Lists of words and phrases, counted in documents by the same words that every other rule reads: without case, in
//! composed form, character by character in scripts without spaces.

use super::TextBatch;
use super::repetition::ngram_hashes;
use super::words::{Word, for_each_word};
use foldhash::HashSet;
use rayon::prelude::*;
use std::collections::BTreeMap;

/// Phrases by their number of words.
#[derive(Debug, Default)]
pub struct Phrases {
    by_length: BTreeMap<usize, HashSet<u64>>,
}

impl Phrases {
    /// Those without any word are left out.
    pub fn new<'a>(phrases: impl IntoIterator<Item = &'a str>) -> Self {
        let mut by_length: BTreeMap<usize, HashSet<u64>> = BTreeMap::new();
        let mut words = vec![];
        for phrase in phrases {
            words.clear();
            for_each_word(phrase, |word| words.push(word));
            by_length
                .entry(words.len())
                .or_default()
                .extend(ngram_hashes(&words, words.len().max(1)));
        }
        by_length.remove(&0);
        Self { by_length }
    }

    /// Distinct phrases.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_length.values().map(HashSet::len).sum()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_length.is_empty()
    }

    /// Of every document: how often phrases stand in it, and how many different ones do.
    #[must_use]
    pub fn count(&self, batch: TextBatch<'_>) -> Vec<[i64; 2]> {
        let of_one = |(words, seen): &mut (Vec<Word>, HashSet<u64>), document: usize| {
            words.clear();
            seen.clear();
            for_each_word(batch.get(document), |word| words.push(word));
            let mut all = 0;
            for (&length, phrases) in &self.by_length {
                for hash in ngram_hashes(words, length).filter(|hash| phrases.contains(hash)) {
                    all += 1;
                    seen.insert(hash);
                }
            }
            [all, seen.len() as i64]
        };
        (0..batch.len())
            .into_par_iter()
            .map_init(|| (vec![], HashSet::default()), of_one)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_found_whole() {
        let phrases = Phrases::new(["Bad", "very bad word", "性", "--", "bad"]);
        assert_eq!(phrases.len(), 3);
        let text = "bad BADGE, a Very-bad\nword; 性感";
        let offsets = [0i64, text.len() as i64, text.len() as i64];
        let batch = TextBatch::new(text.as_bytes(), &offsets).unwrap();
        assert_eq!(phrases.count(batch), [[4, 3], [0, 0]]);
    }
}
