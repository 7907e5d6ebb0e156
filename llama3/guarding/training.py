"""What `llama3 guard train` does: the stages of each kind of guard, in a run directory.

    prompt_guard:  rows -> prompt_guard
    toxicity:      rows -> toxicity
    llama_guard:   a model -> base;  rows -> rows;  base + rows -> sft;  sft + rows -> llama_guard

A stage that is there already is not made again, and one that was killed goes on.
"""

from __future__ import annotations

from pathlib import Path

import torch

from llama3 import _core
from llama3.artifacts import Artifact, PluginUse
from llama3.artifacts.files import write_bytes_atomic
from llama3.artifacts.precision import kept_probe
from llama3.artifacts.run import RunDir
from llama3.checkpoints.adopt import AdoptOptions, adopt
from llama3.config.precision import settled
from llama3.config.schema import SFTSection
from llama3.config.slots import choices, identities
from llama3.guarding.asked import GuardTraining, LlamaGuardTraining, PromptGuardTraining, contents
from llama3.guarding.prompt_training import PromptTrainingOptions, prompt_guard
from llama3.guarding.taught_rows import GuardRowsOptions, guard_rows
from llama3.guarding.taught_training import llama_guard
from llama3.inference.llama import find_model
from llama3.model.device import device_of
from llama3.posttraining.finetune import SFTOptions, sft

FILE = "guard.yaml"
"""What was asked for, in the run directory."""


def train_guard(asked: GuardTraining, written: str) -> Artifact:
    """The guard that a file (whose text is `written`) asks for, made now or found. Raises what its stages raise."""
    if asked.run.threads is not None:
        torch.set_num_threads(asked.run.threads)
        _core.set_num_threads(asked.run.threads)
    with RunDir(Path(asked.run.dir) / asked.run.name) as run:
        write_bytes_atomic(run.path / FILE, written.encode())
        asked = settled(asked, lambda work: kept_probe(run, work, device_of(asked.run.device)).precision)
        return _prompt_guard(run, asked) if isinstance(asked, PromptGuardTraining) else _llama_guard(run, asked)


def _prompt_guard(run: RunDir, asked: PromptGuardTraining) -> Artifact:
    options = PromptTrainingOptions(
        asked=asked,
        contents=contents([*asked.data, *asked.elsewhere]),
        seed=asked.run.seed,
        device=str(device_of(asked.run.device)),
    )
    return run.execute(prompt_guard, {}, options, asked.kind)


def _llama_guard(run: RunDir, asked: LlamaGuardTraining) -> Artifact:
    seed, device = asked.run.seed, str(device_of(asked.run.device))
    options = GuardRowsOptions(asked=asked, contents=contents(asked.data), seed=seed, device=device)
    rows = run.execute(guard_rows, {}, options, "rows")
    base = run.execute(adopt, {}, AdoptOptions.at(str(find_model(Path(asked.model)))), "base")
    section = SFTSection(**asked.train.model_dump())
    learning = SFTOptions(sft=section, seed=seed, device=device, logging=tuple(asked.logging))
    plugins = [PluginUse(**row) for row in identities(choices(learning)[0])]
    taught = run.execute(sft, {"checkpoint": base, "dialogs": rows}, learning, "sft", plugins)
    return run.execute(llama_guard, {"checkpoint": taught, "dialogs": rows}, options)
