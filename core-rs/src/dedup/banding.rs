//! Banding: documents that share the key of a band are candidates for near duplicates.

use rayon::prelude::*;

/// Documents of a part of a band, about.
const PART: usize = 512;
/// More parts than this are slower to fill than they are faster to sort.
const MOST_BITS: u32 = 11;

/// The documents of every bucket that holds at least two, ascending; bucket `b` is `docs[starts[b]..starts[b + 1]]`.
pub struct Buckets {
    pub starts: Vec<usize>,
    pub docs: Vec<u32>,
}

impl Buckets {
    /// Groups the documents of a row-major `[documents, bands]` table of keys, band by band: 8 bytes per document and
    /// thread while a band is worked on.
    #[must_use]
    pub fn of(keys: &[u64], bands: usize) -> Self {
        let of_bands: Vec<Self> = (0..bands)
            .into_par_iter()
            .map(|band| Self::of_band(keys, bands, band))
            .collect();
        let mut buckets = Self {
            starts: vec![0],
            docs: Vec::with_capacity(of_bands.iter().map(|some| some.docs.len()).sum()),
        };
        for some in of_bands {
            let before = buckets.docs.len();
            buckets.docs.extend(some.docs);
            buckets
                .starts
                .extend(some.starts[1..].iter().map(|start| before + start));
        }
        buckets
    }

    /// Sorts the band by leading bits into parts that fit into the fast memory of a core. In a part a document is one
    /// number: the next bits of its key, then its place; where those bits are equal, whole keys decide.
    fn of_band(keys: &[u64], bands: usize, band: usize) -> Self {
        let documents = keys.len() / bands;
        let bits = (documents / PART)
            .checked_ilog2()
            .map_or(1, |bits| bits.clamp(1, MOST_BITS));
        let places = (1u64 << (usize::BITS - documents.leading_zeros())) - 1;
        let key_of = |doc: u64| keys[doc as usize * bands + band];
        let column = || keys.iter().skip(band).step_by(bands);
        let part_of = |key: u64| (key >> (u64::BITS - bits)) as usize;
        let mut ends = vec![0usize; 1 << bits];
        column().for_each(|&key| ends[part_of(key)] += 1);
        let mut before = 0;
        for end in &mut ends {
            before += std::mem::replace(end, before);
        }
        let mut sorted = vec![0u64; documents];
        for (doc, &key) in column().enumerate() {
            let end = &mut ends[part_of(key)];
            sorted[*end] = key << bits & !places | doc as u64;
            *end += 1;
        }
        let mut found = Self {
            starts: vec![0],
            docs: vec![],
        };
        let mut alike = vec![];
        let mut start = 0;
        for end in ends {
            let part = &mut sorted[start..end];
            part.sort_unstable();
            let runs = part.chunk_by(|a, b| a & !places == b & !places);
            for run in runs.filter(|run| run.len() > 1) {
                alike.clear();
                alike.extend(
                    run.iter()
                        .map(|number| (key_of(number & places), number & places)),
                );
                alike.sort_unstable();
                found.take(&alike);
            }
            start = end;
        }
        found
    }

    /// Takes up the buckets of documents that are sorted by key.
    fn take(&mut self, sorted: &[(u64, u64)]) {
        let buckets = sorted.chunk_by(|a, b| a.0 == b.0);
        for bucket in buckets.filter(|bucket| bucket.len() > 1) {
            self.docs.extend(bucket.iter().map(|&(_, doc)| doc as u32));
            self.starts.push(self.docs.len());
        }
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
        /// Against a map, with keys that crowd in some parts.
        #[test]
        fn equals_a_map(documents in prop::collection::vec((0u64..9, 0u64..4), 0..1500)) {
            let keys: Vec<u64> = documents.iter().flat_map(|&(a, b)| [a << 60 | a, u64::MAX - b]).collect();
            let mut expected: Vec<Vec<u32>> = vec![];
            for band in 0..2 {
                let mut map = std::collections::BTreeMap::<u64, Vec<u32>>::new();
                for (doc, row) in keys.chunks_exact(2).enumerate() {
                    map.entry(row[band]).or_default().push(doc as u32);
                }
                expected.extend(map.into_values().filter(|docs| docs.len() > 1));
            }
            let buckets = Buckets::of(&keys, 2);
            prop_assert_eq!((0..buckets.len()).map(|b| buckets.get(b).to_vec()).collect::<Vec<_>>(), expected);
        }

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
