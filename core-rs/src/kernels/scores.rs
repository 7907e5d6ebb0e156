//! The likeliest token of each row of scores and the logarithm of the sum of their exponentials, reading them twice.

use super::attention::exp;
use super::{LANES, Number, best_of, sum, worth_threads};
use crate::threads;
use rayon::prelude::*;

/// Of a row: the first of its largest scores, and log(sum of exp(score)), which is no finite number where a score is
/// not a number or plus infinity.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Summary {
    pub likeliest: usize,
    pub normalizer: f32,
}

/// The summary of every row of `width` scores.
pub fn summaries<T: Number>(scores: &[T], width: usize, out: &mut [Summary]) {
    if width == 0 {
        return;
    }
    let one = best_summary::<T>();
    let rows = scores.chunks_exact(width).zip(out.iter_mut());
    if worth_threads(scores.len()) {
        threads::install(|| {
            let rows = scores.par_chunks_exact(width).zip(out.par_iter_mut());
            rows.for_each(|(scores, out)| one(scores, out));
        });
    } else {
        rows.for_each(|(scores, out)| one(scores, out));
    }
}

best_of!(best_summary, summary<T>(scores: &[T], out: &mut Summary));

#[inline(always)]
fn summary<T: Number>(scores: &[T], out: &mut Summary) {
    let (chunks, rest) = scores.as_chunks::<LANES>();
    let mut largest = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for (lane, score) in largest.iter_mut().zip(chunk) {
            let score = score.widen();
            *lane = if score > *lane { score } else { *lane };
        }
    }
    let rest_largest = rest.iter().map(|score| score.widen());
    let largest = largest
        .into_iter()
        .chain(rest_largest)
        .fold(f32::NEG_INFINITY, f32::max);
    let mut lanes = [0.0; LANES];
    for chunk in chunks {
        for (lane, score) in lanes.iter_mut().zip(chunk) {
            *lane += exp(score.widen() - largest);
        }
    }
    for (lane, score) in lanes.iter_mut().zip(rest) {
        *lane += exp(score.widen() - largest);
    }
    let first = scores.iter().position(|score| score.widen() == largest);
    out.likeliest = first.unwrap_or(0);
    out.normalizer = sum(lanes).ln() + largest;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Bf16;
    use proptest::prelude::*;

    fn found<T: Number>(scores: &[T], width: usize) -> Vec<Summary> {
        let mut out = vec![Summary::default(); scores.len() / width];
        summaries(scores, width, &mut out);
        out
    }

    proptest! {
        #[test]
        fn rows_are_summed_up(row in prop::collection::vec(-30f32..30.0, 1..200), copies in 1usize..4) {
            let scores = row.repeat(copies);
            let mut plain = Summary::default();
            summary(&row, &mut plain);
            prop_assert_eq!(found(&scores, row.len()), vec![plain; copies]);
            let exact = row.iter().map(|&score| f64::from(score).exp()).sum::<f64>().ln();
            prop_assert!((f64::from(plain.normalizer) - exact).abs() < 1e-5 * exact.abs().max(1.0));
            let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            prop_assert_eq!(Some(plain.likeliest), row.iter().position(|&score| score == largest));
            let bits: Vec<Bf16> = row.iter().map(|&score| Bf16::narrow(score)).collect();
            let wide: Vec<f32> = bits.iter().map(|bits| bits.widen()).collect();
            prop_assert_eq!(found(&bits, row.len()), found(&wide, row.len()));
        }
    }

    #[test]
    fn what_is_not_finite_shows() {
        for row in [
            [0.0, f32::NAN],
            [f32::INFINITY, 0.0],
            [f32::NEG_INFINITY; 2],
            [f32::NAN; 2],
        ] {
            assert!(!found(&row, 2)[0].normalizer.is_finite());
        }
        let one = found(&[f32::NEG_INFINITY, 2.0], 2)[0];
        assert_eq!(
            one,
            Summary {
                likeliest: 1,
                normalizer: 2.0
            }
        );
        summaries::<f32>(&[], 0, &mut []);
    }
}
