//! Python names: `ShardWriter`, `Shard`, `TokenLoader`, `TokenStream`, `ShardError`, `count_ngrams`, `draw_runs`.

use crate::loader::{
    self, Batches, Header, Loader, LoaderError, Phase, Prefetcher, Rows, Shard, ShardWriter,
    Source, Tokens,
};
use numpy::ndarray::{Array2, ArrayView2};
use numpy::{IntoPyArray, PyArray1, PyArray2, PyReadonlyArray1, PyReadonlyArray2};
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use std::path::PathBuf;
use std::sync::Arc;

pyo3::create_exception!(
    llama3._core,
    ShardError,
    PyValueError,
    "A token shard is damaged: the message names the file, the place and what is wrong."
);

impl From<LoaderError> for PyErr {
    fn from(error: LoaderError) -> Self {
        match error {
            LoaderError::Io { path, source } => match source.raw_os_error() {
                // (errno, message, file name) builds the right subclass, such as FileNotFoundError.
                Some(code) => PyOSError::new_err((code, source.to_string(), path)),
                None => PyOSError::new_err(format!("{}: {source}", path.display())),
            },
            LoaderError::Damaged { .. } => ShardError::new_err(error.to_string()),
            LoaderError::Invalid(what) => PyValueError::new_err(what),
        }
    }
}

type Arrays<'py> = (
    Bound<'py, PyArray2<i32>>,
    Bound<'py, PyArray1<i32>>,
    Bound<'py, PyArray1<u64>>,
    Bound<'py, PyArray1<i64>>,
    Bound<'py, PyArray1<i32>>,
);

/// The tokens of a batch: what a NumPy array of them keeps alive.
#[pyclass(module = "llama3._core", frozen)]
struct TokenBuffer {
    _tokens: Tokens,
}

/// NumPy arrays of the vectors' memory: nothing is copied.
fn arrays(py: Python<'_>, mut rows: Rows) -> PyResult<Arrays<'_>> {
    let shape = (rows.source_ids.len(), rows.seq_len as usize);
    let first = rows.tokens.as_mut_ptr().cast::<i32>().cast_const();
    debug_assert_eq!(rows.tokens.len(), shape.0 * shape.1);
    let owner = Bound::new(
        py,
        TokenBuffer {
            _tokens: rows.tokens,
        },
    )?;
    // SAFETY: `first` points to as many words as the shape has, which the buffer holds until it is dropped, and nothing
    // but the array reads or writes them until then. They are below 2^31: the same number in either sign.
    let tokens = unsafe {
        let view = ArrayView2::from_shape_ptr(shape, first);
        PyArray2::borrow_from_array(&view, owner.into_any())
    };
    Ok((
        tokens,
        rows.bounds.into_pyarray(py),
        rows.doc_ids.into_pyarray(py),
        rows.splits.into_pyarray(py),
        rows.source_ids.into_pyarray(py),
    ))
}

fn hash_bytes(hex: &str) -> PyResult<[u8; 32]> {
    let hash = blake3::Hash::from_hex(hex);
    let hash =
        hash.map_err(|_| PyValueError::new_err("tokenizer_hash must be 64 hexadecimal digits"))?;
    Ok(*hash.as_bytes())
}

fn hex(hash: [u8; 32]) -> String {
    blake3::Hash::from_bytes(hash).to_hex().to_string()
}

/// Writes one `.tok` shard; it appears at `path` when `finish` returns.
#[pyclass(name = "ShardWriter", module = "llama3._core")]
struct PyShardWriter {
    inner: Option<ShardWriter>,
}

impl PyShardWriter {
    fn open(&mut self) -> PyResult<&mut ShardWriter> {
        self.inner
            .as_mut()
            .ok_or_else(|| PyValueError::new_err("the shard is finished"))
    }
}

#[pymethods]
impl PyShardWriter {
    #[new]
    #[pyo3(signature = (path, *, vocab_size, tokenizer_hash))]
    fn new(path: PathBuf, vocab_size: u32, tokenizer_hash: &str) -> PyResult<Self> {
        let writer = ShardWriter::create(&path, vocab_size, hash_bytes(tokenizer_hash)?)?;
        Ok(Self {
            inner: Some(writer),
        })
    }

    fn append(
        &mut self,
        py: Python<'_>,
        ids: PyReadonlyArray1<'_, u32>,
        row_starts: PyReadonlyArray1<'_, u64>,
        doc_ids: PyReadonlyArray1<'_, u64>,
    ) -> PyResult<()> {
        let (ids, starts, doc_ids) = (ids.as_slice()?, row_starts.as_slice()?, doc_ids.as_slice()?);
        let writer = self.open()?;
        Ok(py.detach(|| writer.append(ids, starts, doc_ids))?)
    }

    #[getter]
    fn tokens(&mut self) -> PyResult<u64> {
        Ok(self.open()?.tokens())
    }

    #[getter]
    fn documents(&mut self) -> PyResult<u64> {
        Ok(self.open()?.documents())
    }

    /// (tokens, documents, root): the counts and the hash that stands for the content.
    fn finish(&mut self, py: Python<'_>) -> PyResult<(u64, u64, String)> {
        self.open()?;
        let Some(writer) = self.inner.take() else {
            return Err(PyValueError::new_err("the shard is finished"));
        };
        let header = py.detach(|| writer.finish())?;
        Ok((header.tokens, header.documents, hex(header.root)))
    }
}

/// One open `.tok` shard.
#[pyclass(name = "Shard", module = "llama3._core", frozen)]
struct PyShard {
    inner: Shard,
}

impl PyShard {
    fn header(&self) -> &Header {
        self.inner.header()
    }
}

#[pymethods]
impl PyShard {
    #[new]
    fn new(path: PathBuf) -> PyResult<Self> {
        Ok(Self {
            inner: Shard::open(&path)?,
        })
    }

    #[getter]
    fn tokens(&self) -> u64 {
        self.header().tokens
    }

    #[getter]
    fn documents(&self) -> u64 {
        self.header().documents
    }

    #[getter]
    fn vocab_size(&self) -> u32 {
        self.header().vocab_size
    }

    #[getter]
    fn tokenizer_hash(&self) -> String {
        hex(self.header().tokenizer)
    }

    #[getter]
    fn root(&self) -> String {
        hex(self.header().root)
    }

    fn verify(&self, py: Python<'_>) -> PyResult<()> {
        Ok(py.detach(|| self.inner.verify())?)
    }

    /// (identity, tokens) of document `index`.
    fn document<'py>(
        &self,
        py: Python<'py>,
        index: u64,
    ) -> PyResult<(u64, Bound<'py, PyArray1<i64>>)> {
        let content = self.inner.view()?;
        let end = content.doc_end(index)?;
        let start = if index == 0 {
            0
        } else {
            content.doc_end(index - 1)?
        };
        let mut tokens = Vec::new();
        py.detach(|| content.read(start..end, &mut tokens))?;
        let tokens: Vec<i64> = tokens.into_iter().map(i64::from).collect();
        Ok((content.doc_id(index)?, tokens.into_pyarray(py)))
    }
}

/// The rows of a plan, by index.
#[pyclass(name = "TokenLoader", module = "llama3._core", frozen)]
struct PyTokenLoader {
    inner: Arc<Loader>,
}

#[pymethods]
impl PyTokenLoader {
    #[new]
    #[pyo3(signature = (sources, phases, seed, window=1))]
    fn new(
        py: Python<'_>,
        sources: Vec<(String, Vec<PathBuf>)>,
        phases: Vec<(u64, u32, Vec<f64>)>,
        seed: u64,
        window: u64,
    ) -> PyResult<Self> {
        let build = || {
            let phases: Vec<Phase> = phases
                .into_iter()
                .map(|(from_row, seq_len, weights)| Phase {
                    from_row,
                    seq_len,
                    weights,
                })
                .collect();
            let sources = sources.iter().map(|(name, paths)| {
                let shards = paths
                    .iter()
                    .map(|path| Shard::open(path))
                    .collect::<Result<_, _>>()?;
                Source::new(name, shards)
            });
            Loader::with_window(sources.collect::<Result<_, _>>()?, &phases, seed, window)
        };
        Ok(Self {
            inner: Arc::new(py.detach(build)?),
        })
    }

    /// Rows start, start + stride, ...: (tokens, bounds, doc_ids, splits, source_ids), see `Rows`.
    fn rows<'py>(
        &self,
        py: Python<'py>,
        start: u64,
        count: usize,
        stride: u64,
    ) -> PyResult<Arrays<'py>> {
        let rows = py.detach(|| self.inner.rows(start, count, stride))?;
        arrays(py, rows)
    }

    /// Endless batches from row `start` on, made ahead by threads.
    fn stream(
        &self,
        start: u64,
        batch: u64,
        rank: u64,
        world: u64,
        depth: usize,
        threads: usize,
    ) -> PyResult<PyTokenStream> {
        let batches = Batches {
            start,
            batch,
            rank,
            world,
        };
        let inner = Prefetcher::new(Arc::clone(&self.inner), batches, depth, threads)?;
        Ok(PyTokenStream { inner })
    }

    /// (source, epoch, window) of a row; a window is as long as the row.
    fn place(&self, row: u64) -> (usize, u64, u64) {
        let place = self.inner.place(row);
        (place.source, place.epoch, place.window)
    }

    /// Windows of one pass, per source.
    fn windows(&self) -> Vec<u64> {
        (0..self.inner.sources().len())
            .map(|source| self.inner.windows(source))
            .collect()
    }

    /// Content hashes of the shards, per source.
    fn roots(&self) -> Vec<Vec<String>> {
        let of = |source: &Source| {
            source
                .shards()
                .iter()
                .map(|shard| hex(shard.header().root))
                .collect()
        };
        self.inner.sources().iter().map(of).collect()
    }
}

/// Batches in order; see `TokenLoader.stream`.
#[pyclass(name = "TokenStream", module = "llama3._core", frozen)]
struct PyTokenStream {
    inner: Prefetcher,
}

#[pymethods]
impl PyTokenStream {
    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Arrays<'py>> {
        let rows = py.detach(|| self.inner.next_batch())?;
        arrays(py, rows)
    }
}

fn open_all(paths: &[PathBuf]) -> loader::Result<Vec<Shard>> {
    paths.iter().map(|path| Shard::open(path)).collect()
}

/// How often every `n` tokens that stand together in each row of `runs` occur within a document of the shards.
#[pyfunction]
fn count_ngrams<'py>(
    py: Python<'py>,
    shards: Vec<PathBuf>,
    runs: PyReadonlyArray2<'py, u32>,
    n: usize,
) -> PyResult<Bound<'py, PyArray2<u64>>> {
    let (rows, length) = runs.as_array().dim();
    let tokens = runs.as_slice()?;
    let counts = py.detach(|| loader::count_ngrams(&open_all(&shards)?, tokens, length, n))?;
    // Counted: `n` is at most `length`.
    let counts = Array2::from_shape_vec((rows, length + 1 - n), counts)
        .map_err(|error| PyValueError::new_err(error.to_string()))?;
    Ok(counts.into_pyarray(py))
}

type Runs<'py> = (
    Bound<'py, PyArray1<i64>>,
    Bound<'py, PyArray1<u64>>,
    Bound<'py, PyArray2<u32>>,
);

/// (index of the shard, first token there, tokens) of runs of `length` tokens that are drawn from the shards.
#[pyfunction]
#[pyo3(signature = (shards, *, length, edge, count, seed))]
fn draw_runs(
    py: Python<'_>,
    shards: Vec<PathBuf>,
    length: usize,
    edge: u64,
    count: u64,
    seed: u64,
) -> PyResult<Runs<'_>> {
    let drawn = py.detach(|| loader::draw_runs(&open_all(&shards)?, length, edge, count, seed))?;
    let shape = (drawn.starts.len(), length);
    let tokens = Array2::from_shape_vec(shape, drawn.tokens)
        .map_err(|error| PyValueError::new_err(error.to_string()))?;
    Ok((
        drawn.shards.into_pyarray(py),
        drawn.starts.into_pyarray(py),
        tokens.into_pyarray(py),
    ))
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("ShardError", module.py().get_type::<ShardError>())?;
    module.add_class::<PyShardWriter>()?;
    module.add_class::<PyShard>()?;
    module.add_class::<PyTokenLoader>()?;
    module.add_class::<PyTokenStream>()?;
    module.add_function(wrap_pyfunction!(count_ngrams, module)?)?;
    module.add_function(wrap_pyfunction!(draw_runs, module)?)?;
    Ok(())
}
