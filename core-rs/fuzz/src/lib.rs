//! Fuzz targets: functions that take any bytes, feed a part of the core with them and assert what must hold.
//!
//! Each is run in two ways: by libFuzzer (`fuzz_targets/`, `make fuzz`), and by `cargo test` on the kept corpus and on
//! simple changes of it (`core-rs/tests/fuzz_corpus.rs`). A new reader of foreign bytes gets a function in a file
//! here, a line in `TARGETS`, a file in `fuzz_targets/` with its entry in `Cargo.toml`,
//! and some inputs in `corpus/<name>/`.

mod bytes;
mod dedup;
mod html;
mod paging;
mod shard;
mod text;
mod tokenizer;

pub use dedup::dedup;
pub use html::html;
pub use paging::paging;
pub use shard::shard;
pub use text::{split, text};
pub use tokenizer::{encode, tiktoken, tokenizer_json, tokenizer_parts};

/// A fuzz target.
pub type Target = fn(&[u8]);

/// All of them by name.
pub const TARGETS: [(&str, Target); 10] = [
    ("dedup", dedup),
    ("encode", encode),
    ("html", html),
    ("paging", paging),
    ("shard", shard),
    ("split", split),
    ("text", text),
    ("tiktoken", tiktoken),
    ("tokenizer_json", tokenizer_json),
    ("tokenizer_parts", tokenizer_parts),
];
