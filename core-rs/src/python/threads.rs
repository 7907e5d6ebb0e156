//! Python names: `set_num_threads`, `num_threads`.

use crate::threads;
use pyo3::prelude::*;

/// Threads for the parallel work of the Rust core (0: one per core). No result depends on it.
#[pyfunction]
fn set_num_threads(threads: usize) {
    threads::set_num_threads(threads);
}

/// Threads that parallel work of the Rust core runs on.
#[pyfunction]
fn num_threads() -> usize {
    threads::num_threads()
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(set_num_threads, module)?)?;
    module.add_function(wrap_pyfunction!(num_threads, module)?)?;
    Ok(())
}
