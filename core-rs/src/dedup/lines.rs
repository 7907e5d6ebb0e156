//! Line deduplication after ccNet (Wenzek et al. 2020) as used by Llama 3 (paper 3.1.1): lines are compared in a
//! normal form, and every line that occurs too often in a bucket of documents is dropped, all its occurrences.

use crate::text::TextBatch;
use crate::text::hash::{hash_bytes, spread};
use rayon::prelude::*;
use std::borrow::Cow;
use unicode_normalization::UnicodeNormalization;
use unicode_properties::{GeneralCategory, GeneralCategoryGroup, UnicodeGeneralCategory};

/// The key of a line: lower case, digits as 0, without punctuation, accents and control characters, runs of
/// whitespace as one space. `None` for lines of which nothing is left (blank, or a rule of dashes). `form` is scratch
/// memory.
#[must_use]
pub fn line_key(line: &str, form: &mut Vec<u8>) -> Option<u64> {
    form.clear();
    let mut rest = line;
    while !rest.is_empty() {
        // Signs of ASCII begin anew in every Unicode form, so that what stands between them may be taken by itself.
        let (ascii, behind) = rest.split_at(ascii_length(rest));
        push_ascii_form(ascii.as_bytes(), form);
        let others = behind.bytes().take_while(|byte| !byte.is_ascii()).count();
        push_form(&behind[..others], form);
        rest = &behind[others..];
    }
    form.truncate(form.len() - usize::from(form.last() == Some(&b' ')));
    (!form.is_empty()).then(|| hash_bytes(form))
}

/// Bytes of ASCII that a text begins with.
fn ascii_length(text: &str) -> usize {
    const LEAP: usize = 16;
    let leaps = text.as_bytes().chunks_exact(LEAP);
    let leapt = LEAP * leaps.take_while(|leap| leap.is_ascii()).count();
    let steps = text.as_bytes()[leapt..].iter();
    leapt + steps.take_while(|byte| byte.is_ascii()).count()
}

/// Adds the form of a part of a line. A space is added at once and taken away again where nothing follows.
fn push_form(part: &str, form: &mut Vec<u8>) {
    for c in part.chars().flat_map(char::to_lowercase).nfd() {
        if c.is_whitespace() {
            if form.last().is_some_and(|&last| last != b' ') {
                form.push(b' ');
            }
        } else if let Some(c) = normal_form(c) {
            form.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
}

/// As [`push_form`] for ASCII. Every byte is written, and stays where the place for the next one moves on.
fn push_ascii_form(part: &[u8], form: &mut Vec<u8>) {
    let (mut length, mut behind_space) = (form.len(), form.last().is_none_or(|&last| last == b' '));
    form.resize(length + part.len(), 0);
    for &byte in part {
        let plain = ASCII_FORM[usize::from(byte & 0x7f)];
        let is_space = plain == b' ';
        form[length] = plain;
        length += usize::from(plain != 0 && !(is_space && behind_space));
        behind_space = if plain == 0 { behind_space } else { is_space };
    }
    form.truncate(length);
}

/// What a byte of ASCII becomes; 0 where it goes.
static ASCII_FORM: [u8; 128] = {
    let mut table = [0u8; 128];
    let mut byte = 0u8;
    while byte < 128 {
        table[byte as usize] = match byte {
            b'\t'..=b'\r' | b' ' => b' ',
            b'0'..=b'9' => b'0',
            _ if byte.is_ascii_control() || is_ascii_punctuation(byte) => 0,
            _ => byte.to_ascii_lowercase(),
        };
        byte += 1;
    }
    table
};

fn normal_form(c: char) -> Option<char> {
    if c.is_ascii() {
        let form = ASCII_FORM[c as usize];
        return (form != 0).then_some(char::from(form));
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
const fn is_ascii_punctuation(c: u8) -> bool {
    c.is_ascii_punctuation()
        && !matches!(
            c,
            b'$' | b'+' | b'<' | b'=' | b'>' | b'^' | b'`' | b'|' | b'~'
        )
}

/// The keys of the lines of a bucket of documents, so that one count serves all buckets.
fn key_in(bucket: u64, line: &str, form: &mut Vec<u8>) -> Option<u64> {
    line_key(line, form).map(|key| key ^ spread(bucket))
}

/// The keys of all lines that have one, document after document; of documents whose bucket is negative none.
#[must_use]
pub fn line_keys(batch: TextBatch<'_>, buckets: &[i64]) -> Vec<u64> {
    let mut parts: Vec<Vec<u64>> = (0..batch.len())
        .into_par_iter()
        .fold(
            || (vec![], vec![]),
            |(mut keys, mut form), document| {
                if let Ok(bucket) = u64::try_from(buckets[document]) {
                    let lines = batch.get(document).lines();
                    keys.extend(lines.filter_map(|line| key_in(bucket, line, &mut form)));
                }
                (keys, form)
            },
        )
        .map(|(keys, _)| keys)
        .collect();
    if parts.len() == 1 {
        return parts.remove(0);
    }
    parts.concat()
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
    let texts: Vec<(Cow<'_, str>, i64)> = (0..batch.len())
        .into_par_iter()
        .map_init(Vec::new, |form, document| {
            let text = batch.get(document);
            match u64::try_from(buckets[document]) {
                Ok(bucket) if !frequent.is_empty() => thinned(text, bucket, frequent, form),
                _ => (Cow::Borrowed(text), 0),
            }
        })
        .collect();
    let mut out = Thinned {
        data: Vec::with_capacity(texts.iter().map(|(text, _)| text.len()).sum()),
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

/// The text without its frequent lines, and how many they are.
fn thinned<'t>(
    text: &'t str,
    bucket: u64,
    frequent: &[u64],
    form: &mut Vec<u8>,
) -> (Cow<'t, str>, i64) {
    let mut kept = String::new();
    let (mut dropped, mut from, mut end) = (0, 0, 0);
    for line in text.split_inclusive('\n') {
        end += line.len();
        let key = key_in(bucket, line, form);
        if key.is_some_and(|key| frequent.binary_search(&key).is_ok()) {
            kept.push_str(&text[from..end - line.len()]);
            (from, dropped) = (end, dropped + 1);
        }
    }
    if dropped == 0 {
        return (Cow::Borrowed(text), 0);
    }
    kept.push_str(&text[from..]);
    (Cow::Owned(kept), dropped)
}

#[cfg(test)]
mod tests {
    use super::*;
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
                line_key(line, &mut vec![]),
                Some(hash_bytes(form.as_bytes())),
                "{line:?}"
            );
        }
        for blank in ["", " \t\r\n", "-----", "«…»"] {
            assert_eq!(line_key(blank, &mut vec![]), None);
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

        /// Against the whole line in one Unicode form, character by character.
        #[test]
        fn parts_have_the_form_of_the_whole(
            line in "([\\x00-\\x7f]{0,30}|[ -~]{0,3}|é|e\u{301}|\u{1d158}\u{65}\u{1d165}|\u{2003}|—|漢٣|Ǆ|\\PC){0,12}"
        ) {
            let mut whole = String::new();
            let mut gap = false;
            for c in line.chars().flat_map(char::to_lowercase).nfd() {
                if c.is_whitespace() {
                    gap = true;
                } else if let Some(c) = normal_form(c) {
                    if std::mem::take(&mut gap) && !whole.is_empty() {
                        whole.push(' ');
                    }
                    whole.push(c);
                }
            }
            let key = (!whole.is_empty()).then(|| hash_bytes(whole.as_bytes()));
            prop_assert_eq!(line_key(&line, &mut vec![7]), key);
        }

        #[test]
        fn dropping_nothing_changes_nothing(text in "\\PC*[\\n\\r ]*\\PC*") {
            let offsets = [0, text.len() as i64];
            let batch = TextBatch::new(text.as_bytes(), &offsets).unwrap();
            prop_assert_eq!(drop_lines(batch, &[0], &[]).data, text.as_bytes());
        }
    }
}
