//! Byte-pair merging of one piece: repeatedly the leftmost pair of lowest rank, until no pair is left that merges.

use super::vocab::{Merges, NONE, Vocab};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Pieces up to this length are merged in place by scanning; longer ones through a heap.
const SCAN_BYTES: usize = 48;
/// Buffers that grew beyond this many entries for one giant piece are given back after it.
const KEPT_ENTRIES: usize = 1 << 16;

/// Reusable buffers of the heap path.
#[derive(Default)]
pub struct Merger {
    ids: Vec<u32>,
    ranks: Vec<u32>,
    next: Vec<u32>,
    previous: Vec<u32>,
    heap: Vec<Reverse<u64>>,
}

impl Merger {
    /// Appends the tokens of `piece` (up to 4 GiB of bytes that are tokens).
    #[inline]
    pub fn merge(&mut self, vocab: &Vocab, merges: &Merges, piece: &[u8], out: &mut Vec<u32>) {
        if piece.len() <= SCAN_BYTES {
            merge_by_scan(vocab, merges, piece, out);
        } else {
            self.merge_by_heap(vocab, merges, piece, out);
        }
    }

    /// O(n log n): a doubly linked list of tokens and a heap of (rank, position). `ranks[i]` is the rank of token i
    /// with its right neighbour; a heap entry that disagrees with it is out of date.
    fn merge_by_heap(&mut self, vocab: &Vocab, merges: &Merges, piece: &[u8], out: &mut Vec<u32>) {
        let length = piece.len(); // over SCAN_BYTES
        self.start(vocab, merges, piece);
        let mut heap = BinaryHeap::from(std::mem::take(&mut self.heap));
        while let Some(Reverse(entry)) = heap.pop() {
            let (rank, at) = ((entry >> 32) as u32, entry as u32 as usize);
            if self.ranks[at] != rank {
                continue;
            }
            let gone = self.next[at] as usize;
            let after = self.next[gone] as usize;
            self.ids[at] = merges.result(rank);
            self.ranks[gone] = NONE;
            self.next[at] = after as u32;
            self.ranks[at] = NONE;
            if after < length {
                self.previous[after] = at as u32;
                self.offer(merges, at, after, &mut heap);
            }
            let before = self.previous[at];
            if before != NONE {
                self.offer(merges, before as usize, at, &mut heap);
            }
        }
        self.heap = heap.into_vec();
        let mut at = 0;
        while at < length {
            out.push(self.ids[at]);
            at = self.next[at] as usize;
        }
        self.shrink();
    }

    fn start(&mut self, vocab: &Vocab, merges: &Merges, piece: &[u8]) {
        let length = piece.len() as u32;
        self.ids.clear();
        self.ids
            .extend(piece.iter().map(|&byte| vocab.byte_id(byte)));
        self.ranks.clear();
        self.ranks.extend(
            piece
                .windows(2)
                .map(|pair| merges.byte_pair_rank(pair[0], pair[1])),
        );
        self.ranks.push(NONE);
        self.next.clear();
        self.next.extend(1..=length);
        self.previous.clear();
        self.previous.push(NONE);
        self.previous.extend(0..length - 1);
        self.heap.clear();
        let entries = (0u64..).zip(&self.ranks).filter(|&(_, &rank)| rank != NONE);
        self.heap
            .extend(entries.map(|(at, &rank)| Reverse(u64::from(rank) << 32 | at)));
    }

    #[inline]
    fn offer(
        &mut self,
        merges: &Merges,
        left: usize,
        right: usize,
        heap: &mut BinaryHeap<Reverse<u64>>,
    ) {
        let rank = merges.rank(self.ids[left], self.ids[right]);
        self.ranks[left] = rank;
        if rank != NONE {
            heap.push(Reverse(u64::from(rank) << 32 | left as u64));
        }
    }

    fn shrink(&mut self) {
        if self.ids.capacity() > KEPT_ENTRIES {
            *self = Self::default();
        }
    }
}

/// O(n^2) with n bounded by SCAN_BYTES: arrays on the stack, the lowest rank found by scanning.
fn merge_by_scan(vocab: &Vocab, merges: &Merges, piece: &[u8], out: &mut Vec<u32>) {
    let mut ids = [0u32; SCAN_BYTES];
    let mut ranks = [NONE; SCAN_BYTES];
    let mut count = piece.len();
    for (id, &byte) in ids.iter_mut().zip(piece) {
        *id = vocab.byte_id(byte);
    }
    for (rank, pair) in ranks.iter_mut().zip(piece.windows(2)) {
        *rank = merges.byte_pair_rank(pair[0], pair[1]);
    }
    loop {
        // ranks[count - 1] stays NONE: the last token has no right neighbour.
        let (mut at, mut lowest) = (0, NONE);
        for (index, &rank) in ranks[..count].iter().enumerate() {
            if rank < lowest {
                (at, lowest) = (index, rank);
            }
        }
        if lowest == NONE {
            break;
        }
        ids[at] = merges.result(lowest);
        ids.copy_within(at + 2..count, at + 1);
        ranks.copy_within(at + 1..count, at);
        count -= 1;
        ranks[at] = if at + 1 < count {
            merges.rank(ids[at], ids[at + 1])
        } else {
            NONE
        };
        if at > 0 {
            ranks[at - 1] = merges.rank(ids[at - 1], ids[at]);
        }
    }
    out.extend_from_slice(&ids[..count]);
}
