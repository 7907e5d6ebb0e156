//! Python names: `multiply`, `decode`, `summarize_scores`.
//!
//! A matrix crosses as (form, its array, its scales if it has some), see `Held`.

use super::kernels::{blocks_of, check, is_float32, sights_of};
use crate::kernels::decoder::{Layer, Shape, Tokens, forward};
use crate::kernels::linear;
use crate::kernels::matrix::Matrix;
use crate::kernels::scores::{Summary, summaries};
use crate::kernels::{Bf16, Number};
use numpy::{
    Element, PyReadonlyArray1, PyReadonlyArray2, PyReadwriteArray1, PyReadwriteArray2,
    PyReadwriteArray6, PyUntypedArrayMethods,
};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

/// A matrix whose arrays are held while it is computed with.
enum Held<'py> {
    Float32(PyReadonlyArray2<'py, f32>),
    Bfloat16(PyReadonlyArray2<'py, Bf16>),
    Int8(PyReadonlyArray2<'py, i8>, PyReadonlyArray1<'py, f32>, bool),
    Int4(PyReadonlyArray2<'py, u8>, PyReadonlyArray2<'py, f32>),
}

impl<'py> Held<'py> {
    fn of(parts: &Bound<'py, PyTuple>) -> PyResult<Self> {
        let form: String = parts.get_item(0)?.extract()?;
        let array = parts.get_item(1)?;
        let scales = || parts.get_item(2);
        Ok(match form.as_str() {
            "float" if is_float32(&array) => Self::Float32(array.extract()?),
            "float" => Self::Bfloat16(array.extract()?),
            "int8" => Self::Int8(array.extract()?, scales()?.extract()?, false),
            "int8_dynamic" => Self::Int8(array.extract()?, scales()?.extract()?, true),
            "int4" => Self::Int4(array.extract()?, scales()?.extract()?),
            _ => {
                return Err(PyValueError::new_err(format!(
                    "{form:?} is no form of a matrix"
                )));
            }
        })
    }

    /// The matrix, which must have so many columns, and its rows.
    fn matrix(&self, columns: usize) -> PyResult<(Matrix<'_>, usize)> {
        let shape = |shape: &[usize]| (shape[0], shape[1]);
        let (matrix, (rows, width), fits) = match self {
            Self::Float32(w) => (Matrix::Float32(w.as_slice()?), shape(w.shape()), true),
            Self::Bfloat16(w) => (Matrix::Bfloat16(w.as_slice()?), shape(w.shape()), true),
            Self::Int8(codes, scales, is_dynamic) => {
                let size = shape(codes.shape());
                let (codes, scales) = (codes.as_slice()?, scales.as_slice()?);
                let matrix = if *is_dynamic {
                    Matrix::Int8Dynamic { codes, scales }
                } else {
                    Matrix::Int8 { codes, scales }
                };
                (matrix, size, scales.len() == size.0)
            }
            Self::Int4(codes, scales) => {
                let ((rows, bytes), (groups, scaled)) =
                    (shape(codes.shape()), shape(scales.shape()));
                let matrix = Matrix::Int4 {
                    codes: codes.as_slice()?,
                    scales: scales.as_slice()?,
                };
                let fits = scaled == rows && groups > 0 && bytes % groups == 0;
                (matrix, (rows, 2 * bytes), fits)
            }
        };
        check(
            fits && width == columns,
            "the shapes of a matrix, its scales and what it meets",
        )?;
        Ok((matrix, rows))
    }
}

/// y = x w', of float32 or bfloat16 rows and a matrix of any form.
#[pyfunction]
fn multiply(
    py: Python<'_>,
    x: &Bound<'_, PyAny>,
    w: &Bound<'_, PyTuple>,
    y: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let run = if is_float32(x) {
        multiply_of::<f32>
    } else {
        multiply_of::<Bf16>
    };
    run(py, x, &Held::of(w)?, y)
}

fn multiply_of<T: Number + Element>(
    py: Python<'_>,
    x: &Bound<'_, PyAny>,
    w: &Held<'_>,
    y: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let x: PyReadonlyArray2<'_, T> = x.extract()?;
    let mut y: PyReadwriteArray2<'_, T> = y.extract()?;
    let (rows, width) = x.as_array().dim();
    let (matrix, outputs) = w.matrix(width)?;
    check(
        y.as_array().dim() == (rows, outputs),
        "the shapes of x, w and y",
    )?;
    let (x, y) = (x.as_slice()?, y.as_slice_mut()?);
    py.detach(|| linear::multiply(x, matrix, width, y));
    Ok(())
}

/// The weights of a layer as they are given.
struct HeldLayer<'py> {
    norms: [Vec<f32>; 2],
    matrices: [Held<'py>; 4],
}

impl<'py> HeldLayer<'py> {
    /// (attention norm, qkv, out, ffn norm, gate and up, down)
    fn of(parts: &Bound<'py, PyTuple>) -> PyResult<Self> {
        let matrix = |index| Held::of(parts.get_item(index)?.cast::<PyTuple>()?);
        Ok(Self {
            norms: [numbers(&parts.get_item(0)?)?, numbers(&parts.get_item(3)?)?],
            matrices: [matrix(1)?, matrix(2)?, matrix(4)?, matrix(5)?],
        })
    }

    fn layer(&self, shape: Shape) -> PyResult<Layer<'_>> {
        let q_dim = shape.heads * shape.group * shape.channels;
        let columns = [shape.dim, q_dim, shape.dim, shape.ffn_dim];
        let rows = [
            q_dim + 2 * shape.heads * shape.channels,
            shape.dim,
            2 * shape.ffn_dim,
            shape.dim,
        ];
        let mut found = Vec::with_capacity(4);
        for (index, held) in self.matrices.iter().enumerate() {
            let (matrix, count) = held.matrix(columns[index])?;
            check(count == rows[index], "the shapes of a layer's matrices")?;
            found.push(matrix);
        }
        let [attention_norm, ffn_norm] = self.norms.clone();
        check(
            attention_norm.len() == shape.dim && ffn_norm.len() == shape.dim,
            "the shapes of a layer's norms",
        )?;
        let [qkv, out, gate_up, down] = found[..] else {
            unreachable!("four were pushed")
        };
        Ok(Layer {
            attention_norm,
            qkv,
            out,
            ffn_norm,
            gate_up,
            down,
        })
    }
}

fn numbers(array: &Bound<'_, PyAny>) -> PyResult<Vec<f32>> {
    if is_float32(array) {
        return Ok(array
            .extract::<PyReadonlyArray1<'_, f32>>()?
            .as_slice()?
            .to_vec());
    }
    let array: PyReadonlyArray1<'_, Bf16> = array.extract()?;
    Ok(array
        .as_slice()?
        .iter()
        .map(|number| number.widen())
        .collect())
}

/// The hidden states of new tokens after all layers, in place of x [tokens, dim]; their keys and values are stored at
/// their slots of the cache.
#[pyfunction]
#[expect(clippy::too_many_arguments, reason = "the tensors of one operation")]
fn decode(
    py: Python<'_>,
    x: PyReadwriteArray2<'_, f32>,
    layers: Vec<Bound<'_, PyTuple>>,
    eps: f32,
    ffn_group: usize,
    cos: PyReadonlyArray2<'_, f32>,
    sin: PyReadonlyArray2<'_, f32>,
    cache: &Bound<'_, PyAny>,
    slots: PyReadonlyArray1<'_, i64>,
    table: PyReadonlyArray2<'_, i32>,
    rows: PyReadonlyArray1<'_, i64>,
    seen: PyReadonlyArray1<'_, i64>,
) -> PyResult<()> {
    let run = if cache.extract::<PyReadwriteArray6<'_, f32>>().is_ok() {
        decode_of::<f32>
    } else {
        decode_of::<Bf16>
    };
    run(
        py,
        x,
        layers,
        eps,
        ffn_group,
        [cos, sin],
        cache,
        slots,
        table,
        rows,
        seen,
    )
}

#[expect(clippy::too_many_arguments, reason = "the tensors of one operation")]
fn decode_of<T: Number + Element>(
    py: Python<'_>,
    mut x: PyReadwriteArray2<'_, f32>,
    layers: Vec<Bound<'_, PyTuple>>,
    eps: f32,
    ffn_group: usize,
    [cos, sin]: [PyReadonlyArray2<'_, f32>; 2],
    cache: &Bound<'_, PyAny>,
    slots: PyReadonlyArray1<'_, i64>,
    table: PyReadonlyArray2<'_, i32>,
    rows: PyReadonlyArray1<'_, i64>,
    seen: PyReadonlyArray1<'_, i64>,
) -> PyResult<()> {
    let mut cache: PyReadwriteArray6<'_, T> = cache.extract()?;
    let &[two, depth, heads, num_blocks, block_size, channels] = cache.shape() else {
        unreachable!("six axes")
    };
    let (tokens, dim) = x.as_array().dim();
    let held = layers
        .iter()
        .map(HeldLayer::of)
        .collect::<PyResult<Vec<_>>>()?;
    let Some(first) = held.first() else {
        return check(false, "no layers and tokens");
    };
    let columns = |held: &Held<'_>| match held {
        Held::Int4(codes, _) => 2 * codes.shape()[1],
        Held::Float32(w) => w.shape()[1],
        Held::Bfloat16(w) => w.shape()[1],
        Held::Int8(codes, ..) => codes.shape()[1],
    };
    let (q_dim, ffn_dim) = (columns(&first.matrices[1]), columns(&first.matrices[3]));
    let places = [slots.len(), rows.len(), seen.len()];
    check(
        (two, depth) == (2, held.len())
            && places == [tokens; 3]
            && channels % 2 == 0
            && [cos.as_array().dim(), sin.as_array().dim()] == [(tokens, channels / 2); 2]
            && heads * channels > 0
            && q_dim % (heads * channels) == 0
            && ffn_group > 0
            && ffn_dim % ffn_group == 0,
        "the shapes of the tokens, the layers and the cache",
    )?;
    let shape = Shape {
        dim,
        heads,
        group: q_dim / (heads * channels),
        channels,
        ffn_dim,
        ffn_group,
        eps,
    };
    let weights = held
        .iter()
        .map(|held| held.layer(shape))
        .collect::<PyResult<Vec<_>>>()?;
    let mut places = Vec::with_capacity(tokens);
    for &slot in slots.as_slice()? {
        let slot = usize::try_from(slot).unwrap_or(usize::MAX);
        check(slot < num_blocks * block_size, "the slots and the cache")?;
        places.push(slot);
    }
    let blocks = blocks_of(&table, &rows, &seen, num_blocks, block_size)?;
    let sights = sights_of(&blocks, seen.as_slice()?);
    let news = Tokens {
        cos: cos.as_slice()?,
        sin: sin.as_slice()?,
        slots: &places,
        sights: &sights,
    };
    let (x, cache) = (x.as_slice_mut()?, cache.as_slice_mut()?);
    py.detach(|| forward(x, &weights, shape, &news, cache, block_size));
    Ok(())
}

/// Of each row of scores, float32 or bfloat16: the first of the largest, and log(sum(exp(row))).
#[pyfunction]
fn summarize_scores(
    py: Python<'_>,
    scores: &Bound<'_, PyAny>,
    mut likeliest: PyReadwriteArray1<'_, i64>,
    mut normalizer: PyReadwriteArray1<'_, f32>,
) -> PyResult<()> {
    let found = if is_float32(scores) {
        summaries_of::<f32>(py, scores)
    } else {
        summaries_of::<Bf16>(py, scores)
    }?;
    let (likeliest, normalizer) = (likeliest.as_slice_mut()?, normalizer.as_slice_mut()?);
    let fits = [likeliest.len(), normalizer.len()] == [found.len(); 2];
    check(fits, "the rows of scores and what is found of them")?;
    for (index, summary) in found.into_iter().enumerate() {
        likeliest[index] = summary.likeliest as i64;
        normalizer[index] = summary.normalizer;
    }
    Ok(())
}

fn summaries_of<T: Number + Element>(
    py: Python<'_>,
    scores: &Bound<'_, PyAny>,
) -> PyResult<Vec<Summary>> {
    let scores: PyReadonlyArray2<'_, T> = scores.extract()?;
    let (rows, width) = scores.as_array().dim();
    let scores = scores.as_slice()?;
    let mut found = vec![Summary::default(); rows];
    py.detach(|| summaries(scores, width, &mut found));
    Ok(found)
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(multiply, module)?)?;
    module.add_function(wrap_pyfunction!(decode, module)?)?;
    module.add_function(wrap_pyfunction!(summarize_scores, module)?)?;
    Ok(())
}
