//! y = x W' for a few rows x, as decoding needs it: `W` is read once, row by row, as it lies.
//!
//! A dot product is `LANES` sums of fused multiply-adds, added up as a tree; nothing else has a say in the result. The
//! rows of a matrix of fewer bits become numbers a few at a time and then meet all rows of x. Only `Int8Dynamic` is
//! multiplied as whole numbers, whose sums are exact.

use super::aligned::Aligned;
use super::matrix::{Entry, Matrix};
use super::{LANES, Number, best_of, lanes_at, padded, sum, worth_threads};
use crate::threads;
use rayon::prelude::*;

/// Weight rows that one thread takes in one go: they stay in the second-level cache while all rows of x meet them.
const BLOCK: usize = 48;
/// Weight rows that become numbers before they meet the rows of x: they stay near the processor.
const DECODED: usize = 24;
/// Rows of x that stay in the first-level cache while a block of the weight meets them.
const TOGETHER: usize = 16;
/// The largest code of a row of x in `Matrix::Int8Dynamic`.
const LARGEST_CODE: f32 = 127.0;

/// y[m, n] = sum over i of x[m, i] * w[n, i], with m rows of `width` numbers in `x`, n in `w`, all row-major.
pub fn linear<T: Entry>(x: &[T], w: &[T], width: usize, y: &mut [T]) {
    multiply(x, T::matrix(w), width, y);
}

/// As `linear`, for a matrix in any form.
pub fn multiply<T: Number>(x: &[T], w: Matrix<'_>, width: usize, y: &mut [T]) {
    if width == 0 {
        y.fill(T::default());
        return;
    }
    if y.is_empty() {
        return;
    }
    let (rows, outputs) = (x.len() / width, w.rows(width));
    let groups: Vec<Inputs> = x
        .chunks(TOGETHER * width)
        .map(|x| Inputs::of(x, width, w))
        .collect();
    // By blocks of the weight, so that every thread writes to its own part; in each by groups of x; in those [w, x].
    let mut sums = vec![0.0; rows * outputs];
    let is_decoded = !matches!(w, Matrix::Float32(_) | Matrix::Int8Dynamic { .. });
    let scratch = || Aligned::zeros(if is_decoded { DECODED * width } else { 0 });
    let block = |numbers: &mut Aligned<f32>, index: usize, mut sums: &mut [f32]| {
        let count = sums.len() / rows;
        for inputs in &groups {
            let (part, rest) = sums.split_at_mut(inputs.rows * count);
            inputs.products(w, index * BLOCK, width, numbers, part);
            sums = rest;
        }
    };
    if worth_threads(x.len() * outputs) {
        threads::install(|| {
            let blocks = sums.par_chunks_mut(BLOCK * rows).enumerate();
            blocks.for_each_init(scratch, |numbers, (index, sums)| {
                block(numbers, index, sums)
            });
        });
    } else {
        let mut numbers = scratch();
        let blocks = sums.chunks_mut(BLOCK * rows).enumerate();
        blocks.for_each(|(index, sums)| block(&mut numbers, index, sums));
    }
    for (index, sums) in sums.chunks(BLOCK * rows).enumerate() {
        let count = sums.len() / rows;
        for (group, sums) in sums.chunks(TOGETHER * count).enumerate() {
            let together = sums.len() / count;
            for row in 0..together {
                let at = (group * TOGETHER + row) * outputs + index * BLOCK;
                for (y, sums) in y[at..at + count]
                    .iter_mut()
                    .zip(sums.chunks_exact(together))
                {
                    *y = T::narrow(sums[row]);
                }
            }
        }
    }
}

/// Some rows of x as a matrix's form wants them.
struct Inputs {
    rows: usize,
    form: Form,
}

enum Form {
    /// On AVX-512 with zeros up to whole lanes behind each row.
    Numbers(Aligned<f32>),
    /// With zeros up to a multiple of `CODES` behind each row, the scale of each, and the sum of its codes.
    Codes {
        codes: Aligned<i8>,
        scales: Vec<f32>,
        totals: Vec<i32>,
    },
}

/// Codes of a row are padded to a multiple of so many.
const CODES: usize = 64;

impl Inputs {
    fn of<T: Number>(x: &[T], width: usize, w: Matrix<'_>) -> Self {
        let rows = x.len() / width;
        let form = if let Matrix::Int8Dynamic { .. } = w {
            codes_of(x, width)
        } else {
            let stride = if has_avx512() {
                width.next_multiple_of(LANES)
            } else {
                width
            };
            let mut numbers = Aligned::zeros(rows * stride);
            for (out, x) in numbers
                .as_mut()
                .chunks_exact_mut(stride)
                .zip(x.chunks_exact(width))
            {
                for (out, x) in out.iter_mut().zip(x) {
                    *out = x.widen();
                }
            }
            Form::Numbers(numbers)
        };
        Self { rows, form }
    }

    /// The products with the rows of w from `first` on, [w rows, x rows], as far as `sums` reaches. In `numbers` there
    /// is room for `DECODED` rows.
    fn products(
        &self,
        w: Matrix<'_>,
        first: usize,
        width: usize,
        numbers: &mut Aligned<f32>,
        sums: &mut [f32],
    ) {
        let count = sums.len() / self.rows;
        #[cfg(target_arch = "x86_64")]
        if let Form::Numbers(x) = &self.form
            && has_avx512()
            && avx512_products(x.as_ref(), w, first, width, sums)
        {
            return;
        }
        match (&self.form, w) {
            (Form::Numbers(x), Matrix::Float32(w)) => {
                float_products(
                    x.as_ref(),
                    &w[first * width..][..count * width],
                    width,
                    sums,
                );
            }
            (Form::Numbers(x), Matrix::Bfloat16(w)) if !has_avx512() => {
                best_block::<u16>()(
                    x.as_ref(),
                    &w[first * width..][..count * width],
                    width,
                    sums,
                );
            }
            (Form::Numbers(x), w) => {
                for (index, sums) in sums.chunks_mut(DECODED * self.rows).enumerate() {
                    let first = first + index * DECODED;
                    let numbers = &mut numbers.as_mut()[..sums.len() / self.rows * width];
                    best_decode()(w, first, width, numbers);
                    float_products(x.as_ref(), numbers, width, sums);
                    if let Matrix::Int8 { scales, .. } = w {
                        scale_rows(sums, self.rows, &scales[first..]);
                    }
                }
            }
            (
                Form::Codes {
                    codes,
                    scales,
                    totals,
                },
                Matrix::Int8Dynamic {
                    codes: w,
                    scales: w_scales,
                },
            ) => {
                let mut whole = vec![0; sums.len()];
                int8_products(
                    codes.as_ref(),
                    totals,
                    &w[first * width..][..count * width],
                    width,
                    &mut whole,
                );
                let parts = sums
                    .chunks_exact_mut(self.rows)
                    .zip(whole.chunks_exact(self.rows));
                for ((sums, whole), w_scale) in parts.zip(&w_scales[first..]) {
                    for ((sum, &whole), scale) in sums.iter_mut().zip(whole).zip(scales) {
                        *sum = whole as f32 * scale * w_scale;
                    }
                }
            }
            (Form::Codes { .. }, _) => unreachable!("codes are made for `Int8Dynamic` only"),
        }
    }
}

/// Each row symmetrically: its largest number becomes `LARGEST_CODE`.
fn codes_of<T: Number>(x: &[T], width: usize) -> Form {
    let stride = width.next_multiple_of(CODES);
    let rows = x.len() / width;
    let (mut codes, mut scales, mut totals) = (Aligned::zeros(rows * stride), vec![], vec![]);
    for (codes, x) in codes
        .as_mut()
        .chunks_exact_mut(stride)
        .zip(x.chunks_exact(width))
    {
        let x: Vec<f32> = x.iter().map(|x| x.widen()).collect();
        let mut scale = 0.0;
        best_coder()(&x, &mut codes[..width], &mut scale);
        scales.push(scale);
        totals.push(codes.iter().map(|&code| i32::from(code)).sum());
    }
    Form::Codes {
        codes,
        scales,
        totals,
    }
}

best_of!(best_coder, coder(x: &[f32], codes: &mut [i8], scale: &mut f32));

#[inline(always)]
fn coder(x: &[f32], codes: &mut [i8], scale: &mut f32) {
    let mut lanes = [0.0f32; LANES];
    for chunk in x.chunks(LANES) {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane = lane.max(x.abs());
        }
    }
    let largest = lanes.into_iter().fold(0.0, f32::max);
    *scale = if x.iter().any(|x| x.is_nan()) {
        f32::NAN // which `max` hides
    } else if largest == 0.0 {
        1.0
    } else {
        (largest / LARGEST_CODE).max(f32::MIN_POSITIVE) // a smaller one would not scale back
    };
    for (code, x) in codes.iter_mut().zip(x) {
        *code = (x / *scale)
            .round_ties_even()
            .clamp(-LARGEST_CODE, LARGEST_CODE) as i8;
    }
}

fn has_avx512() -> bool {
    #[cfg(target_arch = "x86_64")]
    let has = super::avx512::is_here();
    #[cfg(not(target_arch = "x86_64"))]
    let has = false;
    has
}

fn float_products(x: &[f32], w: &[f32], width: usize, sums: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if has_avx512() {
        // SAFETY: the processor has what it needs.
        return unsafe { super::avx512::float_products(x, w, width, sums) };
    }
    best_block::<f32>()(x, w, width, sums);
}

/// Without numbers in between, where AVX-512 can; whether it did.
#[cfg(target_arch = "x86_64")]
fn avx512_products(x: &[f32], w: Matrix<'_>, first: usize, width: usize, sums: &mut [f32]) -> bool {
    use super::avx512;
    let rows = x.len() / width.next_multiple_of(LANES);
    let part = first * width..first * width + sums.len() / rows * width;
    // SAFETY: the caller has found that the processor has what these need.
    unsafe {
        match w {
            Matrix::Float32(w) => avx512::float_products(x, &w[part], width, sums),
            Matrix::Bfloat16(w) => avx512::bfloat16_products(x, &w[part], width, sums),
            Matrix::Int8 { codes, scales } => {
                avx512::code_products(x, &codes[part], width, sums);
                scale_rows(sums, rows, &scales[first..]);
            }
            Matrix::Int4 { codes, scales } => {
                let outputs = 2 * codes.len() / width;
                let group = width * outputs / scales.len();
                if !group.is_multiple_of(LANES) {
                    return false;
                }
                let w = avx512::Int4 {
                    codes,
                    scales,
                    rows: outputs,
                    group,
                };
                avx512::int4_products(x, w, first, width, sums);
            }
            Matrix::Int8Dynamic { .. } => return false,
        }
    }
    true
}

/// Multiplies each of the rows of w by its scale.
fn scale_rows(sums: &mut [f32], rows: usize, scales: &[f32]) {
    for (sums, scale) in sums.chunks_exact_mut(rows).zip(scales) {
        sums.iter_mut().for_each(|sum| *sum *= scale);
    }
}

/// The products of codes, of which those of x have these totals.
fn int8_products(x: &[i8], totals: &[i32], w: &[i8], width: usize, sums: &mut [i32]) {
    #[cfg(target_arch = "x86_64")]
    if has_avx512() {
        // SAFETY: the processor has what it needs.
        unsafe { super::avx512::int8_products(x, w, width, sums) };
        for sums in sums.chunks_exact_mut(totals.len()) {
            for (sum, total) in sums.iter_mut().zip(totals) {
                *sum = sum.wrapping_sub(total << 7); // what `int8_products` adds to every code of w
            }
        }
        return;
    }
    best_int8_block()(x, totals, w, width, sums);
}

best_of!(best_decode, decode(w: Matrix<'_>, first: usize, width: usize, out: &mut [f32]));

#[inline(always)]
fn decode(w: Matrix<'_>, first: usize, width: usize, out: &mut [f32]) {
    w.decode(first, width, out);
}

best_of!(best_int8_block, int8_block(x: &[i8], totals: &[i32], w: &[i8], width: usize, sums: &mut [i32]));

#[inline(always)]
fn int8_block(x: &[i8], totals: &[i32], w: &[i8], width: usize, sums: &mut [i32]) {
    let stride = width.next_multiple_of(CODES);
    for (w, sums) in w
        .chunks_exact(width)
        .zip(sums.chunks_exact_mut(totals.len()))
    {
        for (x, sum) in x.chunks_exact(stride).zip(sums) {
            let products = x.iter().zip(w).map(|(&x, &w)| i32::from(x) * i32::from(w));
            *sum = products.fold(0, i32::wrapping_add);
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

    fn check<T: Entry + PartialEq + std::fmt::Debug>(x: &[T], w: &[T], width: usize) {
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
            rows in 1usize..40, outputs in 1usize..110, width in 1usize..70, seed in any::<u64>(),
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
        fn codes_give_the_bits_of_the_definition(
            rows in 1usize..40, outputs in 1usize..60, groups in 1usize..4, pairs in 1usize..40, seed in any::<u64>(),
        ) {
            let mut state = seed;
            let mut bits = || {
                state = crate::text::hash::spread(state.wrapping_add(1));
                state >> 40
            };
            let width = groups * 2 * pairs;
            let x: Vec<f32> = (0..rows * width).map(|_| bits() as f32 / (1 << 23) as f32 - 1.0).collect();
            let codes: Vec<i8> = (0..outputs * width).map(|_| (bits() % 255) as i8).collect();
            let scales: Vec<f32> = (0..outputs * groups).map(|_| bits() as f32 / (1 << 24) as f32).collect();
            let numbers: Vec<f32> = codes.iter().map(|&code| f32::from(code)).collect();
            let each = |form: &dyn Fn(&[f32], usize) -> f32| -> Vec<f32> {
                x.chunks_exact(width).flat_map(|x| (0..outputs).map(|row| form(x, row)).collect::<Vec<_>>()).collect()
            };
            let found = |matrix| {
                let mut y = vec![0.0f32; rows * outputs];
                multiply(&x, matrix, width, &mut y);
                y
            };
            let (codes, scales) = (&codes[..], &scales[..]);
            let row_scales = &scales[..outputs];
            prop_assert_eq!(
                found(Matrix::Int8 { codes, scales: row_scales }),
                each(&|x, row| oracle(x, &numbers[row * width..][..width]) * scales[row])
            );
            prop_assert_eq!(
                found(Matrix::Int8Dynamic { codes, scales: row_scales }),
                each(&|x, row| {
                    let scale = x.iter().fold(0.0f32, |a, x| a.max(x.abs())) / 127.0;
                    let codes = codes[row * width..][..width].iter();
                    let products = x.iter().zip(codes).map(|(x, &w)| (x / scale).round_ties_even() as i32 * i32::from(w));
                    products.sum::<i32>() as f32 * scale * scales[row]
                })
            );
            let packed: Vec<u8> = codes.chunks_exact(2).map(|pair| pair[0] as u8 & 15 | (pair[1] as u8) << 4).collect();
            let weight: Vec<f32> = (0..outputs * width)
                .map(|i| f32::from((codes[i] << 4) >> 4) * scales[i % width / (width / groups) * outputs + i / width])
                .collect();
            prop_assert_eq!(
                found(Matrix::Int4 { codes: &packed, scales }),
                each(&|x, row| oracle(x, &weight[row * width..][..width]))
            );
        }

        #[test]
        fn instruction_sets_agree(
            rows in 1usize..20, outputs in 1usize..20, width in 1usize..200, seed in any::<u64>(),
        ) {
            let code = |i: usize| crate::text::hash::spread(seed ^ i as u64) as i8;
            let stride = width.next_multiple_of(CODES);
            let x: Vec<i8> = (0..rows * stride).map(|i| if i % stride < width { code(i) } else { 0 }).collect();
            let w: Vec<i8> = (0..outputs * width).map(|i| code(!i)).collect();
            let totals: Vec<i32> =
                x.chunks_exact(stride).map(|x| x.iter().map(|&x| i32::from(x)).sum()).collect();
            let (mut fast, mut plain) = (vec![0; rows * outputs], vec![0; rows * outputs]);
            int8_products(&x, &totals, &w, width, &mut fast);
            int8_block(&x, &totals, &w, width, &mut plain);
            prop_assert_eq!(fast, plain);
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
    fn the_lowest_and_highest_nans_are_narrowed_to_one() {
        for bits in [0x7f80_0001, 0x7fff_ffff, 0xff80_0001, 0xffff_8000, u32::MAX] {
            assert_eq!(Bf16::narrow(f32::from_bits(bits)), 0x7fc0);
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
    fn what_is_no_number_is_not_hidden() {
        let (codes, scales) = (&[1i8; 4][..], &[1.0f32; 2][..]);
        let mut y = [0.0f32; 4];
        multiply(
            &[f32::NAN, 1.0, 0.0, 0.0],
            Matrix::Int8Dynamic { codes, scales },
            2,
            &mut y,
        );
        assert!(y[0].is_nan() && y[1].is_nan());
        assert_eq!(y[2..], [0.0; 2]);
    }

    #[test]
    fn nothing_is_no_trouble() {
        let mut y = [1.0f32; 2];
        linear(&[], &[], 0, &mut y);
        assert_eq!(y, [0.0; 2]);
        linear::<f32>(&[], &[1.0], 1, &mut []);
    }
}
