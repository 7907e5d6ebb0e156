//! The five character classes that Llama 3's split rule tells apart, as a two-stage table over all code points.
//! The classes come from `regex-syntax`, the tables behind the `regex` crate and so behind tiktoken.

use regex_syntax::hir::{Class as HirClass, HirKind};
use std::collections::HashMap;
use std::sync::LazyLock;

/// Class of a code point. Marks, symbols, punctuation, controls and unassigned code points are `Other`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Class {
    /// `[^\s\p{L}\p{N}]`
    Other,
    /// `\p{L}`
    Letter,
    /// `\p{N}`
    Number,
    /// `\s` (White_Space) without carriage return and line feed
    Space,
    /// `[\r\n]`
    LineBreak,
}

const BLOCK: usize = 128;
const CODE_POINTS: usize = 0x11_0000;

/// Two-stage table: code point / 128 -> block number -> class.
pub struct ClassTable {
    ascii: [Class; BLOCK],
    block_of: Vec<u8>,
    blocks: Vec<[Class; BLOCK]>,
}

/// Built once, at first use (well under a millisecond).
pub static CLASSES: LazyLock<ClassTable> = LazyLock::new(ClassTable::build);

impl ClassTable {
    fn build() -> Self {
        let mut flat = vec![Class::Other; CODE_POINTS];
        for (pattern, class) in [
            (r"\p{L}", Class::Letter),
            (r"\p{N}", Class::Number),
            (r"\s", Class::Space),
            (r"[\r\n]", Class::LineBreak),
        ] {
            for (first, last) in ranges(pattern) {
                flat[first as usize..=last as usize].fill(class);
            }
        }
        let mut known: HashMap<[Class; BLOCK], u8> = HashMap::new();
        let (mut block_of, mut blocks) = (Vec::with_capacity(CODE_POINTS / BLOCK), Vec::new());
        for chunk in flat.chunks_exact(BLOCK) {
            let mut block = [Class::Other; BLOCK];
            block.copy_from_slice(chunk);
            let number = *known.entry(block).or_insert_with(|| {
                blocks.push(block);
                u8::try_from(blocks.len() - 1)
                    .expect("Unicode needs fewer than 256 distinct blocks")
            });
            block_of.push(number);
        }
        Self {
            ascii: blocks[0],
            block_of,
            blocks,
        }
    }

    /// Class of any character.
    #[inline]
    pub fn of(&self, c: char) -> Class {
        let code = c as usize;
        self.blocks[usize::from(self.block_of[code / BLOCK])][code % BLOCK]
    }

    /// Class of an ASCII byte.
    #[inline]
    pub fn of_ascii(&self, byte: u8) -> Class {
        self.ascii[usize::from(byte) & (BLOCK - 1)]
    }
}

/// Code point ranges of a regex that is one character class. The patterns are constants of this file.
fn ranges(pattern: &str) -> Vec<(u32, u32)> {
    let hir = regex_syntax::parse(pattern).expect("a constant pattern");
    match hir.kind() {
        HirKind::Class(HirClass::Unicode(class)) => class
            .iter()
            .map(|range| (range.start() as u32, range.end() as u32))
            .collect(),
        HirKind::Class(HirClass::Bytes(class)) => class
            .iter()
            .map(|range| (u32::from(range.start()), u32::from(range.end())))
            .collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fancy_regex::Regex;

    #[test]
    fn every_code_point_has_the_class_that_the_regex_engine_gives_it() {
        let expressions = [
            (Regex::new(r"^[\r\n]$").unwrap(), Class::LineBreak),
            (Regex::new(r"^\p{L}$").unwrap(), Class::Letter),
            (Regex::new(r"^\p{N}$").unwrap(), Class::Number),
            (Regex::new(r"^\s$").unwrap(), Class::Space),
        ];
        for c in (0..=0x10_FFFFu32).filter_map(char::from_u32) {
            let text = c.to_string();
            let expected = expressions
                .iter()
                .find(|(regex, _)| regex.is_match(&text).unwrap())
                .map_or(Class::Other, |&(_, class)| class);
            assert_eq!(CLASSES.of(c), expected, "U+{:04X}", c as u32);
        }
    }
}
