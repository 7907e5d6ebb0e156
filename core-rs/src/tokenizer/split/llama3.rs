//! Llama 3's split rule, in one pass and linear time, without a regex engine.
//!
//! The rule is this ordered alternation (`PATTERN`); each branch below names the alternative it implements:
//! 1. `(?i:'s|'t|'re|'ve|'m|'ll|'d)`   2. `[^\r\n\p{L}\p{N}]?\p{L}+`   3. `\p{N}{1,3}`
//! 4. ` ?[^\s\p{L}\p{N}]+[\r\n]*`      5. `\s*[\r\n]+`   6. `\s+(?!\S)`   7. `\s+`

use super::scan::Scan;
use crate::tokenizer::unicode::{CLASSES, Class};
use std::ops::Range;

/// Llama 3's split rule as its reference implementation writes it.
pub const PATTERN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Digits that it groups.
pub const DIGITS: usize = 3;
/// Qwen 2's variant of it: every digit alone.
pub const SINGLE_DIGITS_PATTERN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Iterator over the pieces of a text, as byte ranges that follow one another without gaps.
pub struct Pieces<'t> {
    scan: Scan<'t>,
    position: usize,
    /// Alternative 3 takes so many digits at most.
    digits: usize,
}

/// Splits `text`. A whitespace run is looked at no more than three times, everything else once or twice.
pub fn pieces(text: &str, digits: usize) -> Pieces<'_> {
    Pieces {
        scan: Scan::new(text),
        position: 0,
        digits,
    }
}

impl Iterator for Pieces<'_> {
    type Item = Range<usize>;

    #[inline]
    fn next(&mut self) -> Option<Range<usize>> {
        let (scan, start) = (self.scan, self.position);
        let (class, after) = scan.class_at(start)?;
        let end = match class {
            Class::Letter => scan.run_of(after, Class::Letter), // 2
            Class::Number => self.number(after),                // 3
            Class::LineBreak => self.whitespace(start),         // 5
            Class::Space => match scan.class_at(after) {
                Some((Class::Letter, next)) => scan.run_of(next, Class::Letter), // 2
                Some((Class::Other, next)) if scan.bytes()[start] == b' ' => self.symbols(next), // 4
                _ => self.whitespace(start), // 5, 6, 7
            },
            Class::Other => match self.contraction(start) {
                Some(end) => end, // 1
                None => match scan.class_at(after) {
                    Some((Class::Letter, next)) => scan.run_of(next, Class::Letter), // 2
                    _ => self.symbols(after),                                        // 4
                },
            },
        };
        self.position = end;
        Some(start..end)
    }
}

impl Pieces<'_> {
    /// Alternative 3, after its first digit.
    #[inline]
    fn number(&self, mut position: usize) -> usize {
        for _ in 1..self.digits {
            match self.scan.class_at(position) {
                Some((Class::Number, after)) => position = after,
                _ => break,
            }
        }
        position
    }

    /// Alternative 4, after its first symbol.
    #[inline]
    fn symbols(&self, position: usize) -> usize {
        let scan = self.scan;
        scan.run_of(scan.run_of(position, Class::Other), Class::LineBreak)
    }

    /// Alternatives 5 to 7 on the whitespace run at `start`.
    #[inline]
    fn whitespace(&self, start: usize) -> usize {
        let run = self.scan.whitespace(start);
        run.after_break.unwrap_or(run.stop)
    }

    /// Alternative 1. Case folding makes U+017F (long s) an s.
    #[inline]
    fn contraction(&self, start: usize) -> Option<usize> {
        let rest = &self.scan.bytes()[start..];
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

/// Whether a piece always ends at this place: between a visible ASCII character and a space, or between a line feed
/// and a visible character. No alternative matches across either, and none before looks ahead across.
#[inline]
pub fn is_border(text: &str, at: usize) -> bool {
    let bytes = text.as_bytes();
    match (bytes[at - 1], bytes[at]) {
        (before, b' ') => before.is_ascii_graphic(),
        (b'\n', after) if after < 0x80 => after.is_ascii_graphic(),
        (b'\n', _) => text[at..]
            .chars()
            .next()
            .is_some_and(|c| CLASSES.of(c) != Class::Space),
        _ => false,
    }
}
