"""The open pipeline behind Llama 3: raw text in, a herd of aligned, guarded, quantized models out.

    import llama3

    run = llama3.run("quickstart")          # a preset's name, a file, a mapping, or a loaded config
    model = llama3.load(run.path)           # .tokenizer, .generate(prompts), .chat(messages), .logprobs(texts)

Importing this package imports nothing heavy; `run` and `load` import torch when they are called.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama3 import errors

if TYPE_CHECKING:
    from llama3.config import Loaded
    from llama3.inference.llama import Llama
    from llama3.recipe import Run

# OpenMP threads that spin while they wait are a quarter faster on an idle machine and half as fast, or far worse, on a
# busy one (docs/performance.md). OpenMP reads this when torch is first imported; what the user has set stays.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
__all__ = ["__version__", "errors", "load", "run"]


def run(config: str | os.PathLike[str] | Mapping[str, Any] | Loaded, overrides: Sequence[str] = ()) -> Run:
    """Raise the herd that a config describes; what is already made and unchanged is skipped.

    Args:
        config: name of a preset, path of a file, plain mapping, or what `llama3.config.load` returned.
        overrides: `section.key=value` each, as `--set` on the command line.

    Raises:
        llama3.errors.LlamaError: ConfigError or PluginError before any work starts; what was finished stays.
    """
    from llama3.preflight import load_config, ready

    loaded = ready(load_config(config, overrides))

    from llama3 import recipe  # after the checks: this imports torch

    return recipe.run(loaded)


def load(path: str | os.PathLike[str], *, device: str = "auto", guarded: bool = True) -> Llama:
    """A model with its tokenizer, ready to generate: a checkpoint, a release, or a run (its final model).

    device: "cpu", "cuda", or "auto": the GPU where there is one
    guarded: put the guards in front of a release that it was released with (its policy.json)

    Raises:
        llama3.errors.LlamaError: no model, a damaged one, or a release whose guards cannot stand.
    """
    from llama3.inference.llama import Llama, find_model
    from llama3.safety.carried import open_carried

    guard = open_carried(find_model(Path(path))) if guarded else None
    return Llama.load(os.fspath(path), device=device, guard=guard)
