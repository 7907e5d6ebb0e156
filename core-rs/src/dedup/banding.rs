//! Banding: documents that share the key of a band are candidates for near duplicates.

use rayon::prelude::*;

/// The documents of every bucket that holds at least two, ascending; bucket `b` is `docs[starts[b]..starts[b + 1]]`.
pub struct Buckets {
    pub starts: Vec<usize>,
    pub docs: Vec<u32>,
}

impl Buckets {
    /// Groups the documents of a row-major `[documents, bands]` table of keys, band by band, by sorting:
    /// 16 bytes per document while a band is worked on.
    #[must_use]
    pub fn of(keys: &[u64], bands: usize) -> Self {
        let mut buckets = Self {
            starts: vec![0],
            docs: vec![],
        };
        let mut column: Vec<(u64, u32)> = Vec::new();
        for band in 0..bands {
            keys.par_chunks_exact(bands)
                .enumerate()
                .map(|(doc, row)| (row[band], doc as u32))
                .collect_into_vec(&mut column);
            column.par_sort_unstable();
            for bucket in column
                .chunk_by(|a, b| a.0 == b.0)
                .filter(|bucket| bucket.len() > 1)
            {
                buckets.docs.extend(bucket.iter().map(|&(_, doc)| doc));
                buckets.starts.push(buckets.docs.len());
            }
        }
        buckets
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.starts.len() - 1
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[must_use]
    pub fn get(&self, bucket: usize) -> &[u32] {
        &self.docs[self.starts[bucket]..self.starts[bucket + 1]]
    }
}

/// Disjoint sets; the root of a set is its smallest member, whatever the order of the unions.
pub struct UnionFind {
    parent: Vec<u32>,
}

impl UnionFind {
    #[must_use]
    pub fn new(members: usize) -> Self {
        Self {
            parent: (0..members as u32).collect(),
        }
    }

    pub fn root(&mut self, member: u32) -> u32 {
        let mut at = member;
        while self.parent[at as usize] != at {
            let above = self.parent[self.parent[at as usize] as usize];
            self.parent[at as usize] = above;
            at = above;
        }
        at
    }

    pub fn union(&mut self, a: u32, b: u32) {
        let (a, b) = (self.root(a), self.root(b));
        self.parent[a.max(b) as usize] = a.min(b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn groups_by_key_within_a_band() {
        let keys = [1, 9, 2, 9, 1, 8, 1, 1]; // four documents, two bands
        let buckets = Buckets::of(&keys, 2);
        let groups: Vec<&[u32]> = (0..buckets.len()).map(|b| buckets.get(b)).collect();
        assert_eq!(groups, [&[0, 2, 3][..], &[0, 1]]);
    }

    proptest! {
        #[test]
        fn the_root_is_the_smallest_reachable(edges in prop::collection::vec((0u32..20, 0u32..20), 0..25)) {
            let mut sets = UnionFind::new(20);
            edges.iter().for_each(|&(a, b)| sets.union(a, b));
            let mut least: Vec<u32> = (0..20).collect();
            for _ in 0..20 {
                for &(a, b) in &edges {
                    let both = least[a as usize].min(least[b as usize]);
                    least[a as usize] = both;
                    least[b as usize] = both;
                }
            }
            prop_assert_eq!((0..20).map(|m| sets.root(m)).collect::<Vec<_>>(), least);
        }
    }
}
