"""How much memory training a model needs at least, and how much there is: what cannot fit is refused before any work.

Only what is certain is counted: weights, gradients and moments, in float32. Activations (llama3.model.activations), a
frozen reference and caches come on top. Torch-free.
"""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass
from pathlib import Path

from llama3.config.phases import parts_of
from llama3.config.schema import Config, OptimizerSection, PostTrainingSection
from llama3.errors import DoesNotFit, Problem
from llama3.model.config import ModelConfig

TOO_LARGE = DoesNotFit.declare(
    "L3-MEM-001",
    "{work} needs at least {needed} of memory, {place} has {there}",
    why="{parameters} parameters take {each} bytes each: {parts}",
    fix="choose a smaller model{further}, or a machine with more memory",
)
NOT_LOADED = DoesNotFit.declare(
    "L3-MEM-002",
    "the model needs at least {needed} of memory, {place} has {there}",
    why="{parameters} parameters take {each} bytes each",
    fix="use a smaller model, or a machine with more memory",
)

WEIGHT = 4
"""Bytes of a parameter in float32."""
TRAINED = 4 * WEIGHT
"""The weight, its gradient and two moments."""
TRAINED_BY_MUON = 3 * WEIGHT
"""One moment: of the matrices of the blocks, which are nearly all."""
PARTS = {
    WEIGHT: "in float32",
    TRAINED_BY_MUON: "weight, gradient and the moment of Muon in float32",
    TRAINED: "weight, gradient and two moments of AdamW in float32",
}
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclass(frozen=True, slots=True)
class Need:
    """What one kind of work needs for each parameter of the model."""

    work: str
    each: int
    lora: bool = False

    def problem(self, model: ModelConfig, there: int, place: str, share: float = 1.0) -> Problem | None:
        """What is wrong where `there` bytes do not hold the `share` of the model that lies on this machine."""
        parameters = model.num_params()
        needed = int(self.each * parameters * share)
        if needed <= there:
            return None
        return TOO_LARGE.problem(
            "model",
            work=self.work,
            needed=size(needed),
            place=place,
            there=size(there),
            parameters=f"{parameters:,}",
            each=self.each,
            parts=PARTS[self.each],
            further=" or LoRA (post_training.sft.lora, post_training.prefer.lora)" if self.lora else "",
        )


def needs(config: Config) -> list[Need]:
    """What a run certainly does with its model, as far as memory is concerned."""
    if config.model.path is None:
        return [Need("pretraining", trained_bytes(config.pretrain))]
    longer = [Need("training on longer rows", trained_bytes(config.pretrain))]
    stages = longer if len(parts_of(config.pretrain)) > 1 else []
    return [Need("evaluation", WEIGHT), *_finetuning(config.post_training), *stages]


def _finetuning(post: PostTrainingSection) -> list[Need]:
    stages = (post.sft, post.prefer)
    full = [section for section in stages if section.lora is None]
    # Own rows go to one of the two stages: which is not known before they are read.
    certain = len(full) == len(stages) if post.data is not None else post.rounds > 0 and bool(full)
    return [Need("finetuning all weights", min(map(trained_bytes, full)), lora=True)] if certain else []


def trained_bytes(section: OptimizerSection) -> int:
    """Bytes that a trained parameter takes at least, all in all."""
    return TRAINED_BY_MUON if section.optimizer == "muon" else TRAINED


def shortage(config: Config, model: ModelConfig, there: int, place: str, share: float = 1.0) -> list[Problem]:
    """The worst that does not fit, if anything."""
    found = [need.problem(model, there, place, share) for need in needs(config)]
    return [problem for problem in found if problem][-1:]


def memory_here() -> int | None:
    """Bytes that this process may use: the machine's, or the limit of a container or a shell where that is lower."""
    try:
        found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    except (ValueError, OSError, AttributeError):
        return None
    for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
        limit, _ = resource.getrlimit(kind)
        found += [limit] if limit != resource.RLIM_INFINITY else []
    for file in _LIMITS:
        try:
            text = Path(file).read_text().strip()
        except OSError:
            continue
        found += [int(text)] if text.isdecimal() else []
    return min(found)


def size(count: int) -> str:
    """A number of bytes for people."""
    for unit, one in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= one:
            return f"{count / one:,.1f} {unit}"
    return f"{count} bytes"
