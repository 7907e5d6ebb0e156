//! y = x W' for a few rows x, as decoding needs it: `W` is read once, row by row, as it lies.
//!
//! A dot product is `LANES` sums of fused multiply-adds, added up as a tree; nothing else has a say in the result. Up
//! to two rows of x share each load of a weight (measured: with four the compiler may leave the sums in memory, and two rows
//! of the weight at once are slower).

use super::{LANES, Number, best_of, lanes_at, padded, sum, worth_threads};
use crate::threads;
use rayon::prelude::*;

/// Weight rows that one thread takes in one go: they stay in the second-level cache while all rows of x meet them.
const BLOCK: usize = 48;

/// y[m, n] = sum over i of x[m, i] * w[n, i], with m rows of `width` numbers in `x`, n in `w`, all row-major.
pub fn linear<T: Number>(x: &[T], w: &[T], width: usize, y: &mut [T]) {
    if width == 0 {
        y.fill(T::default());
        return;
    }
    let x: Vec<f32> = x.iter().map(|value| value.widen()).collect();
    let (rows, outputs) = (x.len() / width, w.len() / width);
    if y.is_empty() {
        return;
    }
    // Transposed, so that every thread writes to its own part.
    let mut sums = vec![0.0; rows * outputs];
    let block = best_block::<T>();
    let blocks = |(sums, w): (&mut [f32], &[T])| block(&x, w, width, sums);
    let (sums_step, w_step) = (BLOCK * rows, BLOCK * width);
    if worth_threads(rows * w.len()) {
        threads::install(|| {
            let parts = sums.par_chunks_mut(sums_step).zip(w.par_chunks(w_step));
            parts.for_each(blocks);
        });
    } else {
        sums.chunks_mut(sums_step)
            .zip(w.chunks(w_step))
            .for_each(blocks);
    }
    for (row, y) in y.chunks_exact_mut(outputs).enumerate() {
        for (y, sums) in y.iter_mut().zip(sums.chunks_exact(rows)) {
            *y = T::narrow(sums[row]);
        }
    }
}

best_of!(best_block, block<T>(x: &[f32], w: &[T], width: usize, sums: &mut [f32]));

/// The products of all rows of x with some rows of the weight, [weight rows, x rows].
#[inline(always)]
pub(super) fn block<T: Number>(x: &[f32], w: &[T], width: usize, sums: &mut [f32]) {
    let rows = x.len() / width;
    let mut row = 0;
    while row < rows {
        row += match rows - row {
            1 => strip::<T, 1>(x, w, width, row, sums),
            _ => strip::<T, 2>(x, w, width, row, sums),
        };
    }
}

/// The products of X rows of x, from `row` on, with every weight row; returns X.
#[inline(always)]
fn strip<T: Number, const X: usize>(
    x: &[f32],
    w: &[T],
    width: usize,
    row: usize,
    sums: &mut [f32],
) -> usize {
    let rows = x.len() / width;
    let x: [&[f32]; X] = std::array::from_fn(|i| &x[(row + i) * width..][..width]);
    for (w, sums) in w.chunks_exact(width).zip(sums.chunks_exact_mut(rows)) {
        sums[row..row + X].copy_from_slice(&dot_products(w, x));
    }
    X
}

/// The dot products of one weight row with X rows of x.
#[inline(always)]
fn dot_products<T: Number, const X: usize>(w: &[T], x: [&[f32]; X]) -> [f32; X] {
    let mut lanes = [[0.0; LANES]; X];
    let chunks = w.len() / LANES;
    // Counted by hand: with `step_by` the compiler leaves the vectors in memory.
    for chunk in 0..chunks {
        let start = chunk * LANES;
        let w = lanes_at(w, start);
        let x: [&[f32; LANES]; X] = std::array::from_fn(|i| lanes_at(x[i], start));
        for i in 0..X {
            for lane in 0..LANES {
                lanes[i][lane] = w[lane].widen().mul_add(x[i][lane], lanes[i][lane]);
            }
        }
    }
    let whole = chunks * LANES;
    if whole < w.len() {
        let w = padded(&w[whole..]);
        for i in 0..X {
            let x = padded(&x[i][whole..]);
            for lane in 0..LANES {
                lanes[i][lane] = w[lane].widen().mul_add(x[lane], lanes[i][lane]);
            }
        }
    }
    std::array::from_fn(|i| sum(lanes[i]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Bf16;
    use crate::threads::testing::with_threads;
    use proptest::prelude::*;

    /// The definition: one row of x, one row of the weight, one number after the other.
    fn oracle<T: Number>(x: &[T], w: &[T]) -> T {
        let mut lanes = [0.0f32; LANES];
        let padding = x.len().next_multiple_of(LANES) - x.len();
        let zeros = std::iter::repeat_n(T::default(), padding);
        let numbers = x.iter().copied().chain(zeros.clone());
        for (i, (x, w)) in numbers.zip(w.iter().copied().chain(zeros)).enumerate() {
            lanes[i % LANES] = w.widen().mul_add(x.widen(), lanes[i % LANES]);
        }
        for half in [8, 4, 2, 1] {
            for lane in 0..half {
                lanes[lane] += lanes[lane + half];
            }
        }
        T::narrow(lanes[0])
    }

    fn check<T: Number + PartialEq + std::fmt::Debug>(x: &[T], w: &[T], width: usize) {
        let expected: Vec<T> = x
            .chunks_exact(width)
            .flat_map(|x| w.chunks_exact(width).map(move |w| oracle(x, w)))
            .collect();
        let mut y = vec![T::default(); expected.len()];
        linear(x, w, width, &mut y);
        assert_eq!(y, expected);
    }

    proptest! {
        #[test]
        fn every_shape_gives_the_bits_of_the_definition(
            rows in 1usize..9, outputs in 1usize..110, width in 1usize..70, seed in any::<u64>(),
        ) {
            let mut state = seed;
            let mut number = || {
                state = crate::text::hash::spread(state.wrapping_add(1));
                (state >> 40) as f32 / (1 << 23) as f32 - 1.0
            };
            let x: Vec<f32> = (0..rows * width).map(|_| number()).collect();
            let w: Vec<f32> = (0..outputs * width).map(|_| number()).collect();
            check(&x, &w, width);
            let bits = |values: &[f32]| values.iter().map(|&value| Bf16::narrow(value)).collect::<Vec<Bf16>>();
            check(&bits(&x), &bits(&w), width);
        }

        #[test]
        fn bfloat16_is_rounded_to_the_nearest(bits in any::<u32>()) {
            let value = f32::from_bits(bits);
            let narrow = Bf16::narrow(value);
            if value.is_nan() {
                prop_assert!(narrow.widen().is_nan());
            } else {
                let low = f32::from_bits(bits & 0xffff_0000);
                let high = f32::from_bits((bits & 0xffff_0000).wrapping_add(0x1_0000));
                let (to_low, to_high) = ((value - low).abs(), (high - value).abs());
                prop_assert!(narrow.widen() == low || narrow.widen() == high);
                if low.is_finite() && high.is_finite() && to_low != to_high {
                    prop_assert_eq!(narrow.widen(), if to_low < to_high { low } else { high });
                }
            }
        }
    }

    #[test]
    fn the_number_of_threads_does_not_show() {
        let x: Vec<f32> = (0..3 * 600).map(|i| (i % 17) as f32 - 8.3).collect();
        let w: Vec<f32> = (0..500 * 600).map(|i| (i % 29) as f32 - 14.1).collect();
        let with = |threads| {
            let mut y = vec![0.0; 3 * 500];
            with_threads(threads, || linear(&x, &w, 600, &mut y));
            y
        };
        assert_eq!(with(1), with(3));
    }

    #[test]
    fn nothing_is_no_trouble() {
        let mut y = [1.0f32; 2];
        linear(&[], &[], 0, &mut y);
        assert_eq!(y, [0.0; 2]);
        linear::<f32>(&[], &[1.0], 1, &mut []);
    }
}
