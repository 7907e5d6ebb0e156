//! What decoding computes on the CPU: products, norms and attention of a few rows.
//!
//! Every kernel is one plain function over lanes of `f32` with fused multiply-add and a fixed order of sums. The same
//! function is compiled once more for AVX2 (`best_of`), so a result has the same bits on every instruction set, with
//! any number of threads and beside any other rows. Products have a third form for AVX-512 (`avx512`), which keeps that
//! order; elsewhere it was measured to be no faster, as what is read comes from memory.

mod aligned;
pub mod attention;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub mod decoder;
pub mod elementwise;
pub mod linear;
pub mod matrix;
pub mod scores;

use crate::threads;

/// Independent sums of a dot product: entry i belongs to sum i mod `LANES`.
pub(crate) const LANES: usize = 16;

/// bfloat16 as its bits: NumPy has no such type, so it crosses from Python as `u16`.
pub type Bf16 = u16;

/// A float of 8 bits (E4M3: Micikevicius et al., "FP8 Formats for Deep Learning", 2022) as its bits, for NumPy knows no
/// such type either.
pub type E4m3 = u8;

/// A stored number that is computed with as `f32`.
pub trait Number: Copy + Default + Send + Sync {
    fn widen(self) -> f32;
    /// Rounds to the nearest, ties to even.
    fn narrow(value: f32) -> Self;
}

impl Number for f32 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }

    #[inline(always)]
    fn narrow(value: f32) -> Self {
        value
    }
}

impl Number for Bf16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self) << 16)
    }

    #[inline(always)]
    fn narrow(value: f32) -> Self {
        const QUIET_NAN: Bf16 = 0x7fc0;
        let bits = value.to_bits();
        // The highest NaNs would overflow; they are replaced below.
        let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
        if value.is_nan() {
            QUIET_NAN
        } else {
            rounded as Bf16
        }
    }
}

/// A code of -127 to 127.
impl Number for i8 {
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from(self)
    }

    #[inline(always)]
    fn narrow(value: f32) -> Self {
        value.round_ties_even().clamp(-127.0, 127.0) as i8
    }
}

/// The two codes that are no number are taken for 480, which nothing is rounded to.
impl Number for E4m3 {
    #[inline(always)]
    fn widen(self) -> f32 {
        const SMALLEST: f32 = 1.0 / 512.0;
        let magnitude = i32::from(self & 0x7f);
        let value = if magnitude < 8 {
            magnitude as f32 * SMALLEST
        } else {
            f32::from_bits(((magnitude << 20) + (120 << 23)) as u32)
        };
        f32::from_bits(value.to_bits() | u32::from(self & 0x80) << 24)
    }

    #[inline(always)]
    fn narrow(value: f32) -> Self {
        const LARGEST: f32 = 448.0;
        const SMALLEST_NORMAL: f32 = 1.0 / 64.0;
        let magnitude = value.abs().min(LARGEST);
        let code = if magnitude < SMALLEST_NORMAL {
            (magnitude * 512.0).round_ties_even() as u8
        } else {
            let bits = magnitude.to_bits() - (120 << 23);
            ((bits + (0x7_ffff + (bits >> 20 & 1))) >> 20) as u8
        };
        code | (value.to_bits() >> 24) as u8 & 0x80
    }
}

/// Whether this processor has the instructions that make the kernels fast. Without them a fused multiply-add is a call.
#[must_use]
pub fn has_simd() -> bool {
    #[cfg(target_arch = "x86_64")]
    let has = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    #[cfg(not(target_arch = "x86_64"))]
    let has = cfg!(target_feature = "neon");
    has
}

/// Defines a function that gives the plain function `$plain`, or the same compiled for AVX2 and FMA where the processor
/// has them.
macro_rules! best_of {
    ($best:ident, $plain:ident $(<$number:ident>)?($($argument:ident: $type:ty),*)) => {
        fn $best$(<$number: Number>)?() -> fn($($type),*) {
            #[cfg(target_arch = "x86_64")]
            if crate::kernels::has_simd() {
                #[target_feature(enable = "avx2,fma")]
                fn avx2$(<$number: Number>)?($($argument: $type),*) {
                    $plain$(::<$number>)?($($argument),*);
                }
                // SAFETY: the processor has AVX2 and FMA, the only things the function needs beyond the baseline.
                return |$($argument),*| unsafe { avx2$(::<$number>)?($($argument),*) };
            }
            $plain$(::<$number>)?
        }
    };
}
pub(crate) use best_of;

/// Whether `work` multiplications are worth more than one thread.
pub(crate) fn worth_threads(work: usize) -> bool {
    const ENOUGH: usize = 1 << 19;
    work >= ENOUGH && threads::num_threads() > 1
}

/// The sum of all lanes, halves first.
#[inline(always)]
pub(crate) fn sum(mut lanes: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            lanes[lane] += lanes[lane + half];
        }
        half /= 2;
    }
    lanes[0]
}

#[inline(always)]
pub(crate) fn lanes_at<T>(row: &[T], start: usize) -> &[T; LANES] {
    row[start..start + LANES]
        .try_into()
        .expect("as many as LANES")
}

/// What is left of a row, with zeros behind it.
#[inline(always)]
pub(crate) fn padded<T: Number>(rest: &[T]) -> [T; LANES] {
    let mut lanes = [T::default(); LANES];
    lanes[..rest.len()].copy_from_slice(rest);
    lanes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn codes_are_read_and_written_alike() {
        for code in 0..=u8::MAX {
            if code & 0x7f != 0x7f {
                assert_eq!(E4m3::narrow(code.widen()), code);
            }
            if code as i8 != i8::MIN {
                assert_eq!(i8::narrow((code as i8).widen()), code as i8);
            }
        }
        assert_eq!(
            [0x7e_u8, 0x08, 0x01, 0xb8].map(E4m3::widen),
            [448.0, 1.0 / 64.0, 1.0 / 512.0, -1.0]
        );
        assert_eq!((E4m3::narrow(1e9), E4m3::narrow(-1e9)), (0x7e, 0xfe));
    }

    proptest! {
        #[test]
        fn a_float_of_8_bits_is_the_nearest(value in -448.0f32..448.0) {
            let nearest = E4m3::narrow(value).widen();
            for code in (0..=u8::MAX).filter(|code| code & 0x7f != 0x7f) {
                prop_assert!((nearest - value).abs() <= (code.widen() - value).abs());
            }
        }
    }
}
