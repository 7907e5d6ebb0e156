//! Learning a byte-level BPE vocabulary (Sennrich et al. 2016) over pieces of Llama 3's split rule.
//!
//! Distinct pieces are counted first; they then lie in one arena as linked lists of tokens. Every pair knows its
//! count (64-bit) and where it occurred. One merge touches its occurrences only, so that the whole training is linear
//! in the arena's size up to the heap's logarithm. The most frequent pair goes first, among equals the smallest
//! (left id, right id): the result depends on the text alone, not on its order or the number of threads.

use super::error::Error;
use super::split::{Rule, llama3};
use super::threads;
use super::vocab::{MAX_TOKEN_BYTES, MAX_TOKENS, NONE};
use foldhash::{HashMap, HashMapExt};
use rayon::prelude::*;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Work for one thread at a time, in bytes of text.
const CHUNK_BYTES: usize = 1 << 20;

/// The 256 bytes in the order of GPT-2, tiktoken and Llama 3: visible Latin-1 characters first.
pub fn byte_alphabet() -> Vec<u8> {
    let visible = |byte: &u8| matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
    let (mut first, rest): (Vec<u8>, Vec<u8>) = (0..=255).partition(visible);
    first.extend(rest);
    first
}

/// Counts pieces text by text, then learns merges. Memory grows with the distinct pieces, not with the text.
#[derive(Default)]
pub struct Trainer {
    counts: HashMap<Box<[u8]>, u64>,
}

impl Trainer {
    /// Counts the pieces of these texts.
    pub fn feed(&mut self, texts: &[&str]) {
        let rule = Rule::llama3();
        let parts: Vec<&str> = texts
            .iter()
            .flat_map(|text| rule.stretches(text, CHUNK_BYTES))
            .collect();
        if let [part] = parts[..] {
            merge_counts(&mut self.counts, count_pieces(&[part]));
            return;
        }
        let groups: Vec<&[&str]> = group(&parts);
        let counted: Vec<HashMap<&[u8], u64>> =
            threads::install(|| groups.into_par_iter().map(count_pieces).collect());
        for counts in counted {
            merge_counts(&mut self.counts, counts);
        }
    }

    /// Number of distinct pieces so far.
    pub fn distinct_pieces(&self) -> usize {
        self.counts.len()
    }

    /// The tokens of a vocabulary of exactly `size` base tokens, in the order of their ids.
    pub fn finish(self, size: usize) -> Result<Vec<Vec<u8>>, Error> {
        if !(256..MAX_TOKENS).contains(&size) {
            let what = format!(
                "{size} base tokens were asked for; at least 256 and under {MAX_TOKENS} are possible"
            );
            return Err(Error::TooLarge(what));
        }
        let mut arena = Arena::new(self.counts)?;
        while arena.tokens.len() < size {
            if !arena.merge_best() {
                return Err(Error::TooFewMerges {
                    wanted: size,
                    reached: arena.tokens.len(),
                });
            }
        }
        Ok(arena.tokens)
    }
}

/// Neighbouring texts in groups of about CHUNK_BYTES.
fn group<'a, 't>(texts: &'a [&'t str]) -> Vec<&'a [&'t str]> {
    let (mut groups, mut start, mut bytes) = (Vec::new(), 0, 0);
    for (index, text) in texts.iter().enumerate() {
        bytes += text.len();
        if bytes >= CHUNK_BYTES || index + 1 == texts.len() {
            groups.push(&texts[start..=index]);
            (start, bytes) = (index + 1, 0);
        }
    }
    groups
}

fn count_pieces<'t>(texts: &[&'t str]) -> HashMap<&'t [u8], u64> {
    let mut counts = HashMap::new();
    for text in texts {
        for piece in llama3::pieces(text, llama3::DIGITS) {
            *counts.entry(&text.as_bytes()[piece]).or_insert(0) += 1;
        }
    }
    counts
}

fn merge_counts(total: &mut HashMap<Box<[u8]>, u64>, counts: HashMap<&[u8], u64>) {
    for (piece, count) in counts {
        match total.get_mut(piece) {
            Some(sum) => *sum += count,
            None => {
                total.insert(piece.into(), count);
            }
        }
    }
}

type Pair = (u32, u32);

/// How often a pair occurs, weighted by the counts of its pieces, and where it did when it came into being
/// (ascending; places where it no longer is are recognised when they are visited).
#[derive(Default)]
struct Occurrences {
    count: u64,
    positions: Vec<u32>,
}

/// All distinct pieces as tokens.
struct Arena {
    tokens: Vec<Vec<u8>>,
    /// Token that starts at each position; NONE where a token to the left covers it.
    ids: Vec<u32>,
    next: Vec<u32>,
    previous: Vec<u32>,
    /// Number of the piece that each position belongs to, and the count of each piece.
    piece_of: Vec<u32>,
    counts: Vec<u64>,
    pairs: HashMap<Pair, Occurrences>,
    /// (count when pushed, smallest pair first). Counts only fall, so an entry that is too high is pushed again.
    queue: BinaryHeap<(u64, Reverse<Pair>)>,
}

impl Arena {
    fn new(counts: HashMap<Box<[u8]>, u64>) -> Result<Self, Error> {
        let alphabet = byte_alphabet();
        let mut id_of = [0u32; 256];
        for (id, &byte) in (0u32..).zip(&alphabet) {
            id_of[usize::from(byte)] = id;
        }
        // Pieces of one byte have nothing to merge.
        let pieces: Vec<(Box<[u8]>, u64)> = counts
            .into_iter()
            .filter(|(piece, _)| piece.len() > 1)
            .collect();
        let total: usize = pieces.iter().map(|(piece, _)| piece.len()).sum();
        if total >= NONE as usize {
            let what =
                format!("the distinct pieces take {total} bytes; at most {NONE} are possible");
            return Err(Error::TooLarge(what));
        }
        let mut arena = Self {
            tokens: alphabet.iter().map(|&byte| vec![byte]).collect(),
            ids: Vec::with_capacity(total),
            next: Vec::with_capacity(total),
            previous: Vec::with_capacity(total),
            piece_of: Vec::with_capacity(total),
            counts: Vec::with_capacity(pieces.len()),
            pairs: HashMap::new(),
            queue: BinaryHeap::new(),
        };
        for (piece, count) in pieces {
            arena.append(&piece, count, &id_of);
        }
        arena.queue = arena
            .pairs
            .iter()
            .map(|(&pair, found)| (found.count, Reverse(pair)))
            .collect();
        Ok(arena)
    }

    fn append(&mut self, piece: &[u8], count: u64, id_of: &[u32; 256]) {
        let (number, start) = (self.counts.len() as u32, self.ids.len() as u32);
        let end = start + piece.len() as u32;
        self.counts.push(count);
        for (at, &byte) in (start..).zip(piece) {
            self.ids.push(id_of[usize::from(byte)]);
            self.piece_of.push(number);
            self.previous.push(if at == start { NONE } else { at - 1 });
            self.next.push(if at + 1 == end { NONE } else { at + 1 });
        }
        for at in start..end - 1 {
            self.add(at, at + 1);
        }
    }

    /// Carries out the best merge. False: no pair is left.
    fn merge_best(&mut self) -> bool {
        while let Some((count, Reverse(pair))) = self.queue.pop() {
            let now = self.pairs.get(&pair).map_or(0, |found| found.count);
            if now == 0 {
                self.pairs.remove(&pair);
                continue;
            }
            if now < count {
                self.queue.push((now, Reverse(pair)));
                continue;
            }
            let bytes = [
                &self.tokens[pair.0 as usize][..],
                &self.tokens[pair.1 as usize][..],
            ]
            .concat();
            if bytes.len() > MAX_TOKEN_BYTES {
                continue;
            }
            self.merge(pair, bytes);
            return true;
        }
        false
    }

    /// Replaces every occurrence of `pair`, leftmost first where they overlap, by a new token.
    fn merge(&mut self, pair: Pair, bytes: Vec<u8>) {
        let merged = self.tokens.len() as u32;
        self.tokens.push(bytes);
        let Some(found) = self.pairs.remove(&pair) else {
            return;
        };
        let mut born = Vec::new();
        for at in found.positions {
            let right = self.next[at as usize];
            if self.ids[at as usize] != pair.0
                || right == NONE
                || self.ids[right as usize] != pair.1
            {
                continue;
            }
            let (before, after) = (self.previous[at as usize], self.next[right as usize]);
            if before != NONE {
                self.subtract(before, at);
            }
            if after != NONE {
                self.subtract(right, after);
            }
            self.ids[at as usize] = merged;
            self.ids[right as usize] = NONE;
            self.next[at as usize] = after;
            if after != NONE {
                self.previous[after as usize] = at;
                born.extend(self.add(at, after));
            }
            if before != NONE {
                born.extend(self.add(before, at));
            }
        }
        for pair in born {
            if let Some(found) = self.pairs.get(&pair) {
                self.queue.push((found.count, Reverse(pair)));
            }
        }
    }

    /// Counts the pair of the tokens at two neighbouring positions; returns it if it is new.
    fn add(&mut self, left: u32, right: u32) -> Option<Pair> {
        let pair = (self.ids[left as usize], self.ids[right as usize]);
        let weight = self.counts[self.piece_of[left as usize] as usize];
        let found = self.pairs.entry(pair).or_default();
        found.count += weight;
        found.positions.push(left);
        (found.positions.len() == 1).then_some(pair)
    }

    /// Takes back one occurrence. The pair being merged is gone from the table already and needs no count.
    fn subtract(&mut self, left: u32, right: u32) {
        let pair = (self.ids[left as usize], self.ids[right as usize]);
        let weight = self.counts[self.piece_of[left as usize] as usize];
        if let Some(found) = self.pairs.get_mut(&pair) {
            found.count -= weight;
        }
    }
}
