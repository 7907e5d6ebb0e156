"""What ranks that share a model do in tests: build their parts of a checkpoint, and answer as one process would."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from llama3.checkpoints.load import load_model
from llama3.config.schema import ParallelismSection
from llama3.inference import Engine, Sampling
from llama3.inference.ranks import Leader, follow
from llama3.model.shards import like
from llama3.plugins.registry import discover
from llama3.training.parallel import start
from llama3.training.sampler import empty_shard

PROMPTS = [[1, 2, 3], [7], [5, 9, 11, 13] * 9, [5, 9, 11, 13] * 8 + [4], [3, 1, 4, 1, 5, 9, 2, 6], list(range(60))]


def shard_of(folder: Path, parallelism: dict[str, Any], dtype: torch.dtype = torch.float32):
    model = load_model(folder, dtype=dtype)
    parallel = start(ParallelismSection.model_validate(parallelism), model.config, torch.device("cpu"), discover())
    shard = empty_shard(model.config, parallel, dtype)
    whole = dict(model.named_parameters())
    with torch.no_grad():
        for name, parameter in shard.model.named_parameters():
            parameter.copy_(like(parameter, whole[name]))
    return shard


def answers_of(engine: Engine) -> dict[str, Any]:
    """Greedy, sampled with forks, again from the prefix cache, and a long prompt in pieces."""
    greedy = Sampling(12, temperature=0)
    rounds = {
        "greedy": engine.generate(PROMPTS, greedy),
        "cached": engine.generate(PROMPTS[::-1], greedy)[::-1],
        "forks": engine.generate(PROMPTS[:4], Sampling(9, n=3, seed=4, stop_ids=frozenset({0}))),
        "bias": engine.generate(PROMPTS[:2], Sampling(5, temperature=0.7, top_p=0.9, top_k=20, logit_bias=((7, 3.0),))),
        "long": engine.generate([list(range(1, 60)) * 2], replace(greedy, max_tokens=6)),
    }
    stats = engine.pool.stats()
    assert engine.pool.check() == []
    assert (stats["free"], stats["rows"], stats["promised"]) == (stats["blocks"], 0, 0)
    return {name: [[(one.ids, one.logps) for one in row] for row in found] for name, found in rounds.items()}


def work(folder: Path, parallelism: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    shard = shard_of(folder, parallelism)
    if not (shard.tp.rank == shard.pp.rank == 0):
        follow(shard)
        return {}
    leader = Leader(shard)
    found = answers_of(Engine(shard.model, ranks=leader, **options))
    leader.close()
    return found


def watched(folder: Path, parallelism: dict[str, Any]) -> dict[str, Any]:
    """How many micro-batches are under way when one is waited for; answers around a draw that fails and a request that
    is cancelled while it is computed; and by codes, guesses and bfloat16."""
    shard = shard_of(folder, parallelism)
    if not (shard.tp.rank == shard.pp.rank == 0):
        follow(shard)
        return {}
    leader = Leader(shard)
    under_way: list[int] = []
    collect = leader.collect

    def counting() -> Any:
        under_way.append(len(leader._launched) + len(leader._received))
        return collect()

    leader.collect = counting  # type: ignore[method-assign]
    greedy = Sampling(8, temperature=0)
    engine = Engine(shard.model, ranks=leader, block_size=4)
    rounds = {"before": engine.generate(PROMPTS, greedy)}
    draw, engine.decoder.draw = engine.decoder.draw, broken  # type: ignore[method-assign]
    try:
        engine.generate(PROMPTS, greedy)
    except ArithmeticError:
        engine.decoder.draw = draw  # type: ignore[method-assign]
    rounds["after"] = engine.generate(PROMPTS, greedy)
    requests = [engine.submit(prompt, greedy) for prompt in PROMPTS]
    for _ in range(3):
        engine.step()
    for request in requests[::2]:
        engine.cancel(request)
    rounds["left"] = [engine.wait(request) for request in requests[1::2]]
    while engine._flights:
        engine.step()
    stats = engine.pool.stats()
    assert (stats["free"], stats["rows"], stats["promised"]) == (stats["blocks"], 0, 0)
    for kind in ("int8", "fp8"):
        coded = Engine(shard.model, ranks=leader, kv_dtype=kind, speculative="prompt_lookup", block_size=4)
        rounds[kind] = coded.generate(PROMPTS, greedy)
    leader.close()
    found = {name: [[one.ids for one in row] for row in answers] for name, answers in rounds.items()}
    return {**found, "under_way": under_way}


def broken(*_: Any) -> None:
    raise ArithmeticError


def in_bfloat16(folder: Path, parallelism: dict[str, Any]) -> dict[str, Any]:
    shard = shard_of(folder, parallelism, torch.bfloat16)
    if not (shard.tp.rank == shard.pp.rank == 0):
        follow(shard)
        return {}
    leader = Leader(shard)
    (answers,) = Engine(shard.model, ranks=leader).generate(PROMPTS[:1], Sampling(4, temperature=0, n=2))
    leader.close()
    return {"logps": [one.logps for one in answers]}
