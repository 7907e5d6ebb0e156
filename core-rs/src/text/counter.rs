//! Counts of 64-bit keys in a table that is reused from document to document without clearing its memory.

/// Open addressing with linear probing; a slot is live when its round is the current one.
#[derive(Debug, Default)]
pub struct Counter {
    slots: Vec<Slot>,
    round: u32,
    mask: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    key: u64,
    round: u32,
    count: u32,
    first: u32,
}

impl Counter {
    /// Forgets all counts and makes room for at most `keys` different keys.
    pub fn reset(&mut self, keys: usize) {
        let size = (keys.max(4) * 2).next_power_of_two();
        self.round = self.round.wrapping_add(1);
        if size > self.slots.len() || self.round == 0 {
            self.slots = vec![Slot::default(); size.max(self.slots.len())];
            self.round = 1;
        }
        // A small document uses only the front of a table that a large one has grown.
        self.mask = size - 1;
    }

    /// Counts `key` once more and returns its new count. Keys must be hashes: the low bits choose the slot.
    #[inline]
    pub fn increment(&mut self, key: u64) -> u32 {
        self.increment_at(key, 0).0
    }

    /// Counts `key` once more, at a place that the caller numbers; its new count and the place of its first time.
    #[inline]
    pub fn increment_at(&mut self, key: u64, place: u32) -> (u32, u32) {
        let mut at = key as usize & self.mask;
        loop {
            let slot = &mut self.slots[at];
            if slot.round != self.round {
                *slot = Slot {
                    key,
                    round: self.round,
                    count: 1,
                    first: place,
                };
                return (1, place);
            }
            if slot.key == key {
                slot.count = slot.count.saturating_add(1);
                return (slot.count, slot.first);
            }
            at = (at + 1) & self.mask;
        }
    }

    /// How often `key` was counted.
    #[inline]
    #[must_use]
    pub fn count(&self, key: u64) -> u32 {
        let mut at = key as usize & self.mask;
        while let Some(slot) = self.slots.get(at).filter(|slot| slot.round == self.round) {
            if slot.key == key {
                return slot.count;
            }
            at = (at + 1) & self.mask;
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn counts_like_a_map_over_many_rounds() {
        let mut counter = Counter::default();
        for round in 1..200u64 {
            let mut map: HashMap<u64, u32> = HashMap::new();
            counter.reset((round % 50) as usize);
            for i in 0..round % 50 {
                let key = crate::text::hash::spread(i * i % 17);
                let expected = map.entry(key).and_modify(|n| *n += 1).or_insert(1);
                assert_eq!(counter.increment(key), *expected);
                assert_eq!(counter.count(key), *expected);
            }
        }
    }
}
