"""Types of the Rust core. Arrays are NumPy and, where said, views of memory that Rust owns."""

__version__: str
debug_build: bool

# -- hashing (core-rs/src/python/hashing.rs) ---------------------------------------------------

def blake3_file(path: str) -> str: ...
def blake3_bytes(data: bytes) -> str: ...

# -- threads (core-rs/src/python/pool.rs) ----------------------------------------------------

def set_num_threads(threads: int) -> None: ...
def num_threads() -> int: ...

# -- tokenizer (core-rs/src/python/tokenizer.rs) -----------------------------------------------

# -- dedup and text analysis (core-rs/src/python/dedup.rs) -------------------------------------

# -- loader (core-rs/src/python/loader.rs) -----------------------------------------------------

# -- paging (core-rs/src/python/paging.rs) -----------------------------------------------------
