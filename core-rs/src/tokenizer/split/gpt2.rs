//! GPT-2's split rule, in one pass and linear time. Each branch names the alternative of `PATTERN` it implements:
//! 1. `'s|'t|'re|'ve|'m|'ll|'d`   2. ` ?\p{L}+`   3. ` ?\p{N}+`   4. ` ?[^\s\p{L}\p{N}]+`   5. `\s+(?!\S)`   6. `\s+`

use super::scan::Scan;
use crate::tokenizer::unicode::Class;
use std::ops::Range;

pub const PATTERN: &str =
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// Iterator over the pieces of a text, as byte ranges that follow one another without gaps.
pub struct Pieces<'t> {
    scan: Scan<'t>,
    position: usize,
}

pub fn pieces(text: &str) -> Pieces<'_> {
    Pieces {
        scan: Scan::new(text),
        position: 0,
    }
}

impl Iterator for Pieces<'_> {
    type Item = Range<usize>;

    #[inline]
    fn next(&mut self) -> Option<Range<usize>> {
        let (scan, start) = (self.scan, self.position);
        let (class, after) = scan.class_at(start)?;
        let end = match class {
            Class::Letter | Class::Number => scan.run_of(after, class), // 2, 3
            Class::Other => match contraction(&scan.bytes()[start..]) {
                Some(length) => start + length,    // 1
                None => scan.run_of(after, class), // 4
            },
            Class::Space | Class::LineBreak => match scan.class_at(after) {
                Some((next @ (Class::Letter | Class::Number | Class::Other), after))
                    if scan.bytes()[start] == b' ' =>
                {
                    scan.run_of(after, next) // 2, 3, 4
                }
                _ => scan.whitespace(start).stop, // 5, 6
            },
        };
        self.position = end;
        Some(start..end)
    }
}

/// Length of the contraction that `rest` begins with.
#[inline]
fn contraction(rest: &[u8]) -> Option<usize> {
    match rest {
        [b'\'', b's' | b't' | b'm' | b'd', ..] => Some(2),
        [b'\'', b'r' | b'v', b'e', ..] | [b'\'', b'l', b'l', ..] => Some(3),
        _ => None,
    }
}

/// Whether a piece always ends between these two bytes, whatever stands around them: a visible ASCII character and
/// ASCII whitespace. No alternative matches across, and none before looks ahead across.
#[inline]
pub fn is_border(before: u8, after: u8) -> bool {
    before.is_ascii_graphic() && matches!(after, b' ' | b'\t' | b'\n' | b'\r')
}
