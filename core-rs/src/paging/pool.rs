//! The pool: every operation on rows, each either done in full or refused with nothing changed.

use super::blocks::{Blocks, NULL};
use super::keys::{Chain, Keys};
use super::rows::{ADD, DROP, PIN, Row, UNPIN};
use super::{Error, Slab};
use std::collections::BTreeMap;

/// A sequence that was admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admission {
    pub row: usize,
    /// Leading tokens whose keys and values are in the cache already.
    pub cached: usize,
}

/// Counters since the pool was made, and what it holds now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    pub blocks: u64,
    pub free: u64,
    pub cached: u64,
    pub promised: u64,
    pub pinned: u64,
    pub rows: u64,
    pub admitted: u64,
    pub refused: u64,
    pub prompt_tokens: u64,
    pub hit_tokens: u64,
    pub copies: u64,
    pub evictions: u64,
}

pub struct KvPool {
    pub(super) blocks: Blocks,
    pub(super) rows: Vec<Row>,
    pub(super) free_rows: Vec<usize>,
    pub(super) max_blocks: usize,
    pub(super) pins: BTreeMap<u64, Vec<usize>>,
    /// Blocks promised to rows for their growth up to `limit`.
    pub(super) reserved: u64,
    pub(super) table: Slab,
    pub(super) lens: Slab,
    pub(super) keys: Keys,
    watermark: u64,
    next_pin: u64,
    steps: u64,
    pub(super) counters: Stats,
}

impl KvPool {
    /// `watermark` is the share of the blocks that admission leaves free while other rows run.
    ///
    /// # Errors
    /// Sizes of zero or beyond int32, or not enough memory.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss
    )]
    pub fn new(
        num_blocks: usize,
        block_size: usize,
        max_seqs: usize,
        max_blocks: usize,
        secret: &[u8],
        watermark: f64,
    ) -> Result<Self, Error> {
        let limit = i32::MAX as usize;
        let cells = max_seqs.checked_mul(max_blocks);
        let slots = num_blocks
            .checked_mul(block_size)
            .filter(|&slots| slots <= limit);
        let reach = max_blocks
            .checked_mul(block_size)
            .filter(|&reach| reach <= limit);
        if num_blocks < 2 || block_size == 0 || max_seqs == 0 || max_blocks == 0 {
            let text = "a pool needs 2 blocks (block 0 is never used), and sizes of at least 1";
            return Err(Error::Config(text.to_string()));
        }
        if !(0.0..1.0).contains(&watermark) {
            return Err(Error::Config(format!(
                "watermark is {watermark}, must be at least 0 and under 1"
            )));
        }
        let (Some(cells), Some(_), Some(_)) = (cells.filter(|&cells| cells <= limit), slots, reach)
        else {
            return Err(Error::Config(
                "the pool is too large: its slots and tables must stay below 2^31".to_string(),
            ));
        };
        Ok(Self {
            blocks: Blocks::new(num_blocks, block_size)?,
            rows: vec![Row::default(); max_seqs],
            free_rows: (0..max_seqs).rev().collect(),
            max_blocks,
            pins: BTreeMap::new(),
            reserved: 0,
            table: Slab::zeros(cells)?,
            lens: Slab::zeros(max_seqs)?,
            keys: Keys::new(secret),
            watermark: (watermark * num_blocks as f64) as u64,
            next_pin: 0,
            steps: 0,
            counters: Stats {
                blocks: num_blocks as u64 - 1,
                ..Stats::default()
            },
        })
    }

    #[must_use]
    pub fn table(&self) -> &Slab {
        &self.table
    }

    #[must_use]
    pub fn seq_lens(&self) -> &Slab {
        &self.lens
    }

    #[must_use]
    pub fn keys(&self) -> Keys {
        self.keys
    }

    #[must_use]
    pub fn block_size(&self) -> usize {
        self.blocks.size
    }

    /// Rows and blocks per row of the table.
    #[must_use]
    pub fn shape(&self) -> (usize, usize) {
        (self.rows.len(), self.max_blocks)
    }

    #[must_use]
    pub fn blocks_for(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.blocks.size)
    }

    /// Most blocks that one sequence can ever have.
    #[must_use]
    pub fn row_limit(&self) -> usize {
        self.max_blocks.min(self.blocks.blocks.len() - 1)
    }

    /// Free blocks that are promised to nobody.
    #[must_use]
    pub fn available(&self) -> u64 {
        self.blocks.free() - self.reserved - self.blocks.pledged
    }

    /// Leading tokens that a row with these tokens would find in the cache: full blocks, and never all tokens, because
    /// the last one has to be computed to predict the next.
    #[must_use]
    pub fn match_len(&self, tokens: &[u32], chain: &Chain) -> usize {
        self.hits(tokens, chain).len() * self.blocks.size
    }

    /// Starts a row: finds cached blocks, takes the rest, promises blocks up to `max_len` tokens (0: none beyond
    /// these). `chain` are the keys of `tokens` (`Keys::chain`). `None`: not now; it fits when others have ended.
    ///
    /// # Errors
    /// No tokens, or `NeverFits` if even an empty pool has not enough blocks.
    pub fn admit(
        &mut self,
        tokens: &[u32],
        chain: &Chain,
        max_len: usize,
    ) -> Result<Option<Admission>, Error> {
        let limit = max_len.max(tokens.len());
        let (held, most) = (self.blocks_for(tokens.len()), self.blocks_for(limit));
        if tokens.is_empty() {
            return Err(Error::NoTokens);
        }
        if most > self.row_limit() {
            return Err(Error::NeverFits {
                tokens: limit,
                blocks: most,
                limit: self.row_limit(),
            });
        }
        let hits = self.hits(tokens, chain);
        let cost = self.total_cost(&hits, ADD) + signed(most - hits.len());
        let spare = if self.free_rows.len() == self.rows.len() {
            0
        } else {
            self.watermark
        };
        let (Some(&row), true) = (
            self.free_rows.last(),
            cost + signed(spare) <= signed(self.available()),
        ) else {
            self.counters.refused += 1;
            return Ok(None);
        };
        self.free_rows.pop();
        for (index, &block) in hits.iter().enumerate() {
            self.blocks.change(block, ADD, true);
            self.set_cell(row, index, block);
        }
        let cached = hits.len() * self.blocks.size;
        for index in hits.len()..held {
            let block = self.blocks.take().ok_or(Error::NoSpace(signed(row)))?;
            self.set_cell(row, index, block);
        }
        self.rows[row] = Row {
            running: true,
            limit,
            root: chain.root,
            ..Row::default()
        };
        self.reserved += (most - held) as u64;
        self.set_len(row, tokens.len());
        self.record(row, cached, &tokens[cached..], &chain.keys);
        self.counters.admitted += 1;
        self.counters.prompt_tokens += tokens.len() as u64;
        self.counters.hit_tokens += cached as u64;
        Ok(Some(Admission { row, cached }))
    }

    /// Appends one token to each row, publishes the blocks that it fills and writes the slot (block * size + offset)
    /// of each token. Returns how many rows were served: all, or those before the first for which no block was left,
    /// which cannot happen to a row within its promised length.
    ///
    /// # Errors
    /// Unknown or repeated rows, rows with drafts or at the end of their table line, unequal lengths.
    pub fn step(
        &mut self,
        rows: &[i64],
        tokens: &[u32],
        slots: &mut [i64],
    ) -> Result<usize, Error> {
        if rows.len() != tokens.len() || rows.len() != slots.len() {
            return Err(Error::Lengths(rows.len(), tokens.len(), slots.len()));
        }
        self.steps += 1;
        for &row in rows {
            let index = self.settled(row)?;
            if self.rows[index].len == self.max_blocks * self.blocks.size {
                return Err(Error::RowFull {
                    row,
                    limit: self.max_blocks,
                });
            }
            if std::mem::replace(&mut self.rows[index].stamp, self.steps) == self.steps {
                return Err(Error::Repeated(row));
            }
        }
        for (done, (&row, &token)) in rows.iter().zip(tokens).enumerate() {
            let row = self.index(row)?;
            let Some(slot) = self.grow(row) else {
                return Ok(done);
            };
            slots[done] = signed(slot);
            let len = self.rows[row].len;
            self.record(row, len - 1, &[token], &[]);
        }
        Ok(rows.len())
    }

    /// Appends `count` drafts: tokens not known yet, whose blocks are not published before `accept`. Returns their
    /// slots, or `None` if there are not enough blocks.
    ///
    /// # Errors
    /// Unknown row, one with drafts already, or one whose table line is too short.
    pub fn extend(&mut self, row: i64, count: usize) -> Result<Option<Vec<i64>>, Error> {
        let index = self.settled(row)?;
        let Row { len, limit, .. } = self.rows[index];
        let blocks = self.blocks_for(len.saturating_add(count));
        if blocks > self.max_blocks {
            return Err(Error::RowFull {
                row,
                limit: self.max_blocks,
            });
        }
        let promised = self.blocks_for(limit).max(self.blocks_for(len));
        if blocks.saturating_sub(promised) as u64 > self.available() {
            return Ok(None);
        }
        let slot = |_| self.grow(index).map(signed).ok_or(Error::NoSpace(row));
        (0..count).map(slot).collect::<Result<_, _>>().map(Some)
    }

    /// The first drafts of a row turned out to be `tokens`; the other drafts are cut off.
    ///
    /// # Errors
    /// Unknown row, or more tokens than drafts.
    pub fn accept(&mut self, row: i64, tokens: &[u32]) -> Result<(), Error> {
        let index = self.index(row)?;
        let Row { len, verified, .. } = self.rows[index];
        if tokens.len() > len - verified {
            return Err(Error::TooManyAccepted {
                row,
                drafts: len - verified,
                given: tokens.len(),
            });
        }
        self.record(index, verified, tokens, &[]);
        self.truncate(row, verified + tokens.len())
    }

    /// Cuts a row to its first `len` tokens. What was published stays published.
    ///
    /// # Errors
    /// Unknown row, a length of 0 or beyond the row, or no block for a copy if the cut opens a shared block.
    pub fn truncate(&mut self, row: i64, len: usize) -> Result<(), Error> {
        let index = self.index(row)?;
        let before = self.rows[index];
        if len == 0 || len > before.len {
            return Err(Error::Truncate {
                row,
                len: before.len,
                wanted: len,
            });
        }
        if len == before.len {
            return Ok(());
        }
        let (keep, held) = (self.blocks_for(len), self.blocks_for(before.len));
        let changes = self.truncation(index, len);
        let cost: i64 = changes
            .iter()
            .map(|&(block, change)| self.blocks.cost(block, change))
            .sum();
        let promise =
            self.promise_at(before.limit, len) - self.promise_at(before.limit, before.len);
        if cost + signed(promise) > signed(self.available()) {
            return Err(Error::NoSpace(row));
        }
        for (block, change) in changes {
            self.blocks.change(block, change, true);
        }
        for at in keep..held {
            self.set_cell(index, at, NULL);
        }
        self.reserved += promise as u64;
        self.rows[index].len = len;
        self.rows[index].verified = before.verified.min(len);
        self.lens.set(index, len);
        Ok(())
    }

    /// `count` rows with the content and the promised length of `row`. All full blocks are shared, and the partial
    /// last one until somebody writes. `None`: not enough rows or blocks now.
    ///
    /// # Errors
    /// Unknown row, or one with drafts.
    pub fn fork(&mut self, row: i64, count: usize) -> Result<Option<Vec<usize>>, Error> {
        let source = self.settled(row)?;
        let parent = self.rows[source];
        let (held, is_open) = (
            self.blocks_for(parent.len),
            !parent.len.is_multiple_of(self.blocks.size),
        );
        let promise = self.promise_at(parent.limit, parent.len) + usize::from(is_open);
        let needed = promise.checked_mul(count);
        if count > self.free_rows.len()
            || needed.is_none_or(|needed| needed as u64 > self.available())
        {
            return Ok(None);
        }
        let forks = self.free_rows.split_off(self.free_rows.len() - count);
        for &fork in forks.iter().rev() {
            for at in 0..held {
                let block = self.cell(source, at);
                self.blocks.change(block, ADD, true);
                self.set_cell(fork, at, block);
            }
            self.rows[fork] = Row {
                stamp: 0,
                len: 0,
                ..parent
            };
            self.reserved += self.promise_at(parent.limit, parent.len) as u64;
            self.set_len(fork, parent.len);
        }
        Ok(Some(forks.into_iter().rev().collect()))
    }

    /// Ends a row. Its published blocks stay findable until they are evicted; with `cache` off those that nobody
    /// else holds are forgotten (their keys and values were never computed, say).
    ///
    /// # Errors
    /// The row is not running: a double free.
    pub fn free(&mut self, row: i64, cache: bool) -> Result<(), Error> {
        let index = self.index(row)?;
        let Row { len, limit, .. } = self.rows[index];
        self.reserved -= self.promise_at(limit, len) as u64;
        self.set_len(index, 0);
        for at in (0..self.blocks_for(len)).rev() {
            self.blocks.change(self.cell(index, at), DROP, cache);
            self.set_cell(index, at, NULL);
        }
        self.rows[index].running = false;
        self.free_rows.push(index);
        Ok(())
    }

    /// Keeps the cached prefix of a running row from eviction, also after the row has ended. `None` if the promises
    /// made to running rows do not allow it.
    ///
    /// # Errors
    /// Unknown row.
    pub fn pin(&mut self, row: i64) -> Result<Option<u64>, Error> {
        let index = self.index(row)?;
        let full = self.rows[index].verified / self.blocks.size;
        let keys = (0..full).map_while(|at| self.blocks.blocks[self.cell(index, at)].key);
        let pinned: Vec<usize> = keys
            .map_while(|key| Some(*self.blocks.map.get(&key)? as usize))
            .collect();
        if self.total_cost(&pinned, PIN) > signed(self.available()) {
            return Ok(None);
        }
        for &block in &pinned {
            self.blocks.change(block, PIN, true);
        }
        self.next_pin += 1;
        self.pins.insert(self.next_pin, pinned);
        Ok(Some(self.next_pin))
    }

    /// # Errors
    /// There is no such pin (any more).
    pub fn unpin(&mut self, pin: u64) -> Result<(), Error> {
        let pinned = self.pins.remove(&pin).ok_or(Error::Pin(pin))?;
        for &block in pinned.iter().rev() {
            self.blocks.change(block, UNPIN, true);
        }
        Ok(())
    }

    /// Forgets up to `count` cached blocks, least recently used first; returns how many.
    pub fn evict(&mut self, count: usize) -> usize {
        (0..count).map_while(|_| self.blocks.evict_one()).count()
    }

    /// Ends all rows and pins and forgets the cache, as after a change of the weights.
    pub fn reset(&mut self) {
        self.pins.clear();
        for (index, row) in self.rows.iter_mut().enumerate() {
            *row = Row::default();
            self.lens.set(index, 0);
        }
        for cell in 0..self.table.len() {
            self.table.set(cell, NULL);
        }
        self.free_rows = (0..self.rows.len()).rev().collect();
        self.reserved = 0;
        self.blocks.clear();
    }

    /// (from, to) blocks whose keys and values must be copied before the next forward, all sources read first.
    pub fn take_copies(&mut self) -> Vec<(u32, u32)> {
        self.blocks.take_copies()
    }

    #[must_use]
    pub fn stats(&self) -> Stats {
        let pinned: std::collections::BTreeSet<_> = self.pins.values().flatten().collect();
        Stats {
            free: self.blocks.free(),
            cached: self.blocks.cached as u64,
            promised: self.reserved + self.blocks.pledged,
            pinned: pinned.len() as u64,
            rows: (self.rows.len() - self.free_rows.len()) as u64,
            evictions: self.blocks.evictions,
            ..self.counters
        }
    }
}

fn signed<T: TryInto<i64>>(value: T) -> i64 {
    value.try_into().unwrap_or(i64::MAX)
}
