"""Generation: the KV pool, the paged cache, continuous batching, sampling, and `Llama`, what `llama3.load` returns.

`KvPool` (kv_pool.py) keeps account of the cache's blocks in Rust; `PagedCache` (paged_cache.py) owns the keys and
values, or codes of them (kv_codes.py), and is the model's attention while it generates, in the ways of
paged_attention.py; `Engine` (engine.py) admits requests (request.py) that checks.py lets pass, forks them and steps all
of them together; a step (decoding.py) is one forward, on a GPU as a CUDA graph (step_graphs.py), and a draw
(sampling.py) of each token, also of those that were guessed (speculation.py); completion.py says what an answer is;
`Llama` (llama.py) speaks text. Importing this package does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llama3.inference.completion import Completion, FinishReason, Generator
    from llama3.inference.engine import Engine
    from llama3.inference.kv_pool import KvPool
    from llama3.inference.llama import Llama
    from llama3.inference.sampling import Sampling

_HOME = {
    "KvPool": "kv_pool",
    "Engine": "engine",
    "Sampling": "sampling",
    "Completion": "completion",
    "FinishReason": "completion",
    "Generator": "completion",
    "Llama": "llama",
}
__all__ = ["Completion", "Engine", "FinishReason", "Generator", "KvPool", "Llama", "Sampling"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
