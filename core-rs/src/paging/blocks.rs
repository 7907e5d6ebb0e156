//! Blocks: who holds them, what they contain, which of them are free and in which order they are reused.
//!
//! A block is *held* by the rows whose tables name it (`refs`) and by pins. A block nobody holds is either `empty`
//! or *cached*: published under its key, findable, and evicted least recently used first. Block 0 is the null
//! block: it pads tables and closes the ring of cached blocks.

use super::Error;
use super::keys::{Key, UniformState};
use std::collections::HashMap;

pub const NULL: usize = 0;

/// No copy into this block is pending.
const NO_COPY: u32 = u32::MAX;

#[derive(Clone)]
pub struct Block {
    /// Table cells that name this block.
    pub refs: u32,
    /// Rows that end inside this block: the next token of each of them is written here.
    pub open: u32,
    pub pins: u32,
    /// Keys of the block before it and of its own content; set once it is full of verified tokens.
    pub parent: Key,
    pub key: Option<Key>,
    /// The prefix map names this block.
    pub published: bool,
    pub prev: u32,
    pub next: u32,
    copy: u32,
}

impl Block {
    const EMPTY: Self = Self {
        refs: 0,
        open: 0,
        pins: 0,
        parent: 0,
        key: None,
        published: false,
        prev: 0,
        next: 0,
        copy: NO_COPY,
    };

    #[must_use]
    pub fn holders(&self) -> u32 {
        self.refs + self.pins
    }

    /// Copies that the open rows may still need: each copies before it writes while anybody else holds the block,
    /// so the last holder writes in place.
    #[must_use]
    pub fn pledge(&self) -> u32 {
        if self.open == self.holders() {
            self.open.saturating_sub(1)
        } else {
            self.open
        }
    }
}

/// How a block's holders change.
#[derive(Clone, Copy, Default)]
pub struct Change {
    pub refs: i32,
    pub open: i32,
    pub pins: i32,
}

impl Change {
    fn apply(self, block: &mut Block) {
        block.refs = block.refs.saturating_add_signed(self.refs);
        block.open = block.open.saturating_add_signed(self.open);
        block.pins = block.pins.saturating_add_signed(self.pins);
    }
}

pub struct Blocks {
    pub blocks: Vec<Block>,
    /// Content of all blocks, `size` tokens each.
    pub tokens: Vec<u32>,
    pub size: usize,
    pub empty: Vec<u32>,
    pub cached: usize,
    pub map: HashMap<Key, u32, UniformState>,
    /// Sum of `pledge` over all blocks: free blocks that copy-on-write may still need.
    pub pledged: u64,
    pub evictions: u64,
    copies: Vec<Option<(u32, u32)>>,
}

#[allow(clippy::cast_possible_truncation)]
impl Blocks {
    /// `count` blocks of `size` tokens, block 0 of which is never handed out.
    ///
    /// # Errors
    /// `Error::Memory` if they cannot be allocated.
    pub fn new(count: usize, size: usize) -> Result<Self, Error> {
        let mut blocks = Vec::new();
        blocks.try_reserve_exact(count).map_err(|_| Error::Memory)?;
        blocks.resize(count, Block::EMPTY);
        let mut tokens = Vec::new();
        let cells = count.checked_mul(size).ok_or(Error::Memory)?;
        tokens.try_reserve_exact(cells).map_err(|_| Error::Memory)?;
        tokens.resize(cells, 0);
        Ok(Self {
            blocks,
            tokens,
            size,
            empty: (1..count as u32).rev().collect(),
            cached: 0,
            map: HashMap::default(),
            pledged: 0,
            evictions: 0,
            copies: Vec::new(),
        })
    }

    #[must_use]
    pub fn free(&self) -> u64 {
        (self.empty.len() + self.cached) as u64
    }

    #[must_use]
    pub fn content(&self, block: usize) -> &[u32] {
        &self.tokens[block * self.size..(block + 1) * self.size]
    }

    /// By how much a change would lower `free - pledged`.
    #[must_use]
    pub fn cost(&self, block: usize, change: Change) -> i64 {
        let before = &self.blocks[block];
        let mut after = before.clone();
        change.apply(&mut after);
        let taken = i64::from(before.holders() == 0) - i64::from(after.holders() == 0);
        taken + i64::from(after.pledge()) - i64::from(before.pledge())
    }

    /// Changes the holders of a block. One that is held again leaves the ring; one that nobody holds any more
    /// becomes cached if it is published and `keep`, else empty.
    pub fn change(&mut self, block: usize, change: Change, keep: bool) {
        let was_free = self.blocks[block].holders() == 0;
        self.pledged -= u64::from(self.blocks[block].pledge());
        change.apply(&mut self.blocks[block]);
        self.pledged += u64::from(self.blocks[block].pledge());
        let is_free = self.blocks[block].holders() == 0;
        if was_free && !is_free {
            self.unlink(block);
        } else if !was_free && is_free {
            self.retire(block, keep);
        }
    }

    /// Takes a free block for one row: an empty one, else the least recently used cached one.
    pub fn take(&mut self) -> Option<usize> {
        if self.empty.is_empty() {
            self.evict_one()?;
        }
        let block = self.empty.pop()? as usize;
        self.blocks[block].refs = 1;
        Some(block)
    }

    /// Forgets the least recently used cached block, which becomes empty.
    pub fn evict_one(&mut self) -> Option<()> {
        let block = self.blocks[NULL].next as usize;
        if block == NULL {
            return None;
        }
        self.unlink(block);
        self.forget(block);
        self.empty.push(block as u32);
        self.evictions += 1;
        Some(())
    }

    /// The published block of this key, if its content is indeed `tokens` after `parent`.
    #[must_use]
    pub fn find(&self, key: Key, parent: Key, tokens: &[u32]) -> Option<usize> {
        let block = *self.map.get(&key)? as usize;
        (self.blocks[block].parent == parent && self.content(block) == tokens).then_some(block)
    }

    /// Names a full block's content; the first block of a key is the one that is found.
    pub fn publish(&mut self, block: usize, parent: Key, key: Key) {
        self.blocks[block].parent = parent;
        self.blocks[block].key = Some(key);
        if let std::collections::hash_map::Entry::Vacant(entry) = self.map.entry(key) {
            entry.insert(block as u32);
            self.blocks[block].published = true;
        }
    }

    /// The block's content is about to change or to be lost.
    pub fn forget(&mut self, block: usize) {
        let published = std::mem::take(&mut self.blocks[block].published);
        if let (Some(key), true) = (self.blocks[block].key.take(), published) {
            self.map.remove(&key);
        }
    }

    /// Writes `token` at `offset` of `block`, which one row holds alone.
    pub fn write(&mut self, block: usize, offset: usize, token: u32) {
        self.tokens[block * self.size + offset] = token;
    }

    /// Copies a block's content and notes that the caller must copy its keys and values.
    pub fn copy(&mut self, from: usize, to: usize) {
        let start = from * self.size;
        self.tokens
            .copy_within(start..start + self.size, to * self.size);
        self.blocks[to].copy = self.copies.len() as u32;
        self.copies.push(Some((from as u32, to as u32)));
    }

    /// The (from, to) pairs since the last call, without those whose target was freed meanwhile.
    pub fn take_copies(&mut self) -> Vec<(u32, u32)> {
        let copies: Vec<_> = std::mem::take(&mut self.copies)
            .into_iter()
            .flatten()
            .collect();
        for &(_, to) in &copies {
            self.blocks[to as usize].copy = NO_COPY;
        }
        copies
    }

    /// Makes every block empty, whoever held it.
    pub fn clear(&mut self) {
        self.blocks.fill(Block::EMPTY);
        self.empty = (1..self.blocks.len() as u32).rev().collect();
        self.cached = 0;
        self.map.clear();
        self.pledged = 0;
        self.copies.clear();
    }

    fn retire(&mut self, block: usize, keep: bool) {
        if let Some(pending) = self.copies.get_mut(self.blocks[block].copy as usize) {
            *pending = None;
        }
        self.blocks[block].copy = NO_COPY;
        if !keep {
            self.forget(block);
        } else if let Some(key) = self.blocks[block].key {
            self.settle_duplicate(block, key);
        }
        if self.blocks[block].published {
            self.link_last(block);
        } else {
            self.forget(block);
            self.empty.push(block as u32);
        }
    }

    /// A freed block whose content another one publishes counts as a use of that one, so that it outlives the
    /// blocks that continue it; if that one is gone, this one takes its place.
    fn settle_duplicate(&mut self, block: usize, key: Key) {
        match self.map.get(&key).map(|&found| found as usize) {
            None => {
                self.map.insert(key, block as u32);
                self.blocks[block].published = true;
            }
            Some(found) if found != block && self.blocks[found].holders() == 0 => {
                self.unlink(found);
                self.link_last(found);
            }
            Some(_) => {}
        }
    }

    fn link_last(&mut self, block: usize) {
        let last = self.blocks[NULL].prev as usize;
        self.blocks[block].prev = last as u32;
        self.blocks[block].next = NULL as u32;
        self.blocks[last].next = block as u32;
        self.blocks[NULL].prev = block as u32;
        self.cached += 1;
    }

    fn unlink(&mut self, block: usize) {
        let (prev, next) = (self.blocks[block].prev, self.blocks[block].next);
        self.blocks[prev as usize].next = next;
        self.blocks[next as usize].prev = prev;
        self.cached -= 1;
    }
}
