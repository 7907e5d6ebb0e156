//! The performance core of llama3. Algorithms here know nothing of Python;
//! the thin binding lives in `python` and is compiled only for the wheel.

pub mod dedup;
pub mod hashing;
pub mod html;
pub mod kernels;
pub mod loader;
pub mod paging;
pub mod text;
pub mod threads;
pub mod tokenizer;

#[cfg(feature = "python")]
mod python;
