"""Types of the Rust core. Arrays are NumPy and, where said, views of memory that Rust owns."""

from typing import Any, Self, final

import numpy as np
import numpy.typing as npt

__all__ = [
    "HAS_SIMD",
    "LINE_FLAGS",
    "LINE_NUMBERS",
    "LLAMA3_PATTERN",
    "QWEN2_PATTERN",
    "TEXT_STATISTICS",
    "Bpe",
    "BpeStream",
    "BpeTrainer",
    "DuplicateGroups",
    "KvPool",
    "Phrases",
    "Shard",
    "ShardError",
    "ShardWriter",
    "TokenLoader",
    "TokenStream",
    "TokenizerError",
    "WordDistribution",
    "__version__",
    "analyse",
    "blake3_bytes",
    "blake3_file",
    "citation_spans",
    "count_ngrams",
    "debug_build",
    "decode",
    "draw_runs",
    "drop_lines",
    "duplicate_groups",
    "frequent_keys",
    "html_main_text",
    "html_page_text",
    "line_keys",
    "line_repetition",
    "minhash_keys",
    "minhash_signatures",
    "multiply",
    "near_duplicates",
    "num_threads",
    "paged_attention",
    "replace_spans",
    "rms_norm",
    "rotate",
    "set_num_threads",
    "summarize_scores",
    "text_ids",
]

__version__: str
debug_build: bool

# -- hashing (core-rs/src/python/hashing.rs) ---------------------------------------------------

def blake3_file(path: str) -> str: ...
def blake3_bytes(data: bytes) -> str: ...

# -- threads (core-rs/src/python/pool.rs) ----------------------------------------------------

def set_num_threads(threads: int) -> None: ...
def num_threads() -> int: ...

# -- tokenizer (core-rs/src/python/tokenizer.rs) -----------------------------------------------

class TokenizerError(ValueError):
    """args: (code, fields), as `llama3.errors.from_core` reads them."""

LLAMA3_PATTERN: str
"""Llama 3's split rule as a regular expression."""
QWEN2_PATTERN: str
"""The same with every digit alone."""

@final
class Bpe:
    def __new__(cls, tokens: list[bytes], specials: list[tuple[int, str]]) -> Self: ...
    @staticmethod
    def from_tiktoken(data: bytes, specials: list[str]) -> Bpe: ...
    @staticmethod
    def from_json(
        data: bytes, stated: list[tuple[str, int | None, tuple[bool, bool, bool, bool], str | None]] = ...
    ) -> Bpe: ...
    def with_special(self, names: list[str]) -> Bpe: ...
    def to_tiktoken(self) -> bytes: ...
    def to_json(self, bos: str | None = None) -> bytes: ...
    def encode(
        self, text: str, allowed: list[str] | str, meta_compat: bool, bos: int | None = None, eos: int | None = None
    ) -> npt.NDArray[np.uint32]: ...
    def encode_batch(
        self,
        texts: list[str],
        allowed: list[str] | str,
        meta_compat: bool,
        bos: int | None = None,
        eos: int | None = None,
    ) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint64]]: ...
    def encode_bytes(self, data: bytes) -> npt.NDArray[np.uint32]: ...
    def count(self, text: str, allowed: list[str] | str, meta_compat: bool) -> int: ...
    def decode_bytes(self, ids: npt.NDArray[np.uint32]) -> bytes: ...
    def decode(self, ids: npt.NDArray[np.uint32]) -> str: ...
    def token_bytes(self, id: int) -> bytes: ...
    def stream(self) -> BpeStream: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def base_size(self) -> int: ...
    @property
    def added(self) -> list[tuple[int, str, bool]]: ...
    @property
    def strips(self) -> list[tuple[int, bool, bool]]: ...
    @property
    def first_id(self) -> int | None: ...
    def hash(self) -> str: ...

@final
class BpeStream:
    def push(self, id: int) -> str: ...
    def flush(self) -> str: ...

@final
class BpeTrainer:
    def __new__(cls) -> Self: ...
    def feed(self, texts: list[str]) -> None: ...
    def finish(self, size: int) -> list[bytes]: ...

# -- deduplication (core-rs/src/python/dedup.rs) -----------------------------------------------
# Documents come as one UTF-8 buffer (uint8) and int64 [D+1] offsets; ValueError for broken offsets or UTF-8.

def text_ids(data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]: ...
def minhash_signatures(
    data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64], *, ngram: int, hashes: int
) -> npt.NDArray[np.uint32]: ...
def minhash_keys(
    data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64], *, ngram: int, bands: int, rows: int
) -> npt.NDArray[np.uint64]: ...
def duplicate_groups(keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Per document the first one that shared keys tie it to, over any number of others; -1 where it shares none."""

@final
class DuplicateGroups:
    """The same of more keys than memory holds: 5 bytes per document. ValueError for a document that is not below
    `documents`."""

    def __new__(cls, documents: int) -> Self: ...
    def add(self, keys: npt.NDArray[np.uint64], documents: npt.NDArray[np.uint32]) -> None:
        """Keys of one band and the document of each; equal ones in one call."""
    def groups(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The documents that share keys, ascending, and of each the first one that it is tied to."""

def near_duplicates(
    data: npt.NDArray[np.uint8],
    offsets: npt.NDArray[np.int64],
    keys: npt.NDArray[np.uint64],
    *,
    ngram: int,
    threshold: float,
    fixed: int = 0,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], int, int]:
    """duplicate_of (-1: kept), exact similarity, comparisons made, buckets that were full. The first `fixed` documents
    stay whatever they resemble."""

def line_keys(
    data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64], buckets: npt.NDArray[np.int64]
) -> npt.NDArray[np.uint64]:
    """Of all lines, mixed with the bucket of their document; of documents whose bucket is negative none."""

def frequent_keys(keys: npt.NDArray[np.uint64], max_count: int) -> npt.NDArray[np.uint64]: ...
def drop_lines(
    data: npt.NDArray[np.uint8],
    offsets: npt.NDArray[np.int64],
    buckets: npt.NDArray[np.int64],
    frequent: npt.NDArray[np.uint64],
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Data and offsets without the lines that are frequent in their document's bucket, documents of negative buckets
    as they are; lines each document lost."""

# -- text analysis (core-rs/src/python/text.rs) ------------------------------------------------
# Documents come as above.

TEXT_STATISTICS: tuple[str, ...]
LINE_NUMBERS: tuple[str, ...]
LINE_FLAGS: tuple[str, ...]

def analyse(
    data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float64], list[npt.NDArray[np.int64]], list[npt.NDArray[np.bool_]]]:
    """Statistics [D, names]; of the lines that are not blank a column for each number and each flag. Their places are
    bytes of their document."""

def line_repetition(
    data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64], *, ngram: int
) -> npt.NDArray[np.float64]:
    """[lines that are not blank]. ValueError for an ngram of 0."""

def citation_spans(data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """[citations, 3]: document, start and end in bytes of `data`."""

def replace_spans(
    data: npt.NDArray[np.uint8],
    offsets: npt.NDArray[np.int64],
    spans: npt.NDArray[np.int64],
    texts: list[str],
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Data and offsets with a text in place of each span (document, start and end in bytes of `data`). ValueError for
    a span that is not whole characters of its document."""

@final
class Phrases:
    def __new__(cls, phrases: list[str]) -> Self: ...
    def __len__(self) -> int: ...
    def count(self, data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """[D, 2]: occurrences, different ones."""

@final
class WordDistribution:
    """ValueError for more than 28 bits."""

    def __new__(cls, bits: int = 20) -> Self: ...
    @property
    def total(self) -> int: ...
    def add(self, data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64]) -> None: ...
    def counts(self) -> npt.NDArray[np.uint64]: ...
    def add_counts(self, counts: npt.NDArray[np.uint64]) -> None:
        """ValueError where there are not 2^bits."""
    def divergence(self, data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]: ...

# -- HTML (core-rs/src/python/html.rs) ---------------------------------------------------------

def html_page_text(page: bytes) -> tuple[str, str, int, int]:
    """(text, encoding, characters, undecodable)."""

def html_main_text(page: str) -> str: ...

# -- loader (core-rs/src/python/loader.rs) -----------------------------------------------------

class ShardError(ValueError):
    """A token shard is damaged: the message names the file, the place and what is wrong."""

@final
class ShardWriter:
    """Writes one `.tok` shard; it appears at `path` when `finish` returns. Dropped before, it leaves nothing."""

    def __new__(cls, path: str, *, vocab_size: int, tokenizer_hash: str) -> Self: ...
    def append(
        self, ids: npt.NDArray[np.uint32], row_starts: npt.NDArray[np.uint64], doc_ids: npt.NDArray[np.uint64]
    ) -> None: ...
    @property
    def tokens(self) -> int: ...
    @property
    def documents(self) -> int: ...
    def finish(self) -> tuple[int, int, str]:
        """(tokens, documents, root): the counts and the hash that stands for the content."""

@final
class Shard:
    """One open `.tok` shard; its header, hash table and footer are checked, its blocks when they are read."""

    def __new__(cls, path: str) -> Self: ...
    @property
    def tokens(self) -> int: ...
    @property
    def documents(self) -> int: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def tokenizer_hash(self) -> str: ...
    @property
    def root(self) -> str: ...
    def verify(self) -> None: ...
    def document(self, index: int) -> tuple[int, npt.NDArray[np.int64]]:
        """(identity, tokens)."""

_Rows = tuple[
    npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.uint64], npt.NDArray[np.int64], npt.NDArray[np.int32]
]

@final
class TokenLoader:
    """The rows of a plan, by index. Rows come as (tokens [n, seq_len], bounds, doc_ids, splits, source_ids).

    A phase is (its first row, tokens per row, the weight of every source)."""

    def __new__(
        cls,
        sources: list[tuple[str, list[str]]],
        phases: list[tuple[int, int, list[float]]],
        seed: int,
        window: int = 1,
    ) -> Self: ...
    def rows(self, start: int, count: int, stride: int) -> _Rows: ...
    def stream(self, start: int, batch: int, rank: int, world: int, depth: int, threads: int) -> TokenStream: ...
    def place(self, row: int) -> tuple[int, int, int]:
        """(source, epoch, window)."""
    def windows(self) -> list[int]: ...
    def roots(self) -> list[list[str]]: ...

@final
class TokenStream:
    """Endless batches in order, made ahead by threads."""

    def __iter__(self) -> TokenStream: ...
    def __next__(self) -> _Rows: ...

def count_ngrams(shards: list[str], runs: npt.NDArray[np.uint32], n: int) -> npt.NDArray[np.uint64]:
    """How often every n tokens that stand together in each row of runs [K, length] occur within a document of the
    shards, [K, length - n + 1]: exact, with memory for the n-grams and one block of tokens per thread. A run has at
    most 65,536 tokens."""

def draw_runs(
    shards: list[str], *, length: int, edge: int, count: int, seed: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint64], npt.NDArray[np.uint32]]:
    """(index of the shard, first token there, tokens [count, length]) of different places that are drawn, each as
    likely as any other, in order; `edge` tokens at both ends of a document are left out."""

# -- paging (core-rs/src/python/paging.rs) -----------------------------------------------------

@final
class KvPool:
    def __new__(
        cls, num_blocks: int, block_size: int, max_seqs: int, max_blocks: int, key: bytes, watermark: float
    ) -> KvPool: ...
    @property
    def block_table(self) -> npt.NDArray[np.int32]: ...
    @property
    def seq_lens(self) -> npt.NDArray[np.int32]: ...
    @property
    def row_limit(self) -> int: ...
    def admit(
        self, tokens: npt.NDArray[np.uint32], salt: bytes, adapter: int, max_len: int
    ) -> tuple[int, int] | None: ...
    def match_len(self, tokens: npt.NDArray[np.uint32], salt: bytes, adapter: int) -> int: ...
    def step(
        self, rows: npt.NDArray[np.int64], tokens: npt.NDArray[np.uint32], slots_out: npt.NDArray[np.int64]
    ) -> int: ...
    def extend(self, row: int, count: int) -> npt.NDArray[np.int64] | None: ...
    def accept(self, row: int, tokens: npt.NDArray[np.uint32]) -> None: ...
    def truncate(self, row: int, length: int) -> None: ...
    def fork(self, row: int, count: int) -> list[int] | None: ...
    def take_copies(self) -> npt.NDArray[np.int32]: ...
    def free(self, row: int, cache: bool) -> None: ...
    def pin(self, row: int) -> int | None: ...
    def unpin(self, pin: int) -> None: ...
    def evict(self, count: int) -> int: ...
    def reset(self) -> None: ...
    def check(self) -> list[str]: ...
    def stats(self) -> dict[str, int]: ...

# -- kernels (core-rs/src/python/kernels.rs) ---------------------------------------------------
# Arrays are float32, or all uint16 that hold bfloat16. Every row's result has the same bits beside any others, on every
# instruction set and with any number of threads. ValueError for shapes that do not belong together.

HAS_SIMD: bool
"""Whether this processor has the instructions that make the kernels fast."""

def multiply(x: npt.NDArray[Any], w: tuple[Any, ...], y: npt.NDArray[Any]) -> None:
    """y [M, N] = x [M, K] w', w one of the forms of `llama3.model.ops.Matrix` with N rows."""

def decode(
    x: npt.NDArray[np.float32],
    layers: list[tuple[Any, ...]],
    eps: float,
    ffn_group: int,
    cos: npt.NDArray[Any],
    sin: npt.NDArray[Any],
    cache: npt.NDArray[Any],
    slots: npt.NDArray[np.int64],
    table: npt.NDArray[np.int32],
    rows: npt.NDArray[np.int64],
    seen: npt.NDArray[np.int64],
) -> None:
    """Replaces x [T, D] by the hidden states after all layers, each (attention norm, qkv, out, FFN norm, gate and up,
    down). cos and sin [T, C / 2] are the angles of each token; its key and value go to its slot of the cache [2,
    layers, K, blocks, block size, C]; it sees the first `seen` tokens of its line of the block table."""

def summarize_scores(
    scores: npt.NDArray[Any], likeliest: npt.NDArray[np.int64], normalizer: npt.NDArray[np.float32]
) -> None:
    """Writes of each row of scores [B, V] the first of the largest, and log(sum(exp(row)))."""

def paged_attention(
    q: npt.NDArray[Any],
    keys: npt.NDArray[Any],
    values: npt.NDArray[Any],
    table: npt.NDArray[np.int32],
    rows: npt.NDArray[np.int64],
    seen: npt.NDArray[np.int64],
    out: npt.NDArray[Any],
    key_scales: npt.NDArray[np.float32] | None = None,
    value_scales: npt.NDArray[np.float32] | None = None,
) -> None:
    """out [T, K, G, C] = softmax(q k' / sqrt(C)) v over the first `seen[t]` keys of line `rows[t]` of the block table;
    keys and values are [K, blocks, block size, C], of q's type, or codes (int8, or the bits of float8_e4m3fn as uint8)
    with scales [K, blocks, block size]."""

def rms_norm(x: npt.NDArray[Any], weight: npt.NDArray[Any], eps: float, out: npt.NDArray[Any]) -> None: ...
def rotate(x: npt.NDArray[Any], cos: npt.NDArray[Any], sin: npt.NDArray[Any], out: npt.NDArray[Any]) -> None:
    """out = x [T, K, G, C], its channel pairs (i, i + C/2) turned by the angles [T, C/2] of their token."""
