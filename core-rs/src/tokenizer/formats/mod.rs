//! File formats: tiktoken's `.model` and Hugging Face's `tokenizer.json`, each read and written.

pub mod hf;
pub mod pipeline;
pub mod tiktoken;
