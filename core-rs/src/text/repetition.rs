//! How much of a document its repeated n-grams of words cover (Rae et al. 2021, appendix A.1.1).
//!
//! A run of n words can occur twice only where both its first and its last n - 1 words do. So each length looks only at
//! the places where the length before found repeats, which in ordinary text are few.

use super::counter::Counter;
use super::hash::spread;
use super::words::Word;
use std::ops::RangeInclusive;

/// Lengths whose most covering n-gram counts.
const TOP: RangeInclusive<usize> = 2..=4;
/// Lengths of which every repeat counts.
const ALL: RangeInclusive<usize> = 5..=10;
const COUNT: usize = 9;
const BASE: u64 = 0x9fb2_1c65_1e98_df25;

/// The hash of every run of `n` words, by a rolling polynomial.
pub fn ngram_hashes(words: &[Word], n: usize) -> impl Iterator<Item = u64> + '_ {
    let leaving = BASE.wrapping_pow(n as u32);
    let mut rolling = 0u64;
    words.iter().enumerate().filter_map(move |(i, word)| {
        rolling = rolling.wrapping_mul(BASE).wrapping_add(word.hash);
        if i >= n {
            rolling = rolling.wrapping_sub(words[i - n].hash.wrapping_mul(leaving));
        }
        (i + 1 >= n).then(|| spread(rolling))
    })
}

/// Memory that one thread reuses for all of its documents.
#[derive(Debug, Default)]
pub struct Repeats {
    /// The polynomial of the words before each place: that of any run is a difference of two.
    prefixes: Vec<u64>,
    places: Vec<u32>,
    repeated: Vec<bool>,
}

impl Repeats {
    /// Looks for the words that repeat; how many different ones there are. Until `counter` is used for something else
    /// it knows of the [`spread`] hash of every word how often it occurs.
    pub fn begin(&mut self, words: &[Word], counter: &mut Counter) -> u64 {
        self.prefixes.clear();
        self.prefixes.push(0);
        let mut prefix = 0u64;
        self.prefixes.extend(words.iter().map(|word| {
            prefix = prefix.wrapping_mul(BASE).wrapping_add(word.hash);
            prefix
        }));
        self.places.clear();
        self.places.extend(0..words.len() as u32);
        self.keep_repeated(1, counter)
    }

    /// Word characters by length of n-gram, 2 to 10. Up to 4: those that the most covering repeated n-gram accounts for
    /// (count x length, overlaps counted). From 5: those inside n-grams that were seen before, none counted twice:
    /// after a repeated n-gram the search goes on behind it. Goes on from [`begin`](Self::begin), with the same words.
    pub fn coverage(&mut self, words: &[Word], counter: &mut Counter) -> [u64; COUNT] {
        let mut chars = [0; COUNT];
        for n in TOP {
            self.lengthen();
            self.keep_repeated(n, counter);
            chars[n - 2] = self.top(words, n, counter);
        }
        for n in ALL {
            self.lengthen();
            self.keep_repeated(n, counter);
            chars[n - 2] = self.duplicate(words, n, counter);
        }
        chars
    }

    #[inline]
    fn hash(&self, at: usize, n: usize) -> u64 {
        let power = BASE.wrapping_pow(n as u32);
        spread(self.prefixes[at + n].wrapping_sub(self.prefixes[at].wrapping_mul(power)))
    }

    /// Leaves only the places behind which another one stands: runs that are one word longer may repeat only there.
    fn lengthen(&mut self) {
        let mut kept = 0;
        for i in 1..self.places.len() {
            self.places[kept] = self.places[i - 1];
            kept += usize::from(self.places[i - 1] + 1 == self.places[i]);
        }
        self.places.truncate(kept);
    }

    /// Leaves only the places whose run of `n` words occurs at another of them too; the counts stay in `counter`.
    /// How many different runs there were.
    fn keep_repeated(&mut self, n: usize, counter: &mut Counter) -> u64 {
        counter.reset(self.places.len());
        self.repeated.clear();
        self.repeated.resize(self.places.len(), false);
        let mut different = 0;
        for i in 0..self.places.len() {
            let hash = self.hash(self.places[i] as usize, n);
            let (times, first) = counter.increment_at(hash, i as u32);
            if times > 1 {
                self.repeated[i] = true;
                self.repeated[first as usize] = true;
            } else {
                different += 1;
            }
        }
        let mut repeated = self.repeated.iter();
        self.places
            .retain(|_| *repeated.next().expect("one per place"));
        different
    }

    fn top(&self, words: &[Word], n: usize, counter: &Counter) -> u64 {
        let covered = |&at: &u32| {
            let at = at as usize;
            u64::from(counter.count(self.hash(at, n))) * chars_of(&words[at..at + n])
        };
        self.places.iter().map(covered).max().unwrap_or(0)
    }

    fn duplicate(&self, words: &[Word], n: usize, counter: &mut Counter) -> u64 {
        counter.reset(self.places.len());
        let (mut chars, mut free_from) = (0, 0);
        for at in self.places.iter().map(|&at| at as usize) {
            if at >= free_from && counter.increment(self.hash(at, n)) > 1 {
                chars += chars_of(&words[at..at + n]);
                free_from = at + n;
            }
        }
        chars
    }
}

/// The share of word characters inside n-grams that were seen before, none counted twice; 0 without words.
pub fn duplicate_share(words: &[Word], n: usize, counter: &mut Counter) -> f64 {
    counter.reset(words.len());
    let (mut chars, mut free_from) = (0, 0);
    for (at, hash) in ngram_hashes(words, n).enumerate() {
        if at >= free_from && counter.increment(hash) > 1 {
            chars += chars_of(&words[at..at + n]);
            free_from = at + n;
        }
    }
    chars as f64 / chars_of(words).max(1) as f64
}

fn chars_of(words: &[Word]) -> u64 {
    words.iter().map(|w| u64::from(w.chars)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::hash::hash_bytes;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn expected_top(words: &[String], n: usize) -> usize {
        let mut counts: HashMap<&[String], usize> = HashMap::new();
        words
            .windows(n)
            .for_each(|run| *counts.entry(run).or_default() += 1);
        let covered = |(run, count): (&&[String], &usize)| run.concat().len() * count;
        counts
            .iter()
            .filter(|(_, count)| **count > 1)
            .map(covered)
            .max()
            .unwrap_or(0)
    }

    fn expected_duplicate(words: &[String], n: usize) -> usize {
        let mut seen = std::collections::HashSet::new();
        let (mut chars, mut at) = (0, 0);
        while at + n <= words.len() {
            let run = &words[at..at + n];
            if seen.insert(run) {
                at += 1;
            } else {
                chars += run.concat().len();
                at += n;
            }
        }
        chars
    }

    proptest! {
        #[test]
        fn equals_runs_of_strings(texts in prop::collection::vec(prop::collection::vec("a|bb|ccc", 0..70), 1..4)) {
            let (mut repeats, mut counter) = (Repeats::default(), Counter::default());
            for text in &texts {
                let words: Vec<Word> = text
                    .iter()
                    .map(|w| Word { hash: hash_bytes(w.as_bytes()), chars: w.len() as u32 })
                    .collect();
                let different: std::collections::HashSet<&String> = text.iter().collect();
                prop_assert_eq!(repeats.begin(&words, &mut counter), different.len() as u64);
                for word in ["a", "bb", "zzz"] {
                    let times = text.iter().filter(|w| *w == word).count();
                    prop_assert_eq!(counter.count(spread(hash_bytes(word.as_bytes()))) as usize, times);
                }
                let found = repeats.coverage(&words, &mut counter);
                for n in TOP {
                    prop_assert_eq!(found[n - 2], expected_top(text, n) as u64);
                }
                for n in ALL {
                    let expected = expected_duplicate(text, n);
                    prop_assert_eq!(found[n - 2], expected as u64);
                    let share = expected as f64 / text.concat().len().max(1) as f64;
                    prop_assert_eq!(duplicate_share(&words, n, &mut counter), share);
                }
            }
        }
    }
}
