//! What rules for single lines read (Raffel et al. 2020, C4, section 2.2): the facts of every line that is not blank.

use super::TextBatch;
use super::counter::Counter;
use super::marks::Marks;
use super::repetition::duplicate_share;
use super::terminal::{ascii_sentences, sentences};
use super::words::{Word, for_each_word};
use aho_corasick::{AhoCorasick, AhoCorasickKind, Input, MatchKind};
use rayon::prelude::*;
use std::borrow::Cow;
use std::sync::LazyLock;

/// The columns of [`LineFacts`] that are numbers, in order. `start` and `end` are bytes of the document, the line break
/// included; words are what spaces separate.
pub const NUMBERS: [&str; 6] = [
    "document",
    "start",
    "end",
    "words",
    "longest_word",
    "sentences",
];
/// Those that are true or false. They tell of the line without citations, as `sentences` does.
pub const FLAGS: [&str; 7] = [
    "terminal",
    "ellipsis",
    "lorem_ipsum",
    "javascript",
    "curly_bracket",
    "policy",
    "citations",
];

/// Phrases in the order of the automaton's patterns: the first two have columns of their own. None is part of another.
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
static SEARCH: LazyLock<AhoCorasick> = LazyLock::new(|| {
    AhoCorasick::builder()
        .ascii_case_insensitive(true)
        .match_kind(MatchKind::LeftmostFirst)
        .kind(Some(AhoCorasickKind::DFA))
        .build(PHRASES)
        .expect("eight short patterns")
});

/// The lines of documents, column by column.
#[derive(Debug, Default, PartialEq)]
pub struct LineFacts {
    pub numbers: [Vec<i64>; NUMBERS.len()],
    pub flags: [Vec<bool>; FLAGS.len()],
}

impl LineFacts {
    /// Takes up the lines of one more document, whose marks are read.
    pub fn add(&mut self, document: usize, text: &str, marks: &Marks) {
        let phrases = phrases(text);
        let mut phrases = phrases.iter().peekable();
        let mut tokens = marks.tokens().peekable();
        let mut stops = marks.places(|block| block.stop).peekable();
        for line in marks.lines() {
            let bare = marks.trimmed(line.clone());
            if bare.is_empty() {
                continue;
            }
            let (mut words, mut longest) = (0, 0);
            while let Some(token) = tokens.next_if(|token| token.end <= line.end) {
                words += 1;
                if token.len() as u64 > longest {
                    longest = longest.max(marks.chars_in(token));
                }
            }
            let mut spoken = Spoken::default();
            while let Some(phrase) = phrases.next_if(|phrase| phrase.0 < line.end) {
                spoken.take(phrase.1);
            }
            let text_of = &text[bare.clone()];
            let may_cite = marks.any(bare.clone(), |block| block.bracket);
            let (sentences, flags) = if may_cite && citations(text_of).next().is_some() {
                facts(&without_citations(text_of))
            } else {
                let stops = std::iter::from_fn(|| stops.next_if(|&stop| stop < bare.end));
                let count = if marks.any(bare.clone(), |block| block.high) {
                    sentences(text_of)
                } else {
                    ascii_sentences(text.as_bytes(), bare.clone(), stops)
                };
                let curly = marks.any(bare, |block| block.curly);
                (count, spoken.flags(text_of, curly, false))
            };
            while stops.next_if(|&stop| stop < line.end).is_some() {}
            let end = (line.end + 1).min(text.len());
            let numbers = [document, line.start, end].map(|number| number as i64);
            let counts = [words, longest, sentences].map(|number| number as i64);
            for (column, number) in self
                .numbers
                .iter_mut()
                .zip(numbers.into_iter().chain(counts))
            {
                column.push(number);
            }
            for (column, flag) in self.flags.iter_mut().zip(flags) {
                column.push(flag);
            }
        }
    }

    /// Takes up the lines of documents that come behind these.
    #[must_use]
    pub fn and(mut self, more: Self) -> Self {
        for (column, more) in self.numbers.iter_mut().zip(more.numbers) {
            column.extend(more);
        }
        for (column, more) in self.flags.iter_mut().zip(more.flags) {
            column.extend(more);
        }
        self
    }
}

/// What a line speaks of.
#[derive(Clone, Copy, Default)]
struct Spoken {
    lorem_ipsum: bool,
    javascript: bool,
    policy: bool,
}

impl Spoken {
    fn take(&mut self, phrase: usize) {
        match phrase {
            0 => self.lorem_ipsum = true,
            1 => self.javascript = true,
            _ => self.policy = true,
        }
    }

    fn flags(self, line: &str, curly: bool, cites: bool) -> [bool; FLAGS.len()] {
        [
            line.ends_with(['.', '?', '!', '"', '\'']),
            line.ends_with("..."),
            self.lorem_ipsum,
            self.javascript,
            curly,
            self.policy,
            cites,
        ]
    }
}

/// Sentences and flags of a line that had citations.
fn facts(bare: &str) -> (u64, [bool; FLAGS.len()]) {
    let mut spoken = Spoken::default();
    phrases(bare)
        .iter()
        .for_each(|phrase| spoken.take(phrase.1));
    (
        sentences(bare),
        spoken.flags(bare, bare.contains('{'), true),
    )
}

/// Where phrases begin, ascending, and which; they may overlap.
fn phrases(text: &str) -> Vec<(usize, usize)> {
    let mut found = vec![];
    let mut from = 0;
    while let Some(next) = SEARCH.find(Input::new(text).span(from..text.len())) {
        found.push((next.start(), next.pattern().as_usize()));
        from = next.start() + 1;
    }
    found
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
    use proptest::prelude::*;

    fn facts_of(text: &str) -> LineFacts {
        let mut marks = Marks::default();
        marks.read(text);
        let mut facts = LineFacts::default();
        facts.add(7, text, &marks);
        facts
    }

    /// Line by line, character by character.
    fn expected(text: &str) -> LineFacts {
        let mut found = LineFacts::default();
        let mut end = 0;
        for line in text.split_inclusive('\n') {
            let start = end;
            end += line.len();
            let stripped = line.trim();
            if stripped.is_empty() {
                continue;
            }
            let words = || stripped.split_whitespace().map(|word| word.chars().count());
            let bare = without_citations(stripped);
            let lower = bare.to_ascii_lowercase();
            let numbers = [7, start, end, words().count(), words().max().unwrap()];
            let numbers = numbers.map(|number| number as i64).into_iter();
            for (column, number) in found
                .numbers
                .iter_mut()
                .zip(numbers.chain([sentences(&bare) as i64]))
            {
                column.push(number);
            }
            let flags = [
                bare.ends_with(['.', '?', '!', '"', '\'']),
                bare.ends_with("..."),
                lower.contains(PHRASES[0]),
                lower.contains(PHRASES[1]),
                bare.contains('{'),
                PHRASES[2..].iter().any(|phrase| lower.contains(phrase)),
                bare.len() < stripped.len(),
            ];
            for (column, flag) in found.flags.iter_mut().zip(flags) {
                column.push(flag);
            }
        }
        found
    }

    #[test]
    fn facts_by_hand() {
        let text = "Loads JavaScript now.[12]\n\n  Ends here...  \r\nLorem Ipsum {x} uses cookies[edit][x]";
        let facts = facts_of(text);
        let numbers = |line: usize| facts.numbers.each_ref().map(|column| column[line]);
        let flags = |line: usize| facts.flags.each_ref().map(|column| i32::from(column[line]));
        assert_eq!(numbers(0), [7, 0, 26, 3, 10, 1]);
        assert_eq!(flags(0), [1, 0, 0, 1, 0, 0, 1]);
        assert_eq!(numbers(1), [7, 27, 45, 2, 7, 1]);
        assert_eq!(flags(1), [1, 1, 0, 0, 0, 0, 0]);
        assert_eq!(numbers(2), [7, 45, text.len() as i64, 5, 16, 1]);
        assert_eq!(flags(2), [0, 0, 1, 0, 1, 1, 1]);
    }

    proptest! {
        #[test]
        fn facts_are_those_of_single_lines(
            parts in prop::collection::vec(
                "JavaScript|terms of Use|use of cookies|lorem Ipsum|\\[12\\]|\\[edit\\]|\\{|\\.\\.\\.|[ab.!?\\)\"é。…]{1,4}|\n| {1,3}|\r\n|\u{2003}|[a-z .]{50,70}",
                0..20
            )
        ) {
            let text = parts.concat();
            prop_assert_eq!(facts_of(&text), expected(&text));
        }
    }
}
