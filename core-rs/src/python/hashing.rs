//! Python names: `blake3_file`, `blake3_bytes`.

use crate::hashing;
use pyo3::prelude::*;
use std::path::PathBuf;

/// blake3 of a file's bytes as lower-case hex.
#[pyfunction]
fn blake3_file(py: Python<'_>, path: PathBuf) -> PyResult<String> {
    Ok(py.detach(|| hashing::blake3_file(&path))?)
}

/// blake3 of bytes as lower-case hex.
#[pyfunction]
fn blake3_bytes(data: &[u8]) -> String {
    hashing::blake3_bytes(data)
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(blake3_file, module)?)?;
    module.add_function(wrap_pyfunction!(blake3_bytes, module)?)?;
    Ok(())
}
