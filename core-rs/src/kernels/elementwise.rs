//! RMSNorm and rotary positions of a few rows: in torch each is a dozen calls that cost more than the numbers do.

use super::{LANES, Number, best_of, sum};

/// x / sqrt(mean(x^2) + eps) * weight of every row of x, computed in f32.
pub fn rms_norm<T: Number>(x: &[T], weight: &[T], eps: f32, out: &mut [T]) {
    if !weight.is_empty() {
        best_norm::<T>()(x, weight, eps, out);
    }
}

best_of!(best_norm, norm<T>(x: &[T], weight: &[T], eps: f32, out: &mut [T]));

#[inline(always)]
fn norm<T: Number>(x: &[T], weight: &[T], eps: f32, out: &mut [T]) {
    let width = weight.len();
    for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
        let mut lanes = [0.0; LANES];
        for chunk in x.chunks(LANES) {
            for (x, lane) in chunk.iter().zip(&mut lanes) {
                *lane = x.widen().mul_add(x.widen(), *lane);
            }
        }
        let inverse = (sum(lanes) / width as f32 + eps).sqrt().recip();
        for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
            *out = T::narrow(x.widen() * inverse * weight.widen());
        }
    }
}

/// Turns the channel pairs (i, i + C/2) of every head of a part: `cos` and `sin` have a number for each of its C/2
/// pairs, `x` and `out` hold whole heads of C channels.
pub fn rotate<T: Number>(x: &[T], cos: &[T], sin: &[T], out: &mut [T]) {
    if !cos.is_empty() {
        best_turn::<T>()(x, cos, sin, out);
    }
}

best_of!(best_turn, turn<T>(x: &[T], cos: &[T], sin: &[T], out: &mut [T]));

#[inline(always)]
fn turn<T: Number>(x: &[T], cos: &[T], sin: &[T], out: &mut [T]) {
    let pairs = cos.len();
    let heads = x
        .chunks_exact(2 * pairs)
        .zip(out.chunks_exact_mut(2 * pairs));
    for (x, out) in heads {
        let (first, second) = x.split_at(pairs);
        let (out_first, out_second) = out.split_at_mut(pairs);
        for i in 0..pairs {
            let (a, b) = (first[i].widen(), second[i].widen());
            let (cos, sin) = (cos[i].widen(), sin[i].widen());
            out_first[i] = T::narrow(a.mul_add(cos, -(b * sin)));
            out_second[i] = T::narrow(b.mul_add(cos, a * sin));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Bf16;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn instruction_sets_agree(x in prop::collection::vec(-9f32..9.0, 1..80), copies in 1usize..4) {
            let (weight, eps) = (x.iter().rev().map(|x| x - 0.5).collect::<Vec<f32>>(), 1e-5);
            let rows = x.repeat(copies);
            let (mut fast, mut plain) = (vec![0.0; rows.len()], vec![0.0; rows.len()]);
            rms_norm(&rows, &weight, eps, &mut fast);
            norm(&rows, &weight, eps, &mut plain);
            prop_assert_eq!(&fast, &plain);
            let mean = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / x.len() as f64;
            for ((found, x), weight) in fast.iter().zip(&x).zip(&weight) {
                let expected = f64::from(*x) / (mean + f64::from(eps)).sqrt() * f64::from(*weight);
                prop_assert!((f64::from(*found) - expected).abs() <= 1e-5 * expected.abs());
            }
        }

        #[test]
        fn a_turn_is_one_of_the_plane(angles in prop::collection::vec(-4f32..4.0, 1..40), heads in 1usize..4) {
            let (sin, cos): (Vec<f32>, Vec<f32>) = angles.iter().map(|angle| angle.sin_cos()).unzip();
            let pairs = angles.len();
            let x: Vec<f32> = (0..heads * 2 * pairs).map(|i| (i % 13) as f32 - 6.5).collect();
            let (mut fast, mut plain) = (vec![0.0; x.len()], vec![0.0; x.len()]);
            rotate(&x, &cos, &sin, &mut fast);
            turn(&x, &cos, &sin, &mut plain);
            prop_assert_eq!(&fast, &plain);
            for (head, turned) in x.chunks(2 * pairs).zip(fast.chunks(2 * pairs)) {
                for i in 0..pairs {
                    let angle = f64::from(angles[i]);
                    let (a, b) = (f64::from(head[i]), f64::from(head[i + pairs]));
                    prop_assert!((f64::from(turned[i]) - (a * angle.cos() - b * angle.sin())).abs() < 1e-5);
                    prop_assert!((f64::from(turned[i + pairs]) - (b * angle.cos() + a * angle.sin())).abs() < 1e-5);
                }
            }
        }
    }

    #[test]
    fn bfloat16_is_computed_in_f32() {
        let x = [1.0f32, -2.0, 3.0].map(Bf16::narrow);
        let mut out = [0; 3];
        rms_norm(&x, &[1.0, 0.5, 2.0].map(Bf16::narrow), 0.0, &mut out);
        let inverse = (14.0f32 / 3.0).sqrt().recip();
        assert_eq!(out, [inverse, -inverse, 6.0 * inverse].map(Bf16::narrow));
    }
}
