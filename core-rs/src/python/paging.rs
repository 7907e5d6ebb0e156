//! Python name: `KvPool`. One call per step; tokens, rows and slots cross as NumPy buffers.
//!
//! The tables change only inside methods that hold the GIL. Only hashing a long prompt, which does not touch the pool,
//! runs without it.

use crate::paging::{self, Chain, Error, Slab};
use numpy::ndarray::ArrayView2;
use numpy::{PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray1, PyReadwriteArray1};
use pyo3::exceptions::{PyMemoryError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::borrow::Cow;

/// Longer prompts are hashed without the GIL; for shorter ones releasing it costs more than it gives.
const LONG_PROMPT: usize = 4096;

impl From<Error> for PyErr {
    fn from(error: Error) -> Self {
        match error {
            Error::Memory => PyMemoryError::new_err(error.to_string()),
            _ => PyValueError::new_err(error.to_string()),
        }
    }
}

/// KV-cache accounting: see `llama3.inference.KvPool`, which documents the methods.
#[pyclass(module = "llama3._core")]
struct KvPool {
    pool: paging::KvPool,
}

#[pymethods]
impl KvPool {
    #[new]
    fn new(
        num_blocks: usize,
        block_size: usize,
        max_seqs: usize,
        max_blocks: usize,
        key: &[u8],
        watermark: f64,
    ) -> PyResult<Self> {
        let pool =
            paging::KvPool::new(num_blocks, block_size, max_seqs, max_blocks, key, watermark)?;
        Ok(Self { pool })
    }

    #[getter]
    fn block_table<'py>(slf: &Bound<'py, Self>) -> Bound<'py, PyArray2<i32>> {
        let pool = slf.borrow();
        view(pool.pool.table(), pool.pool.shape(), slf.as_any())
    }

    #[getter]
    fn seq_lens<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyArray1<i32>>> {
        let pool = slf.borrow();
        let shape = (1, pool.pool.shape().0);
        view(pool.pool.seq_lens(), shape, slf.as_any()).reshape([shape.1])
    }

    #[getter]
    fn row_limit(&self) -> usize {
        self.pool.row_limit()
    }

    fn admit(
        slf: &Bound<'_, Self>,
        tokens: PyReadonlyArray1<'_, u32>,
        salt: &[u8],
        adapter: u64,
        max_len: usize,
    ) -> PyResult<Option<(usize, usize)>> {
        let (tokens, chain) = Self::chain(slf, tokens.as_slice()?, salt, adapter);
        let admission = slf.borrow_mut().pool.admit(&tokens, &chain, max_len)?;
        Ok(admission.map(|admission| (admission.row, admission.cached)))
    }

    fn match_len(
        slf: &Bound<'_, Self>,
        tokens: PyReadonlyArray1<'_, u32>,
        salt: &[u8],
        adapter: u64,
    ) -> PyResult<usize> {
        let (tokens, chain) = Self::chain(slf, tokens.as_slice()?, salt, adapter);
        Ok(slf.borrow().pool.match_len(&tokens, &chain))
    }

    fn step(
        &mut self,
        rows: PyReadonlyArray1<'_, i64>,
        tokens: PyReadonlyArray1<'_, u32>,
        mut slots_out: PyReadwriteArray1<'_, i64>,
    ) -> PyResult<usize> {
        let slots = slots_out.as_slice_mut()?;
        Ok(self
            .pool
            .step(rows.as_slice()?, tokens.as_slice()?, slots)?)
    }

    fn extend<'py>(
        &mut self,
        py: Python<'py>,
        row: i64,
        count: usize,
    ) -> PyResult<Option<Bound<'py, PyArray1<i64>>>> {
        Ok(self
            .pool
            .extend(row, count)?
            .map(|slots| PyArray1::from_vec(py, slots)))
    }

    fn accept(&mut self, row: i64, tokens: PyReadonlyArray1<'_, u32>) -> PyResult<()> {
        Ok(self.pool.accept(row, tokens.as_slice()?)?)
    }

    fn truncate(&mut self, row: i64, length: usize) -> PyResult<()> {
        Ok(self.pool.truncate(row, length)?)
    }

    fn fork(&mut self, row: i64, count: usize) -> PyResult<Option<Vec<usize>>> {
        Ok(self.pool.fork(row, count)?)
    }

    fn take_copies<'py>(&mut self, py: Python<'py>) -> PyResult<Bound<'py, PyArray2<i32>>> {
        let pairs = self.pool.take_copies();
        let flat = pairs
            .iter()
            .flat_map(|&(from, to)| [from, to].map(|block| block as i32));
        PyArray1::from_iter(py, flat).reshape([pairs.len(), 2])
    }

    fn free(&mut self, row: i64, cache: bool) -> PyResult<()> {
        Ok(self.pool.free(row, cache)?)
    }

    fn pin(&mut self, row: i64) -> PyResult<Option<u64>> {
        Ok(self.pool.pin(row)?)
    }

    fn unpin(&mut self, pin: u64) -> PyResult<()> {
        Ok(self.pool.unpin(pin)?)
    }

    fn evict(&mut self, count: usize) -> usize {
        self.pool.evict(count)
    }

    fn reset(&mut self) {
        self.pool.reset();
    }

    fn check(&self) -> Vec<String> {
        self.pool.check()
    }

    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = self.pool.stats();
        let fields = [
            ("blocks", stats.blocks),
            ("free", stats.free),
            ("cached", stats.cached),
            ("promised", stats.promised),
            ("pinned", stats.pinned),
            ("rows", stats.rows),
            ("admitted", stats.admitted),
            ("refused", stats.refused),
            ("prompt_tokens", stats.prompt_tokens),
            ("hit_tokens", stats.hit_tokens),
            ("copies", stats.copies),
            ("evictions", stats.evictions),
        ];
        let dict = PyDict::new(py);
        for (name, value) in fields {
            dict.set_item(name, value)?;
        }
        Ok(dict)
    }
}

impl KvPool {
    /// The tokens and their keys. A long prompt is copied, because Python may change its array meanwhile.
    fn chain<'a>(
        slf: &Bound<'_, Self>,
        tokens: &'a [u32],
        salt: &[u8],
        adapter: u64,
    ) -> (Cow<'a, [u32]>, Chain) {
        let (keys, size) = {
            let pool = slf.borrow();
            (pool.pool.keys(), pool.pool.block_size())
        };
        if tokens.len() <= LONG_PROMPT {
            return (
                Cow::Borrowed(tokens),
                keys.chain(tokens, size, salt, adapter),
            );
        }
        let tokens = tokens.to_vec();
        let chain = slf.py().detach(|| keys.chain(&tokens, size, salt, adapter));
        (Cow::Owned(tokens), chain)
    }
}

/// A read-only array over a slab; it keeps its owner, the pool, alive.
fn view<'py>(
    slab: &Slab,
    shape: (usize, usize),
    owner: &Bound<'py, PyAny>,
) -> Bound<'py, PyArray2<i32>> {
    // SAFETY: the slab has `shape.0 * shape.1` cells at a fixed address, which lives as long as `owner`, the pool object that
    // the array keeps as its base. Cells are atomics, so reads through the view never meet an exclusive reference;
    // the array cannot be written (and NumPy cannot make it writeable, as it does not own its data).
    let array = unsafe {
        let cells = ArrayView2::from_shape_ptr(shape, slab.as_ptr());
        PyArray2::borrow_from_array(&cells, owner.clone())
    };
    array.readwrite().make_nonwriteable();
    array
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<KvPool>()
}
