//! Verification and the choice of survivors.
//!
//! Documents are settled in ascending order. One is removed if its exact Jaccard similarity to a document that
//! *stays*, and with which it shares a bucket, reaches the threshold; otherwise it stays and represents its
//! buckets. So every removed document has a verified edge to a kept one (a chain a~b~c never removes c on account
//! of a removed b), the survivor is the smallest index, and the result depends on no thread or hash order.

use super::banding::{Buckets, UnionFind};
use super::shingle::{jaccard, shingle_set};
use crate::text::TextBatch;
use crate::text::words::Word;
use rayon::prelude::*;
use std::collections::HashMap;

/// Representatives of one bucket that later documents are compared with. A bucket that fills up (a template with
/// endless variations) costs recall beyond it, never a wrong removal, and is counted.
pub const MAX_REPRESENTATIVES: usize = 64;

/// What became of every document.
#[derive(Debug, Default, PartialEq)]
pub struct Verdict {
    /// The kept document that each one duplicates, -1 for kept documents.
    pub duplicate_of: Vec<i64>,
    /// Exact Jaccard similarity to it, 0 for kept documents.
    pub similarity: Vec<f64>,
    /// Exact comparisons made.
    pub comparisons: u64,
    /// Buckets whose list of representatives was full.
    pub full_buckets: u64,
}

/// What is settled, and how.
#[derive(Clone, Copy)]
pub struct Question<'a> {
    pub batch: TextBatch<'a>,
    /// Row-major `[documents, bands]` table of band keys.
    pub keys: &'a [u64],
    pub bands: usize,
    pub ngram: usize,
    pub threshold: f64,
    /// So many documents, the first ones, stay whatever they resemble: those of earlier corpora.
    pub fixed: usize,
}

/// Settles all documents.
#[must_use]
pub fn settle(question: &Question<'_>) -> Verdict {
    let &Question {
        batch,
        keys,
        bands,
        ngram,
        ..
    } = question;
    let documents = batch.len();
    let buckets = Buckets::of(keys, bands);
    let membership = Membership::of(&buckets, documents);
    let components = components(&buckets, documents);
    let read = |doc: u32, words: &mut Vec<Word>| shingle_set(batch.get(doc as usize), ngram, words);
    let settled: Vec<Component> = components
        .par_chunk_by(|a, b| a.0 == b.0)
        .map(|members| {
            settle_component(
                members.iter().map(|&(_, doc)| doc),
                &membership,
                read,
                question,
            )
        })
        .collect();

    let mut verdict = Verdict {
        duplicate_of: vec![-1; documents],
        similarity: vec![0.0; documents],
        ..Verdict::default()
    };
    for component in settled {
        verdict.comparisons += component.comparisons;
        verdict.full_buckets += component.full_buckets;
        for (doc, kept, similarity) in component.removed {
            verdict.duplicate_of[doc as usize] = i64::from(kept);
            verdict.similarity[doc as usize] = similarity;
        }
    }
    verdict
}

/// For every document the first one that it is tied to by shared keys, over any number of others; -1 where it shares
/// none. Documents of different groups never meet in [`settle`], so that groups can be settled one by one.
#[must_use]
pub fn groups(keys: &[u64], bands: usize) -> Vec<i64> {
    let documents = keys.len() / bands;
    let mut out = vec![-1; documents];
    for (root, doc) in components(&Buckets::of(keys, bands), documents) {
        out[doc as usize] = i64::from(root);
    }
    out
}

/// (component, document) of all documents that share a bucket, sorted: components can be settled independently.
fn components(buckets: &Buckets, documents: usize) -> Vec<(u32, u32)> {
    let mut sets = UnionFind::new(documents);
    for bucket in 0..buckets.len() {
        if let Some((&first, rest)) = buckets.get(bucket).split_first() {
            rest.iter().for_each(|&doc| sets.union(first, doc));
        }
    }
    let mut members: Vec<(u32, u32)> = buckets
        .docs
        .iter()
        .map(|&doc| (sets.root(doc), doc))
        .collect();
    members.par_sort_unstable();
    members.dedup();
    members
}

/// The buckets of every document: those of `doc` are `buckets[starts[doc]..starts[doc + 1]]`.
struct Membership {
    starts: Vec<usize>,
    buckets: Vec<u32>,
}

impl Membership {
    fn of(buckets: &Buckets, documents: usize) -> Self {
        let mut starts = vec![0usize; documents + 1];
        buckets
            .docs
            .iter()
            .for_each(|&doc| starts[doc as usize + 1] += 1);
        for doc in 0..documents {
            starts[doc + 1] += starts[doc];
        }
        let mut next = starts.clone();
        let mut of_doc = vec![0; buckets.docs.len()];
        for bucket in 0..buckets.len() {
            for &doc in buckets.get(bucket) {
                of_doc[next[doc as usize]] = bucket as u32;
                next[doc as usize] += 1;
            }
        }
        Self {
            starts,
            buckets: of_doc,
        }
    }

    fn of_doc(&self, doc: u32) -> &[u32] {
        &self.buckets[self.starts[doc as usize]..self.starts[doc as usize + 1]]
    }
}

#[derive(Default)]
struct Component {
    removed: Vec<(u32, u32, f64)>,
    comparisons: u64,
    full_buckets: u64,
}

fn settle_component(
    ascending: impl Iterator<Item = u32>,
    membership: &Membership,
    read: impl Fn(u32, &mut Vec<Word>) -> Vec<u64>,
    &Question {
        threshold, fixed, ..
    }: &Question<'_>,
) -> Component {
    let mut out = Component::default();
    let mut words = vec![];
    let mut candidates: Vec<u32> = vec![];
    let mut representatives: HashMap<u32, Vec<u32>> = HashMap::new();
    let mut sets: HashMap<u32, Vec<u64>> = HashMap::new();
    for doc in ascending {
        let buckets = membership.of_doc(doc);
        let stays = (doc as usize) < fixed;
        candidates.clear();
        candidates.extend(
            buckets
                .iter()
                .filter(|_| !stays)
                .filter_map(|bucket| representatives.get(bucket))
                .flatten(),
        );
        candidates.sort_unstable();
        candidates.dedup();
        let set = read(doc, &mut words);
        let mut verified = None;
        for &kept in &candidates {
            let Some(other) = sets.get(&kept) else {
                continue;
            };
            out.comparisons += 1;
            let similarity = if may_reach(threshold, set.len(), other.len()) {
                jaccard(&set, other)
            } else {
                0.0
            };
            if similarity >= threshold {
                verified = Some((doc, kept, similarity));
                break;
            }
        }
        if let Some(removed) = verified {
            out.removed.push(removed);
            continue;
        }
        let mut represents = false;
        for &bucket in buckets {
            let list = representatives.entry(bucket).or_default();
            if list.len() < MAX_REPRESENTATIVES {
                list.push(doc);
                represents = true;
                out.full_buckets += u64::from(list.len() == MAX_REPRESENTATIVES);
            }
        }
        if represents {
            sets.insert(doc, set);
        }
    }
    out
}

/// The similarity of sets of these sizes is at most the ratio of the smaller to the larger.
fn may_reach(threshold: f64, a: usize, b: usize) -> bool {
    a.min(b) as f64 >= threshold * a.max(b) as f64 * (1.0 - 1e-9)
}

#[cfg(test)]
mod tests {
    use super::super::minhash::MinHash;
    use super::*;
    use proptest::prelude::*;

    const BANDS: usize = 14;
    const NGRAM: usize = 2;

    fn pack(texts: &[String]) -> (Vec<u8>, Vec<i64>) {
        let mut offsets = vec![0];
        let mut data = vec![];
        for text in texts {
            data.extend_from_slice(text.as_bytes());
            offsets.push(data.len() as i64);
        }
        (data, offsets)
    }

    fn near_texts() -> impl Strategy<Value = Vec<String>> {
        let edit = (0usize..6, 0usize..24, "[a-e]");
        prop::collection::vec(prop::collection::vec(edit, 0..4), 1..25).prop_map(|documents| {
            let texts = documents.into_iter().enumerate().map(|(i, edits)| {
                let mut words: Vec<String> =
                    (0..24).map(|w| format!("w{}", w + (i % 3) * 100)).collect();
                for (kind, at, word) in edits {
                    let at = at.min(words.len().saturating_sub(1));
                    match kind {
                        0..3 => words[at] = word,
                        3..5 => words.insert(at, word),
                        _ => words.truncate(at.max(1)),
                    }
                }
                words.join(" ")
            });
            texts.collect()
        })
    }

    proptest! {
        /// Against the definition, written out over all pairs.
        #[test]
        fn equals_brute_force(texts in near_texts(), threshold in 0.3f64..1.0, fixed in 0usize..8) {
            let (data, offsets) = pack(&texts);
            let batch = TextBatch::new(&data, &offsets).unwrap();
            let keys = MinHash::new(NGRAM, BANDS * 4).band_keys(batch, BANDS);
            let fixed = fixed.min(texts.len());
            let verdict = settle(&Question { batch, keys: &keys, bands: BANDS, ngram: NGRAM, threshold, fixed });
            let sets: Vec<Vec<u64>> = texts.iter().map(|t| shingle_set(t, NGRAM, &mut vec![])).collect();
            let share = |a: usize, b: usize| (0..BANDS).any(|band| keys[a * BANDS + band] == keys[b * BANDS + band]);
            let mut expected = vec![-1i64; texts.len()];
            for doc in fixed..texts.len() {
                let kept = (0..doc).find(|&o| expected[o] < 0 && share(doc, o) && jaccard(&sets[doc], &sets[o]) >= threshold);
                expected[doc] = kept.map_or(-1, |o| o as i64);
            }
            prop_assert_eq!(&verdict.duplicate_of, &expected);
            for (doc, &kept) in expected.iter().enumerate().filter(|(_, kept)| **kept >= 0) {
                prop_assert_eq!(verdict.similarity[doc], jaccard(&sets[doc], &sets[kept as usize]));
            }
        }

        #[test]
        fn threads_do_not_matter(texts in near_texts()) {
            let (data, offsets) = pack(&texts);
            let batch = TextBatch::new(&data, &offsets).unwrap();
            let run = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| {
                let keys = MinHash::new(NGRAM, BANDS * 4).band_keys(batch, BANDS);
                settle(&Question { batch, keys: &keys, bands: BANDS, ngram: NGRAM, threshold: 0.6, fixed: 0 })
            });
            prop_assert_eq!(run(1), run(4));
        }
    }

    #[test]
    fn a_full_bucket_loses_recall_and_nothing_else() {
        // 80 documents of one bucket, all different; then a copy of the last, which represents nothing any more.
        let mut texts: Vec<String> = (0..80).map(|i| format!("x{i} y{i} z{i}")).collect();
        texts.push(texts[79].clone());
        texts.push(texts[3].clone());
        let (data, offsets) = pack(&texts);
        let verdict = settle(&Question {
            batch: TextBatch::new(&data, &offsets).unwrap(),
            keys: &[7; 82],
            bands: 1,
            ngram: NGRAM,
            threshold: 0.8,
            fixed: 0,
        });
        assert_eq!(verdict.duplicate_of[80..], [-1, 3]);
        assert_eq!((verdict.full_buckets, verdict.similarity[81]), (1, 1.0));
    }
}
