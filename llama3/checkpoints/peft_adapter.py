"""Adapters from directories that `peft` or we wrote, put into the base model they belong to.

What is adapted is told by the tensors: options of peft that choose layers and modules need no rule here. Every option
that changes the base model or what an adapter computes is honoured or refused; one that is not known is refused where
it is set. Nothing is allocated before shapes are compared.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from llama3.checkpoints.adapter import CONFIG_NAME, FACTS_NAME, WEIGHTS_NAME, base_hash
from llama3.checkpoints.weights import hf_views, refuse_non_finite
from llama3.errors import CheckpointError, Problem
from llama3.foreign import Fields, UnusableFile, checked, is_file, read_json
from llama3.model.config import ModelConfig
from llama3.model.lora import GivenAdapter, give_adapters
from llama3.model.transformer import Transformer

OTHER_BASE = CheckpointError.declare(
    "L3-LRA-002",
    "this adapter was trained on another base model",
    why="its base is {base}, these weights are {found}",
    fix="merge it into the model it belongs to",
)
UNREADABLE = CheckpointError.declare("L3-LRA-003", "{name} cannot be read", why="{error}", fix="write it again")
NO_ADAPTER = CheckpointError.declare("L3-LRA-004", "is not the configuration of a LoRA adapter", why="{error}")
UNSUPPORTED = CheckpointError.declare(
    "L3-LRA-005",
    "{name}: {value} is not supported",
    why="what it does to the model is not done here",
    fix="merge it with peft",
)
OTHER_INIT = CheckpointError.declare(
    "L3-LRA-010",
    "init_lora_weights: {value} changed the base model before training",
    why="added to the base as it is, this adapter gives another model",
    fix="merge it with peft, or save it with peft's `path_initial_model_for_weight_conversion`",
)
ODD_TENSOR = CheckpointError.declare(
    "L3-LRA-006", "is no adapter of this model", fix="merge it into the model it belongs to"
)
TENSOR_MISSING = CheckpointError.declare(
    "L3-LRA-008", "is missing", why="the adapter belongs to another model", fix="merge it into the model it belongs to"
)
OTHER_SHAPE = CheckpointError.declare(
    "L3-LRA-009",
    "has shape {found} where the model needs {wanted}",
    why="the adapter belongs to another model",
    fix="merge it into the model it belongs to",
)

_PREFIX = "base_model.model."
_WITHOUT_EFFECT = {
    "auto_mapping", "base_model_name_or_path", "ensure_weight_tying", "eva_config", "exclude_modules", "fan_in_fan_out",
    "inference_mode", "init_lora_weights", "layers_pattern", "layers_to_transform", "lora_alpha", "lora_dropout",
    "megatron_core", "modules_to_save", "peft_version", "qalora_group_size", "r", "rank_pattern",
    "alpha_pattern", "revision", "runtime_config", "target_modules", "use_rslora",
}  # fmt: skip
"""Options that are read here, that choose what the tensors tell, or that matter to training alone."""
_INITS = (None, True, False, "true", "false", "gaussian", "eva", "orthogonal")
"""Ways to draw new adapters that leave the base model as it is."""
_PATTERN = re.compile(r"[\w.^]+")
"""Regular expressions of `rank_pattern` and `alpha_pattern` that are tried: names, which cannot take long."""


@dataclass(frozen=True, slots=True)
class _Options:
    """What of adapter_config.json decides what an adapter computes, and which modules it should have."""

    rank: int
    alpha: float
    rslora: bool
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    targets: tuple[str, ...]
    layers: tuple[int, ...]
    """Empty: all."""
    is_exact: bool
    """Whether targets and layers tell every module."""

    def scale(self, module: str) -> float:
        alpha, rank = _of_pattern(self.alphas, module, self.alpha), self.rank_of(module)
        return alpha / (math.sqrt(rank) if self.rslora else rank)

    def rank_of(self, module: str) -> int:
        return _of_pattern(self.ranks, module, self.rank)

    def has(self, module: str, layer: int) -> bool:
        """Whether the module `model.layers.N.self_attn.q_proj` must be adapted."""
        named = any(module == target or module.endswith(f".{target}") for target in self.targets)
        return self.is_exact and named and (not self.layers or layer in self.layers)


def load_adapter(model: Transformer, folder: str | Path) -> None:
    """Put the adapters of `folder` (ours or peft's) into a plain `model`, in place, and the whole modules that were
    trained beside them.

    Raises CheckpointError with every mistake: another base, missing, extra or misshapen tensors, options of peft
    that we do not have, a damaged file. The model is unchanged then.
    """
    folder = Path(folder)
    options = _read_options(folder / CONFIG_NAME)
    _refuse_other_base(model, folder)
    try:
        tensors = load_file(checked(folder / WEIGHTS_NAME))
    except (UnusableFile, SafetensorError, OSError) as error:
        raise UNREADABLE(folder, name=WEIGHTS_NAME, error=error) from error
    refuse_non_finite(tensors, str(folder))
    if problems := list(_wrong_tensors(model.config, options, tensors, folder)):
        raise CheckpointError.of(problems)
    modules = {name.removesuffix(".lora_A.weight") for name in tensors if name.endswith(".lora_A.weight")}
    given = {
        module: GivenAdapter(
            tensors[f"{module}.lora_A.weight"],
            tensors[f"{module}.lora_B.weight"],
            options.scale(module.removeprefix(_PREFIX)),
        )
        for module in modules
    }
    _give_whole(model, {name.removeprefix(_PREFIX): x for name, x in tensors.items() if ".lora_" not in name})
    give_adapters(model, given)


@torch.no_grad()
def _give_whole(model: Transformer, tensors: Mapping[str, Tensor]) -> None:
    """Replace parameters by tensors with Hugging Face's names."""
    for name, parameter in model.named_parameters():
        for hf, view in hf_views(model.config, name, parameter):
            if hf in tensors:
                view.copy_(tensors[hf].view(view.shape))


def _refuse_other_base(model: Transformer, folder: Path) -> None:
    """Ours say which weights they were trained on."""
    path = folder / FACTS_NAME
    if not is_file(path):
        return
    try:
        facts = Fields(read_json(path))
    except UnusableFile as error:
        raise UNREADABLE(folder, name=FACTS_NAME, error=error) from error
    stated, found = facts.text("base"), base_hash(model)
    if stated != found:
        raise OTHER_BASE(folder, base=str(stated)[:12], found=found[:12])


# -- adapter_config.json ---------------------------------------------------------------------------


def _read_options(path: Path) -> _Options:
    try:
        fields = Fields(read_json(path))
    except (OSError, UnusableFile) as error:
        raise NO_ADAPTER(path, error=error) from error
    targets, layers = fields.texts("target_modules"), fields.wholes("layers_to_transform")
    modules = fields.texts("modules_to_save")
    chosen = isinstance(fields.raw.get("target_modules"), list) and not fields.raw.get("exclude_modules")
    ranks, alphas = fields.object("rank_pattern"), fields.object("alpha_pattern")
    options = _Options(
        rank=fields.whole("r"),
        alpha=fields.number("lora_alpha"),
        rslora=fields.flag("use_rslora"),
        ranks={key: ranks.whole(key) for key in ranks.raw},
        alphas={key: alphas.number(key) for key in alphas.raw},
        targets=tuple(targets),
        layers=tuple(layers),
        is_exact=chosen and not modules and not fields.raw.get("layers_pattern"),
    )
    if fields.faults:
        raise CheckpointError.of(NO_ADAPTER.problem(path, error=fault) for fault in fields.faults)
    if problems := [*_unsupported(fields.raw, path), *_impossible(options, path)]:
        raise CheckpointError.of(problems)
    return options


def _unsupported(raw: Mapping[str, Any], path: Path) -> Iterator[Problem]:
    """Options that do what is not done here. One that is off (null, false, nothing) does nothing."""
    plain = {"peft_type": ("LORA",), "task_type": ("CAUSAL_LM", None), "bias": ("none", None)}
    for key, value in raw.items():
        right = value in plain[key] if key in plain else key in _WITHOUT_EFFECT
        if not right and (value or key in plain):
            yield UNSUPPORTED.problem(path, name=key, value=_shown(value))
    if "peft_type" not in raw:
        yield UNSUPPORTED.problem(path, name="peft_type", value="null")
    init = raw.get("init_lora_weights")
    if not any(init is known or (isinstance(init, str) and init == known) for known in _INITS):
        yield OTHER_INIT.problem(path, value=_shown(init))
    if raw.get("ensure_weight_tying"):
        yield UNSUPPORTED.problem(path, name="ensure_weight_tying", value="true")
    for name in ("rank_pattern", "alpha_pattern"):
        for key in raw.get(name) or {}:
            if not _PATTERN.fullmatch(key):
                yield UNSUPPORTED.problem(path, name=name, value=_shown(key))


def _impossible(options: _Options, path: Path) -> Iterator[Problem]:
    ranks = {options.rank, *options.ranks.values()}
    if min(ranks) < 1:
        yield NO_ADAPTER.problem(path, error=f"the rank {min(ranks)} is not 1 or more")


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _of_pattern(values: Mapping[str, Any], module: str, default: Any) -> Any:
    """The value of the first pattern that names a module, as peft finds it."""
    return next((value for key, value in values.items() if re.match(rf"(.*\.)?({key})$", module)), default)


# -- adapter_model.safetensors ---------------------------------------------------------------------


def _wrong_tensors(
    config: ModelConfig, options: _Options, tensors: Mapping[str, Tensor], folder: Path
) -> Iterator[Problem]:
    """What of the tensors does not fit the model or the options."""
    shapes = config.parameter_shapes()
    expected = set(_expected(config, options))
    for module in {name.rpartition(".lora_")[0] for name in tensors if ".lora_" in name}:
        expected |= {f"{module}.lora_A.weight", f"{module}.lora_B.weight"}
    for name in sorted(expected | tensors.keys()):
        where = f"{folder}: {name}"
        wanted = _wanted(name, shapes, options)
        if _is_of_embeddings(name, config.tied):
            yield UNSUPPORTED.problem(where, name="a change of", value="the embedding or the output matrix")
        elif wanted is None:
            yield ODD_TENSOR.problem(where)
        elif name not in tensors:
            yield TENSOR_MISSING.problem(where)
        elif tuple(tensors[name].shape) != wanted:
            yield OTHER_SHAPE.problem(where, found=tuple(tensors[name].shape), wanted=wanted)


def _is_of_embeddings(name: str, tied: bool) -> bool:
    """Whether a tensor adapts the embedding or the output matrix, or replaces what is both at once."""
    is_theirs = ".embed_tokens." in name or ".lm_head." in name
    return is_theirs and (tied or ".lora_" in name)


def _expected(config: ModelConfig, options: _Options) -> Iterable[str]:
    """Names of the tensors that the options ask for."""
    for name in config.parameter_shapes():
        module = name.removesuffix(".weight")
        parts = module.split(".")
        if module.endswith("_proj") and options.has(module, int(parts[2])):
            yield f"{_PREFIX}{module}.lora_A.weight"
            yield f"{_PREFIX}{module}.lora_B.weight"


def _wanted(name: str, shapes: Mapping[str, tuple[int, ...]], options: _Options) -> tuple[int, ...] | None:
    """The shape that a tensor must have; None where it has no place in the model."""
    inside = name.removeprefix(_PREFIX)
    module, _, part = inside.rpartition(".lora_")
    if not module:
        return shapes.get(inside) if inside != name else None
    if not module.endswith("_proj") or f"{module}.weight" not in shapes or part not in ("A.weight", "B.weight"):
        return None
    rows, columns = shapes[f"{module}.weight"]
    rank = options.rank_of(module)
    return (rank, columns) if part == "A.weight" else (rows, rank)
