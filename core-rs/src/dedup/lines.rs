//! Line deduplication after ccNet (Wenzek et al. 2020) as used by Llama 3 (paper 3.1.1): lines are compared in a
//! normal form, and every line that occurs too often in a bucket of documents is dropped, all its occurrences.

use crate::text::TextBatch;
use crate::text::hash::{Hash64, spread};
use rayon::prelude::*;
use std::borrow::Cow;
use unicode_normalization::UnicodeNormalization;
use unicode_properties::{GeneralCategory, GeneralCategoryGroup, UnicodeGeneralCategory};

/// The key of a line: lower case, digits as 0, without punctuation, accents and control characters, runs of
/// whitespace as one space. `None` for lines of which nothing is left (blank, or a rule of dashes).
#[must_use]
pub fn line_key(line: &str) -> Option<u64> {
    let mut hash = Hash64::default();
    let mut gap = false;
    let mut push = |c: char| {
        if c.is_whitespace() {
            gap = true;
        } else if let Some(c) = normal_form(c) {
            if std::mem::take(&mut gap) && !hash.is_empty() {
                hash.push(b' ');
            }
            hash.push_char(c);
        }
    };
    if line.is_ascii() {
        line.bytes()
            .for_each(|byte| push(char::from(byte.to_ascii_lowercase())));
    } else {
        line.chars()
            .flat_map(char::to_lowercase)
            .nfd()
            .for_each(push);
    }
    (!hash.is_empty()).then(|| hash.finish())
}

fn normal_form(c: char) -> Option<char> {
    if c.is_ascii() {
        return match c {
            '0'..='9' => Some('0'),
            _ if c.is_ascii_control() || is_ascii_punctuation(c) => None,
            _ => Some(c),
        };
    }
    match c.general_category() {
        GeneralCategory::DecimalNumber => Some('0'),
        GeneralCategory::NonspacingMark => None,
        _ => {
            use GeneralCategoryGroup::{Other, Punctuation};
            (!matches!(c.general_category_group(), Punctuation | Other)).then_some(c)
        }
    }
}

/// Unicode's punctuation within ASCII, which counts `$+<=>^`|~` as symbols.
fn is_ascii_punctuation(c: char) -> bool {
    c.is_ascii_punctuation() && !matches!(c, '$' | '+' | '<' | '=' | '>' | '^' | '`' | '|' | '~')
}

/// The keys of the lines of a bucket of documents, so that one count serves all buckets.
fn key_in(bucket: u64, line: &str) -> Option<u64> {
    line_key(line).map(|key| key ^ spread(bucket))
}

/// The keys of all lines that have one, document after document; of documents whose bucket is negative none.
#[must_use]
pub fn line_keys(batch: TextBatch<'_>, buckets: &[i64]) -> Vec<u64> {
    (0..batch.len())
        .into_par_iter()
        .filter_map(|i| Some((batch.get(i), u64::try_from(buckets[i]).ok()?)))
        .flat_map_iter(|(text, bucket)| text.lines().filter_map(move |line| key_in(bucket, line)))
        .collect()
}

/// The keys that occur more than `max_count` times, ascending. Sorts `keys` in place.
#[must_use]
pub fn frequent(keys: &mut [u64], max_count: usize) -> Vec<u64> {
    keys.par_sort_unstable();
    keys.chunk_by(|a, b| a == b)
        .filter(|run| run.len() > max_count)
        .map(|run| run[0])
        .collect()
}

/// Documents without the lines whose key is in `frequent` (ascending).
pub struct Thinned {
    pub data: Vec<u8>,
    pub offsets: Vec<i64>,
    /// Lines dropped from each document.
    pub dropped: Vec<i64>,
}

/// Drops the lines of documents that are frequent in their bucket; documents whose bucket is negative stay as they are.
#[must_use]
pub fn drop_lines(batch: TextBatch<'_>, buckets: &[i64], frequent: &[u64]) -> Thinned {
    let thinned = |text: &str, bucket: u64| {
        let is_dropped = |line: &str| {
            key_in(bucket, line).is_some_and(|key| frequent.binary_search(&key).is_ok())
        };
        let mut kept = String::with_capacity(text.len());
        let mut dropped = 0;
        for line in text.split_inclusive('\n') {
            if is_dropped(line) {
                dropped += 1
            } else {
                kept.push_str(line)
            }
        }
        (Cow::Owned(kept), dropped)
    };
    let texts: Vec<(Cow<'_, str>, i64)> = (0..batch.len())
        .into_par_iter()
        .map(|i| match u64::try_from(buckets[i]) {
            Ok(bucket) => thinned(batch.get(i), bucket),
            Err(_) => (Cow::Borrowed(batch.get(i)), 0),
        })
        .collect();
    let mut out = Thinned {
        data: vec![],
        offsets: vec![0],
        dropped: vec![],
    };
    for (text, dropped) in texts {
        out.data.extend_from_slice(text.as_bytes());
        out.offsets.push(out.data.len() as i64);
        out.dropped.push(dropped);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::hash::hash_bytes;
    use proptest::prelude::*;

    #[test]
    fn normal_forms() {
        for (line, form) in [
            ("  Hello,  World! ", "hello world"),
            ("Page 12 of 345", "page 00 of 000"),
            ("Élan « naïf »", "elan naif"),
            ("a + b\u{200b}\t-c\r\n", "a + b c"),
            ("٣ x", "0 x"),
        ] {
            assert_eq!(
                line_key(line),
                Some(hash_bytes(form.as_bytes())),
                "{line:?}"
            );
        }
        for blank in ["", " \t\r\n", "-----", "«…»"] {
            assert_eq!(line_key(blank), None);
        }
    }

    #[test]
    fn exactly_the_lines_above_the_limit_go() {
        let texts = ["Menu!\none\nsix\nmenu 7\n\n", "MENU\nsix\ntwo\nmenu 3"];
        let data = texts.concat();
        let batch_offsets = [0, texts[0].len() as i64, data.len() as i64];
        let batch = TextBatch::new(data.as_bytes(), &batch_offsets).unwrap();
        let mut keys = line_keys(batch, &[0, 0]);
        let often = frequent(&mut keys, 1);
        let thinned = drop_lines(batch, &[0, 0], &often);
        assert_eq!(thinned.dropped, [3, 3]);
        assert_eq!(thinned.offsets, [0, 5, 9]);
        assert_eq!(thinned.data, b"one\n\ntwo\n");
        assert_eq!(drop_lines(batch, &[-1, -1], &often).data, data.as_bytes());
        // What is frequent in one bucket is so in no other, and each document alone repeats nothing.
        let often = frequent(&mut line_keys(batch, &[3, 3]), 1);
        assert_eq!(drop_lines(batch, &[3, 3], &often).dropped, [3, 3]);
        assert_eq!(drop_lines(batch, &[3, 8], &often).dropped, [3, 0]);
        assert!(frequent(&mut line_keys(batch, &[3, 8]), 1).is_empty());
        assert_eq!(line_keys(batch, &[-1, 0]).len(), 4);
    }

    proptest! {
        #[test]
        fn frequent_equals_counting(keys in prop::collection::vec(0u64..12, 0..80), max in 1usize..8) {
            let mut counts = std::collections::BTreeMap::new();
            keys.iter().for_each(|key| *counts.entry(*key).or_insert(0usize) += 1);
            let expected: Vec<u64> = counts.into_iter().filter(|&(_, n)| n > max).map(|(key, _)| key).collect();
            prop_assert_eq!(frequent(&mut keys.clone(), max), expected);
        }

        #[test]
        fn dropping_nothing_changes_nothing(text in "\\PC*[\\n\\r ]*\\PC*") {
            let offsets = [0, text.len() as i64];
            let batch = TextBatch::new(text.as_bytes(), &offsets).unwrap();
            prop_assert_eq!(drop_lines(batch, &[0], &[]).data, text.as_bytes());
        }
    }
}
