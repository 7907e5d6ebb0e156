//! Attention of new tokens to their sequences, whose keys and values it reads where they lie: in the blocks of a cache.
//!
//! A score is a dot product as in `linear`; values are added key after key. So a token's result depends on its own
//! sequence alone.

use super::linear::block as products;
use super::{LANES, Number, best_of, sum, worth_threads};
use crate::threads;
use rayon::prelude::*;

/// The keys and values of one layer: [heads, blocks, block size, channels] each.
#[derive(Clone, Copy)]
pub struct Pages<'a, T> {
    pub keys: &'a [T],
    pub values: &'a [T],
    pub heads: usize,
    pub block_size: usize,
    pub channels: usize,
}

/// What one token sees: the first `seen` tokens of the sequence in these blocks.
#[derive(Clone, Copy)]
pub struct Sight<'a> {
    pub blocks: &'a [i32],
    pub seen: usize,
}

/// softmax(q k' / sqrt(channels)) v of every token and key-value head: `queries` and the parts of `out` are [group of
/// query heads, channels], a token's heads behind each other. Every block that is seen must exist.
pub fn attend<T: Number>(
    queries: &[&[T]],
    pages: Pages<'_, T>,
    sights: &[Sight<'_>],
    out: &mut [T],
) {
    let Some(size) = queries
        .first()
        .map(|query| query.len())
        .filter(|&size| size > 0)
    else {
        return;
    };
    let head = best_head::<T>();
    let one = |(index, out): (usize, &mut [T])| {
        let sight = sights[index / pages.heads];
        head(queries[index], pages, index % pages.heads, sight, out);
    };
    let work: usize = sights.iter().map(|sight| sight.seen).sum();
    if worth_threads(work * size * pages.heads) {
        threads::install(|| out.par_chunks_mut(size).enumerate().for_each(one));
    } else {
        out.chunks_mut(size).enumerate().for_each(one);
    }
}

best_of!(best_head, head<T>(query: &[T], pages: Pages<'_, T>, index: usize, sight: Sight<'_>, out: &mut [T]));

/// One token's attention in one key-value head.
#[inline(always)]
fn head<T: Number>(
    query: &[T],
    pages: Pages<'_, T>,
    index: usize,
    sight: Sight<'_>,
    out: &mut [T],
) {
    let channels = pages.channels;
    let group = query.len() / channels;
    let scale = (channels as f32).sqrt().recip();
    let query: Vec<f32> = query.iter().map(|q| q.widen() * scale).collect();
    let blocks = || seen_blocks(pages, index, sight);

    // [keys, group]
    let mut scores = vec![0.0; sight.seen * group];
    for (start, block) in blocks() {
        let keys = &pages.keys[block.clone()];
        let scores = &mut scores[start * group..][..keys.len() / channels * group];
        products(&query, keys, channels, scores);
    }
    let mut weights = vec![0.0; sight.seen];
    let mut totals = Vec::with_capacity(group);
    for member in 0..group {
        for (weight, scores) in weights.iter_mut().zip(scores.chunks_exact(group)) {
            *weight = scores[member];
        }
        totals.push(exponentials(&mut weights));
        for (scores, &weight) in scores.chunks_exact_mut(group).zip(&weights) {
            scores[member] = weight;
        }
    }
    let mut sums = vec![0.0; group * channels];
    for (start, block) in blocks() {
        let values = pages.values[block].chunks_exact(channels);
        for (value, weights) in values.zip(scores[start * group..].chunks_exact(group)) {
            for (sums, &weight) in sums.chunks_exact_mut(channels).zip(weights) {
                for (sum, value) in sums.iter_mut().zip(value) {
                    *sum = value.widen().mul_add(weight, *sum);
                }
            }
        }
    }
    let parts = out
        .chunks_exact_mut(channels)
        .zip(sums.chunks_exact(channels));
    for ((out, sums), total) in parts.zip(totals) {
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = T::narrow(sum / total);
        }
    }
}

/// Of each block that is seen: its first token, and where its numbers of one head lie.
#[inline(always)]
fn seen_blocks<'a, T>(
    pages: Pages<'a, T>,
    head: usize,
    sight: Sight<'a>,
) -> impl Iterator<Item = (usize, std::ops::Range<usize>)> + 'a {
    let token = pages.channels;
    let block = pages.block_size * token;
    let first = pages.keys.len() / pages.heads * head;
    let starts = (0..sight.seen).step_by(pages.block_size);
    starts.zip(sight.blocks).map(move |(start, &id)| {
        let at = first + id as usize * block;
        (
            start,
            at..at + (sight.seen - start).min(pages.block_size) * token,
        )
    })
}

/// Replaces scores by exp(score - largest) and returns their sum.
#[inline(always)]
fn exponentials(scores: &mut [f32]) -> f32 {
    let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut lanes = [0.0; LANES];
    for chunk in scores.chunks_mut(LANES) {
        for (score, lane) in chunk.iter_mut().zip(&mut lanes) {
            *score = exp(*score - largest);
            *lane += *score;
        }
    }
    sum(lanes)
}

/// e^x for x <= 0, to 2 units in the last place: x = n ln 2 + r, and a polynomial in r (minimax coefficients of degree 6
/// by Cephes' `expf`). Written out, because the one of the system differs from machine to machine.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    const SMALLEST: f32 = -87.0;
    const LN_2_HIGH: f32 = 355.0 / 512.0;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    // Not `max`, which would hide what is not a number.
    let x = if x < SMALLEST { SMALLEST } else { x };
    let n = (x * std::f32::consts::LOG2_E).round_ties_even();
    let r = n.mul_add(-LN_2_LOW, n.mul_add(-LN_2_HIGH, x));
    let p = 1.987_569_1e-4f32
        .mul_add(r, 1.398_199_9e-3)
        .mul_add(r, 8.333_452e-3)
        .mul_add(r, 4.166_579_6e-2)
        .mul_add(r, 1.666_666_5e-1)
        .mul_add(r, 0.5);
    let power = f32::from_bits(((n as i32 + 127) as u32) << 23);
    p.mul_add(r * r, r + 1.0) * power
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Bf16;
    use crate::threads::testing::with_threads;
    use proptest::prelude::*;

    #[test]
    fn exp_is_the_exponential_function() {
        for i in 0..=87_000 {
            let x = -(i as f32) / 1000.0;
            let exact = f64::from(x).exp();
            assert!((f64::from(exp(x)) - exact).abs() <= 2.0 * f64::from(f32::EPSILON) * exact);
        }
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(-1e30) < 1e-37 && exp(f32::NEG_INFINITY) < 1e-37);
        assert!(exp(f32::NAN).is_nan());
    }

    /// In f64, token by token.
    fn oracle(query: &[f32], pages: Pages<'_, f32>, index: usize, sight: Sight<'_>) -> Vec<f64> {
        let channels = pages.channels;
        let row = |numbers: &[f32], token: usize| -> Vec<f64> {
            let block = sight.blocks[token / pages.block_size] as usize;
            let first = pages.keys.len() / pages.heads * index;
            let at = first + (block * pages.block_size + token % pages.block_size) * channels;
            numbers[at..at + channels]
                .iter()
                .map(|&x| f64::from(x))
                .collect()
        };
        let mut out = vec![];
        for query in query.chunks_exact(channels) {
            let score = |token| -> f64 {
                let key = row(pages.keys, token);
                let dot: f64 = query.iter().zip(key).map(|(&q, k)| f64::from(q) * k).sum();
                (dot / (channels as f64).sqrt()).exp()
            };
            let weights: Vec<f64> = (0..sight.seen).map(score).collect();
            let total: f64 = weights.iter().sum();
            out.extend((0..channels).map(|channel| {
                let values = weights.iter().enumerate();
                let parts =
                    values.map(|(token, weight)| weight * row(pages.values, token)[channel]);
                parts.sum::<f64>() / total
            }));
        }
        out
    }

    fn numbers(count: usize, seed: u64) -> Vec<f32> {
        let number =
            |i| (crate::text::hash::spread(seed ^ i) >> 40) as f32 / (1 << 23) as f32 - 1.0;
        (0..count as u64).map(number).collect()
    }

    proptest! {
        #[test]
        fn blocks_are_read_as_one_sequence(
            heads in 1usize..4, group in 1usize..6, block_size in 1usize..6, channels in 1usize..40,
            seen in prop::collection::vec(1usize..20, 1..4), seed in any::<u64>(),
        ) {
            let blocks = 20;
            let cache = heads * blocks * block_size * channels;
            let (keys, values) = (numbers(cache, seed), numbers(cache, seed ^ 1));
            let queries = numbers(seen.len() * heads * group * channels, seed ^ 2);
            let pages = Pages { keys: &keys, values: &values, heads, block_size, channels };
            let table: Vec<i32> = (0..20).map(|i| (i * 7 + 3) % 20).collect();
            let sights: Vec<Sight<'_>> = seen.iter().enumerate()
                .map(|(i, &seen)| Sight { blocks: &table[i.min(20 - seen.div_ceil(block_size))..], seen }).collect();
            let parts: Vec<&[f32]> = queries.chunks_exact(group * channels).collect();
            let mut out = vec![0.0; queries.len()];
            attend(&parts, pages, &sights, &mut out);
            let mut plain = vec![0.0; queries.len()];
            for (i, out) in plain.chunks_exact_mut(group * channels).enumerate() {
                head(parts[i], pages, i % heads, sights[i / heads], out);
            }
            prop_assert_eq!(&out, &plain);
            for (i, out) in out.chunks_exact(group * channels).enumerate() {
                let expected = oracle(parts[i], pages, i % heads, sights[i / heads]);
                for (&found, expected) in out.iter().zip(expected) {
                    prop_assert!((f64::from(found) - expected).abs() < 1e-5);
                }
            }
        }
    }

    #[test]
    fn neither_threads_nor_neighbours_show() {
        let (heads, block_size, channels, group) = (2, 16, 64, 3);
        let narrow = |values: Vec<f32>| values.into_iter().map(Bf16::narrow).collect::<Vec<Bf16>>();
        let cache = heads * 80 * block_size * channels;
        let (keys, values) = (narrow(numbers(cache, 1)), narrow(numbers(cache, 2)));
        let queries = narrow(numbers(2 * heads * group * channels, 3));
        let pages = Pages {
            keys: &keys,
            values: &values,
            heads,
            block_size,
            channels,
        };
        let blocks: Vec<i32> = (0..80).collect();
        let sights = [1280, 700].map(|seen| Sight {
            blocks: &blocks,
            seen,
        });
        let parts: Vec<&[Bf16]> = queries.chunks_exact(group * channels).collect();
        let run = |threads, tokens: std::ops::Range<usize>| {
            let parts = &parts[tokens.start * heads..tokens.end * heads];
            let mut out = vec![0; parts.len() * group * channels];
            with_threads(threads, || {
                attend(parts, pages, &sights[tokens.clone()], &mut out)
            });
            out
        };
        let together = run(1, 0..2);
        assert_eq!(together, run(3, 0..2));
        assert_eq!(together, [run(1, 0..1), run(1, 1..2)].concat());
    }
}
