//! Python names: `html_page_text`, `html_main_text`.

use crate::html::{self, Page};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use std::panic::catch_unwind;

/// Nothing that a page holds may end the process that reads it.
fn read<T: Send>(
    py: Python<'_>,
    work: impl FnOnce() -> T + Send + std::panic::UnwindSafe,
) -> PyResult<T> {
    py.detach(|| catch_unwind(work))
        .map_err(|_| PyValueError::new_err("the page cannot be parsed"))
}

/// (text, encoding, characters, undecodable) of the bytes of a page.
#[pyfunction]
fn html_page_text(py: Python<'_>, page: &[u8]) -> PyResult<(String, &'static str, usize, usize)> {
    let Page {
        text,
        encoding,
        characters,
        undecodable,
    } = read(py, || html::page_text(page))?;
    Ok((text, encoding, characters, undecodable))
}

/// The main text of a page that is decoded already.
#[pyfunction]
fn html_main_text(py: Python<'_>, page: &str) -> PyResult<String> {
    read(py, || html::main_text(page))
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(html_page_text, module)?)?;
    module.add_function(wrap_pyfunction!(html_main_text, module)?)?;
    Ok(())
}
