"""A training run in a process of its own: `python training_child.py FOLDER STEPS [fsdp]`.

Writes `FOLDER/result-<rank>.json` when it is done; checkpoints go to FOLDER/checkpoints. Judge it by that file.
"""

import json
import os
import sys
from pathlib import Path

import torch
from training_toys import CONFIG, Counting, Recorder, options, schedule

from llama3.config.schema import ParallelismSection
from llama3.model.batch import Batch
from llama3.plugins.registry import discover
from llama3.training.checkpoint import CheckpointStore
from llama3.training.loop import train
from llama3.training.metrics import Loggers, Reporter
from llama3.training.parallel import GlobalStats, start
from llama3.training.placed import PlacedModel
from llama3_plugins.algorithms.next_token import NextToken


class Announcing(Counting):
    """Says on standard output which step begins, so that a test can kill this process in the middle of one."""

    def examples(self, step):
        print("step", step, flush=True)
        return super().examples(step)


def main(folder: Path, steps: int, strategy: str = "single") -> None:
    parallel = start(ParallelismSection(dp=strategy), CONFIG, torch.device("cpu"), discover())
    model = PlacedModel.drawn(CONFIG, 0, parallel)
    section = options(checkpoint_every=3, microbatch_tokens=48)
    recorder = Recorder()
    progress = train(
        model,
        NextToken(),
        Announcing(rows=7, length=24),  # an odd number of rows: the ranks have different shares
        collate=Batch.concat,
        options=section,
        schedule=schedule(section, steps, anneal=2),
        seed=5,
        store=CheckpointStore(folder / "checkpoints"),
        snapshots=frozenset({steps + 1, steps + 2}),
        reporter=Reporter("toy", Loggers([("recorder", recorder)])),
    )
    rank = parallel.context.rank
    stats, mine_N = GlobalStats(parallel.context), torch.arange(3.0 + rank) + 10 * rank
    moments = stats.moments(mine_N)
    everyone, mine = stats.gather(mine_N)
    assert torch.equal(everyone[mine], mine_N)
    result = {
        "tokens": progress.tokens,
        "loss": recorder.column("loss"),
        "grad_norm": recorder.column("grad_norm"),
        "moments": [float(x) for x in moments],
        "gathered": everyone.tolist(),
        "weights": {name: tensor.double().flatten().tolist() for name, tensor in model.weights()},
    }
    partial = folder / f"result-{rank}.tmp"
    partial.write_text(json.dumps(result))
    partial.rename(folder / f"result-{rank}.json")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
    sys.stdout.flush()
    os._exit(0)  # gloo's threads sometimes abort a process that has already done its work
