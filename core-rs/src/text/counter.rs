//! Counts of 64-bit keys in a table whose memory is reused from document to document.

/// Open addressing with linear probing; a slot whose count is 0 is free.
#[derive(Debug, Default)]
pub struct Counter {
    slots: Vec<Slot>,
    mask: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    key: u64,
    count: u32,
    first: u32,
}

impl Counter {
    /// Forgets all counts and makes room for at most `keys` different keys.
    pub fn reset(&mut self, keys: usize) {
        // A small document uses, and clears, only the front of a table that a large one has grown.
        let size = (keys.max(4) * 2).next_power_of_two();
        let known = self.slots.len().min(size);
        self.slots[..known].fill(Slot::default());
        if size > known {
            self.slots.resize(size, Slot::default());
        }
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
            if slot.count == 0 {
                *slot = Slot {
                    key,
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
        while let Some(slot) = self.slots.get(at).filter(|slot| slot.count > 0) {
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
