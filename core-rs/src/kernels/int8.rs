//! y = x W' with W in 8-bit codes and a scale per row, and x put into 8-bit codes as it comes, a scale per row too.
//!
//! Products of codes are whole numbers and so are their sums: exact, hence the same in any order, and those that torch's
//! `_int_mm` gives.

use super::{Number, best_of, worth_threads};
use crate::threads;
use rayon::prelude::*;

/// The widest row whose sum of products cannot leave an `i32`: 128 * 127 * 2^17 < 2^31.
pub const WIDEST: usize = 1 << 17;
/// Weight rows that one thread takes in one go.
const BLOCK: usize = 64;
const LARGEST_CODE: f32 = 127.0;

/// y[m, n] = (sum over i of x[m, i] / s[m], rounded, * codes[n, i]) * s[m] * scales[n], where s[m] is the largest
/// |x[m]| / 127. `width`, at most `WIDEST`, is the length of the rows of `x` and `codes`.
pub fn linear_int8<T: Number>(x: &[T], codes: &[i8], scales: &[f32], width: usize, y: &mut [T]) {
    if width == 0 || y.is_empty() {
        y.fill(T::default());
        return;
    }
    let (rows, outputs) = (x.len() / width, scales.len());
    let mut x_codes = vec![0; x.len()];
    let parts = x_codes.chunks_exact_mut(width).zip(x.chunks_exact(width));
    let x_scales: Vec<f32> = parts.map(|(codes, x)| encode(x, codes)).collect();
    // Transposed, so that every thread writes to its own part.
    let mut sums = vec![0; rows * outputs];
    let block = best_block();
    let blocks = |(sums, codes): (&mut [i32], &[i8])| block(&x_codes, codes, width, sums);
    if worth_threads(rows * codes.len()) {
        threads::install(|| {
            let parts = sums.par_chunks_mut(BLOCK * rows);
            parts.zip(codes.par_chunks(BLOCK * width)).for_each(blocks);
        });
    } else {
        blocks((&mut sums, codes));
    }
    for (row, (y, x_scale)) in y.chunks_exact_mut(outputs).zip(x_scales).enumerate() {
        for ((y, sums), scale) in y.iter_mut().zip(sums.chunks_exact(rows)).zip(scales) {
            *y = T::narrow(sums[row] as f32 * (x_scale * scale));
        }
    }
}

/// Codes of one row and their scale, which is no finite number if one of the row is none.
fn encode<T: Number>(x: &[T], codes: &mut [i16]) -> f32 {
    let largest = x.iter().map(|x| x.widen().abs()).fold(0.0, |largest, x| {
        if x > largest || x.is_nan() {
            x
        } else {
            largest
        }
    });
    let scale = if largest == 0.0 {
        1.0
    } else {
        largest / LARGEST_CODE
    };
    for (code, x) in codes.iter_mut().zip(x) {
        *code = (x.widen() / scale).round_ties_even() as i16;
    }
    scale
}

best_of!(best_block, block(x: &[i16], codes: &[i8], width: usize, sums: &mut [i32]));

/// The sums of products of all rows of x with some rows of codes, [code rows, x rows].
#[inline(always)]
fn block(x: &[i16], codes: &[i8], width: usize, sums: &mut [i32]) {
    let rows = x.len() / width;
    for (codes, sums) in codes.chunks_exact(width).zip(sums.chunks_exact_mut(rows)) {
        for (x, sum) in x.chunks_exact(width).zip(sums) {
            let products = x
                .iter()
                .zip(codes)
                .map(|(&x, &code)| i32::from(x) * i32::from(code));
            *sum = products.sum();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Bf16;
    use crate::threads::testing::with_threads;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn sums_are_exact(
            rows in 1usize..6, outputs in 1usize..80, width in 1usize..100, seed in any::<u64>(),
        ) {
            let random = |i: usize| crate::text::hash::spread(seed ^ i as u64);
            let codes: Vec<i8> = (0..outputs * width).map(|i| random(i) as i8).collect();
            // Whole numbers of which one is 127, so that they are their own codes.
            let mut x: Vec<f32> = (0..rows * width).map(|i| f32::from((random(i + 99_999) % 255) as i16 - 127)).collect();
            x.iter_mut().step_by(width).for_each(|x| *x = 127.0);
            let mut y = vec![0.0; rows * outputs];
            linear_int8(&x, &codes, &vec![0.5; outputs], width, &mut y);
            for (index, found) in y.into_iter().enumerate() {
                let x = &x[index / outputs * width..][..width];
                let codes = &codes[index % outputs * width..][..width];
                let exact: i64 = x.iter().zip(codes).map(|(&x, &code)| x as i64 * i64::from(code)).sum();
                prop_assert_eq!(found, exact as f32 * 0.5);
            }
        }
    }

    #[test]
    fn the_widest_row_stays_exact() {
        let x = vec![1.0f32; WIDEST];
        let mut y = [0.0];
        linear_int8(&x, &vec![-128; WIDEST], &[1.0], WIDEST, &mut y);
        assert_eq!(y, [-128.0 * 127.0 * WIDEST as f32 * (1.0 / 127.0)]);
    }

    #[test]
    fn the_number_of_threads_does_not_show() {
        let x: Vec<Bf16> = (0..2 * 640)
            .map(|i| Bf16::narrow((i % 23) as f32 - 11.0))
            .collect();
        let codes: Vec<i8> = (0..640 * 640).map(|i| (i % 251) as u8 as i8).collect();
        let run = |threads| {
            let mut y = vec![0; 2 * 640];
            with_threads(threads, || {
                linear_int8(&x, &codes, &[0.01; 640], 640, &mut y)
            });
            y
        };
        assert_eq!(run(1), run(3));
    }

    #[test]
    fn what_is_no_number_is_not_hidden() {
        for bad in [f32::NAN, f32::INFINITY] {
            let mut y = [0.0];
            linear_int8(&[1.0, bad, 2.0], &[1, 1, 1], &[1.0], 3, &mut y);
            assert!(y[0].is_nan());
        }
        let mut y = [1.0];
        linear_int8(&[0.0f32; 2], &[5, 5], &[1.0], 2, &mut y);
        assert_eq!(y, [0.0]);
    }
}
