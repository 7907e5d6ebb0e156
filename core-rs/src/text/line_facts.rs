//! What rules for single lines read (Raffel et al. 2020, C4, section 2.2): a row per line that is not blank.

use super::TextBatch;
use super::counter::Counter;
use super::repetition::duplicate_share;
use super::terminal::sentences;
use super::words::{Word, for_each_word};
use aho_corasick::{AhoCorasick, MatchKind};
use rayon::prelude::*;
use std::borrow::Cow;

/// The columns of [`line_facts`], in order. `start` and `end` are bytes of the batch's buffer, the line break included;
/// words are what spaces separate; the last seven are 0 or 1 and tell of the line without citations.
pub const NAMES: [&str; 13] = [
    "document",
    "start",
    "end",
    "words",
    "longest_word",
    "sentences",
    "terminal",
    "ellipsis",
    "lorem_ipsum",
    "javascript",
    "curly_bracket",
    "policy",
    "citations",
];
pub type Row = [i64; NAMES.len()];

/// Phrases in the order of the automaton's patterns: the first two have columns of their own.
const PHRASES: [&str; 8] = [
    "lorem ipsum",
    "javascript",
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
];

#[must_use]
pub fn line_facts(batch: TextBatch<'_>) -> Vec<Row> {
    let phrases = AhoCorasick::builder()
        .ascii_case_insensitive(true)
        .match_kind(MatchKind::Standard)
        .build(PHRASES)
        .expect("eight short patterns");
    (0..batch.len())
        .into_par_iter()
        .flat_map_iter(|document| {
            let mut at = batch.start(document);
            let phrases = &phrases;
            batch
                .get(document)
                .split_inclusive('\n')
                .filter_map(move |line| {
                    let start = at;
                    at += line.len();
                    let stripped = line.trim();
                    (!stripped.is_empty())
                        .then(|| row(document, start, start + line.len(), stripped, phrases))
                })
        })
        .collect()
}

/// How repetitive each line that is not blank is in itself: the share of its word characters inside runs of `n` words
/// that it had before.
#[must_use]
pub fn line_repetition(batch: TextBatch<'_>, n: usize) -> Vec<f64> {
    (0..batch.len())
        .into_par_iter()
        .map_init(
            || (vec![], Counter::default()),
            |(words, counter): &mut (Vec<Word>, Counter), document| -> Vec<f64> {
                let lines = batch.get(document).split('\n');
                lines
                    .filter(|line| !line.trim().is_empty())
                    .map(|line| {
                        words.clear();
                        for_each_word(line, |word| words.push(word));
                        duplicate_share(words, n, counter)
                    })
                    .collect()
            },
        )
        .flatten_iter()
        .collect()
}

fn row(document: usize, start: usize, end: usize, line: &str, phrases: &AhoCorasick) -> Row {
    let (words, longest) = words(line);
    let bare = without_citations(line);
    let (mut lorem, mut script, mut policy) = (false, false, false);
    for found in phrases.find_overlapping_iter(bare.as_ref()) {
        match found.pattern().as_usize() {
            0 => lorem = true,
            1 => script = true,
            _ => policy = true,
        }
    }
    let facts = [
        bare.ends_with(['.', '?', '!', '"', '\'']),
        bare.ends_with("..."),
        lorem,
        script,
        bare.contains('{'),
        policy,
        bare.len() < line.len(),
    ];
    let mut row = [0; NAMES.len()];
    row[..6].copy_from_slice(&[
        document as i64,
        start as i64,
        end as i64,
        words,
        longest,
        sentences(&bare) as i64,
    ]);
    for (cell, fact) in row[6..].iter_mut().zip(facts) {
        *cell = i64::from(fact);
    }
    row
}

/// How many words spaces separate, and the characters of the longest.
fn words(line: &str) -> (i64, i64) {
    let mut seen = (0, 0);
    let mut length = 0;
    let mut push = |c: char| {
        length = if c.is_whitespace() { 0 } else { length + 1 };
        seen.0 += i64::from(length == 1);
        seen.1 = seen.1.max(length);
    };
    if line.is_ascii() {
        line.bytes().for_each(|byte| push(char::from(byte)));
    } else {
        line.chars().for_each(push);
    }
    seen
}

fn without_citations(line: &str) -> Cow<'_, str> {
    let mut bare = String::new();
    let mut from = 0;
    for (begin, stop) in citations(line) {
        bare.push_str(&line[from..begin]);
        from = stop;
    }
    if from == 0 {
        return Cow::Borrowed(line);
    }
    bare.push_str(&line[from..]);
    Cow::Owned(bare)
}

/// Where `[12]`, `[]`, `[edit]` and `[citation needed]` stand, as an encyclopedia writes them.
pub fn citations(line: &str) -> impl Iterator<Item = (usize, usize)> + '_ {
    line.match_indices('[').filter_map(|(at, _)| {
        let rest = &line[at + 1..];
        let digits: usize = rest
            .chars()
            .take_while(|c| is_digit(*c))
            .map(char::len_utf8)
            .sum();
        let inside = if rest[digits..].starts_with(']') {
            digits
        } else {
            ["edit]", "citation needed]"]
                .iter()
                .find(|name| rest.starts_with(**name))?
                .len()
                - 1
        };
        Some((at, at + inside + 2))
    })
}

fn is_digit(c: char) -> bool {
    use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};
    c.is_ascii_digit() || (!c.is_ascii() && c.general_category() == GeneralCategory::DecimalNumber)
}

/// Where citations stand in every document: (document, start, end) in bytes of the batch's buffer.
#[must_use]
pub fn citation_spans(batch: TextBatch<'_>) -> Vec<[i64; 3]> {
    (0..batch.len())
        .into_par_iter()
        .flat_map_iter(|document| {
            let base = batch.start(document);
            citations(batch.get(document)).map(move |(start, end)| {
                [document as i64, (base + start) as i64, (base + end) as i64]
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_by_hand() {
        let text = "Loads JavaScript now.[12]\n\n  Ends here...  \r\nLorem Ipsum {x} uses cookies[edit][x]";
        let offsets = [0i64, text.len() as i64];
        let rows = line_facts(TextBatch::new(text.as_bytes(), &offsets).unwrap());
        assert_eq!(rows[0], [0, 0, 26, 3, 10, 1, 1, 0, 0, 1, 0, 0, 1]);
        assert_eq!(rows[1], [0, 27, 45, 2, 7, 1, 1, 1, 0, 0, 0, 0, 0]);
        assert_eq!(
            rows[2],
            [0, 45, text.len() as i64, 5, 16, 1, 0, 0, 1, 0, 1, 1, 1]
        );
    }
}
