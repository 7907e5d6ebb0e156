"""Prompt-lookup speculation on a real model: answers that repeat their prompt, and answers that do not.

One thread, greedy, one answer alone and four together; all ids must be the same with and without it before anything
is timed. Times are CPU seconds of the process, which a shared machine disturbs less than wall time, and include the
prompts.
"""

from __future__ import annotations

import argparse
import sys
import time

import common
import torch

from llama3 import _core
from llama3.inference import Engine, Llama, Sampling
from llama3.tokenizer.chat import Message, render, stop_ids

LETTER = """Dear Ms. Okafor, thank you for your order of March 3. The two oak shelves left our workshop in Leeds on
Monday and will reach you on Thursday between nine and noon. The carrier will call half an hour before. The third shelf
is still being oiled; it follows next week at no extra cost. If the times do not suit you, write to orders@example.org
and we will find others. With kind regards, Tom Hale"""
TASKS = {
    "repeats": [
        f"Repeat this text word by word:\n\n{LETTER}",
        f"Copy the letter and change Thursday to Friday:\n\n{LETTER}",
        f"Correct the spelling of this letter and write it out again:\n\n{LETTER}",
        f"Write this letter again, signed by Ann Hale:\n\n{LETTER}",
    ],
    "does not": [
        "Write a short story about a lighthouse keeper.",
        "Explain why the sky is blue.",
        "What should I see in Rome in two days?",
        "Write a poem about winter.",
    ],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", help="a model's directory or GGUF file, with a chat template")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of an answer at most")
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    _core.set_num_threads(1)
    llama = Llama.load(arguments.model, device="cpu")
    sampling = Sampling(arguments.tokens, temperature=0, stop_ids=stop_ids(llama.tokenizer))
    plain, guessing = Engine(llama.transformer), Engine(llama.transformer, speculative="prompt_lookup")

    def generate(engine: Engine, prompts: list) -> list[list[int]]:
        engine.pool.reset()  # so that no prompt is cached from the round before
        return [answer.ids for (answer,) in engine.generate(prompts, sampling)]

    rows, results = [], []
    for task, questions in TASKS.items():
        messages = [[Message("user", question)] for question in questions]
        prompts = [render(llama.tokenizer, dialog, generation_prompt=True).ids for dialog in messages]
        for count in (1, 4):
            some = prompts[:count]
            drafted, accepted = guessing.decoder.drafted, guessing.decoder.accepted
            ids = generate(guessing, some)
            drafted, accepted = guessing.decoder.drafted - drafted, guessing.decoder.accepted - accepted
            if ids != generate(plain, some):
                sys.exit("not timed: the ids are not those without speculation")
            timings = common.interleaved(
                {"off": lambda some=some: generate(plain, some), "on": lambda some=some: generate(guessing, some)},
                rounds=arguments.rounds,
                warmup=0,
                clock=time.process_time,
            )
            tokens = sum(map(len, ids))
            row = {
                "the answer": task,
                "answers": count,
                "tokens/s off": tokens / timings["off"].median,
                "tokens/s on": tokens / timings["on"].median,
                "faster by": timings["off"].median / timings["on"].median,
                "drafted": drafted,
                "accepted": accepted,
                "tokens": tokens,
            }
            rows.append({**row, "spread": max(timing.spread for timing in timings.values())})
            results.append({**row, **{name: timing.summary() for name, timing in timings.items()}})
    print(common.table(rows))
    path = common.write_results(
        "speculative",
        {
            "command": "make bench-speculative",
            "versions": common.versions("torch"),
            "workload": {key: value for key, value in vars(arguments).items() if key != "model"},
            "clock": "CPU seconds of the process, one thread",
            "timings": results,
        },
    )
    print(f"written to {path}")


if __name__ == "__main__":
    main()
