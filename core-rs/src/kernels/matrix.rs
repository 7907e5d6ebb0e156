//! The forms in which matrices are kept, and their rows as the numbers they stand for.

use super::{Bf16, Number};

/// A matrix, row by row. Integer forms are symmetric: codes times a scale.
#[derive(Clone, Copy)]
pub enum Matrix<'a> {
    Float32(&'a [f32]),
    Bfloat16(&'a [Bf16]),
    /// A scale for each row.
    Int8 {
        codes: &'a [i8],
        scales: &'a [f32],
    },
    /// As `Int8`; what it is multiplied with becomes codes too.
    Int8Dynamic {
        codes: &'a [i8],
        scales: &'a [f32],
    },
    /// Two columns to a byte, the even one in the low half; a scale for each of the equal groups of a row's columns,
    /// [groups, rows].
    Int4 {
        codes: &'a [u8],
        scales: &'a [f32],
    },
}

impl Matrix<'_> {
    /// How many rows it has of `width` columns.
    #[must_use]
    pub fn rows(&self, width: usize) -> usize {
        match self {
            Self::Float32(numbers) => numbers.len() / width,
            Self::Bfloat16(numbers) => numbers.len() / width,
            Self::Int8 { codes, .. } | Self::Int8Dynamic { codes, .. } => codes.len() / width,
            Self::Int4 { codes, .. } => 2 * codes.len() / width,
        }
    }

    /// The rows from `first` on as far as `out` reaches. Those of `Int8` are without their scales.
    #[inline(always)]
    pub(super) fn decode(&self, first: usize, width: usize, out: &mut [f32]) {
        let part = first * width..first * width + out.len();
        match *self {
            Self::Float32(numbers) => out.copy_from_slice(&numbers[part]),
            Self::Bfloat16(numbers) => widen(&numbers[part], out),
            Self::Int8 { codes, .. } | Self::Int8Dynamic { codes, .. } => {
                for (out, &code) in out.iter_mut().zip(&codes[part]) {
                    *out = f32::from(code);
                }
            }
            Self::Int4 { codes, scales } => {
                let rows = self.rows(width);
                let group = width * rows / scales.len();
                for (row, out) in out
                    .chunks_exact_mut(width)
                    .enumerate()
                    .map(|(i, out)| (first + i, out))
                {
                    let codes = codes[row * width / 2..][..width / 2].chunks_exact(group / 2);
                    for (index, (codes, out)) in codes.zip(out.chunks_exact_mut(group)).enumerate()
                    {
                        int4_numbers(codes, scales[index * rows + row], out);
                    }
                }
            }
        }
    }
}

/// Numbers that can be a matrix as they are.
pub trait Entry: Number {
    fn matrix(numbers: &[Self]) -> Matrix<'_>;
}

impl Entry for f32 {
    fn matrix(numbers: &[f32]) -> Matrix<'_> {
        Matrix::Float32(numbers)
    }
}

impl Entry for Bf16 {
    fn matrix(numbers: &[Bf16]) -> Matrix<'_> {
        Matrix::Bfloat16(numbers)
    }
}

#[inline(always)]
fn widen(numbers: &[Bf16], out: &mut [f32]) {
    for (out, number) in out.iter_mut().zip(numbers) {
        *out = number.widen();
    }
}

/// Two's complement of four bits, two columns to a byte, the even one in the low half: each times `scale`.
#[inline(always)]
fn int4_numbers(codes: &[u8], scale: f32, out: &mut [f32]) {
    for (&byte, out) in codes.iter().zip(out.chunks_exact_mut(2)) {
        out[0] = f32::from((byte << 4).cast_signed() >> 4) * scale;
        out[1] = f32::from(byte.cast_signed() >> 4) * scale;
    }
}
