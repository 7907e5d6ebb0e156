//! Attention of new tokens to their sequences, whose keys and values it reads where they lie: in the blocks of a cache.
//!
//! A score is a dot product as in `linear`; values are added key after key. So a token's result depends on its own
//! sequence alone.

use super::linear::block as products;
use super::{LANES, Number, best_of, sum, worth_threads};
use crate::threads;
use rayon::prelude::*;
use std::ops::Range;

/// The keys and values of one layer: [heads, blocks, block size, channels] each.
#[derive(Clone, Copy)]
pub struct Pages<'a, T> {
    pub keys: &'a [T],
    pub values: &'a [T],
    /// Of numbers that are stored as codes.
    pub scales: Option<Scales<'a>>,
    pub heads: usize,
    pub block_size: usize,
    pub channels: usize,
}

/// By what the codes of each key and value are multiplied: [heads, blocks, block size] each.
#[derive(Clone, Copy)]
pub struct Scales<'a> {
    pub keys: &'a [f32],
    pub values: &'a [f32],
}

/// What one token sees: the first `seen` tokens of the sequence in these blocks.
#[derive(Clone, Copy)]
pub struct Sight<'a> {
    pub blocks: &'a [i32],
    pub seen: usize,
}

/// softmax(q k' / sqrt(channels)) v of every token and key-value head: `queries` and the parts of `out` are [group of
/// query heads, channels], a token's heads behind each other. Every block that is seen must exist.
pub fn attend<Q: Number, T: Number>(
    queries: &[&[Q]],
    pages: Pages<'_, T>,
    sights: &[Sight<'_>],
    out: &mut [Q],
) {
    let Some(size) = queries
        .first()
        .map(|query| query.len())
        .filter(|&size| size > 0)
    else {
        return;
    };
    let head = best_head::<T>();
    let scale = (pages.channels as f32).sqrt().recip();
    let one = |(index, out): (usize, &mut [Q])| {
        let sight = sights[index / pages.heads];
        let query: Vec<f32> = queries[index].iter().map(|q| q.widen() * scale).collect();
        let mut sums = vec![0.0; size];
        head(&query, pages, index % pages.heads, sight, &mut sums);
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = Q::narrow(sum);
        }
    };
    let work: usize = sights.iter().map(|sight| sight.seen).sum();
    if worth_threads(work * size * pages.heads) {
        threads::install(|| out.par_chunks_mut(size).enumerate().for_each(one));
    } else {
        out.chunks_mut(size).enumerate().for_each(one);
    }
}

best_of!(best_head, head<T>(query: &[f32], pages: Pages<'_, T>, index: usize, sight: Sight<'_>, sums: &mut [f32]));

/// One token's attention in one key-value head: of a query divided by sqrt(channels), into `sums`, which are zero.
#[inline(always)]
fn head<T: Number>(
    query: &[f32],
    pages: Pages<'_, T>,
    index: usize,
    sight: Sight<'_>,
    sums: &mut [f32],
) {
    let channels = pages.channels;
    let group = query.len() / channels;
    let blocks = || seen_blocks(pages, index, sight);
    // Of the tokens in a block: its numbers are one range, their scales another.
    let scale = |scores: &mut [f32], scales: &[f32], (start, block): (usize, Range<usize>)| {
        let scales = &scales[block.start / channels..block.end / channels];
        let scores = scores[start * group..].chunks_exact_mut(group);
        for (scores, scale) in scores.zip(scales) {
            scores.iter_mut().for_each(|score| *score *= scale);
        }
    };

    // [keys, group]
    let mut scores = vec![0.0; sight.seen * group];
    for (start, block) in blocks() {
        let keys = &pages.keys[block.clone()];
        let scores = &mut scores[start * group..][..keys.len() / channels * group];
        products(query, keys, channels, scores);
    }
    if let Some(scales) = pages.scales {
        blocks().for_each(|block| scale(&mut scores, scales.keys, block));
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
    if let Some(scales) = pages.scales {
        blocks().for_each(|block| scale(&mut scores, scales.values, block));
    }
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
    for (sums, total) in sums.chunks_exact_mut(channels).zip(totals) {
        sums.iter_mut().for_each(|sum| *sum /= total);
    }
}

/// Of each block that is seen: its first token, and where its numbers of one head lie.
#[inline(always)]
fn seen_blocks<'a, T>(
    pages: Pages<'a, T>,
    head: usize,
    sight: Sight<'a>,
) -> impl Iterator<Item = (usize, Range<usize>)> + 'a {
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
    use crate::kernels::{Bf16, E4m3};
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

    /// By the plain function, compiled for no particular processor.
    fn plainly<T: Number>(parts: &[&[f32]], pages: Pages<'_, T>, sights: &[Sight<'_>]) -> Vec<f32> {
        let scale = (pages.channels as f32).sqrt().recip();
        let one = |(i, part): (usize, &&[f32])| {
            let query: Vec<f32> = part.iter().map(|q| q * scale).collect();
            let mut sums = vec![0.0; part.len()];
            let sight = sights[i / pages.heads];
            head(&query, pages, i % pages.heads, sight, &mut sums);
            sums
        };
        parts.iter().enumerate().flat_map(one).collect()
    }

    /// What `attend` makes of codes is what it makes of the numbers that they stand for.
    fn check_codes<T: Number>(sizes: [usize; 4], seen: &[usize], seed: u64, largest: f32) {
        let [heads, group, block_size, channels] = sizes;
        let tokens = heads * 20 * block_size;
        let code = |seed| -> Vec<T> {
            let numbers = numbers(tokens * channels, seed).into_iter();
            numbers.map(|x| T::narrow(x * largest)).collect()
        };
        let (keys, values) = (code(seed), code(seed ^ 1));
        let (key_scales, value_scales) = (numbers(tokens, seed ^ 3), numbers(tokens, seed ^ 4));
        let stand_for = |codes: &[T], scales: &[f32]| -> Vec<f32> {
            let of_tokens = codes.chunks_exact(channels).zip(scales);
            of_tokens
                .flat_map(|(codes, scale)| codes.iter().map(move |code| code.widen() * scale))
                .collect()
        };
        let (k, v) = (
            stand_for(&keys, &key_scales),
            stand_for(&values, &value_scales),
        );
        let queries: Vec<f32> = numbers(seen.len() * heads * group * channels, seed ^ 2)
            .into_iter()
            .map(|x| x / largest)
            .collect();
        let parts: Vec<&[f32]> = queries.chunks_exact(group * channels).collect();
        let table: Vec<i32> = (0..20).map(|i| (i * 7 + 3) % 20).collect();
        let sights: Vec<Sight<'_>> = seen
            .iter()
            .map(|&seen| Sight {
                blocks: &table,
                seen,
            })
            .collect();
        let scales = Some(Scales {
            keys: &key_scales,
            values: &value_scales,
        });
        let pages = Pages {
            keys: &keys,
            values: &values,
            scales,
            heads,
            block_size,
            channels,
        };
        let mut out = vec![0.0; queries.len()];
        attend(&parts, pages, &sights, &mut out);
        assert_eq!(out, plainly(&parts, pages, &sights));
        let numbers = Pages {
            keys: &k,
            values: &v,
            scales: None,
            heads,
            block_size,
            channels,
        };
        for (i, out) in out.chunks_exact(group * channels).enumerate() {
            let expected = oracle(parts[i], numbers, i % heads, sights[i / heads]);
            for (&found, expected) in out.iter().zip(expected) {
                assert!((f64::from(found) - expected).abs() < 1e-4 * f64::from(largest));
            }
        }
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
            let pages = Pages { keys: &keys, values: &values, scales: None, heads, block_size, channels };
            let table: Vec<i32> = (0..20).map(|i| (i * 7 + 3) % 20).collect();
            let sights: Vec<Sight<'_>> = seen.iter().enumerate()
                .map(|(i, &seen)| Sight { blocks: &table[i.min(20 - seen.div_ceil(block_size))..], seen }).collect();
            let parts: Vec<&[f32]> = queries.chunks_exact(group * channels).collect();
            let mut out = vec![0.0; queries.len()];
            attend(&parts, pages, &sights, &mut out);
            prop_assert_eq!(&out, &plainly(&parts, pages, &sights));
            for (i, out) in out.chunks_exact(group * channels).enumerate() {
                let expected = oracle(parts[i], pages, i % heads, sights[i / heads]);
                for (&found, expected) in out.iter().zip(expected) {
                    prop_assert!((f64::from(found) - expected).abs() < 1e-5);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn codes_are_read_as_what_they_stand_for(
            heads in 1usize..4, group in 1usize..6, block_size in 1usize..6, channels in 1usize..40,
            seen in prop::collection::vec(1usize..20, 1..4), seed in any::<u64>(),
        ) {
            check_codes::<i8>([heads, group, block_size, channels], &seen, seed, 127.0);
            check_codes::<E4m3>([heads, group, block_size, channels], &seen, seed, 448.0);
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
            scales: None,
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
