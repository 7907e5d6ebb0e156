//! The full audit of a pool: everything that is counted incrementally, counted again from the tables.

use super::KvPool;
use super::blocks::NULL;
use std::collections::HashSet;

/// What was found wrong, in words.
#[derive(Default)]
struct Findings(Vec<String>);

impl Findings {
    fn expect(&mut self, holds: bool, text: impl FnOnce() -> String) {
        if !holds {
            self.0.push(text());
        }
    }
}

/// Counts per block, taken from the tables.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
struct Counts {
    refs: u32,
    open: u32,
    pins: u32,
}

impl KvPool {
    /// Checks every invariant; an empty list means that the pool is sound.
    #[must_use]
    pub fn check(&self) -> Vec<String> {
        let mut findings = Findings::default();
        self.check_rows(&mut findings);
        self.check_counts(&mut findings);
        self.check_free(&mut findings);
        self.check_prefix_map(&mut findings);
        self.check_promises(&mut findings);
        findings.0
    }

    fn check_rows(&self, findings: &mut Findings) {
        let free: HashSet<_> = self.free_rows.iter().copied().collect();
        findings.expect(free.len() == self.free_rows.len(), || {
            "a free row is listed twice".to_string()
        });
        for (index, row) in self.rows.iter().enumerate() {
            findings.expect(row.running != free.contains(&index), || {
                format!("row {index} is both free and running")
            });
            let len = if row.running { row.len } else { 0 };
            findings.expect(self.seq_lens().get(index) == len, || {
                format!("length of row {index} is published wrongly")
            });
            findings.expect(row.verified <= row.len, || {
                format!("row {index} has negative drafts")
            });
            let held = self.blocks_for(len);
            for at in 0..self.max_blocks {
                let block = self.cell(index, at);
                let valid = if at < held {
                    block != NULL && block < self.blocks.blocks.len()
                } else {
                    block == NULL
                };
                findings.expect(valid, || {
                    format!("cell {at} of row {index} names block {block}")
                });
            }
            let mut parent = row.root;
            for at in 0..(if row.running {
                row.verified / self.blocks.size
            } else {
                0
            }) {
                let block = self.cell(index, at);
                let key = self.keys().next(parent, self.blocks.content(block));
                let stored = self.blocks.blocks[block].key;
                findings.expect(stored == Some(key), || {
                    format!("block {block} of row {index} has a wrong key")
                });
                parent = key;
            }
        }
    }

    fn check_counts(&self, findings: &mut Findings) {
        let mut counts = vec![Counts::default(); self.blocks.blocks.len()];
        for (index, row) in self.rows.iter().enumerate().filter(|(_, row)| row.running) {
            for at in 0..self.blocks_for(row.len) {
                counts[self.cell(index, at)].refs += 1;
            }
            if row.len % self.blocks.size != 0 {
                counts[self.cell(index, row.len / self.blocks.size)].open += 1;
            }
        }
        for &block in self.pins.values().flatten() {
            counts[block].pins += 1;
        }
        for (index, (block, count)) in self.blocks.blocks.iter().zip(&counts).enumerate() {
            let stored = Counts {
                refs: block.refs,
                open: block.open,
                pins: block.pins,
            };
            findings.expect(stored == *count, || {
                format!("block {index}: {stored:?}, the tables say {count:?}")
            });
        }
    }

    fn check_free(&self, findings: &mut Findings) {
        let blocks = &self.blocks.blocks;
        let mut cached = HashSet::new();
        let (mut last, mut at) = (NULL, blocks[NULL].next as usize);
        while at != NULL && cached.insert(at) {
            findings.expect(blocks[at].prev as usize == last, || {
                format!("block {at} links back wrongly")
            });
            (last, at) = (at, blocks[at].next as usize);
        }
        findings.expect(at == NULL && blocks[NULL].prev as usize == last, || {
            "the ring is not closed".to_string()
        });
        findings.expect(cached.len() == self.blocks.cached, || {
            "the ring is counted wrongly".to_string()
        });
        let empty: HashSet<_> = self
            .blocks
            .empty
            .iter()
            .map(|&block| block as usize)
            .collect();
        findings.expect(empty.len() == self.blocks.empty.len(), || {
            "an empty block is listed twice".to_string()
        });
        for (index, block) in blocks.iter().enumerate().skip(1) {
            let free = block.holders() == 0;
            let (is_cached, is_empty) = (cached.contains(&index), empty.contains(&index));
            findings.expect(is_cached == (free && block.published), || {
                format!("block {index} is wrongly (un)cached")
            });
            findings.expect(is_empty == (free && !block.published), || {
                format!("block {index} is wrongly (not) empty")
            });
        }
    }

    fn check_prefix_map(&self, findings: &mut Findings) {
        for (&key, &block) in &self.blocks.map {
            let entry = &self.blocks.blocks[block as usize];
            let named = entry.published && entry.key == Some(key);
            findings.expect(named, || {
                format!("the prefix map names block {block}, which is not published so")
            });
            let content = self
                .keys()
                .next(entry.parent, self.blocks.content(block as usize));
            findings.expect(content == key, || {
                format!("block {block} is published under another content's key")
            });
        }
        let published = self
            .blocks
            .blocks
            .iter()
            .filter(|block| block.published)
            .count();
        findings.expect(published == self.blocks.map.len(), || {
            "a published block cannot be found".to_string()
        });
    }

    fn check_promises(&self, findings: &mut Findings) {
        let pledged: u64 = self
            .blocks
            .blocks
            .iter()
            .map(|block| u64::from(block.pledge()))
            .sum();
        findings.expect(pledged == self.blocks.pledged, || {
            "pledged copies are counted wrongly".to_string()
        });
        let running = self.rows.iter().filter(|row| row.running);
        let reserved: u64 = running
            .map(|row| self.promise_at(row.limit, row.len) as u64)
            .sum();
        findings.expect(reserved == self.reserved, || {
            "reserved blocks are counted wrongly".to_string()
        });
        findings.expect(pledged + reserved <= self.blocks.free(), || {
            "more is promised than is free".to_string()
        });
    }
}
