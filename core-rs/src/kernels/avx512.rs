//! Dot products for processors with AVX-512, whose 32 registers hold the sums of a whole tile of them.
//!
//! The compiler does not find these by itself: it leaves the sums in memory. Every sum is made as in `products`, lane by
//! lane and halves first, and sums of whole numbers are exact, so the results have the same bits as there.

use super::Bf16;
use std::arch::x86_64::*;

/// Whether the processor has what the functions of this file need.
#[must_use]
pub fn is_here() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vnni")
}

/// Defines `$products`, the dot products of all rows of x with all rows of w, [w rows, x rows]. A row of w has `width`
/// numbers; one of x is followed by zeros up to a multiple of `$chunk`.
macro_rules! products_of {
    ($products:ident, $tile:ident, $number:ty, $weight:ty, $sum:ty, $chunk:literal, $zero:ident, $load:ident,
     $load_w:ident, $load_some:ident, $multiply_add:ident, $store:ident) => {
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
        pub fn $products(x: &[$number], w: &[$weight], width: usize, sums: &mut [$sum]) {
            let stride = width.next_multiple_of($chunk);
            let (rows, outputs) = (x.len() / stride, w.len() / width);
            assert_eq!(
                (x.len(), w.len(), sums.len()),
                (rows * stride, outputs * width, rows * outputs)
            );
            let eights = rows / 8 * 8;
            for start in (0..outputs).step_by(3) {
                for first in (0..eights).step_by(8) {
                    $tile::<8, 3>(x, w, width, first, start, sums);
                }
            }
            let mut first = eights;
            while first < rows {
                match rows - first {
                    4.. => {
                        (0..outputs)
                            .step_by(4)
                            .for_each(|start| $tile::<4, 4>(x, w, width, first, start, sums));
                        first += 4;
                    }
                    2.. => {
                        (0..outputs)
                            .step_by(4)
                            .for_each(|start| $tile::<2, 4>(x, w, width, first, start, sums));
                        first += 2;
                    }
                    _ => {
                        (0..outputs)
                            .step_by(8)
                            .for_each(|start| $tile::<1, 8>(x, w, width, first, start, sums));
                        first += 1;
                    }
                }
            }
        }

        /// Those of X rows of x from `first` on with W rows of w from `start` on.
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
        #[inline]
        fn $tile<const X: usize, const W: usize>(
            x: &[$number],
            w: &[$weight],
            width: usize,
            first: usize,
            start: usize,
            sums: &mut [$sum],
        ) {
            let stride = width.next_multiple_of($chunk);
            let (rows, outputs) = (x.len() / stride, w.len() / width);
            let (mut x_rows, mut w_rows) = ([&x[..0]; X], [&w[..0]; W]);
            for i in 0..X {
                x_rows[i] = &x[(first + i) * stride..][..stride];
            }
            for j in 0..W {
                // Beyond the end the last row once more, whose sums are dropped.
                w_rows[j] = &w[(start + j).min(outputs - 1) * width..][..width];
            }
            // Fetched while this tile is computed; of two tiles with the same rows of w by each another part.
            let ahead = w
                .as_ptr()
                .wrapping_add((start + W + 2 * (first / X % 2)) * width);
            let mut lanes = [[$zero(); X]; W];
            for at in (0..width / $chunk).map(|chunk| chunk * $chunk) {
                if X > 2 {
                    _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(2 * at).cast());
                    _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(2 * at + $chunk).cast());
                }
                let mut part = [$zero(); W];
                for j in 0..W {
                    // SAFETY: a row of w has `width` numbers, of which the chunk is a part.
                    part[j] = unsafe { $load_w(w_rows[j].as_ptr().add(at)) };
                }
                for i in 0..X {
                    // SAFETY: a row of x has no fewer.
                    let x = unsafe { $load(x_rows[i].as_ptr().add(at).cast()) };
                    for j in 0..W {
                        lanes[j][i] = $multiply_add(lanes[j][i], part[j], x);
                    }
                }
            }
            let rest = width % $chunk;
            if rest > 0 {
                let (at, left) = (width - rest, u64::MAX >> (64 - rest));
                for j in 0..W {
                    // SAFETY: only the `rest` numbers that are left of the row are read.
                    let part = unsafe { $load_some(left, w_rows[j].as_ptr().add(at)) };
                    for i in 0..X {
                        // SAFETY: zeros follow in x.
                        let x = unsafe { $load(x_rows[i].as_ptr().add(at).cast()) };
                        lanes[j][i] = $multiply_add(lanes[j][i], part, x);
                    }
                }
            }
            $store(lanes, rows, first, &mut sums[start * rows..]);
        }
    };
}

products_of!(
    float_products,
    float_tile,
    f32,
    f32,
    f32,
    16,
    _mm512_setzero_ps,
    _mm512_loadu_ps,
    float_lanes,
    some_float_lanes,
    float_multiply_add,
    store_floats
);
products_of!(
    bfloat16_products,
    bfloat16_tile,
    f32,
    Bf16,
    f32,
    16,
    _mm512_setzero_ps,
    _mm512_loadu_ps,
    bfloat16_lanes,
    some_bfloat16_lanes,
    float_multiply_add,
    store_floats
);
products_of!(
    code_products,
    code_tile,
    f32,
    i8,
    f32,
    16,
    _mm512_setzero_ps,
    _mm512_loadu_ps,
    code_lanes,
    some_code_lanes,
    float_multiply_add,
    store_floats
);
products_of!(
    int8_products,
    int8_tile,
    i8,
    i8,
    i32,
    64,
    _mm512_setzero_si512,
    _mm512_loadu_si512,
    int8_lanes,
    some_int8_lanes,
    int8_multiply_add,
    store_int8_sums
);

/// # Safety
/// There are 16 numbers.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
unsafe fn float_lanes(numbers: *const f32) -> __m512 {
    // SAFETY: the caller's.
    unsafe { _mm512_loadu_ps(numbers) }
}

/// # Safety
/// There are the numbers that `which` has bits for; the others become 0.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
unsafe fn some_float_lanes(which: u64, numbers: *const f32) -> __m512 {
    // SAFETY: the caller's.
    unsafe { _mm512_maskz_loadu_ps(which as u16, numbers) }
}

/// # Safety
/// There are 16 numbers.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
unsafe fn bfloat16_lanes(numbers: *const Bf16) -> __m512 {
    // SAFETY: the caller's.
    bfloat16_numbers(unsafe { _mm256_loadu_si256(numbers.cast()) })
}

/// # Safety
/// There are the numbers that `which` has bits for; the others become 0.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
unsafe fn some_bfloat16_lanes(which: u64, numbers: *const Bf16) -> __m512 {
    // SAFETY: the caller's.
    bfloat16_numbers(unsafe { _mm256_maskz_loadu_epi16(which as u16, numbers.cast()) })
}

/// # Safety
/// There are 16 numbers.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
unsafe fn code_lanes(numbers: *const i8) -> __m512 {
    // SAFETY: the caller's.
    _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(unsafe {
        _mm_loadu_si128(numbers.cast())
    }))
}

/// # Safety
/// There are the numbers that `which` has bits for; the others become 0.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
unsafe fn some_code_lanes(which: u64, numbers: *const i8) -> __m512 {
    // SAFETY: the caller's.
    _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(unsafe {
        _mm_maskz_loadu_epi8(which as u16, numbers)
    }))
}

/// # Safety
/// There are 64 numbers.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
unsafe fn int8_lanes(numbers: *const i8) -> __m512i {
    // SAFETY: the caller's.
    unsafe { _mm512_loadu_si512(numbers.cast()) }
}

/// # Safety
/// There are the numbers that `which` has bits for; the others become 0.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
unsafe fn some_int8_lanes(which: u64, numbers: *const i8) -> __m512i {
    // SAFETY: the caller's.
    unsafe { _mm512_maskz_loadu_epi8(which, numbers) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn bfloat16_numbers(bits: __m256i) -> __m512 {
    _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn float_multiply_add(sums: __m512, w: __m512, x: __m512) -> __m512 {
    _mm512_fmadd_ps(w, x, sums)
}

/// Adds (w + 128) x: the instruction wants one factor without a sign.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn int8_multiply_add(sums: __m512i, w: __m512i, x: __m512i) -> __m512i {
    _mm512_dpbusd_epi32(sums, _mm512_xor_si512(w, _mm512_set1_epi8(-128)), x)
}

/// Defines `$store`: the sums of a tile's lanes, to the columns from `first` on of `sums` [w rows, rows], as far as it
/// reaches.
macro_rules! store_of {
    ($store:ident, $lanes:ty, $sum:ty, $zero:ident, $sums:ident) => {
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
        #[inline]
        fn $store<const X: usize, const W: usize>(
            lanes: [[$lanes; X]; W],
            rows: usize,
            first: usize,
            sums: &mut [$sum],
        ) {
            for part in (0..X * W).step_by(8) {
                let mut eight = [$zero(); 8];
                for k in 0..8 {
                    eight[k] = lanes[(part + k) / X][(part + k) % X];
                }
                for (k, found) in $sums(eight).into_iter().enumerate() {
                    let at = (part + k) / X * rows + first + (part + k) % X;
                    if at < sums.len() {
                        sums[at] = found;
                    }
                }
            }
        }
    };
}
store_of!(store_floats, __m512, f32, _mm512_setzero_ps, float_sums);
store_of!(
    store_int8_sums,
    __m512i,
    i32,
    _mm512_setzero_si512,
    int8_sums
);

/// The sum of all lanes of each, halves first.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn float_sums(lanes: [__m512; 8]) -> [f32; 8] {
    let [a, b, c, d, e, f, g, h] = lanes;
    let quarters = |a, b, c, d| {
        let (ab, cd) = (
            _mm512_add_ps(
                _mm512_shuffle_f32x4(a, b, 0x44),
                _mm512_shuffle_f32x4(a, b, 0xee),
            ),
            _mm512_add_ps(
                _mm512_shuffle_f32x4(c, d, 0x44),
                _mm512_shuffle_f32x4(c, d, 0xee),
            ),
        );
        _mm512_add_ps(
            _mm512_shuffle_f32x4(ab, cd, 0x88),
            _mm512_shuffle_f32x4(ab, cd, 0xdd),
        )
    };
    let (first, second) = (
        _mm512_castps_pd(quarters(a, b, c, d)),
        _mm512_castps_pd(quarters(e, f, g, h)),
    );
    let pairs = _mm512_add_ps(
        _mm512_castpd_ps(_mm512_unpacklo_pd(first, second)),
        _mm512_castpd_ps(_mm512_unpackhi_pd(first, second)),
    );
    let sums = _mm512_add_ps(
        _mm512_shuffle_ps(pairs, pairs, 0b10_00_10_00),
        _mm512_shuffle_ps(pairs, pairs, 0b11_01_11_01),
    );
    let mut out = [0.0; 16];
    // SAFETY: there is room for 16.
    unsafe { _mm512_storeu_ps(out.as_mut_ptr(), sums) };
    [
        out[0], out[4], out[8], out[12], out[1], out[5], out[9], out[13],
    ]
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn int8_sums(lanes: [__m512i; 8]) -> [i32; 8] {
    let [a, b, c, d, e, f, g, h] = lanes;
    let quarters = |a, b, c, d| {
        let (ab, cd) = (
            _mm512_add_epi32(
                _mm512_shuffle_i32x4(a, b, 0x44),
                _mm512_shuffle_i32x4(a, b, 0xee),
            ),
            _mm512_add_epi32(
                _mm512_shuffle_i32x4(c, d, 0x44),
                _mm512_shuffle_i32x4(c, d, 0xee),
            ),
        );
        _mm512_add_epi32(
            _mm512_shuffle_i32x4(ab, cd, 0x88),
            _mm512_shuffle_i32x4(ab, cd, 0xdd),
        )
    };
    let (first, second) = (quarters(a, b, c, d), quarters(e, f, g, h));
    let pairs = _mm512_add_epi32(
        _mm512_unpacklo_epi64(first, second),
        _mm512_unpackhi_epi64(first, second),
    );
    let sums = _mm512_add_epi32(
        _mm512_shuffle_epi32(pairs, 0b10_00_10_00),
        _mm512_shuffle_epi32(pairs, 0b11_01_11_01),
    );
    let mut out = [0; 16];
    // SAFETY: there is room for 16.
    unsafe { _mm512_storeu_epi32(out.as_mut_ptr(), sums) };
    [
        out[0], out[4], out[8], out[12], out[1], out[5], out[9], out[13],
    ]
}

/// As `float_products`, with rows of w from `from` on in four bits (see `Matrix::Int4`), as far as `sums` reaches; a
/// group has `group` columns, a multiple of 16.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub fn int4_products(x: &[f32], w: Int4<'_>, from: usize, width: usize, sums: &mut [f32]) {
    let rows = x.len() / width;
    let outputs = sums.len() / rows;
    assert!(w.group.is_multiple_of(16) && width.is_multiple_of(w.group));
    let mut first = 0;
    while first < rows {
        let (height, breadth) = match rows - first {
            8.. => (8, 2),
            4.. => (4, 4),
            2.. => (2, 4),
            _ => (1, 8),
        };
        for start in (0..outputs).step_by(breadth) {
            match height {
                8 => int4_tile::<8, 2>(x, w, from, width, first, start, sums),
                4 => int4_tile::<4, 4>(x, w, from, width, first, start, sums),
                2 => int4_tile::<2, 4>(x, w, from, width, first, start, sums),
                _ => int4_tile::<1, 8>(x, w, from, width, first, start, sums),
            }
        }
        first += height;
    }
}

/// Codes of four bits, [rows, columns / 2], and scales, [groups, rows].
#[derive(Clone, Copy)]
pub struct Int4<'a> {
    pub codes: &'a [u8],
    pub scales: &'a [f32],
    pub rows: usize,
    pub group: usize,
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn int4_tile<const X: usize, const W: usize>(
    x: &[f32],
    w: Int4<'_>,
    from: usize,
    width: usize,
    first: usize,
    start: usize,
    sums: &mut [f32],
) {
    let rows = x.len() / width;
    let outputs = sums.len() / rows;
    let (mut x_rows, mut w_rows, mut row_of) = ([&x[..0]; X], [&w.codes[..0]; W], [0; W]);
    for i in 0..X {
        x_rows[i] = &x[(first + i) * width..][..width];
    }
    for j in 0..W {
        row_of[j] = from + (start + j).min(outputs - 1);
        w_rows[j] = &w.codes[row_of[j] * width / 2..][..width / 2];
    }
    let numbers = _mm512_setr_ps(
        0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, -8.0, -7.0, -6.0, -5.0, -4.0, -3.0, -2.0, -1.0,
    );
    let mut lanes = [[_mm512_setzero_ps(); X]; W];
    for group in 0..width / w.group {
        let mut scaled = [numbers; W];
        for j in 0..W {
            let scale = w.scales[group * w.rows + row_of[j]];
            scaled[j] = _mm512_mul_ps(numbers, _mm512_set1_ps(scale));
        }
        for chunk in 0..w.group / 16 {
            let at = group * w.group + chunk * 16;
            let mut part = [_mm512_setzero_ps(); W];
            for j in 0..W {
                // SAFETY: the 16 columns from `at` on are 8 bytes of the row.
                let codes = unsafe { _mm_loadl_epi64(w_rows[j].as_ptr().add(at / 2).cast()) };
                let bytes = _mm512_cvtepu8_epi64(codes);
                // Of each half only the lowest four bits choose.
                let halves = _mm512_or_si512(bytes, _mm512_slli_epi64(bytes, 28));
                part[j] = _mm512_permutexvar_ps(halves, scaled[j]);
            }
            for i in 0..X {
                // SAFETY: a row of x has `width` numbers.
                let x = unsafe { _mm512_loadu_ps(x_rows[i].as_ptr().add(at)) };
                for j in 0..W {
                    lanes[j][i] = _mm512_fmadd_ps(part[j], x, lanes[j][i]);
                }
            }
        }
    }
    store_floats(lanes, rows, first, &mut sums[start * rows..]);
}
