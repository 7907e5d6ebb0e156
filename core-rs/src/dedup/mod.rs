//! Exact, near-duplicate (MinHash) and line deduplication.
//!
//! Near duplicates go through four steps: [`shingle`] hashes every run of n words, [`minhash`] condenses them to
//! one key per band, [`banding`] groups documents that share a key, [`cluster`] verifies them by exact Jaccard
//! similarity and decides which stay; [`ties`] groups what memory does not hold. [`lines`] counts and drops frequent lines, [`identity`] names documents.

pub mod banding;
pub mod cluster;
pub mod identity;
pub mod lines;
pub mod minhash;
pub mod shingle;
pub mod ties;
