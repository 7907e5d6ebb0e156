//! Shingles: the hashes of every run of `n` words of a document.
//!
//! A document with fewer words than `n` has one shingle of all its words; one without any word has one shingle of
//! its trimmed text. So every document has a shingle, and equal documents have equal shingles.

use crate::text::hash::{hash_bytes, spread};
use crate::text::repetition::ngram_hashes;
use crate::text::words::{Word, for_each_word};

/// Calls `found` with every shingle of `text`, repeats included. `words` is scratch memory.
pub fn for_each_shingle(text: &str, n: usize, words: &mut Vec<Word>, found: impl FnMut(u64)) {
    words.clear();
    for_each_word(text, |word| words.push(word));
    if words.is_empty() {
        std::iter::once(spread(hash_bytes(text.trim().as_bytes()))).for_each(found);
    } else {
        ngram_hashes(words, n.clamp(1, words.len())).for_each(found);
    }
}

/// The shingles of `text` as a set: ascending, each once.
#[must_use]
pub fn shingle_set(text: &str, n: usize, words: &mut Vec<Word>) -> Vec<u64> {
    let mut set = Vec::new();
    for_each_shingle(text, n, words, |shingle| set.push(shingle));
    set.sort_unstable();
    set.dedup();
    set
}

/// |a and b| / |a or b| of two ascending sets.
#[must_use]
pub fn jaccard(a: &[u64], b: &[u64]) -> f64 {
    let (mut i, mut j, mut both) = (0, 0, 0usize);
    while i < a.len() && j < b.len() {
        both += usize::from(a[i] == b[j]);
        let (x, y) = (a[i], b[j]);
        i += usize::from(x <= y);
        j += usize::from(y <= x);
    }
    let either = a.len() + b.len() - both;
    if either == 0 {
        1.0
    } else {
        both as f64 / either as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn set(text: &str, n: usize) -> Vec<u64> {
        shingle_set(text, n, &mut vec![])
    }

    #[test]
    fn short_and_wordless_documents_have_one_shingle() {
        assert_eq!(set("only three words", 5).len(), 1);
        assert_eq!(set("Only three, WORDS!", 5), set("only three words", 5));
        assert_eq!(set(" !!! ", 5), set("!!!", 5));
        assert_ne!(set("!!!", 5), set("???", 5));
        assert_eq!(set("", 5), set(" \n", 5));
    }

    proptest! {
        /// Rolling hashes against shingles built as strings.
        #[test]
        fn equals_shingles_of_strings(words in prop::collection::vec("[ab]", 1..40), n in 1usize..7) {
            let width = n.min(words.len());
            let expected: HashSet<&[String]> = words.windows(width).collect();
            prop_assert_eq!(set(&words.join(" "), n).len(), expected.len());
        }

        #[test]
        fn jaccard_equals_sets(a in prop::collection::btree_set(0u64..30, 0..20), b in prop::collection::btree_set(0u64..30, 0..20)) {
            let expected = if a.is_empty() && b.is_empty() { 1.0 } else { a.intersection(&b).count() as f64 / a.union(&b).count() as f64 };
            let (a, b): (Vec<u64>, Vec<u64>) = (a.into_iter().collect(), b.into_iter().collect());
            prop_assert_eq!(jaccard(&a, &b), expected);
            prop_assert_eq!(jaccard(&b, &a), expected);
        }
    }
}
