//! Python names: `text_ids`, `minhash_signatures`, `minhash_keys`, `duplicate_groups`, `near_duplicates`, `line_keys`,
//! `frequent_keys`, `drop_lines`, `DuplicateGroups`.
//!
//! Documents come in as one UTF-8 buffer and int64 offsets and are never copied; arrays go out.

use crate::dedup::cluster::Question;
use crate::dedup::minhash::MinHash;
use crate::dedup::ties::Ties;
use crate::dedup::{cluster, identity, lines};
use crate::text::TextBatch;
use crate::threads;
use numpy::ndarray::Array2;
use numpy::{IntoPyArray, PyArray1, PyArray2, PyReadonlyArray1, PyReadonlyArray2};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

pub(super) type Bytes<'py> = PyReadonlyArray1<'py, u8>;
pub(super) type Offsets<'py> = PyReadonlyArray1<'py, i64>;
type Keys<'py> = PyReadonlyArray2<'py, u64>;

pub(super) fn refused(reason: impl ToString) -> PyErr {
    PyValueError::new_err(reason.to_string())
}

/// Checks the batch and runs `work` on it in the pool, without the GIL.
pub(super) fn with_batch<R: Send>(
    py: Python<'_>,
    data: &Bytes<'_>,
    offsets: &Offsets<'_>,
    work: impl Fn(TextBatch<'_>) -> R + Send + Sync,
) -> PyResult<R> {
    let (data, offsets) = (data.as_slice()?, offsets.as_slice()?);
    py.detach(|| threads::install(|| TextBatch::new(data, offsets).map(&work)))
        .map_err(refused)
}

pub(super) fn table<'py, T: numpy::Element>(
    py: Python<'py>,
    values: Vec<T>,
    columns: usize,
) -> PyResult<Bound<'py, PyArray2<T>>> {
    let rows = values.len().checked_div(columns).unwrap_or(0);
    Ok(Array2::from_shape_vec((rows, columns), values)
        .map_err(refused)?
        .into_pyarray(py))
}

fn check_shape(ngram: usize, bands: usize, rows: usize) -> PyResult<()> {
    const MOST_HASHES: usize = 1 << 16;
    if ngram == 0 || bands == 0 || rows == 0 {
        return Err(refused("ngram, bands and rows must be at least 1"));
    }
    match bands.checked_mul(rows) {
        Some(hashes) if hashes <= MOST_HASHES => Ok(()),
        _ => Err(refused(format!(
            "bands * rows must be at most {MOST_HASHES}"
        ))),
    }
}

/// Row-major keys and their number of bands.
fn key_table<'a>(keys: &'a Keys<'_>) -> PyResult<(&'a [u64], usize)> {
    let shape = keys.as_array().dim();
    if shape.1 == 0 || shape.0 > u32::MAX as usize {
        return Err(refused(format!(
            "keys of shape {shape:?}: at least one band and at most 2^32 - 1 documents"
        )));
    }
    Ok((keys.as_slice()?, shape.1))
}

#[pyfunction]
fn text_ids<'py>(
    py: Python<'py>,
    data: Bytes<'py>,
    offsets: Offsets<'py>,
) -> PyResult<Bound<'py, PyArray2<u8>>> {
    let ids = with_batch(py, &data, &offsets, identity::ids)?;
    table(py, ids.into_flattened(), identity::ID_BYTES)
}

#[pyfunction]
#[pyo3(signature = (data, offsets, *, ngram, hashes))]
fn minhash_signatures<'py>(
    py: Python<'py>,
    data: Bytes<'py>,
    offsets: Offsets<'py>,
    ngram: usize,
    hashes: usize,
) -> PyResult<Bound<'py, PyArray2<u32>>> {
    check_shape(ngram, 1, hashes)?;
    let family = MinHash::new(ngram, hashes);
    table(
        py,
        with_batch(py, &data, &offsets, |batch| family.signatures(batch))?,
        hashes,
    )
}

#[pyfunction]
#[pyo3(signature = (data, offsets, *, ngram, bands, rows))]
fn minhash_keys<'py>(
    py: Python<'py>,
    data: Bytes<'py>,
    offsets: Offsets<'py>,
    ngram: usize,
    bands: usize,
    rows: usize,
) -> PyResult<Bound<'py, PyArray2<u64>>> {
    check_shape(ngram, bands, rows)?;
    let family = MinHash::new(ngram, bands * rows);
    table(
        py,
        with_batch(py, &data, &offsets, |batch| family.band_keys(batch, bands))?,
        bands,
    )
}

#[pyfunction]
fn duplicate_groups<'py>(py: Python<'py>, keys: Keys<'py>) -> PyResult<Bound<'py, PyArray1<i64>>> {
    let (table, bands) = key_table(&keys)?;
    let groups = py.detach(|| threads::install(|| cluster::groups(table, bands)));
    Ok(groups.into_pyarray(py))
}

type Verdict<'py> = (
    Bound<'py, PyArray1<i64>>,
    Bound<'py, PyArray1<f64>>,
    u64,
    u64,
);

#[pyfunction]
#[pyo3(signature = (data, offsets, keys, *, ngram, threshold, fixed = 0))]
fn near_duplicates<'py>(
    py: Python<'py>,
    data: Bytes<'py>,
    offsets: Offsets<'py>,
    keys: Keys<'py>,
    ngram: usize,
    threshold: f64,
    fixed: usize,
) -> PyResult<Verdict<'py>> {
    let (table, bands) = key_table(&keys)?;
    check_shape(ngram, bands, 1)?;
    if !(threshold > 0.0 && threshold <= 1.0) {
        return Err(refused(format!(
            "threshold {threshold} is not above 0 and at most 1"
        )));
    }
    let documents = offsets.as_slice()?.len().saturating_sub(1);
    if documents != table.len() / bands {
        return Err(refused(format!(
            "{documents} documents but {} rows of keys",
            table.len() / bands
        )));
    }
    let settle = |batch: TextBatch<'_>| {
        cluster::settle(&Question {
            batch,
            keys: table,
            bands,
            ngram,
            threshold,
            fixed,
        })
    };
    let verdict = with_batch(py, &data, &offsets, settle)?;
    let (duplicate_of, similarity) = (
        verdict.duplicate_of.into_pyarray(py),
        verdict.similarity.into_pyarray(py),
    );
    Ok((
        duplicate_of,
        similarity,
        verdict.comparisons,
        verdict.full_buckets,
    ))
}

/// One bucket for each document.
fn check_buckets(offsets: &Offsets<'_>, buckets: &[i64]) -> PyResult<()> {
    let documents = offsets.as_slice()?.len().saturating_sub(1);
    if buckets.len() == documents {
        return Ok(());
    }
    Err(refused(format!(
        "{documents} documents but {} buckets",
        buckets.len()
    )))
}

#[pyfunction]
fn line_keys<'py>(
    py: Python<'py>,
    data: Bytes<'py>,
    offsets: Offsets<'py>,
    buckets: PyReadonlyArray1<'py, i64>,
) -> PyResult<Bound<'py, PyArray1<u64>>> {
    let buckets = buckets.as_slice()?;
    check_buckets(&offsets, buckets)?;
    let keys = with_batch(py, &data, &offsets, |batch| {
        lines::line_keys(batch, buckets)
    })?;
    Ok(keys.into_pyarray(py))
}

#[pyfunction]
fn frequent_keys<'py>(
    py: Python<'py>,
    keys: PyReadonlyArray1<'py, u64>,
    max_count: usize,
) -> PyResult<Bound<'py, PyArray1<u64>>> {
    let mut keys = keys.as_slice()?.to_vec();
    Ok(py
        .detach(|| threads::install(|| lines::frequent(&mut keys, max_count)))
        .into_pyarray(py))
}

type Thinned<'py> = (
    Bound<'py, PyArray1<u8>>,
    Bound<'py, PyArray1<i64>>,
    Bound<'py, PyArray1<i64>>,
);

#[pyfunction]
fn drop_lines<'py>(
    py: Python<'py>,
    data: Bytes<'py>,
    offsets: Offsets<'py>,
    buckets: PyReadonlyArray1<'py, i64>,
    frequent: PyReadonlyArray1<'py, u64>,
) -> PyResult<Thinned<'py>> {
    let (buckets, frequent) = (buckets.as_slice()?, frequent.as_slice()?);
    check_buckets(&offsets, buckets)?;
    if !frequent.is_sorted() {
        return Err(refused("frequent keys must be ascending"));
    }
    let thinned = with_batch(py, &data, &offsets, |batch| {
        lines::drop_lines(batch, buckets, frequent)
    })?;
    Ok((
        thinned.data.into_pyarray(py),
        thinned.offsets.into_pyarray(py),
        thinned.dropped.into_pyarray(py),
    ))
}

#[pyclass(module = "llama3._core")]
struct DuplicateGroups {
    ties: Ties,
}

type Groups<'py> = (Bound<'py, PyArray1<i64>>, Bound<'py, PyArray1<i64>>);

#[pymethods]
impl DuplicateGroups {
    #[new]
    fn new(documents: u32) -> Self {
        Self {
            ties: Ties::new(documents as usize),
        }
    }

    fn add<'py>(
        &mut self,
        py: Python<'py>,
        keys: PyReadonlyArray1<'py, u64>,
        documents: PyReadonlyArray1<'py, u32>,
    ) -> PyResult<()> {
        let (keys, documents) = (keys.as_slice()?, documents.as_slice()?);
        let all = self.ties.documents();
        if keys.len() != documents.len()
            || documents.iter().any(|&document| document as usize >= all)
        {
            return Err(refused(format!(
                "{} keys of {} documents, each below {all}",
                keys.len(),
                documents.len()
            )));
        }
        let ties = &mut self.ties;
        py.detach(|| threads::install(|| ties.add(keys, documents)));
        Ok(())
    }

    fn groups<'py>(&mut self, py: Python<'py>) -> Groups<'py> {
        let ties = &mut self.ties;
        let (documents, roots) = py.detach(|| ties.groups());
        (documents.into_pyarray(py), roots.into_pyarray(py))
    }
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(text_ids, module)?)?;
    module.add_function(wrap_pyfunction!(minhash_signatures, module)?)?;
    module.add_function(wrap_pyfunction!(minhash_keys, module)?)?;
    module.add_function(wrap_pyfunction!(duplicate_groups, module)?)?;
    module.add_function(wrap_pyfunction!(near_duplicates, module)?)?;
    module.add_function(wrap_pyfunction!(line_keys, module)?)?;
    module.add_function(wrap_pyfunction!(frequent_keys, module)?)?;
    module.add_function(wrap_pyfunction!(drop_lines, module)?)?;
    module.add_class::<DuplicateGroups>()?;
    Ok(())
}
