//! Which source each row comes from: shares kept within one row at every point, random access in constant time.
//!
//! Weights become counts out of a cycle of 65,536 rows; the cycle is filled by Tijdeman's rule ("The chairman
//! assignment problem", 1980): among the sources that are owed at least 1/(2k-2) of a row, the one whose debt
//! becomes too large first. Then after any number of rows each source is less than one row from its share.
//! Weights may change at given rows (the anneal); each such segment starts with no debts.

use super::{LoaderError, Result};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

const CYCLE: u64 = 1 << 16;
const MAX_SOURCES: usize = 4096;

/// Weights of all sources from a row on.
#[derive(Clone, Debug, PartialEq)]
pub struct Weights {
    pub from_row: u64,
    pub weights: Vec<f64>,
}

/// The schedule of a whole run.
pub struct Mixture {
    segments: Vec<Segment>,
}

struct Segment {
    from_row: u64,
    /// Rows that each source gave in earlier segments.
    before: Vec<u64>,
    /// Rows per cycle of each source.
    counts: Vec<u64>,
    /// Source of each row of a cycle.
    picks: Vec<u16>,
    /// How many rows its source gave earlier in the cycle.
    ranks: Vec<u32>,
}

impl Mixture {
    /// A mixture of `sources` sources. The first schedule entry starts at row 0, later ones at later rows.
    ///
    /// # Errors
    /// `Invalid` for weights that are negative, not finite, all zero, or not one per source, and rows out of order.
    pub fn new(sources: usize, schedule: &[Weights]) -> Result<Self> {
        let invalid = |what: String| LoaderError::Invalid(what);
        if sources == 0 || sources > MAX_SOURCES {
            return Err(invalid(format!(
                "a mixture has 1 to {MAX_SOURCES} sources, not {sources}"
            )));
        }
        if schedule.first().is_none_or(|first| first.from_row != 0) {
            return Err(invalid("the first weights must hold from row 0".into()));
        }
        let mut segments: Vec<Segment> = Vec::with_capacity(schedule.len());
        for Weights { from_row, weights } in schedule {
            let good = weights
                .iter()
                .all(|weight| weight.is_finite() && *weight >= 0.0);
            if weights.len() != sources || !good || weights.iter().sum::<f64>() <= 0.0 {
                return Err(invalid(format!(
                    "{sources} sources need as many weights that are not negative and not all zero: {weights:?}"
                )));
            }
            let before = match segments.last() {
                None => vec![0; sources],
                Some(last) if last.from_row < *from_row => (0..sources)
                    .map(|source| last.rows_of(source, *from_row))
                    .collect(),
                Some(last) => {
                    let rows = format!("{} and {from_row}", last.from_row);
                    return Err(invalid(format!(
                        "weights must change at rising rows, not at {rows}"
                    )));
                }
            };
            let segment = Segment::new(*from_row, before, apportion(weights));
            if segment.picks.len() as u64 != CYCLE {
                return Err(invalid(format!("no schedule keeps the shares {weights:?}")));
            }
            segments.push(segment);
        }
        Ok(Self { segments })
    }

    /// Source of row `row`, and how many rows that source gave before it.
    pub fn pick(&self, row: u64) -> (usize, u64) {
        let segment = self.segment(row);
        let (cycle, at) = (
            (row - segment.from_row) / CYCLE,
            ((row - segment.from_row) % CYCLE) as usize,
        );
        let source = usize::from(segment.picks[at]);
        let rows =
            segment.before[source] + cycle * segment.counts[source] + u64::from(segment.ranks[at]);
        (source, rows)
    }

    /// How many of the rows before `row` came from `source`.
    pub fn rows_of(&self, source: usize, row: u64) -> u64 {
        self.segment(row).rows_of(source, row)
    }

    fn segment(&self, row: u64) -> &Segment {
        let after = self
            .segments
            .partition_point(|segment| segment.from_row <= row);
        &self.segments[after - 1] // the first segment starts at row 0
    }
}

impl Segment {
    fn new(from_row: u64, before: Vec<u64>, counts: Vec<u64>) -> Self {
        let picks = fill(&counts);
        let mut given = vec![0u32; counts.len()];
        let ranks = picks
            .iter()
            .map(|&source| {
                given[usize::from(source)] += 1;
                given[usize::from(source)] - 1
            })
            .collect();
        Self {
            from_row,
            before,
            counts,
            picks,
            ranks,
        }
    }

    fn rows_of(&self, source: usize, row: u64) -> u64 {
        let (cycles, at) = (
            (row - self.from_row) / CYCLE,
            ((row - self.from_row) % CYCLE) as usize,
        );
        let part = self.picks[..at]
            .iter()
            .filter(|&&pick| usize::from(pick) == source)
            .count() as u64;
        self.before[source] + cycles * self.counts[source] + part
    }
}

/// Weights as counts that add up to a cycle (largest remainders); a weight above 0 gets at least one row.
fn apportion(weights: &[f64]) -> Vec<u64> {
    let sum: f64 = weights.iter().sum();
    let exact: Vec<f64> = weights
        .iter()
        .map(|weight| weight / sum * CYCLE as f64)
        .collect();
    let least = |weight: f64| u64::from(weight > 0.0);
    let mut counts: Vec<u64> = exact
        .iter()
        .zip(weights)
        .map(|(share, &weight)| (share.floor() as u64).max(least(weight)))
        .collect();
    let mut by_remainder: Vec<usize> = (0..weights.len()).filter(|&s| weights[s] > 0.0).collect();
    by_remainder
        .sort_by(|&a, &b| (exact[b] - exact[b].floor()).total_cmp(&(exact[a] - exact[a].floor())));
    let given: u64 = counts.iter().sum();
    for &source in by_remainder
        .iter()
        .cycle()
        .take(CYCLE.saturating_sub(given) as usize)
    {
        counts[source] += 1;
    }
    // Only the minimum of one row can have put the sum above the cycle: the largest source pays.
    for _ in CYCLE..given {
        if let Some(largest) = counts.iter_mut().max() {
            *largest -= 1;
        }
    }
    counts
}

/// One cycle, by Tijdeman's rule in integers.
///
/// With `m = 2k - 2`, draw `i` of a source with `c` rows per cycle may come at row `n` (from 1) once
/// `c n / CYCLE - i >= 1/m`, and must not come after `c n / CYCLE - i = 1 - 1/m`.
fn fill(counts: &[u64]) -> Vec<u16> {
    let active: Vec<u16> = (0..counts.len() as u16)
        .filter(|&source| counts[usize::from(source)] > 0)
        .collect();
    if let [only] = active[..] {
        return vec![only; CYCLE as usize];
    }
    let m = 2 * active.len() as u64 - 2;
    let release =
        |source: u16, draw: u64| ((m * draw + 1) * CYCLE).div_ceil(m * counts[usize::from(source)]);
    let mut waiting: Vec<Vec<(u16, u64)>> = vec![Vec::new(); CYCLE as usize + 1];
    for &source in &active {
        waiting[release(source, 0) as usize].push((source, 0));
    }
    let mut ready = BinaryHeap::new();
    let mut picks = Vec::with_capacity(CYCLE as usize);
    for n in 1..=CYCLE {
        for (source, draw) in std::mem::take(&mut waiting[n as usize]) {
            ready.push(Reverse((
                Deadline::new(m * (draw + 1) - 1, counts[usize::from(source)]),
                source,
                draw,
            )));
        }
        let Some(Reverse((_, source, draw))) = ready.pop() else {
            break; // cannot be, by Tijdeman's theorem; the caller checks the length all the same
        };
        picks.push(source);
        if draw + 1 < counts[usize::from(source)] {
            let next = release(source, draw + 1).max(n + 1);
            if let Some(slot) = waiting.get_mut(next as usize) {
                slot.push((source, draw + 1));
            }
        }
    }
    picks
}

/// The fraction `over / under`, compared without division.
#[derive(PartialEq, Eq)]
struct Deadline {
    over: u64,
    under: u64,
}

impl Deadline {
    fn new(over: u64, under: u64) -> Self {
        Self { over, under }
    }
}

impl Ord for Deadline {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let left = u128::from(self.over) * u128::from(other.under);
        left.cmp(&(u128::from(other.over) * u128::from(self.under)))
    }
}

impl PartialOrd for Deadline {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one(weights: &[f64]) -> Mixture {
        let weights = weights.to_vec();
        Mixture::new(
            weights.len(),
            &[Weights {
                from_row: 0,
                weights,
            }],
        )
        .unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn shares_hold_within_one_row_everywhere(weights in prop::collection::vec(0.0f64..1.0, 1..12)) {
            prop_assume!(weights.iter().sum::<f64>() > 0.0);
            let mixture = one(&weights);
            let counts = &mixture.segments[0].counts;
            prop_assert_eq!(counts.iter().sum::<u64>(), CYCLE);
            let sum: f64 = weights.iter().sum();
            for (count, weight) in counts.iter().zip(&weights) {
                prop_assert_eq!(*count == 0, *weight == 0.0);
                // one row for rounding, and at most one per other source whose share was below a row
                prop_assert!((*count as f64 - weight / sum * CYCLE as f64).abs() <= weights.len() as f64);
            }
            let mut given = vec![0u64; weights.len()];
            for row in 0..CYCLE {
                let (source, rank) = mixture.pick(row);
                prop_assert_eq!(rank, given[source]);
                given[source] += 1;
                for (got, count) in given.iter().zip(counts) {
                    let owed = (row + 1) * count;
                    prop_assert!((got * CYCLE).abs_diff(owed) < CYCLE, "row {row}: {got} given, {owed}/CYCLE owed");
                }
            }
        }

        #[test]
        fn a_schedule_counts_on(
            first in prop::collection::vec(0.01f64..1.0, 3), second in prop::collection::vec(0.01f64..1.0, 3),
            change in 1u64..200_000, seen in 0u64..200_000,
        ) {
            let schedule = [Weights { from_row: 0, weights: first }, Weights { from_row: change, weights: second }];
            let mixture = Mixture::new(3, &schedule).unwrap();
            // The ranks of each source are 0, 1, 2, ... across the change.
            for row in [change - 1, change, change + 1, seen, change + seen] {
                let (source, rank) = mixture.pick(row);
                prop_assert_eq!(rank, mixture.rows_of(source, row));
                prop_assert_eq!(rank + 1, mixture.rows_of(source, row + 1));
                prop_assert_eq!((0..3).map(|s| mixture.rows_of(s, row)).sum::<u64>(), row);
            }
        }
    }

    #[test]
    fn a_tiny_source_is_still_read_and_a_zero_one_never() {
        let mixture = one(&[1.0, 1e-12, 0.0]);
        assert_eq!(mixture.segments[0].counts, [CYCLE - 1, 1, 0]);
    }

    #[test]
    fn many_sources_fill_the_cycle() {
        let weights: Vec<f64> = (1..=2000).map(f64::from).collect();
        assert_eq!(one(&weights).segments[0].picks.len() as u64, CYCLE);
    }

    #[test]
    fn bad_weights_are_refused() {
        let make = |weights: Vec<f64>| {
            Mixture::new(
                2,
                &[Weights {
                    from_row: 0,
                    weights,
                }],
            )
        };
        for bad in [
            vec![],
            vec![1.0],
            vec![0.0, 0.0],
            vec![1.0, -1.0],
            vec![f64::NAN, 1.0],
        ] {
            assert!(make(bad).is_err());
        }
        let at = |from_row| Weights {
            from_row,
            weights: vec![1.0],
        };
        assert!(Mixture::new(1, &[at(1)]).is_err());
        assert!(Mixture::new(1, &[at(0), at(0)]).is_err());
        assert!(Mixture::new(1, &[]).is_err());
    }
}
