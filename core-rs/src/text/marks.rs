//! One scan of a text, 64 bytes at a time: for every class of characters a bit per byte. What rules count are then
//! counts of bits, and lines, tokens and the ends of sentences are found without a branch per byte.
//!
//! A character that is not ASCII is looked up once: its first byte has the bits of its class, its other bytes those of
//! whitespace only, and `follows`.

use std::ops::Range;

const BLOCK: usize = 64;

/// Bit `i` stands for byte `i` of the block; behind the end of the text all are 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Block {
    /// Not the first byte of a character.
    pub follows: u64,
    /// Not ASCII.
    pub high: u64,
    pub space: u64,
    pub newline: u64,
    /// Letters: Unicode's Alphabetic.
    pub letter: u64,
    /// Numbers that are no letters.
    pub digit: u64,
    /// + / _ -
    pub joint: u64,
    /// . ! ?
    pub stop: u64,
    pub dot: u64,
    pub hash: u64,
    pub colon: u64,
    pub at: u64,
    pub bracket: u64,
    pub curly: u64,
}

type ScanFn = fn(&[u8], &mut Vec<Block>);

/// The bits of one text; its memory serves the next.
#[derive(Debug, Default)]
pub struct Marks {
    pub blocks: Vec<Block>,
    /// Bytes that follow before each block.
    follow_before: Vec<u32>,
    length: usize,
    /// Characters that are three dots in one.
    pub ellipses: u64,
    pub is_ascii: bool,
}

impl Marks {
    /// Looks at all bytes; of characters that are not ASCII only `high` and `follows` are known.
    pub fn scan(&mut self, text: &str) {
        self.blocks.clear();
        best_scan()(text.as_bytes(), &mut self.blocks);
        self.length = text.len();
        self.ellipses = 0;
        self.is_ascii = self.blocks.iter().all(|block| block.high == 0);
        self.follow_before.clear();
        if !self.is_ascii {
            let mut before = 0;
            self.follow_before.extend(self.blocks.iter().map(|block| {
                let here = before;
                before += block.follows.count_ones();
                here
            }));
        }
    }

    /// Looks at all characters.
    pub fn read(&mut self, text: &str) {
        self.scan(text);
        if self.is_ascii {
            return;
        }
        for number in 0..self.blocks.len() {
            let block = self.blocks[number];
            for bit in bits(block.high & !block.follows) {
                let start = number * BLOCK + bit;
                let Some(c) = text[start..].chars().next() else {
                    continue;
                };
                let block = &mut self.blocks[number];
                if c.is_alphabetic() {
                    block.letter |= 1 << bit;
                } else if c.is_whitespace() {
                    for byte in start..start + c.len_utf8() {
                        self.blocks[byte / BLOCK].space |= 1 << (byte % BLOCK);
                    }
                } else if c.is_numeric() {
                    block.digit |= 1 << bit;
                } else if c == '…' {
                    self.ellipses += 1;
                }
            }
        }
    }

    /// Characters of the text.
    #[must_use]
    pub fn chars(&self) -> u64 {
        self.length as u64 - self.count(|block| block.follows)
    }

    /// Bits of all blocks.
    #[must_use]
    pub fn count(&self, class: impl Fn(&Block) -> u64) -> u64 {
        let ones = |block| u64::from(class(block).count_ones());
        self.blocks.iter().map(ones).sum()
    }

    /// Characters that lie in these bytes.
    #[must_use]
    pub fn chars_in(&self, bytes: Range<usize>) -> u64 {
        let follow = |end: usize| match self.blocks.get(end / BLOCK) {
            Some(block) => u64::from(
                self.follow_before[end / BLOCK] + (block.follows & below(end)).count_ones(),
            ),
            None => self.count(|block| block.follows),
        };
        let length = bytes.len() as u64;
        if self.is_ascii {
            length
        } else {
            length - (follow(bytes.end) - follow(bytes.start))
        }
    }

    /// Whether one of these bytes has a bit.
    #[inline]
    pub fn any(&self, bytes: Range<usize>, class: impl Fn(&Block) -> u64) -> bool {
        if bytes.is_empty() {
            return false;
        }
        let (first, last) = (bytes.start / BLOCK, (bytes.end - 1) / BLOCK);
        let front = class(&self.blocks[first]) & !below(bytes.start);
        let until = !0 >> (BLOCK - 1 - (bytes.end - 1) % BLOCK);
        if first == last {
            return front & until != 0;
        }
        front != 0
            || self.blocks[first + 1..last]
                .iter()
                .any(|block| class(block) != 0)
            || class(&self.blocks[last]) & until != 0
    }

    /// The bytes without whitespace at their ends.
    #[must_use]
    pub fn trimmed(&self, bytes: Range<usize>) -> Range<usize> {
        let Range { mut start, mut end } = bytes;
        while start < end {
            let at = start % BLOCK;
            let ink = !self.blocks[start / BLOCK].space >> at;
            let spaces = (ink.trailing_zeros() as usize).min(BLOCK - at);
            start += spaces;
            if spaces < BLOCK - at {
                break;
            }
        }
        while start < end {
            let at = (end - 1) % BLOCK;
            let ink = !self.blocks[(end - 1) / BLOCK].space << (BLOCK - 1 - at);
            let spaces = (ink.leading_zeros() as usize).min(at + 1);
            end -= spaces;
            if spaces < at + 1 {
                break;
            }
        }
        start.min(end)..end
    }

    /// Where bytes have a bit, ascending. `class` is asked of one block after another.
    pub fn places<C: FnMut(&Block) -> u64>(&self, class: C) -> Places<'_, C> {
        Places {
            blocks: self.blocks.iter(),
            class,
            mask: 0,
            next: 0,
        }
    }

    /// The lines between line breaks, which are in none of them, as `str::split` gives them.
    pub fn lines(&self) -> impl Iterator<Item = Range<usize>> {
        let mut start = 0;
        let ends = self.places(|block| block.newline);
        ends.chain(std::iter::once(self.length)).map(move |end| {
            let line = start..end;
            start = end + 1;
            line
        })
    }

    /// The longest runs of bytes that all have a bit.
    pub fn runs(&self, class: impl Fn(&Block) -> u64) -> impl Iterator<Item = Range<usize>> {
        let mut before = 0;
        let mut turns = self.places(move |block| {
            let mask = class(block);
            let turns = mask ^ (mask << 1 | before);
            before = mask >> (BLOCK - 1);
            turns
        });
        let length = self.length;
        std::iter::from_fn(move || Some(turns.next()?..turns.next().unwrap_or(length)))
    }

    /// What whitespace separates.
    pub fn tokens(&self) -> impl Iterator<Item = Range<usize>> {
        self.runs(|block| !block.space)
            .filter(|run| !run.is_empty())
    }

    /// Of these, all and those with a letter.
    #[must_use]
    pub fn token_counts(&self) -> (u64, u64) {
        let (mut tokens, mut with_letter) = (0, 0);
        let (mut ink_before, mut no_letter_yet) = (0, 0u64);
        for (number, block) in self.blocks.iter().enumerate() {
            let ink = !block.space & self.within(number);
            let starts = ink & !(ink << 1 | ink_before);
            ink_before = ink >> (BLOCK - 1);
            tokens += u64::from(starts.count_ones());
            // A sum carries each start over the signs that are no letters to what stands behind them.
            let signs = ink & !block.letter;
            let (sum, over) = signs.overflowing_add(starts & signs);
            let (sum, more) = sum.overflowing_add(no_letter_yet);
            no_letter_yet = u64::from(over | more);
            let first = (starts | (sum & !signs)) & block.letter;
            with_letter += u64::from(first.count_ones());
        }
        (tokens, with_letter)
    }

    /// Runs of three dots or more, and characters that are as much.
    #[must_use]
    pub fn ellipses(&self) -> u64 {
        let mut before = 0u64;
        let of_block = |block: &Block| {
            let [one, two, three] =
                [1, 2, 3].map(|back| block.dot << back | before >> (BLOCK - back));
            before = block.dot;
            u64::from((block.dot & one & two & !three).count_ones())
        };
        self.blocks.iter().map(of_block).sum::<u64>() + self.ellipses
    }

    /// The bits of a block that stand for bytes of the text.
    fn within(&self, number: usize) -> u64 {
        match self.length - number * BLOCK {
            rest if rest < BLOCK => below(rest),
            _ => !0,
        }
    }
}

/// See [`Marks::places`].
pub struct Places<'a, C> {
    blocks: std::slice::Iter<'a, Block>,
    class: C,
    mask: u64,
    /// The first byte of the block that comes next.
    next: usize,
}

impl<C: FnMut(&Block) -> u64> Iterator for Places<'_, C> {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        while self.mask == 0 {
            self.mask = (self.class)(self.blocks.next()?);
            self.next += BLOCK;
        }
        let bit = self.mask.trailing_zeros() as usize;
        self.mask &= self.mask - 1;
        Some(self.next - BLOCK + bit)
    }
}

/// The bits before a byte in its block.
fn below(byte: usize) -> u64 {
    (1 << (byte % BLOCK)) - 1
}

fn bits(mut mask: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = mask.trailing_zeros() as usize;
        mask &= mask.wrapping_sub(1);
        (bit < BLOCK).then_some(bit)
    })
}

/// Inlined, so that `of_block` is compiled for the instruction set of the caller.
#[inline(always)]
fn each_block(bytes: &[u8], blocks: &mut Vec<Block>, of_block: impl Fn(&[u8; BLOCK]) -> Block) {
    let (whole, rest) = bytes.as_chunks::<BLOCK>();
    blocks.extend(whole.iter().map(&of_block));
    if !rest.is_empty() {
        let mut last = [0; BLOCK];
        last[..rest.len()].copy_from_slice(rest);
        blocks.push(of_block(&last));
    }
}

/// The plain version, and the oracle of the others.
fn scan_plain(bytes: &[u8], blocks: &mut Vec<Block>) {
    each_block(bytes, blocks, |block| {
        let mask = |is: fn(u8) -> bool| {
            let bit = |(i, &byte): (usize, &u8)| u64::from(is(byte)) << i;
            block.iter().enumerate().map(bit).sum::<u64>()
        };
        Block {
            follows: mask(|byte| byte & 0xc0 == 0x80),
            high: mask(|byte| byte >= 0x80),
            space: mask(|byte| matches!(byte, b'\t'..=b'\r' | b' ')),
            newline: mask(|byte| byte == b'\n'),
            letter: mask(|byte| byte.is_ascii_alphabetic()),
            digit: mask(|byte| byte.is_ascii_digit()),
            joint: mask(|byte| matches!(byte, b'+' | b'/' | b'_' | b'-')),
            stop: mask(|byte| matches!(byte, b'.' | b'!' | b'?')),
            dot: mask(|byte| byte == b'.'),
            hash: mask(|byte| byte == b'#'),
            colon: mask(|byte| byte == b':'),
            at: mask(|byte| byte == b'@'),
            bracket: mask(|byte| byte == b'['),
            curly: mask(|byte| byte == b'{'),
        }
    });
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn scan_avx2(bytes: &[u8], blocks: &mut Vec<Block>) {
    use std::arch::x86_64::{
        __m256i, _mm256_and_si256, _mm256_cmpeq_epi8, _mm256_loadu_si256, _mm256_min_epu8,
        _mm256_movemask_epi8, _mm256_or_si256, _mm256_set1_epi8, _mm256_sub_epi8,
    };
    type Half = __m256i;
    let same = |x: Half, byte: u8| _mm256_cmpeq_epi8(x, _mm256_set1_epi8(byte as i8));
    let within = |x: Half, first: u8, count: i8| {
        let place = _mm256_sub_epi8(x, _mm256_set1_epi8(first as i8));
        _mm256_cmpeq_epi8(_mm256_min_epu8(place, _mm256_set1_epi8(count - 1)), place)
    };
    let either = |a: Half, b: Half| _mm256_or_si256(a, b);
    let load = |half: &[u8]| {
        // SAFETY: halves of a block hold the 32 bytes that are loaded.
        unsafe { _mm256_loadu_si256(half.as_ptr().cast::<Half>()) }
    };
    let of_block = |block: &[u8; BLOCK]| {
        let (low, high) = block.split_at(BLOCK / 2);
        let (low, high) = (load(low), load(high));
        let join = |low: Half, high: Half| {
            u64::from(_mm256_movemask_epi8(low) as u32)
                | u64::from(_mm256_movemask_epi8(high) as u32) << 32
        };
        let equal = |byte: u8| join(same(low, byte), same(high, byte));
        let top = |x: Half| _mm256_and_si256(x, _mm256_set1_epi8(0xc0u8 as i8));
        let letter = |x: Half| within(either(x, _mm256_set1_epi8(0x20)), b'a', 26);
        let space = |x: Half| either(within(x, b'\t', 5), same(x, b' '));
        let (dot, newline) = (equal(b'.'), equal(b'\n'));
        Block {
            follows: join(same(top(low), 0x80), same(top(high), 0x80)),
            high: join(low, high),
            space: join(space(low), space(high)),
            newline,
            letter: join(letter(low), letter(high)),
            digit: join(within(low, b'0', 10), within(high, b'0', 10)),
            joint: equal(b'+') | equal(b'/') | equal(b'_') | equal(b'-'),
            stop: dot | equal(b'!') | equal(b'?'),
            dot,
            hash: equal(b'#'),
            colon: equal(b':'),
            at: equal(b'@'),
            bracket: equal(b'['),
            curly: equal(b'{'),
        }
    };
    each_block(bytes, blocks, of_block);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw")]
fn scan_avx512(bytes: &[u8], blocks: &mut Vec<Block>) {
    use std::arch::x86_64::{
        __m512i, _mm512_cmpeq_epi8_mask, _mm512_cmplt_epu8_mask, _mm512_loadu_si512,
        _mm512_movepi8_mask, _mm512_or_si512, _mm512_set1_epi8, _mm512_sub_epi8,
        _mm512_test_epi8_mask,
    };
    let of_block = |block: &[u8; BLOCK]| {
        // SAFETY: a block holds the 64 bytes that are loaded.
        let x = unsafe { _mm512_loadu_si512(block.as_ptr().cast::<__m512i>()) };
        let all = |byte: u8| _mm512_set1_epi8(byte as i8);
        let equal = |byte: u8| _mm512_cmpeq_epi8_mask(x, all(byte));
        let within = |x: __m512i, first: u8, count: u8| {
            _mm512_cmplt_epu8_mask(_mm512_sub_epi8(x, all(first)), all(count))
        };
        let high = _mm512_movepi8_mask(x);
        let dot = equal(b'.');
        Block {
            follows: high & !_mm512_test_epi8_mask(x, all(0x40)),
            high,
            space: within(x, b'\t', 5) | equal(b' '),
            newline: equal(b'\n'),
            letter: within(_mm512_or_si512(x, all(0x20)), b'a', 26),
            digit: within(x, b'0', 10),
            joint: equal(b'+') | equal(b'/') | equal(b'_') | equal(b'-'),
            stop: dot | equal(b'!') | equal(b'?'),
            dot,
            hash: equal(b'#'),
            colon: equal(b':'),
            at: equal(b'@'),
            bracket: equal(b'['),
            curly: equal(b'{'),
        }
    };
    each_block(bytes, blocks, of_block);
}

#[cfg(target_arch = "x86_64")]
fn best_scan() -> ScanFn {
    if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") {
        // SAFETY: the processor has AVX-512F and BW, the only things the function needs beyond the baseline.
        |bytes, blocks| unsafe { scan_avx512(bytes, blocks) }
    } else if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2, the only thing the function needs beyond the baseline.
        |bytes, blocks| unsafe { scan_avx2(bytes, blocks) }
    } else {
        scan_plain
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn best_scan() -> ScanFn {
    scan_plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn marks(text: &str) -> Marks {
        let mut marks = Marks::default();
        marks.read(text);
        marks
    }

    /// Texts that are longer than a block, with whitespace and signs of several bytes.
    const TEXTS: &str = "([ab.:#@+ \\n\\r\\t1\u{2003}é漢…—٣]{0,40}|[a-z .]{60,70}|\\n{0,3}){0,5}";

    proptest! {
        #[test]
        fn instruction_sets_agree(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let (mut plain, mut best) = (vec![], vec![]);
            scan_plain(&bytes, &mut plain);
            best_scan()(&bytes, &mut best);
            prop_assert_eq!(&plain, &best);
            #[cfg(target_arch = "x86_64")]
            if is_x86_feature_detected!("avx2") {
                best.clear();
                // SAFETY: the processor has AVX2.
                unsafe { scan_avx2(&bytes, &mut best) };
                prop_assert_eq!(plain, best);
            }
        }

        #[test]
        fn parts_are_those_of_the_library(text in TEXTS) {
            let marks = marks(&text);
            let texts = |ranges: Vec<Range<usize>>| -> Vec<&str> {
                ranges.into_iter().map(|range| &text[range]).collect()
            };
            prop_assert_eq!(texts(marks.lines().collect()), text.split('\n').collect::<Vec<_>>());
            prop_assert_eq!(texts(marks.tokens().collect()), text.split_whitespace().collect::<Vec<_>>());
            for line in marks.lines() {
                prop_assert_eq!(marks.chars_in(line.clone()), text[line.clone()].chars().count() as u64);
                prop_assert_eq!(&text[marks.trimmed(line.clone())], text[line.clone()].trim());
                let digits = text[line.clone()].contains(char::is_numeric);
                prop_assert_eq!(marks.any(line, |block| block.digit), digits);
            }
            prop_assert_eq!(marks.chars(), text.chars().count() as u64);
        }
    }
}
