//! What happens inside one row: its cells, its growth, copy-on-write and publishing.

use super::blocks::Change;
use super::keys::Chain;
use super::{Error, KvPool};

/// One line of the block table.
#[derive(Clone, Copy, Default)]
pub(super) struct Row {
    pub running: bool,
    /// Tokens, drafts included.
    pub len: usize,
    /// Tokens that are known, hence may be published when their block is full.
    pub verified: usize,
    /// Length up to which blocks are promised.
    pub limit: usize,
    pub root: u128,
    /// Step in which the row was last named.
    pub stamp: u64,
}

pub(super) const ADD: Change = Change {
    refs: 1,
    open: 0,
    pins: 0,
};
pub(super) const DROP: Change = Change {
    refs: -1,
    open: 0,
    pins: 0,
};
pub(super) const OPEN: Change = Change {
    refs: 0,
    open: 1,
    pins: 0,
};
pub(super) const CLOSE: Change = Change {
    refs: 0,
    open: -1,
    pins: 0,
};
pub(super) const PIN: Change = Change {
    refs: 0,
    open: 0,
    pins: 1,
};
pub(super) const UNPIN: Change = Change {
    refs: 0,
    open: 0,
    pins: -1,
};

impl KvPool {
    pub(super) fn cell(&self, row: usize, at: usize) -> usize {
        self.table.get(row * self.max_blocks + at)
    }

    pub(super) fn set_cell(&self, row: usize, at: usize, block: usize) {
        self.table.set(row * self.max_blocks + at, block);
    }

    /// Blocks promised to a row of `len` tokens beyond those it has.
    pub(super) fn promise_at(&self, limit: usize, len: usize) -> usize {
        self.blocks_for(limit).saturating_sub(self.blocks_for(len))
    }

    pub(super) fn index(&self, row: i64) -> Result<usize, Error> {
        let index = usize::try_from(row).map_err(|_| Error::Row(row))?;
        let running = self.rows.get(index).is_some_and(|row| row.running);
        if running {
            Ok(index)
        } else {
            Err(Error::Row(row))
        }
    }

    /// A running row without drafts.
    pub(super) fn settled(&self, row: i64) -> Result<usize, Error> {
        let index = self.index(row)?;
        if self.rows[index].len == self.rows[index].verified {
            Ok(index)
        } else {
            Err(Error::Drafts(row))
        }
    }

    pub(super) fn total_cost(&self, blocks: &[usize], change: Change) -> i64 {
        blocks
            .iter()
            .map(|&block| self.blocks.cost(block, change))
            .sum()
    }

    pub(super) fn hits(&self, tokens: &[u32], chain: &Chain) -> Vec<usize> {
        let mut parent = chain.root;
        let usable = tokens[..tokens.len().saturating_sub(1)].chunks_exact(self.blocks.size);
        usable
            .zip(&chain.keys)
            .map_while(|(block, &key)| {
                self.blocks
                    .find(key, std::mem::replace(&mut parent, key), block)
            })
            .collect()
    }

    /// Sets the length of a row whose blocks are in place and keeps count of who ends inside which block.
    pub(super) fn set_len(&mut self, row: usize, len: usize) {
        let before = std::mem::replace(&mut self.rows[row].len, len);
        for (end, change) in [(before, CLOSE), (len, OPEN)] {
            if end % self.blocks.size != 0 {
                self.blocks
                    .change(self.cell(row, end / self.blocks.size), change, true);
            }
        }
        self.rows[row].verified = len;
        self.lens.set(row, len);
    }

    /// Makes room for one more token, not verified yet, and returns its slot.
    pub(super) fn grow(&mut self, row: usize) -> Option<usize> {
        let Row { len, limit, .. } = self.rows[row];
        let (at, offset) = (len / self.blocks.size, len % self.blocks.size);
        if offset == 0 {
            let promised = len < self.blocks_for(limit) * self.blocks.size;
            if !promised && self.available() == 0 {
                return None;
            }
            let block = self.blocks.take()?;
            self.reserved -= u64::from(promised);
            self.set_cell(row, at, block);
        } else {
            self.own(row, at)?;
        }
        let block = self.cell(row, at);
        let (was_open, is_open) = (offset != 0, offset + 1 != self.blocks.size);
        if was_open != is_open {
            self.blocks
                .change(block, if is_open { OPEN } else { CLOSE }, true);
        }
        self.rows[row].len = len + 1;
        self.lens.set(row, len + 1);
        Some(block * self.blocks.size + offset)
    }

    /// Makes the open last block of a row its own: copy-on-write.
    pub(super) fn own(&mut self, row: usize, at: usize) -> Option<()> {
        let block = self.cell(row, at);
        if self.blocks.blocks[block].holders() == 1 {
            self.blocks.forget(block);
            return Some(());
        }
        let copy = self.blocks.take()?;
        self.blocks.copy(block, copy);
        self.blocks.change(copy, OPEN, true);
        self.blocks.change(
            block,
            Change {
                refs: -1,
                open: -1,
                pins: 0,
            },
            true,
        );
        self.set_cell(row, at, copy);
        self.counters.copies += 1;
        Some(())
    }

    /// Notes what the tokens from `start` on are and publishes the blocks that they fill. `keys` are those of all
    /// full blocks of the row if they are known already, else empty.
    pub(super) fn record(&mut self, row: usize, start: usize, tokens: &[u32], keys: &[u128]) {
        let size = self.blocks.size;
        for (position, &token) in (start..).zip(tokens) {
            let block = self.cell(row, position / size);
            self.blocks.write(block, position % size, token);
            if position % size == size - 1 {
                self.publish(row, position / size, keys);
            }
        }
        self.rows[row].verified = start + tokens.len();
    }

    pub(super) fn publish(&mut self, row: usize, at: usize, keys: &[u128]) {
        let parent = match at {
            0 => Some(self.rows[row].root),
            _ => self.blocks.blocks[self.cell(row, at - 1)].key,
        };
        let block = self.cell(row, at);
        if let Some(parent) = parent {
            let key = keys
                .get(at)
                .copied()
                .unwrap_or_else(|| self.keys.next(parent, self.blocks.content(block)));
            self.blocks.publish(block, parent, key);
        }
    }

    /// What cutting a row to `len` does to its blocks, last block first.
    pub(super) fn truncation(&self, row: usize, len: usize) -> Vec<(usize, Change)> {
        let before = self.rows[row].len;
        let (last, keep) = (
            (before - 1) / self.blocks.size,
            (len - 1) / self.blocks.size,
        );
        let opens = |end: usize| i32::from(!end.is_multiple_of(self.blocks.size));
        let change = |at: usize| Change {
            refs: -i32::from(at > keep),
            open: opens(len) * i32::from(at == keep) - opens(before) * i32::from(at == last),
            pins: 0,
        };
        (keep..=last)
            .rev()
            .map(|at| (self.cell(row, at), change(at)))
            .collect()
    }
}
