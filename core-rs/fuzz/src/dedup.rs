//! Exact, near and line deduplication of any documents.

use super::bytes::{Bytes, lossy};
use llama3_core::dedup::{cluster, identity, lines, minhash::MinHash, shingle};
use llama3_core::text::TextBatch;
use std::collections::HashMap;

/// A duplicate has a kept original before it that is as similar as it says; lines that go are those that are frequent.
pub fn dedup(data: &[u8]) {
    let mut input = Bytes(data);
    let (ngram, bands, rows) = (1 + input.below(6), 1 + input.below(6), 1 + input.below(4));
    let threshold = f64::from(input.byte()) / 255.0;
    let documents: Vec<String> = input
        .0
        .split(|&byte| byte == 0)
        .take(64)
        .map(lossy)
        .collect();
    let joined = documents.concat();
    let mut offsets = vec![0];
    for document in &documents {
        offsets.push(offsets[offsets.len() - 1] + document.len() as i64);
    }
    let batch = TextBatch::new(joined.as_bytes(), &offsets).expect("whole documents");
    near(batch, ngram, bands, rows, threshold);
    by_line(batch, &documents, ngram);
    let ids = identity::ids(batch);
    for (a, id) in ids.iter().enumerate() {
        let equal = ids.iter().position(|other| other == id);
        assert!(equal.is_some_and(|first| first <= a));
    }
}

fn near(batch: TextBatch, ngram: usize, bands: usize, rows: usize, threshold: f64) {
    let hashes = MinHash::new(ngram, bands * rows);
    let keys = hashes.band_keys(batch, bands);
    assert_eq!(keys.len(), batch.len() * bands);
    assert_eq!(hashes.signatures(batch).len(), batch.len() * bands * rows);
    let verdict = cluster::settle(&cluster::Question {
        batch,
        keys: &keys,
        bands,
        ngram,
        threshold,
        fixed: 0,
    });
    let set = |doc: usize| shingle::shingle_set(batch.get(doc), ngram, &mut vec![]);
    for (doc, &original) in verdict.duplicate_of.iter().enumerate() {
        let Ok(original) = usize::try_from(original) else {
            continue;
        };
        assert!(original < doc);
        assert_eq!(verdict.duplicate_of[original], -1, "the original stays");
        let similarity = shingle::jaccard(&set(doc), &set(original));
        assert_eq!(similarity, verdict.similarity[doc]);
        assert!(similarity >= threshold);
    }
}

fn by_line(batch: TextBatch, documents: &[String], most: usize) {
    let bucket = vec![0; batch.len()];
    let mut keys = lines::line_keys(batch, &bucket);
    let mut counts: HashMap<u64, usize> = HashMap::new();
    keys.iter()
        .for_each(|&key| *counts.entry(key).or_default() += 1);
    let frequent = lines::frequent(&mut keys, most);
    let often =
        |line: &str| lines::line_key(line, &mut vec![]).is_some_and(|key| counts[&key] > most);
    let thinned = lines::drop_lines(batch, &bucket, &frequent);
    let kept: String = documents
        .iter()
        .flat_map(|text| text.split_inclusive('\n'))
        .filter(|line| !often(line))
        .collect();
    assert_eq!(
        String::from_utf8(thinned.data).as_deref(),
        Ok(kept.as_str())
    );
}
