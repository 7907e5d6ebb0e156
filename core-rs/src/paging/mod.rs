//! Paged KV cache accounting: block pool, block tables, prefix cache, forks.
