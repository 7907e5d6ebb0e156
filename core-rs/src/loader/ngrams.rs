//! How often given runs of n tokens occur in token shards, and runs drawn from them: what memorisation is measured by
//! (Llama 3 paper, 5.4.2).
//!
//! The index is one of the n-grams that are asked for, not of the training data: the shards are read once beside it with
//! a rolling hash, and what the hash finds is compared token by token. So counts are exact, whatever collides, and
//! memory holds what is asked for (4 bytes a token, 80 an n-gram) and one block of tokens per thread, however long the
//! shards are.

use super::permutation::Permutation;
use super::{LoaderError, Result, Shard};
use crate::threads;
use rayon::prelude::*;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// Window starts that are searched at once.
const BLOCK: u64 = 1 << 16;
/// The longest n-gram, so that blocks stay small.
const LONGEST: usize = 1 << 16;
/// Tokens of all n-grams of one request: 4 GiB.
const MOST_TOKENS: usize = 1 << 30;
/// Bits of the filter per n-gram: one window in so many is looked up for nothing.
const FILTER_BITS: usize = 32;

/// Odd, so that no power of it vanishes.
const BASE: u64 = 0x9e37_79b9_7f4a_7c15;
const SCATTER: u64 = 0xd6e8_feb8_6659_fd93;

/// How often every `n` tokens that stand together in `runs`, each of `length` tokens, occur within a document: run by
/// run `length - n + 1` counts. What occurs in overlapping places counts at each.
///
/// # Errors
/// `Invalid` for an `n` of 0 or beyond `length`, a `length` beyond 65,536, or runs that are not whole; `Io` and
/// `Damaged` of a shard.
pub fn count_ngrams(shards: &[Shard], runs: &[u32], length: usize, n: usize) -> Result<Vec<u64>> {
    count_in_blocks(shards, runs, length, n, BLOCK)
}

fn count_in_blocks(
    shards: &[Shard],
    runs: &[u32],
    length: usize,
    n: usize,
    block: u64,
) -> Result<Vec<u64>> {
    check_length(length)?;
    if n == 0 || n > length || !runs.len().is_multiple_of(length) || runs.len() > MOST_TOKENS {
        let tokens = runs.len();
        return Err(LoaderError::Invalid(format!(
            "{tokens} tokens are not runs of {length} with n-grams of {n}, or more than {MOST_TOKENS}"
        )));
    }
    let ngrams = runs.chunks_exact(length).flat_map(|run| run.windows(n));
    let index = Index::new(ngrams.collect(), n);
    threads::install(|| {
        shards.par_iter().try_for_each(|shard| {
            let blocks = shard.header().tokens.div_ceil(block);
            (0..blocks)
                .into_par_iter()
                .try_for_each_init(Vec::new, |tokens, number| {
                    index.search(shard, number * block, block, tokens)
                })
        })
    })?;
    Ok(index.counts())
}

fn check_length(n: usize) -> Result<()> {
    if (1..=LONGEST).contains(&n) {
        return Ok(());
    }
    Err(LoaderError::Invalid(format!(
        "runs of {n} tokens: 1 to {LONGEST} are possible"
    )))
}

/// The different n-grams by their hash, each with its count.
struct Index<'a> {
    n: usize,
    /// BASE to the power of n - 1: the factor of the token that leaves a window.
    last: u64,
    ngrams: Vec<&'a [u32]>,
    /// Of each different n-gram, ascending.
    hashes: Vec<u64>,
    found: Vec<AtomicU64>,
    /// Which of the different ones each given one is.
    given: Vec<usize>,
    /// One bit per place of a hash; unset where no n-gram has it.
    filter: Vec<u64>,
    shift: u32,
}

impl<'a> Index<'a> {
    fn new(rows: Vec<&'a [u32]>, n: usize) -> Self {
        let mut order: Vec<(u64, usize)> = rows
            .iter()
            .enumerate()
            .map(|(place, row)| (hash(row.iter().copied()), place))
            .collect();
        order.sort_unstable_by_key(|&(hash, place)| (hash, rows[place], place));
        let bits = (rows.len() * FILTER_BITS)
            .next_power_of_two()
            .max(1 << 12)
            .trailing_zeros();
        let mut index = Self {
            n,
            last: (1..n).fold(1, |power: u64, _| power.wrapping_mul(BASE)),
            ngrams: vec![],
            hashes: vec![],
            found: vec![],
            given: vec![0; rows.len()],
            filter: vec![0; 1 << (bits - 6)],
            shift: 64 - bits,
        };
        for (hash, place) in order {
            if index.ngrams.last() != Some(&rows[place]) {
                index.ngrams.push(rows[place]);
                index.hashes.push(hash);
                index.found.push(AtomicU64::new(0));
                let bit = index.bit(hash);
                index.filter[bit >> 6] |= 1 << (bit & 63);
            }
            index.given[place] = index.ngrams.len() - 1;
        }
        index
    }

    fn bit(&self, hash: u64) -> usize {
        (hash.wrapping_mul(SCATTER) >> self.shift) as usize // below the filter's bits
    }

    /// Counts the windows of a shard that start in `block` tokens from `from` on.
    fn search(&self, shard: &Shard, from: u64, block: u64, tokens: &mut Vec<u32>) -> Result<()> {
        let end = shard.header().tokens;
        let starts_end = end.min(from.saturating_add(block));
        let to = end.min(starts_end.saturating_add(self.n as u64 - 1));
        tokens.clear();
        let content = shard.view()?;
        content.read(from..to, tokens)?;
        let mut document = content.document_at(from)?;
        let mut at = from;
        while at < starts_end {
            let after = document_end(shard, document, at)?.min(to);
            self.search_run(&tokens[(at - from) as usize..(after - from) as usize]);
            (document, at) = (document + 1, after);
        }
        Ok(())
    }

    /// Counts the windows of one run of tokens.
    fn search_run(&self, run: &[u32]) {
        if run.len() < self.n {
            return;
        }
        let mut hash = hash(run[..self.n].iter().copied());
        self.look_up(hash, &run[..self.n]);
        for (start, window) in run.windows(self.n).enumerate().skip(1) {
            let gone = u64::from(run[start - 1]).wrapping_mul(self.last);
            let new = u64::from(window[self.n - 1]);
            hash = hash.wrapping_sub(gone).wrapping_mul(BASE).wrapping_add(new);
            self.look_up(hash, window);
        }
    }

    fn look_up(&self, hash: u64, window: &[u32]) {
        let bit = self.bit(hash);
        if self.filter[bit >> 6] & 1 << (bit & 63) == 0 {
            return;
        }
        let first = self.hashes.partition_point(|&known| known < hash);
        for place in first..self.hashes.len() {
            if self.hashes[place] != hash {
                return;
            }
            if self.ngrams[place] == window {
                self.found[place].fetch_add(1, Ordering::Relaxed);
                return;
            }
        }
    }

    fn counts(&self) -> Vec<u64> {
        let count = |&place: &usize| self.found[place].load(Ordering::Relaxed);
        self.given.iter().map(count).collect()
    }
}

fn hash(tokens: impl Iterator<Item = u32>) -> u64 {
    tokens.fold(0, |hash: u64, token| {
        hash.wrapping_mul(BASE).wrapping_add(u64::from(token))
    })
}

/// Where document `d` ends, which begins at `at` or before and holds it.
fn document_end(shard: &Shard, d: u64, at: u64) -> Result<u64> {
    let end = shard.view()?.doc_end(d)?;
    if end > at && end <= shard.header().tokens {
        return Ok(end);
    }
    let what = "document ends do not rise to the last token";
    Err(LoaderError::damaged(shard.path(), 0, what))
}

/// Runs drawn from shards: `tokens` has a row for each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DrawnRuns {
    /// Index of the shard.
    pub shards: Vec<i64>,
    /// Index of the first token in the shard.
    pub starts: Vec<u64>,
    pub tokens: Vec<u32>,
}

/// Draws `count` different places at which `length` tokens lie within one document, `edge` tokens or more from both its
/// ends, each place as likely as any other: what occurs often is drawn often. All places where there are no more.
/// Reads where documents end, twice, and the drawn tokens; memory holds what is drawn.
///
/// # Errors
/// `Invalid` for a `length` of 0 or beyond 65,536, or more than 2^30 tokens in all; `Io` and `Damaged` of a shard.
pub fn draw_runs(
    shards: &[Shard],
    length: usize,
    edge: u64,
    count: u64,
    seed: u64,
) -> Result<DrawnRuns> {
    check_length(length)?;
    if count.saturating_mul(length as u64) > MOST_TOKENS as u64 {
        return Err(LoaderError::Invalid(format!(
            "{count} runs of {length} tokens are more than {MOST_TOKENS} tokens"
        )));
    }
    let margins = edge.saturating_mul(2).saturating_add(length as u64 - 1);
    let mut total = 0u64;
    each_document(shards, |_, document| {
        total += (document.end - document.start).saturating_sub(margins); // at most all tokens
        Ok(())
    })?;
    let mut drawn = DrawnRuns::default();
    if total == 0 {
        return Ok(drawn);
    }
    let permutation = Permutation::new(total, seed);
    let mut places: Vec<u64> = (0..count.min(total))
        .map(|i| permutation.apply(i))
        .collect();
    places.sort_unstable();
    let mut places = places.into_iter().peekable();
    let mut passed = 0u64;
    each_document(shards, |number, document| {
        let room = (document.end - document.start).saturating_sub(margins);
        while let Some(place) = places.next_if(|&place| place < passed + room) {
            let start = document.start + edge + (place - passed);
            shards[number]
                .view()?
                .read(start..start + length as u64, &mut drawn.tokens)?;
            drawn.shards.push(number as i64);
            drawn.starts.push(start);
        }
        passed += room;
        Ok(())
    })?;
    Ok(drawn)
}

/// Calls `visit` with every document: the index of its shard, and its tokens there.
fn each_document(
    shards: &[Shard],
    mut visit: impl FnMut(usize, Range<u64>) -> Result<()>,
) -> Result<()> {
    for (number, shard) in shards.iter().enumerate() {
        let mut at = 0;
        for d in 0..shard.header().documents {
            let end = document_end(shard, d, at)?;
            visit(number, at..end)?;
            at = end;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Documents, Folder, documents, write};
    use super::*;
    use crate::threads::testing::with_threads;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn written(folder: &Folder, shards: &[Documents]) -> Vec<Shard> {
        let write_one = |(number, documents): (usize, &Documents)| {
            let path = folder.0.join(format!("{number}.tok"));
            write(&path, 4, documents, 64);
            Shard::open(&path).unwrap()
        };
        shards.iter().enumerate().map(write_one).collect()
    }

    /// Every window of every document, counted as plainly as possible.
    fn brute_counts(shards: &[Documents], n: usize) -> HashMap<&[u32], u64> {
        let mut counts = HashMap::new();
        for (_, tokens) in shards.iter().flatten() {
            for window in tokens.windows(n) {
                *counts.entry(window).or_insert(0) += 1;
            }
        }
        counts
    }

    proptest! {
        #[test]
        fn counts_equal_brute_force(
            shards in prop::collection::vec(documents(4), 1..3),
            asked in prop::collection::vec(prop::collection::vec(0u32..5, 4), 0..30),
            n in 1usize..5,
            block in 1u64..20,
        ) {
            let folder = Folder::new();
            let opened = written(&folder, &shards);
            let runs = asked.concat();
            let counts = brute_counts(&shards, n);
            let expected: Vec<u64> =
                asked.iter().flat_map(|run| run.windows(n)).map(|row| counts.get(row).copied().unwrap_or(0)).collect();
            for threads in [1, 3] {
                let found = with_threads(threads, || count_in_blocks(&opened, &runs, 4, n, block));
                prop_assert_eq!(found.unwrap(), expected.clone());
            }
        }

        #[test]
        fn every_place_is_drawn_once(
            shards in prop::collection::vec(documents(4), 1..3), length in 1usize..6, edge in 0u64..3, seed: u64,
        ) {
            let folder = Folder::new();
            let opened = written(&folder, &shards);
            let mut expected = vec![];
            for (number, shard) in shards.iter().enumerate() {
                let mut start = 0;
                for (_, tokens) in shard {
                    let inner = tokens.get(edge as usize..tokens.len().saturating_sub(edge as usize));
                    for (place, window) in inner.unwrap_or(&[]).windows(length).enumerate() {
                        expected.push((number as i64, start + edge + place as u64, window.to_vec()));
                    }
                    start += tokens.len() as u64;
                }
            }
            let drawn = draw_runs(&opened, length, edge, 10_000, seed).unwrap();
            let rows = drawn.tokens.chunks_exact(length).map(<[u32]>::to_vec);
            let all: Vec<_> = drawn.shards.iter().copied().zip(drawn.starts.iter().copied()).zip(rows)
                .map(|((shard, start), row)| (shard, start, row)).collect();
            prop_assert_eq!(&all, &expected);
            let some = draw_runs(&opened, length, edge, 3, seed).unwrap();
            prop_assert_eq!(some.starts.len(), expected.len().min(3));
            let picked = some.shards.iter().copied().zip(some.starts.iter().copied());
            prop_assert!(picked.clone().all(|place| expected.iter().any(|row| (row.0, row.1) == place)));
            prop_assert_eq!(picked.collect::<std::collections::HashSet<_>>().len(), some.starts.len());
        }
    }

    #[test]
    fn equal_hashes_are_no_match() {
        let rows: [&[u32]; 2] = [&[1, 2, 3], &[3, 2, 1]];
        let mut index = Index::new(rows.to_vec(), 3);
        let same = index.hashes[0];
        index.hashes.fill(same);
        index.filter.fill(u64::MAX);
        for window in [[1, 2, 3], [3, 2, 1], [3, 2, 1], [2, 2, 2]] {
            index.look_up(same, &window);
        }
        assert_eq!(index.counts(), [1, 2]);
    }

    #[test]
    fn what_cannot_be_asked_is_refused() {
        let long = LONGEST + 1;
        for (runs, length, n) in [(3, 2, 2), (1, 1, 0), (2, 2, 3), (1, 0, 0), (long, long, 1)] {
            let found = count_ngrams(&[], &vec![1; runs], length, n);
            assert!(matches!(found, Err(LoaderError::Invalid(_))));
        }
        assert_eq!(count_ngrams(&[], &[1, 2], 2, 1).unwrap(), [0, 0]);
        assert!(matches!(
            draw_runs(&[], 1 << 10, 1, u64::MAX, 0),
            Err(LoaderError::Invalid(_))
        ));
        assert_eq!(
            draw_runs(&[], 5, u64::MAX, 9, 0).unwrap(),
            DrawnRuns::default()
        );
    }
}
