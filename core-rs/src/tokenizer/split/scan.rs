//! Walks over a text character class by character class: what the hand-written split rules have in common.

use crate::tokenizer::unicode::{CLASSES, Class, ClassTable};

/// A text and the table of its characters' classes.
#[derive(Clone, Copy)]
pub struct Scan<'t> {
    text: &'t str,
    classes: &'static ClassTable,
}

impl<'t> Scan<'t> {
    pub fn new(text: &'t str) -> Self {
        Self {
            text,
            classes: &CLASSES,
        }
    }

    #[inline]
    pub fn bytes(&self) -> &'t [u8] {
        self.text.as_bytes()
    }

    /// Class of the character at `position` and the position after it; None at the end of the text.
    #[inline]
    pub fn class_at(&self, position: usize) -> Option<(Class, usize)> {
        let byte = *self.text.as_bytes().get(position)?;
        if byte < 0x80 {
            return Some((self.classes.of_ascii(byte), position + 1));
        }
        let c = self.text[position..].chars().next()?;
        Some((self.classes.of(c), position + c.len_utf8()))
    }

    /// The end of the run of `wanted` characters that begins at `position` (and may be empty).
    #[inline]
    pub fn run_of(&self, mut position: usize, wanted: Class) -> usize {
        while let Some((class, after)) = self.class_at(position) {
            if class != wanted {
                break;
            }
            position = after;
        }
        position
    }

    /// The whitespace run at `start`: its end, where its last character begins, and the position after its last
    /// line break if it has one.
    #[inline]
    pub fn whitespace(&self, start: usize) -> Whitespace {
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
        // `\s+(?!\S)`, else `\s+`: the last character goes with what follows, unless it is alone or nothing follows.
        let stop = if end == self.text.len() || last == start {
            end
        } else {
            last
        };
        Whitespace { stop, after_break }
    }
}

/// Where a piece that begins with whitespace may end.
pub struct Whitespace {
    /// The end of `\s+(?!\S)|\s+`.
    pub stop: usize,
    /// The end of `\s*[\r\n]+`.
    pub after_break: Option<usize>,
}
