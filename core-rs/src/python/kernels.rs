//! Python names: `HAS_SIMD`, `paged_attention`, `rms_norm`, `rotate`.
//!
//! Tensors cross as NumPy views of their memory, bfloat16 as uint16, and are neither copied nor kept. They are read
//! without the GIL: whoever changes them meanwhile gets a result of both.

use crate::kernels::attention::{Pages, Scales, Sight};
use crate::kernels::{self, Number};
use numpy::ndarray::Axis;
use numpy::{
    Element, PyArrayDyn, PyReadonlyArray1, PyReadonlyArray2, PyReadonlyArray3, PyReadonlyArray4,
    PyReadwriteArray2, PyReadwriteArray4,
};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

type Any<'a, 'py> = &'a Bound<'py, PyAny>;

pub(super) fn check(holds: bool, what: &str) -> PyResult<()> {
    if holds {
        Ok(())
    } else {
        Err(PyValueError::new_err(format!(
            "{what} do not belong together"
        )))
    }
}

pub(super) fn is_float32(array: Any<'_, '_>) -> bool {
    is::<f32>(array)
}

fn is<T: Element>(array: Any<'_, '_>) -> bool {
    array.cast::<PyArrayDyn<T>>().is_ok()
}

/// Attention of tokens [T, heads, group, channels] to the first `seen` tokens of their `rows` of the block table. The
/// cache holds numbers like theirs, or with scales codes: int8, or as uint8 floats of 8 bits.
#[pyfunction]
#[pyo3(signature = (q, keys, values, table, rows, seen, out, key_scales=None, value_scales=None))]
#[expect(clippy::too_many_arguments, reason = "the tensors of one operation")]
fn paged_attention(
    py: Python<'_>,
    q: Any,
    keys: Any,
    values: Any,
    table: PyReadonlyArray2<'_, i32>,
    rows: PyReadonlyArray1<'_, i64>,
    seen: PyReadonlyArray1<'_, i64>,
    out: Any,
    key_scales: Option<PyReadonlyArray3<'_, f32>>,
    value_scales: Option<PyReadonlyArray3<'_, f32>>,
) -> PyResult<()> {
    let run = match (is_float32(q), is::<i8>(keys), is::<u8>(keys)) {
        (true, true, _) => paged_attention_of::<f32, i8>,
        (true, _, true) => paged_attention_of::<f32, u8>,
        (true, ..) => paged_attention_of::<f32, f32>,
        (false, true, _) => paged_attention_of::<u16, i8>,
        (false, _, true) => paged_attention_of::<u16, u8>,
        (false, ..) => paged_attention_of::<u16, u16>,
    };
    let scales = key_scales.zip(value_scales);
    run(py, q, keys, values, table, rows, seen, out, scales)
}

type ScalesOf<'py> = (PyReadonlyArray3<'py, f32>, PyReadonlyArray3<'py, f32>);

#[expect(clippy::too_many_arguments, reason = "the tensors of one operation")]
fn paged_attention_of<Q: Number + Element, T: Number + Element>(
    py: Python<'_>,
    q: Any,
    keys: Any,
    values: Any,
    table: PyReadonlyArray2<'_, i32>,
    rows: PyReadonlyArray1<'_, i64>,
    seen: PyReadonlyArray1<'_, i64>,
    out: Any,
    scales: Option<ScalesOf<'_>>,
) -> PyResult<()> {
    let q: PyReadonlyArray4<'_, Q> = q.extract()?;
    let keys: PyReadonlyArray4<'_, T> = keys.extract()?;
    let values: PyReadonlyArray4<'_, T> = values.extract()?;
    let mut out: PyReadwriteArray4<'_, Q> = out.extract()?;
    let (tokens, heads, group, channels) = q.as_array().dim();
    let (key_heads, num_blocks, block_size, key_channels) = keys.as_array().dim();
    check(
        (key_heads, key_channels) == (heads, channels)
            && values.as_array().dim() == keys.as_array().dim()
            && out.as_array().dim() == q.as_array().dim()
            && (rows.len()?, seen.len()?) == (tokens, tokens),
        "the shapes of the queries, the cache and the output",
    )?;
    let are_codes = size_of::<T>() == 1;
    let of_tokens = (heads, num_blocks, block_size);
    let fit = |(keys, values): &ScalesOf<'_>| {
        keys.as_array().dim() == of_tokens && values.as_array().dim() == of_tokens
    };
    check(
        scales.is_some() == are_codes && scales.as_ref().is_none_or(fit),
        "the codes of the cache and their scales",
    )?;
    let blocks = blocks_of(&table, &rows, &seen, num_blocks, block_size)?;
    let sights = sights_of(&blocks, seen.as_slice()?);
    let queries = parts(&q)?;
    let scales = match &scales {
        Some((keys, values)) => Some(Scales {
            keys: keys.as_slice()?,
            values: values.as_slice()?,
        }),
        None => None,
    };
    let pages = Pages {
        keys: keys.as_slice()?,
        values: values.as_slice()?,
        scales,
        heads,
        block_size,
        channels,
    };
    let out = out.as_slice_mut()?;
    if group > 0 && channels > 0 {
        py.detach(|| kernels::attention::attend(&queries, pages, &sights, out));
    }
    Ok(())
}

/// What each token sees of its blocks, which hold that many tokens.
pub(super) fn sights_of<'a>(blocks: &'a [Vec<i32>], seen: &[i64]) -> Vec<Sight<'a>> {
    let pairs = blocks.iter().zip(seen);
    pairs
        .map(|(blocks, &seen)| Sight {
            blocks,
            seen: seen as usize,
        })
        .collect()
}

/// The blocks that hold the first `seen` tokens of each of the `rows` of the block table. They are copied: the pool may
/// change its table once the GIL is released.
pub(super) fn blocks_of(
    table: &PyReadonlyArray2<'_, i32>,
    rows: &PyReadonlyArray1<'_, i64>,
    seen: &PyReadonlyArray1<'_, i64>,
    num_blocks: usize,
    block_size: usize,
) -> PyResult<Vec<Vec<i32>>> {
    let mut blocks = Vec::with_capacity(rows.len()?);
    let table = table.as_array();
    for (&row, &seen) in rows.as_slice()?.iter().zip(seen.as_slice()?) {
        let line = usize::try_from(row).ok().filter(|&row| row < table.nrows());
        let count = usize::try_from(seen)
            .unwrap_or(0)
            .div_ceil(block_size.max(1));
        let line = line.filter(|_| count <= table.ncols() && seen > 0);
        let ids: Vec<i32> = line.map_or_else(Vec::new, |line| {
            table.row(line).iter().take(count).copied().collect()
        });
        let exist = ids
            .iter()
            .all(|&id| usize::try_from(id).is_ok_and(|id| id < num_blocks));
        check(
            !ids.is_empty() && exist,
            "the rows, the block table and the cache",
        )?;
        blocks.push(ids);
    }
    Ok(blocks)
}

/// The numbers of each of the first two axes' places, which must lie together.
fn parts<'a, T: Element>(array: &'a PyReadonlyArray4<'_, T>) -> PyResult<Vec<&'a [T]>> {
    let view = array.as_array();
    let (tokens, heads, ..) = view.dim();
    let places = (0..tokens).flat_map(|token| (0..heads).map(move |head| (token, head)));
    let part = |(token, head)| {
        let part = view
            .index_axis_move(Axis(0), token)
            .index_axis_move(Axis(0), head);
        part.to_slice()
            .ok_or_else(|| PyValueError::new_err("the heads of a token do not lie together"))
    };
    places.map(part).collect()
}

/// RMSNorm of the rows of x, all float32 or all bfloat16.
#[pyfunction]
fn rms_norm(py: Python<'_>, x: Any, weight: Any, eps: f32, out: Any) -> PyResult<()> {
    let run = if is_float32(x) {
        rms_norm_of::<f32>
    } else {
        rms_norm_of::<u16>
    };
    run(py, x, weight, eps, out)
}

fn rms_norm_of<T: Number + Element>(
    py: Python<'_>,
    x: Any,
    weight: Any,
    eps: f32,
    out: Any,
) -> PyResult<()> {
    let x: PyReadonlyArray2<'_, T> = x.extract()?;
    let weight: PyReadonlyArray1<'_, T> = weight.extract()?;
    let mut out: PyReadwriteArray2<'_, T> = out.extract()?;
    let shapes =
        x.as_array().ncols() == weight.len()? && out.as_array().dim() == x.as_array().dim();
    check(shapes, "the shapes of x, weight and out")?;
    let (x, weight, out) = (x.as_slice()?, weight.as_slice()?, out.as_slice_mut()?);
    py.detach(|| kernels::elementwise::rms_norm(x, weight, eps, out));
    Ok(())
}

/// Rotary positions of x [T, heads, group, channels] by the angles of each token, [T, channels / 2].
#[pyfunction]
fn rotate(py: Python<'_>, x: Any, cos: Any, sin: Any, out: Any) -> PyResult<()> {
    let run = if is_float32(x) {
        rotate_of::<f32>
    } else {
        rotate_of::<u16>
    };
    run(py, x, cos, sin, out)
}

fn rotate_of<T: Number + Element>(
    py: Python<'_>,
    x: Any,
    cos: Any,
    sin: Any,
    out: Any,
) -> PyResult<()> {
    let x: PyReadonlyArray4<'_, T> = x.extract()?;
    let (cos, sin) = (
        cos.extract::<PyReadonlyArray2<'_, T>>()?,
        sin.extract::<PyReadonlyArray2<'_, T>>()?,
    );
    let mut out: PyReadwriteArray4<'_, T> = out.extract()?;
    let (tokens, heads, group, channels) = x.as_array().dim();
    let pairs = channels / 2;
    check(
        channels % 2 == 0
            && cos.as_array().dim() == (tokens, pairs)
            && sin.as_array().dim() == (tokens, pairs)
            && out.as_array().dim() == x.as_array().dim(),
        "the shapes of x, cos, sin and out",
    )?;
    let size = group * channels;
    if size * heads == 0 {
        return Ok(());
    }
    let (parts, cos, sin) = (parts(&x)?, cos.as_slice()?, sin.as_slice()?);
    let outs = out.as_slice_mut()?.chunks_exact_mut(size);
    py.detach(|| {
        for (index, (part, out)) in parts.into_iter().zip(outs).enumerate() {
            let angles = index / heads * pairs..(index / heads + 1) * pairs;
            kernels::elementwise::rotate(part, &cos[angles.clone()], &sin[angles], out);
        }
    });
    Ok(())
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("HAS_SIMD", kernels::has_simd())?;
    module.add_function(wrap_pyfunction!(paged_attention, module)?)?;
    module.add_function(wrap_pyfunction!(rms_norm, module)?)?;
    module.add_function(wrap_pyfunction!(rotate, module)?)?;
    Ok(())
}
