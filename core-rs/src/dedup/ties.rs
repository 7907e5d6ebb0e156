//! Which documents shared keys tie together, told a part of a band at a time: a table of keys need not be in memory.

use super::banding::UnionFind;
use rayon::prelude::*;

/// Five bytes per document, whatever is told.
pub struct Ties {
    sets: UnionFind,
    tied: Vec<bool>,
}

impl Ties {
    #[must_use]
    pub fn new(documents: usize) -> Self {
        Self {
            sets: UnionFind::new(documents),
            tied: vec![false; documents],
        }
    }

    #[must_use]
    pub fn documents(&self) -> usize {
        self.tied.len()
    }

    /// Ties the documents that have the same key. Equal keys of a band must come in one call; `documents` holds the
    /// document of each key, below the number of all. Sixteen bytes per key while it works.
    pub fn add(&mut self, keys: &[u64], documents: &[u32]) {
        let mut pairs: Vec<(u64, u32)> = keys
            .iter()
            .copied()
            .zip(documents.iter().copied())
            .collect();
        pairs.par_sort_unstable();
        for alike in pairs.chunk_by(|a, b| a.0 == b.0) {
            for pair in alike.windows(2) {
                self.sets.union(pair[0].1, pair[1].1);
                self.tied[pair[0].1 as usize] = true;
                self.tied[pair[1].1 as usize] = true;
            }
        }
    }

    /// The documents that are tied, ascending, and of each the first one that it hangs together with.
    #[must_use]
    pub fn groups(&mut self) -> (Vec<i64>, Vec<i64>) {
        (0..self.tied.len() as u32)
            .filter(|&document| self.tied[document as usize])
            .map(|document| (i64::from(document), i64::from(self.sets.root(document))))
            .unzip()
    }
}

#[cfg(test)]
mod tests {
    use super::super::cluster::groups;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Bands in two ranges of keys each, against the whole table at once.
        #[test]
        fn equals_the_groups_of_a_table(table in prop::collection::vec((0u64..9, 0u64..20), 0..60), border in 0u64..20) {
            let keys: Vec<u64> = table.iter().flat_map(|&(a, b)| [a, b]).collect();
            let mut ties = Ties::new(table.len());
            for band in 0..2 {
                for low in [true, false] {
                    let some: Vec<(u64, u32)> = (0..table.len())
                        .map(|document| (keys[2 * document + band], document as u32))
                        .filter(|&(key, _)| (key < border) == low)
                        .collect();
                    let (part, documents): (Vec<u64>, Vec<u32>) = some.into_iter().unzip();
                    ties.add(&part, &documents);
                }
            }
            let mut found = vec![-1; table.len()];
            let (rows, roots) = ties.groups();
            for (row, root) in rows.into_iter().zip(roots) {
                found[row as usize] = root;
            }
            prop_assert_eq!(found, groups(&keys, 2));
        }
    }
}
