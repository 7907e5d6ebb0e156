//! The numbers that quality rules read: sizes, character classes, line shapes and repetition of one document.
//!
//! Quality statistics follow Rae et al. 2021 (Gopher), appendix A.1.1; line shapes for code follow
//! Li et al. 2023 (StarCoder), section 3; lines as written follow Penedo et al. 2024 (FineWeb), section 3.6.
//! Fractions are 0 where their denominator is 0.

use super::counter::Counter;
use super::hash::{hash_bytes, spread};
use super::marks::Marks;
use super::repetition::Repeats;
use super::signs::{Folded, signs};
use super::terminal::is_terminal;
use super::words::{Word, for_each_word};
use std::ops::Range;

/// The columns of a [`Row`], in order.
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
    written: Counter,
    repeats: Repeats,
    folded: Folded,
    stop_words: [u64; STOP_WORDS.len()],
}

impl Default for Scratch {
    fn default() -> Self {
        Self {
            words: vec![],
            counter: Counter::default(),
            written: Counter::default(),
            repeats: Repeats::default(),
            folded: Folded::default(),
            stop_words: STOP_WORDS.map(|w| spread(hash_bytes(w.as_bytes()))),
        }
    }
}

/// The numbers of one text, whose marks are read.
#[must_use]
pub fn statistics(text: &str, marks: &Marks, scratch: &mut Scratch) -> Row {
    let mut row = Vec::with_capacity(NAMES.len());
    let characters = Characters::of(marks);
    let newlines = marks.count(|block| block.newline);
    let lines = Lines::of(
        text,
        marks,
        newlines,
        &mut scratch.counter,
        &mut scratch.written,
    );
    let paragraphs = paragraphs(text, marks, newlines, &mut scratch.counter);
    scratch.words.clear();
    for_each_word(text, |word| scratch.words.push(word));
    let words = scratch.words.as_slice();
    let word_chars: u64 = words.iter().map(|w| u64::from(w.chars)).sum();
    let longest = words.iter().map(|w| w.chars).max().unwrap_or(0);
    let distinct = scratch.repeats.begin(words, &mut scratch.counter);
    let known = |&&stop: &&u64| scratch.counter.count(stop) > 0;
    let stop_words = scratch.stop_words.iter().filter(known).count();

    let count = words.len() as u64;
    row.extend([
        characters.all as f64,
        count as f64,
        lines.stripped.count as f64,
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
        ratio(lines.bullets, lines.stripped.count),
        ratio(lines.ellipses, lines.stripped.count),
    ]);
    row.extend([
        lines.longest as f64,
        ratio(characters.all - newlines, newlines + 1),
    ]);
    row.extend(
        [characters.alpha, characters.digits, characters.spaces].map(|n| ratio(n, characters.all)),
    );
    row.push(ratio(characters.alpha + characters.digits, characters.all));
    for blocks in [&lines.stripped, &paragraphs] {
        row.extend([
            ratio(blocks.repeated, blocks.count),
            ratio(blocks.repeated_chars, blocks.chars),
        ]);
    }
    let repeats = scratch.repeats.coverage(words, &mut scratch.counter);
    row.extend(repeats.map(|chars| ratio(chars, word_chars)));
    row.extend([
        ratio(distinct, count),
        f64::from(longest),
        characters.tokens as f64,
    ]);
    row.extend([
        ratio(lines.terminal, lines.written.count),
        ratio(lines.short, lines.written.count),
        ratio(lines.written.repeated_chars, characters.all - newlines),
        ratio(newlines, count),
    ]);
    row.extend(signs(text, marks, &mut scratch.folded).map(|count| count as f64));
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
#[derive(Debug, Default, PartialEq)]
struct Characters {
    all: u64,
    alpha: u64,
    digits: u64,
    spaces: u64,
    hashes: u64,
    ellipses: u64,
    tokens: u64,
    alpha_tokens: u64,
}

impl Characters {
    fn of(marks: &Marks) -> Self {
        let (tokens, alpha_tokens) = marks.token_counts();
        Self {
            all: marks.chars(),
            alpha: marks.count(|block| block.letter),
            digits: marks.count(|block| block.digit),
            spaces: marks.count(|block| block.space & !block.follows),
            hashes: marks.count(|block| block.hash),
            ellipses: marks.ellipses(),
            tokens,
            alpha_tokens,
        }
    }
}

/// What repeats among the lines or paragraphs of a document that are not blank: every occurrence after the first.
#[derive(Debug, Default, PartialEq)]
struct Blocks {
    count: u64,
    chars: u64,
    repeated: u64,
    repeated_chars: u64,
}

impl Blocks {
    fn add(&mut self, chars: u64, hash: u64, counter: &mut Counter) {
        self.count += 1;
        self.chars += chars;
        if counter.increment(hash) > 1 {
            self.repeated += 1;
            self.repeated_chars += chars;
        }
    }
}

/// Lines that are not blank: stripped of spaces, and as FineWeb's rules read them, with the spaces at their ends.
#[derive(Debug, Default, PartialEq)]
struct Lines {
    stripped: Blocks,
    bullets: u64,
    ellipses: u64,
    written: Blocks,
    terminal: u64,
    short: u64,
    /// Characters of the longest, blank ones included.
    longest: u64,
}

impl Lines {
    /// Characters up to which a line is short.
    const SHORT: u64 = 30;

    fn of(
        text: &str,
        marks: &Marks,
        newlines: u64,
        stripped: &mut Counter,
        written: &mut Counter,
    ) -> Self {
        let mut seen = Self::default();
        stripped.reset(newlines as usize + 1);
        written.reset(newlines as usize + 1);
        for line in marks.lines() {
            let chars = marks.chars_in(line.clone());
            seen.longest = seen.longest.max(chars);
            let bare = marks.trimmed(line.clone());
            if bare.is_empty() {
                continue;
            }
            let of = |range: Range<usize>| hash_bytes(&text.as_bytes()[range]);
            let is_bare = bare == line;
            let bare_chars = if is_bare {
                chars
            } else {
                marks.chars_in(bare.clone())
            };
            let (whole, shape) = (&text[line.clone()], &text[bare.clone()]);
            let hash = of(bare);
            seen.stripped.add(bare_chars, hash, stripped);
            let hash = if is_bare { hash } else { of(line) };
            seen.written.add(chars, hash, written);
            seen.bullets += u64::from(shape.starts_with(['•', '-', '*', '‣', '▪', '●', '–']));
            seen.ellipses += u64::from(shape.ends_with("...") || shape.ends_with('…'));
            seen.terminal += u64::from(whole.ends_with(is_terminal));
            seen.short += u64::from(chars <= Self::SHORT);
        }
        seen
    }
}

/// Paragraphs: what empty lines separate.
fn paragraphs(text: &str, marks: &Marks, newlines: u64, counter: &mut Counter) -> Blocks {
    let mut seen = Blocks::default();
    counter.reset(newlines as usize / 2 + 1);
    let mut take = |paragraph: Range<usize>| {
        let bare = marks.trimmed(paragraph);
        if !bare.is_empty() {
            let hash = hash_bytes(&text.as_bytes()[bare.clone()]);
            seen.add(marks.chars_in(bare), hash, counter);
        }
    };
    let mut start = 0;
    for newline in marks.places(|block| block.newline) {
        if newline >= start && text.as_bytes().get(newline + 1) == Some(&b'\n') {
            take(start..newline);
            start = newline + 2;
        }
    }
    take(start..text.len());
    seen
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn row(text: &str, scratch: &mut Scratch) -> Row {
        let mut marks = Marks::default();
        marks.read(text);
        statistics(text, &marks, scratch)
    }

    fn value(text: &str, name: &str) -> f64 {
        row(text, &mut Scratch::default())[NAMES.iter().position(|n| *n == name).unwrap()]
    }

    /// Character by character.
    fn characters(text: &str) -> Characters {
        let dots = |(at, _): &(usize, char)| {
            let run = text[..*at].chars().rev().take_while(|&c| c == '.').count();
            run == 2 && text[*at..].starts_with('.')
        };
        let count = |is: fn(&char) -> bool| text.chars().filter(is).count() as u64;
        let tokens = || text.split_whitespace();
        Characters {
            all: count(|_| true),
            alpha: count(|c| c.is_alphabetic()),
            digits: count(|c| c.is_numeric() && !c.is_alphabetic()),
            spaces: count(|c| c.is_whitespace()),
            hashes: count(|&c| c == '#'),
            ellipses: count(|&c| c == '…') + text.char_indices().filter(dots).count() as u64,
            tokens: tokens().count() as u64,
            alpha_tokens: tokens().filter(|t| t.contains(char::is_alphabetic)).count() as u64,
        }
    }

    fn blocks<'a>(blocks: impl Iterator<Item = &'a str>) -> Blocks {
        let mut seen = std::collections::HashSet::new();
        let mut found = Blocks::default();
        for block in blocks.filter(|block| !block.trim().is_empty()) {
            let chars = block.chars().count() as u64;
            let repeated = u64::from(!seen.insert(block));
            found.count += 1;
            found.chars += chars;
            found.repeated += repeated;
            found.repeated_chars += repeated * chars;
        }
        found
    }

    /// Line by line.
    fn lines(text: &str) -> Lines {
        let inked = || text.split('\n').filter(|line| !line.trim().is_empty());
        let count = |is: fn(&str) -> bool| inked().filter(|line| is(line)).count() as u64;
        Lines {
            stripped: blocks(inked().map(str::trim)),
            bullets: count(|line| "•-*‣▪●–".contains(line.trim().chars().next().unwrap())),
            ellipses: count(|line| line.trim().ends_with("...") || line.trim().ends_with('…')),
            written: blocks(inked()),
            terminal: count(|line| is_terminal(line.chars().last().unwrap())),
            short: count(|line| line.chars().count() <= 30),
            longest: text
                .split('\n')
                .map(|line| line.chars().count())
                .max()
                .unwrap() as u64,
        }
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
        assert!(row("", &mut Scratch::default()).iter().all(|&x| x == 0.0));
    }

    proptest! {
        #[test]
        fn counts_are_those_of_single_characters(
            parts in prop::collection::vec("[ab \\n.#1é漢…\\r\u{2003}•-]{0,30}|[a-z.]{30,70}|\\.{2,5}|\\n\\n|ab\\n", 0..12)
        ) {
            let text = parts.concat();
            let mut marks = Marks::default();
            marks.read(&text);
            let newlines = marks.count(|block| block.newline);
            let (mut a, mut b) = (Counter::default(), Counter::default());
            prop_assert_eq!(Characters::of(&marks), characters(&text));
            prop_assert_eq!(Lines::of(&text, &marks, newlines, &mut a, &mut b), lines(&text));
            prop_assert_eq!(paragraphs(&text, &marks, newlines, &mut a), blocks(text.split("\n\n").map(str::trim)));
        }

        #[test]
        fn a_reused_scratch_changes_nothing(texts in prop::collection::vec("[ab \\n.#1é漢]{0,60}", 1..8)) {
            let mut scratch = Scratch::default();
            for text in &texts {
                let found = row(text, &mut scratch);
                prop_assert_eq!(found, row(text, &mut Scratch::default()));
                prop_assert!(found.iter().all(|x| x.is_finite() && *x >= 0.0));
            }
        }
    }
}
