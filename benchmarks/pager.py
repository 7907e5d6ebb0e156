"""KV-cache accounting beside vLLM's KVCacheManager: the same requests, admitted, stepped and freed in the same order.

Before anything is timed, both must find the same number of cached tokens in every prompt and have the same number of
free blocks after every tick. Times are CPU time of the thread, per operation. vLLM's scheduler needs no GPU:

    pip download --no-deps vllm==0.33.0 && unzip vllm-*.whl -d DIR    # about 340 MB; its kernels are not used
    VLLM_PATH=DIR python benchmarks/pager.py                          # and the small packages its import asks for
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import os
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import common
import numpy as np

from llama3 import _core
from llama3.inference import KvPool

BLOCK = 16
RUNNING = 64
BLOCKS = 6000


@dataclass(frozen=True)
class Tick:
    """One turn of a server: new requests, one token for each running one, requests that are over."""

    admitted: list[tuple[int, np.ndarray]]
    stepped: list[int]
    tokens: list[int]
    freed: list[int]


class Candidate(Protocol):
    def admit(self, request: int, tokens: np.ndarray) -> int:
        """Tokens found in the cache."""

    def step(self, requests: list[int], tokens: list[int]) -> None: ...

    def free(self, request: int) -> None: ...

    def free_blocks(self) -> int: ...


class Ours:
    def __init__(self) -> None:
        self.pool = KvPool(BLOCKS, BLOCK, max_seqs=RUNNING, max_blocks=512, watermark=0)
        self.rows: dict[int, int] = {}
        self.slots = np.zeros(RUNNING, np.int64)

    def admit(self, request: int, tokens: np.ndarray) -> int:
        admitted = self.pool.admit(tokens)
        assert admitted is not None
        self.rows[request], cached = admitted
        return cached

    def step(self, requests: list[int], tokens: list[int]) -> None:
        rows = np.array([self.rows[request] for request in requests])
        done = self.pool.step(rows, np.array(tokens, np.uint32), self.slots[: len(rows)])
        assert done == len(rows)

    def free(self, request: int) -> None:
        self.pool.free(self.rows.pop(request))

    def free_blocks(self) -> int:
        return self.pool.stats()["free"]


class Vllm:
    """vLLM 0.33's manager, one group of full attention, sha256 block hashes (its default)."""

    def __init__(self) -> None:
        import torch
        from vllm.sampling_params import SamplingParams
        from vllm.utils.hashing import sha256
        from vllm.v1.core.kv_cache_manager import KVCacheManager
        from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
        from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
        from vllm.v1.request import Request

        spec = FullAttentionSpec(block_size=BLOCK, num_kv_heads=8, head_size=128, dtype=torch.bfloat16)
        config = KVCacheConfig(BLOCKS, [], [KVCacheGroupSpec(["l0"], spec)])
        self.manager: Any = KVCacheManager(
            config, max_model_len=512 * BLOCK, scheduler_block_size=BLOCK, hash_block_size=BLOCK
        )
        init_none_hash(sha256)
        hasher = get_request_block_hasher(BLOCK, sha256)
        sampling = SamplingParams(max_tokens=1000)
        self.make = lambda request, tokens: Request(str(request), tokens, sampling, None, block_hasher=hasher)
        self.requests: dict[int, Any] = {}

    def admit(self, request: int, tokens: np.ndarray) -> int:
        made = self.requests[request] = self.make(request, tokens.tolist())
        blocks, cached, _ = self.manager.get_computed_blocks(made)
        found = self.manager.allocate_slots(made, len(tokens) - cached, cached, blocks)
        assert found is not None
        made.num_computed_tokens = len(tokens)
        return cached

    def step(self, requests: list[int], tokens: list[int]) -> None:
        for request, token in zip(requests, tokens, strict=True):
            made = self.requests[request]
            made.append_output_token_ids(token)
            found = self.manager.allocate_slots(made, 1)
            assert found is not None
            made.num_computed_tokens += 1

    def free(self, request: int) -> None:
        self.manager.free(self.requests.pop(request))

    def free_blocks(self) -> int:
        return self.manager.block_pool.get_num_free_blocks()


def trace(requests: int, seed: int = 0) -> list[Tick]:
    """Prompts of 100 to 4,000 tokens, 30 % of which begin with one of 8 shared prefixes; answers of 16 to 128."""
    random = np.random.default_rng(seed)
    prefixes = [random.integers(0, 128_000, 512, dtype=np.uint32) for _ in range(8)]

    def prompt() -> np.ndarray:
        length = int(np.clip(random.lognormal(6, 0.8), 100, 4000))
        tokens = random.integers(0, 128_000, length, dtype=np.uint32)
        return np.concatenate([prefixes[random.integers(8)], tokens]) if random.random() < 0.3 else tokens

    ticks, left, started = [], {}, 0
    while started < requests or left:
        admitted = []
        while started < requests and len(left) < RUNNING and len(admitted) < 8:
            admitted.append((started, prompt()))
            left[started] = int(random.integers(16, 129))
            started += 1
        stepped = list(left)
        left = {request: count - 1 for request, count in left.items()}
        freed = [request for request, count in left.items() if count == 0]
        left = {request: count for request, count in left.items() if count}
        ticks.append(Tick(admitted, stepped, random.integers(0, 128_000, len(stepped)).tolist(), freed))
    return ticks


def play(candidate: Candidate, ticks: list[Tick]) -> Iterator[tuple[list[int], int]]:
    """What a candidate finds in the cache and has free, tick by tick."""
    for tick in ticks:
        cached = [candidate.admit(request, tokens) for request, tokens in tick.admitted]
        candidate.step(tick.stepped, tick.tokens)
        for request in tick.freed:
            candidate.free(request)
        yield cached, candidate.free_blocks()


def timed(candidate: Candidate, ticks: list[Tick]) -> dict[str, list[float]]:
    """Microseconds of every call, by operation."""
    times: dict[str, list[float]] = {"admit": [], "step": [], "free": []}

    def record(operation: str, start: int) -> None:
        times[operation].append((time.thread_time_ns() - start) / 1000)

    for tick in ticks:
        for request, tokens in tick.admitted:
            start = time.thread_time_ns()
            candidate.admit(request, tokens)
            record("admit", start)
        start = time.thread_time_ns()
        candidate.step(tick.stepped, tick.tokens)
        record("step", start)
        for request in tick.freed:
            start = time.thread_time_ns()
            candidate.free(request)
            record("free", start)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    if _core.debug_build:
        sys.exit("llama3._core is a debug build; its figures would mean nothing")
    sys.path[:0] = os.environ.get("VLLM_PATH", "").split(os.pathsep) if "VLLM_PATH" in os.environ else []
    candidates: dict[str, type[Candidate]] = {"llama3": Ours}
    if importlib.util.find_spec("vllm"):
        candidates["vllm"] = Vllm
    else:
        print("vLLM is not here; the head of this file says how to put it beside ours", file=sys.stderr)

    ticks = trace(arguments.requests)
    played = {name: list(play(make(), ticks)) for name, make in candidates.items()}
    if any(found != played["llama3"] for found in played.values()):
        sys.exit("the candidates disagree on cached tokens or free blocks; nothing was timed")
    hits = sum(sum(cached) for cached, _ in played["llama3"])
    prompts = sum(len(tokens) for tick in ticks for _, tokens in tick.admitted)
    print(f"{len(ticks)} ticks, {prompts:,} prompt tokens, {hits / prompts:.1%} found in the cache by all alike")

    rounds: dict[str, list[dict[str, list[float]]]] = {name: [] for name in candidates}
    for _ in range(arguments.rounds):
        for name, make in candidates.items():
            candidate = make()
            gc.collect()
            gc.disable()
            rounds[name].append(timed(candidate, ticks))
            gc.enable()
    rows = []
    for operation in ("admit", "step", "free"):
        for name, found in rounds.items():
            medians = [statistics.median(times[operation]) for times in found]
            tails = [float(np.percentile(times[operation], 99)) for times in found]
            rows.append({"operation": operation, "name": name, "median_us": min(medians), "p99_us": min(tails)})
    ours = {row["operation"]: row["median_us"] for row in rows if row["name"] == "llama3"}
    rows = [row | {"ratio": row["median_us"] / ours[row["operation"]]} for row in rows]
    print(common.table(rows))
    peers = common.versions("vllm") if "vllm" in candidates else {}
    results = {"versions": common.versions("llama3", "numpy") | peers, "hit_share": hits / prompts, "rows": rows}
    print(common.write_results("pager", {"command": "make bench-pager", **results}))


if __name__ == "__main__":
    main()
