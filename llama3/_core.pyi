"""Types of the Rust core. Arrays are NumPy and, where said, views of memory that Rust owns."""

import numpy as np
import numpy.typing as npt

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
# Documents come as one UTF-8 buffer (uint8) and int64 [D+1] offsets; ValueError for broken offsets or UTF-8.

TEXT_STATISTICS: tuple[str, ...]

def text_ids(data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]: ...
def text_statistics(data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]: ...
def minhash_signatures(
    data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64], *, ngram: int, hashes: int
) -> npt.NDArray[np.uint32]: ...
def minhash_keys(
    data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64], *, ngram: int, bands: int, rows: int
) -> npt.NDArray[np.uint64]: ...
def shared_keys(keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]: ...
def near_duplicates(
    data: npt.NDArray[np.uint8],
    offsets: npt.NDArray[np.int64],
    keys: npt.NDArray[np.uint64],
    *,
    ngram: int,
    threshold: float,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], int, int]:
    """duplicate_of (-1: kept), exact similarity, comparisons made, buckets that were full."""

def line_keys(data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]: ...
def frequent_keys(keys: npt.NDArray[np.uint64], max_count: int) -> npt.NDArray[np.uint64]: ...
def drop_lines(
    data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64], frequent: npt.NDArray[np.uint64]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Data and offsets without the frequent lines, and how many each document lost."""


# -- loader (core-rs/src/python/loader.rs) -----------------------------------------------------

# -- paging (core-rs/src/python/paging.rs) -----------------------------------------------------
