//! The PyO3 layer: one file per service, each with a `register` that adds its names to `llama3._core`.

mod decoder;
mod dedup;
mod hashing;
mod html;
mod kernels;
mod loader;
mod paging;
mod text;
mod threads;
mod tokenizer;

use pyo3::prelude::*;

#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add("debug_build", cfg!(debug_assertions))?;
    hashing::register(module)?;
    html::register(module)?;
    decoder::register(module)?;
    kernels::register(module)?;
    threads::register(module)?;
    tokenizer::register(module)?;
    dedup::register(module)?;
    text::register(module)?;
    loader::register(module)?;
    paging::register(module)?;
    Ok(())
}
