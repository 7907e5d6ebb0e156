"""Generation beside transformers: the same model from the same files, the same prompts, greedy, one thread.

`transformers generate` takes the prompts as one left-padded batch; `transformers generate_batch` is its own continuous
batching over a paged cache. Before anything is timed, all must give the same token ids. The prompts begin alike (a long
system prompt), as they do in rejection sampling and evaluation; `llama3, no shared prefix` runs on prompts that do not.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable

import common
import numpy as np
import torch

from llama3.checkpoints.load import load_model
from llama3.checkpoints.weights import save_model
from llama3.inference import Engine, Sampling
from llama3.model.build import init_weights
from llama3.model.config import PRESETS
from llama3.model.transformer import Transformer

Ids = list[list[int]]


def prompts(count: int, shared: int, vocab_size: int, seed: int = 0) -> Ids:
    """`count` prompts of 10 to 60 tokens after `shared` tokens common to all."""
    random = np.random.default_rng(seed)
    head = random.integers(0, vocab_size, shared).tolist()
    return [head + random.integers(0, vocab_size, random.integers(10, 61)).tolist() for _ in range(count)]


def ours(folder: str) -> Callable[[Ids, int], Ids]:
    model = load_model(folder)

    def generate(prompt_ids: Ids, tokens: int) -> Ids:
        engine = Engine(model)  # a new one, so that no prompt is cached from the round before
        return [answer.ids for (answer,) in engine.generate(prompt_ids, Sampling(tokens, temperature=0))]

    return generate


def transformers_generate(folder: str, dtype: torch.dtype = torch.float32) -> Callable[[Ids, int], Ids]:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()

    def generate(prompt_ids: Ids, tokens: int) -> Ids:
        longest = max(map(len, prompt_ids))
        padded = torch.tensor([[0] * (longest - len(ids)) + ids for ids in prompt_ids])
        mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompt_ids])
        found = model.generate(
            padded, attention_mask=mask, max_new_tokens=tokens, do_sample=False, eos_token_id=None, pad_token_id=0
        )
        return found[:, longest:].tolist()

    return generate


def transformers_batching(folder: str, dtype: torch.dtype = torch.float32) -> Callable[[Ids, int], Ids]:
    from transformers import AutoModelForCausalLM, GenerationConfig
    from transformers.generation.configuration_utils import ContinuousBatchingConfig

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    # As it comes it takes most of the memory for its cache and is slower for it.
    room = ContinuousBatchingConfig(num_blocks=64, max_batch_tokens=2048)

    def generate(prompt_ids: Ids, tokens: int) -> Ids:
        config = GenerationConfig(max_new_tokens=tokens, do_sample=False, eos_token_id=-1, pad_token_id=0)
        found = model.generate_batch(prompt_ids, config, continuous_batching_config=room, progress_bar=False)
        return [output.generated_tokens for output in found.values()]

    return generate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--prompts", type=int, default=48)
    parser.add_argument("--shared", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    config = PRESETS["tiny"]
    alike = prompts(arguments.prompts, arguments.shared, config.vocab_size)
    apart = [prompts(1, arguments.shared, config.vocab_size, seed)[0] for seed in range(arguments.prompts)]
    with tempfile.TemporaryDirectory() as folder:
        save_model(init_weights(Transformer(config), 0), folder)
        candidates = {"llama3": ours(folder), "transformers generate": transformers_generate(folder)}
        try:
            candidates["transformers generate_batch"] = batching = transformers_batching(folder)
            batching(alike[:1], 1)
        except Exception as error:  # it is a young part of transformers and does not run everywhere
            del candidates["transformers generate_batch"]
            print(f"transformers generate_batch is left out: {type(error).__name__}: {error}", file=sys.stderr)
        expected = candidates["llama3"](alike, arguments.tokens)
        for name, generate in candidates.items():
            if generate(alike, arguments.tokens) != expected:
                sys.exit(f"not timed: the ids of {name} differ from ours")
        timed = {name: lambda run=run: run(alike, arguments.tokens) for name, run in candidates.items()}
        timed["llama3, no shared prefix"] = lambda: candidates["llama3"](apart, arguments.tokens)
        timings = common.interleaved(timed, rounds=arguments.rounds)
    made = arguments.prompts * arguments.tokens
    rows = [
        {
            "candidate": name,
            "tokens/s": made / timing.median,
            "llama3 is faster by": timing.median / timings["llama3"].median,
            "spread": timing.spread,
        }
        for name, timing in timings.items()
    ]
    print(common.table(rows))
    results = {
        "command": "make bench-generation",
        "versions": common.versions("torch", "transformers"),
        "workload": vars(arguments),
        "timings": {name: timing.summary() for name, timing in timings.items()},
    }
    print(f"written to {common.write_results('generation', results)}")


if __name__ == "__main__":
    main()
