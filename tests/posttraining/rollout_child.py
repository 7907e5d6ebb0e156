"""GRPO on toy rollouts in a process of its own: `python rollout_child.py FOLDER [fsdp]`.

The engine samples from the model that is being trained. Writes `FOLDER/result-<rank>.json` when it is done.
"""

import json
import os
import sys
from pathlib import Path

import torch

from llama3.config.schema import OptimizerSection, ParallelismSection
from llama3.inference import Sampling
from llama3.plugins.registry import discover
from llama3.posttraining.services import GatheredGenerator, ModelScorer, build_services
from llama3.testing.toys import CONFIG, ToyData, ToyRewarder, toy_examples, toy_model
from llama3.training.loop import train
from llama3.training.parallel import GlobalStats, start
from llama3.training.rollouts import Rollouts
from llama3.training.schedule import Schedule
from llama3.training.state import model_tensors
from llama3_plugins.data_kinds.prompts import Prompts

NEEDS = frozenset({"rollouts", "reward", "reference"})


def main(folder: Path, strategy: str = "single") -> None:
    parallel = start(ParallelismSection(dp=strategy), CONFIG, torch.device("cpu"), discover())
    context, model = parallel.context, toy_model()
    parallel.apply(model)
    rollouts = Rollouts(GatheredGenerator(model, parallel), Sampling(6, stop_ids=frozenset({0})), ToyRewarder())
    makers = {
        "rollouts": lambda: rollouts,
        "reward": lambda: None,
        "reference": lambda: ModelScorer(toy_model(seed=1)),
    }
    stats = GlobalStats(context)
    services = build_services("grpo", NEEDS, makers, policy=ModelScorer(model), stats=stats, tokenizer=None)
    section = OptimizerSection(lr=3e-3, warmup=0, precision="fp32", microbatch_tokens=64, log_every=1)
    progress = train(
        model,
        discover().build("algorithms", "grpo", {"samples": 4, "beta": 0.04, "scale_rewards": "batch"}),
        ToyData(toy_examples("prompts", 5)),  # an odd number of prompts: the ranks have different shares
        options=section,
        schedule=Schedule.cosine(section.lr, 1.0, 0, 4),
        seed=5,
        parallel=parallel,
        collate=Prompts().collate,
        want_logged=frozenset({"entropy"}),
        services=services,
        rollouts=rollouts,
    )
    tensors = model_tensors(model)
    result = {
        "metrics": progress.metrics,
        "weights": {name: tensor.double().flatten().tolist() for name, tensor in tensors.items()},
    }
    partial = folder / f"result-{context.rank}.tmp"
    partial.write_text(json.dumps(result))
    partial.rename(folder / f"result-{context.rank}.json")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
    sys.stdout.flush()
    os._exit(0)  # gloo's threads sometimes abort a process that has already done its work
