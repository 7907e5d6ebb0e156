//! Exact, near-duplicate (MinHash) and line deduplication.
