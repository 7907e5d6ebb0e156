//! Cuts text into pieces by Llama 3's rule, in one pass and linear time, without a regex engine.
//!
//! The rule is this ordered alternation (`LLAMA3_PATTERN`); each branch below names the alternative it implements:
//! 1. `(?i:'s|'t|'re|'ve|'m|'ll|'d)`   2. `[^\r\n\p{L}\p{N}]?\p{L}+`   3. `\p{N}{1,3}`
//! 4. ` ?[^\s\p{L}\p{N}]+[\r\n]*`      5. `\s*[\r\n]+`   6. `\s+(?!\S)`   7. `\s+`

use super::unicode::{CLASSES, Class, ClassTable};
use std::ops::Range;

/// Llama 3's split rule as its reference implementation writes it.
pub const LLAMA3_PATTERN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Iterator over the pieces of a text, as byte ranges that follow one another without gaps.
pub struct Pieces<'t> {
    text: &'t str,
    position: usize,
    classes: &'static ClassTable,
}

/// Splits `text`. A whitespace run is looked at no more than three times, everything else once or twice.
pub fn pieces(text: &str) -> Pieces<'_> {
    Pieces {
        text,
        position: 0,
        classes: &CLASSES,
    }
}

impl Iterator for Pieces<'_> {
    type Item = Range<usize>;

    #[inline]
    fn next(&mut self) -> Option<Range<usize>> {
        let start = self.position;
        let (class, after) = self.class_at(start)?;
        let end = match class {
            Class::Letter => self.run_of(after, Class::Letter), // 2
            Class::Number => self.number(after),                // 3
            Class::LineBreak => self.whitespace(start),         // 5
            Class::Space => match self.class_at(after) {
                Some((Class::Letter, next)) => self.run_of(next, Class::Letter), // 2
                Some((Class::Other, next)) if self.byte(start) == b' ' => self.symbols(next), // 4
                _ => self.whitespace(start),                                     // 5, 6, 7
            },
            Class::Other => match self.contraction(start) {
                Some(end) => end, // 1
                None => match self.class_at(after) {
                    Some((Class::Letter, next)) => self.run_of(next, Class::Letter), // 2
                    _ => self.symbols(after),                                        // 4
                },
            },
        };
        self.position = end;
        Some(start..end)
    }
}

impl Pieces<'_> {
    #[inline]
    fn byte(&self, position: usize) -> u8 {
        self.text.as_bytes()[position]
    }

    /// Class of the character at `position` and the position after it; None at the end of the text.
    #[inline]
    fn class_at(&self, position: usize) -> Option<(Class, usize)> {
        let byte = *self.text.as_bytes().get(position)?;
        if byte < 0x80 {
            return Some((self.classes.of_ascii(byte), position + 1));
        }
        let c = self.text[position..].chars().next()?;
        Some((self.classes.of(c), position + c.len_utf8()))
    }

    /// The end of the run of `wanted` characters that begins at `position` (and may be empty).
    #[inline]
    fn run_of(&self, mut position: usize, wanted: Class) -> usize {
        while let Some((class, after)) = self.class_at(position) {
            if class != wanted {
                break;
            }
            position = after;
        }
        position
    }

    /// Alternative 3, after its first digit: at most two more.
    #[inline]
    fn number(&self, mut position: usize) -> usize {
        for _ in 0..2 {
            match self.class_at(position) {
                Some((Class::Number, after)) => position = after,
                _ => break,
            }
        }
        position
    }

    /// Alternative 4, after its first symbol.
    #[inline]
    fn symbols(&self, position: usize) -> usize {
        self.run_of(self.run_of(position, Class::Other), Class::LineBreak)
    }

    /// Alternatives 5 to 7 on the whitespace run at `start`: through its last line break; else all but the
    /// last character, which goes with what follows; else (end of text, or one character only) the run.
    fn whitespace(&self, start: usize) -> usize {
        let (mut end, mut last, mut after_break) = (start, start, None);
        while let Some((class, after)) = self.class_at(end) {
            match class {
                Class::LineBreak => after_break = Some(after),
                Class::Space => {}
                _ => break,
            }
            last = end;
            end = after;
        }
        match after_break {
            Some(position) => position,
            None if end == self.text.len() || last == start => end,
            None => last,
        }
    }

    /// Alternative 1. Case folding makes U+017F (long s) an s.
    #[inline]
    fn contraction(&self, start: usize) -> Option<usize> {
        let rest = &self.text.as_bytes()[start..];
        if rest[0] != b'\'' {
            return None;
        }
        let lower = |index: usize| rest.get(index).map(u8::to_ascii_lowercase);
        match (lower(1)?, lower(2)) {
            (b's' | b't' | b'm' | b'd', _) => Some(start + 2),
            (b'r' | b'v', Some(b'e')) | (b'l', Some(b'l')) => Some(start + 3),
            (0xC5, Some(0xBF)) => Some(start + 3),
            _ => None,
        }
    }
}

/// Cuts `text` into stretches of about `target` bytes between which no piece ever reaches, so that they can be
/// encoded independently. A text without a suitable border stays whole.
pub fn stretches(text: &str, target: usize) -> impl Iterator<Item = &str> {
    let mut start = 0;
    std::iter::from_fn(move || {
        if start >= text.len() {
            return None;
        }
        let end = border_from(text, start.saturating_add(target.max(1))).unwrap_or(text.len());
        let stretch = &text[start..end];
        start = end;
        Some(stretch)
    })
}

/// The first safe border at or after `position`: between a visible ASCII character and a space, or between a line
/// feed and a visible character. No alternative matches across either, and none looks ahead across them.
fn border_from(text: &str, position: usize) -> Option<usize> {
    let bytes = text.as_bytes();
    let first = position.max(1);
    (first..bytes.len()).find(|&at| match (bytes[at - 1], bytes[at]) {
        (before, b' ') => before.is_ascii_graphic(),
        (b'\n', after) if after < 0x80 => after.is_ascii_graphic(),
        (b'\n', _) => text[at..]
            .chars()
            .next()
            .is_some_and(|c| CLASSES.of(c) != Class::Space),
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use fancy_regex::Regex;
    use proptest::prelude::*;

    fn by_regex(regex: &Regex, text: &str) -> Vec<Range<usize>> {
        regex
            .find_iter(text)
            .map(|found| found.unwrap().range())
            .collect()
    }

    fn ours(text: &str) -> Vec<Range<usize>> {
        pieces(text).collect()
    }

    /// At least two members of every class, every letter of the contractions, and the odd code points.
    const ALPHABET: &[char] = &[
        'a',
        'Z',
        's',
        'S',
        't',
        'r',
        'e',
        'v',
        'm',
        'l',
        'L',
        'd',
        '\u{17F}',
        '\u{130}',
        '\u{131}',
        '\u{212A}',
        '中',
        'é',
        '\u{10400}',
        '0',
        '7',
        '½',
        '٣',
        'Ⅷ',
        '\'',
        '!',
        '.',
        '_',
        '\u{301}',
        '\u{200B}',
        '\u{200D}',
        '😀',
        '\0',
        '\u{1C}',
        '\u{FFFE}',
        '\u{180E}',
        ' ',
        '\t',
        '\u{B}',
        '\u{85}',
        '\u{A0}',
        '\u{1680}',
        '\u{2028}',
        '\u{3000}',
        '\r',
        '\n',
    ];

    #[test]
    fn equal_to_the_regex_on_every_sequence_of_up_to_three_characters() {
        let regex = Regex::new(LLAMA3_PATTERN).unwrap();
        for &a in ALPHABET {
            let one = a.to_string();
            assert_eq!(ours(&one), by_regex(&regex, &one), "{one:?}");
            for &b in ALPHABET {
                let two: String = [a, b].iter().collect();
                assert_eq!(ours(&two), by_regex(&regex, &two), "{two:?}");
                for &c in ALPHABET {
                    let three: String = [a, b, c].iter().collect();
                    assert_eq!(ours(&three), by_regex(&regex, &three), "{three:?}");
                }
            }
        }
    }

    #[test]
    fn contractions_take_exactly_the_characters_that_case_folding_allows() {
        let regex = Regex::new(LLAMA3_PATTERN).unwrap();
        for c in (0..=0x10_FFFFu32).filter_map(char::from_u32) {
            let text = format!("'{c}e");
            assert_eq!(ours(&text), by_regex(&regex, &text), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn equal_to_the_regex(text in proptest::collection::vec(proptest::sample::select(ALPHABET), 0..40)) {
            let text: String = text.into_iter().collect();
            let regex = Regex::new(LLAMA3_PATTERN).unwrap();
            prop_assert_eq!(ours(&text), by_regex(&regex, &text));
        }

        #[test]
        fn equal_to_the_regex_on_any_string(text in "\\PC*") {
            let regex = Regex::new(LLAMA3_PATTERN).unwrap();
            prop_assert_eq!(ours(&text), by_regex(&regex, &text));
        }

        #[test]
        fn stretches_change_no_piece(
            text in proptest::collection::vec(proptest::sample::select(ALPHABET), 0..80),
            target in 0usize..20,
        ) {
            let text: String = text.into_iter().collect();
            let (mut offset, mut found) = (0, Vec::new());
            for stretch in stretches(&text, target) {
                found.extend(pieces(stretch).map(|piece| piece.start + offset..piece.end + offset));
                offset += stretch.len();
            }
            prop_assert_eq!(offset, text.len());
            prop_assert_eq!(found, ours(&text));
        }
    }
}
