//! The numbers that quality rules read: sizes, character classes, line shapes and repetition of one document.
//!
//! Quality statistics follow Rae et al. 2021 (Gopher), appendix A.1.1; line shapes for code follow
//! Li et al. 2023 (StarCoder), section 3; lines as written follow Penedo et al. 2024 (FineWeb), section 3.6.
//! Fractions are 0 where their denominator is 0.

use super::TextBatch;
use super::counter::Counter;
use super::hash::hash_bytes;
use super::repetition::Repeats;
use super::signs::signs;
use super::terminal::is_terminal;
use super::words::{Word, for_each_word};
use rayon::prelude::*;

/// The columns of [`analyse`], in order.
pub const NAMES: [&str; 43] = [
    "chars",
    "words",
    "lines",
    "paragraphs",
    "mean_word_length",
    "alpha_token_fraction",
    "hashes_per_word",
    "ellipses_per_word",
    "stop_words",
    "bullet_line_fraction",
    "ellipsis_line_fraction",
    "max_line_length",
    "mean_line_length",
    "alpha_fraction",
    "digit_fraction",
    "space_fraction",
    "alphanumeric_fraction",
    "duplicate_line_fraction",
    "duplicate_line_char_fraction",
    "duplicate_paragraph_fraction",
    "duplicate_paragraph_char_fraction",
    "top_2gram_char_fraction",
    "top_3gram_char_fraction",
    "top_4gram_char_fraction",
    "duplicate_5gram_char_fraction",
    "duplicate_6gram_char_fraction",
    "duplicate_7gram_char_fraction",
    "duplicate_8gram_char_fraction",
    "duplicate_9gram_char_fraction",
    "duplicate_10gram_char_fraction",
    "distinct_word_fraction",
    "longest_word",
    "tokens",
    "terminal_line_fraction",
    "short_line_fraction",
    "repeated_line_char_fraction",
    "newlines_per_word",
    "email_signs",
    "phone_signs",
    "card_signs",
    "iban_signs",
    "ip_signs",
    "secret_signs",
];

pub type Row = [f64; NAMES.len()];

/// Gopher's list: a page of English prose holds at least two of them.
const STOP_WORDS: [&str; 8] = ["the", "be", "to", "of", "and", "that", "have", "with"];

/// Memory that one thread reuses for all of its documents.
pub struct Scratch {
    words: Vec<Word>,
    counter: Counter,
    repeats: Repeats,
    folded: String,
    stop_words: [u64; STOP_WORDS.len()],
}

impl Default for Scratch {
    fn default() -> Self {
        Self {
            words: vec![],
            counter: Counter::default(),
            repeats: Repeats::default(),
            folded: String::new(),
            stop_words: STOP_WORDS.map(|w| hash_bytes(w.as_bytes())),
        }
    }
}

/// One row per document, columns as in [`NAMES`].
#[must_use]
pub fn analyse(batch: TextBatch<'_>) -> Vec<Row> {
    (0..batch.len())
        .into_par_iter()
        .map_init(Scratch::default, |scratch, i| {
            analyse_one(batch.get(i), scratch)
        })
        .collect()
}

#[must_use]
pub fn analyse_one(text: &str, scratch: &mut Scratch) -> Row {
    let mut row = Vec::with_capacity(NAMES.len());
    let characters = Characters::of(text);
    let lines = Blocks::of(text.lines(), &mut scratch.counter);
    let paragraphs = Blocks::of(Paragraphs { text }, &mut scratch.counter);
    scratch.words.clear();
    for_each_word(text, |word| scratch.words.push(word));
    let words = scratch.words.as_slice();
    let word_chars: u64 = words.iter().map(|w| u64::from(w.chars)).sum();
    let longest = words.iter().map(|w| w.chars).max().unwrap_or(0);
    scratch.counter.reset(words.len());
    let distinct = words
        .iter()
        .filter(|w| scratch.counter.increment(w.hash) == 1)
        .count() as u64;
    let stop_words = scratch
        .stop_words
        .iter()
        .filter(|&&stop| words.iter().any(|w| w.hash == stop))
        .count();

    let count = words.len() as u64;
    row.extend([
        characters.all as f64,
        count as f64,
        lines.count as f64,
        paragraphs.count as f64,
    ]);
    row.push(ratio(word_chars, count));
    row.push(ratio(characters.alpha_tokens, characters.tokens));
    row.extend([
        ratio(characters.hashes, count),
        ratio(characters.ellipses, count),
        stop_words as f64,
    ]);
    row.extend([
        ratio(lines.bullets, lines.count),
        ratio(lines.ellipses, lines.count),
    ]);
    row.extend([
        characters.longest_line as f64,
        ratio(
            characters.all - characters.newlines,
            characters.newlines + 1,
        ),
    ]);
    row.extend(
        [characters.alpha, characters.digits, characters.spaces].map(|n| ratio(n, characters.all)),
    );
    row.push(ratio(characters.alpha + characters.digits, characters.all));
    row.extend([
        ratio(lines.repeated, lines.count),
        ratio(lines.repeated_chars, lines.chars),
    ]);
    row.extend([
        ratio(paragraphs.repeated, paragraphs.count),
        ratio(paragraphs.repeated_chars, paragraphs.chars),
    ]);
    let repeats = scratch.repeats.of(words, &mut scratch.counter);
    row.extend(repeats.map(|chars| ratio(chars, word_chars)));
    row.extend([
        ratio(distinct, count),
        f64::from(longest),
        characters.tokens as f64,
    ]);
    let written = WrittenLines::of(text, &mut scratch.counter);
    row.extend([
        ratio(written.terminal, written.count),
        ratio(written.short, written.count),
        ratio(written.repeated_chars, characters.all - characters.newlines),
        ratio(characters.newlines, count),
    ]);
    row.extend(signs(text, &mut scratch.folded).map(|count| count as f64));
    row.try_into().expect("one value per name")
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}

/// Characters by class. A token is what whitespace separates: unlike a word it may be all punctuation.
#[derive(Default)]
struct Characters {
    all: u64,
    alpha: u64,
    digits: u64,
    spaces: u64,
    newlines: u64,
    hashes: u64,
    ellipses: u64,
    tokens: u64,
    alpha_tokens: u64,
    longest_line: u64,
}

impl Characters {
    fn of(text: &str) -> Self {
        if text.is_ascii() {
            Self::among(text.bytes().map(char::from))
        } else {
            Self::among(text.chars())
        }
    }

    fn among(chars: impl Iterator<Item = char>) -> Self {
        let mut seen = Self::default();
        let (mut in_token, mut token_has_alpha, mut line, mut dots) = (false, false, 0u64, 0u32);
        for c in chars {
            seen.all += 1;
            line = if c == '\n' { 0 } else { line + 1 };
            seen.longest_line = seen.longest_line.max(line);
            dots = if c == '.' { dots + 1 } else { 0 };
            if dots == 3 || c == '…' {
                seen.ellipses += 1;
            }
            if c.is_whitespace() {
                seen.spaces += 1;
                seen.newlines += u64::from(c == '\n');
                in_token = false;
                continue;
            }
            seen.tokens += u64::from(!in_token);
            token_has_alpha &= in_token;
            in_token = true;
            seen.hashes += u64::from(c == '#');
            if c.is_alphabetic() {
                seen.alpha += 1;
                seen.alpha_tokens += u64::from(!token_has_alpha);
                token_has_alpha = true;
            } else if c.is_numeric() {
                seen.digits += 1;
            }
        }
        seen
    }
}

/// What repeats among the non-blank lines or paragraphs of a document: every occurrence after the first.
#[derive(Default)]
struct Blocks {
    count: u64,
    chars: u64,
    repeated: u64,
    repeated_chars: u64,
    bullets: u64,
    ellipses: u64,
}

impl Blocks {
    fn of<'a>(blocks: impl Iterator<Item = &'a str> + Clone, counter: &mut Counter) -> Self {
        let mut seen = Self::default();
        counter.reset(blocks.clone().count());
        for block in blocks.map(str::trim).filter(|block| !block.is_empty()) {
            let chars = block.chars().count() as u64;
            seen.count += 1;
            seen.chars += chars;
            if counter.increment(hash_bytes(block.as_bytes())) > 1 {
                seen.repeated += 1;
                seen.repeated_chars += chars;
            }
            seen.bullets += u64::from(block.starts_with(['•', '-', '*', '‣', '▪', '●', '–']));
            seen.ellipses += u64::from(block.ends_with("...") || block.ends_with('…'));
        }
        seen
    }
}

/// Lines that are not blank, with the spaces at their ends, as FineWeb's rules read them.
#[derive(Default)]
struct WrittenLines {
    count: u64,
    terminal: u64,
    short: u64,
    repeated_chars: u64,
}

impl WrittenLines {
    /// Characters up to which a line is short.
    const SHORT: u64 = 30;

    fn of(text: &str, counter: &mut Counter) -> Self {
        let mut seen = Self::default();
        let lines = || text.split('\n').filter(|line| !line.trim().is_empty());
        counter.reset(lines().count());
        for line in lines() {
            let chars = line.chars().count() as u64;
            seen.count += 1;
            seen.terminal += u64::from(line.ends_with(is_terminal));
            seen.short += u64::from(chars <= Self::SHORT);
            if counter.increment(hash_bytes(line.as_bytes())) > 1 {
                seen.repeated_chars += chars;
            }
        }
        seen
    }
}

/// Paragraphs: what empty lines separate.
#[derive(Clone)]
struct Paragraphs<'a> {
    text: &'a str,
}

impl<'a> Iterator for Paragraphs<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        if self.text.is_empty() {
            return None;
        }
        let (paragraph, rest) = self.text.split_once("\n\n").unwrap_or((self.text, ""));
        self.text = rest;
        Some(paragraph)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn value(text: &str, name: &str) -> f64 {
        analyse_one(text, &mut Scratch::default())[NAMES.iter().position(|n| *n == name).unwrap()]
    }

    #[test]
    fn repetition_by_hand() {
        assert_eq!(value("a b\na b\nc", "duplicate_line_fraction"), 1.0 / 3.0);
        assert_eq!(
            value(
                "a b\n\na b\n\n\n\ncccc",
                "duplicate_paragraph_char_fraction"
            ),
            3.0 / 10.0
        );
        assert_eq!(
            value("ab cd ab cd ef", "top_2gram_char_fraction"),
            8.0 / 10.0
        );
        assert_eq!(
            value("a b c d e f a b c d e", "duplicate_5gram_char_fraction"),
            5.0 / 11.0
        );
        assert_eq!(value("a b c d e f g", "duplicate_5gram_char_fraction"), 0.0);
    }

    #[test]
    fn shapes_by_hand() {
        assert_eq!(
            value("- one\n* two\nthree", "bullet_line_fraction"),
            2.0 / 3.0
        );
        assert_eq!(value("and so on...\nend", "ellipsis_line_fraction"), 0.5);
        assert_eq!(value("to be or not to be", "stop_words"), 2.0);
        assert_eq!(value("x1 -- 22 y", "alpha_token_fraction"), 0.5);
        assert_eq!(value("# a b....", "ellipses_per_word"), 0.5);
        assert_eq!(value("abc\nde\n", "mean_line_length"), 5.0 / 3.0);
        assert_eq!(value("abc\nde\n", "max_line_length"), 3.0);
        assert!(
            analyse_one("", &mut Scratch::default())
                .iter()
                .all(|&x| x == 0.0)
        );
    }

    proptest! {
        #[test]
        fn a_reused_scratch_changes_nothing(texts in prop::collection::vec("[ab \\n.#1é漢]{0,60}", 1..8)) {
            let mut scratch = Scratch::default();
            for text in &texts {
                let row = analyse_one(text, &mut scratch);
                prop_assert_eq!(row, analyse_one(text, &mut Scratch::default()));
                prop_assert!(row.iter().all(|x| x.is_finite() && *x >= 0.0));
            }
        }
    }
}
