"""Adapter directories as `peft` writes and reads them: `adapter_config.json` and `adapter_model.safetensors`.

Ours also hold `llama3.json` with the hash of the base weights, so that an adapter is never merged into another model.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from llama3._core import blake3_bytes
from llama3.artifacts.files import fsync_file, publish, temporary_beside, write_json_atomic
from llama3.checkpoints.weights import refuse_non_finite
from llama3.config.schema import LoRASection
from llama3.errors import CheckpointError, Problem
from llama3.model.build import empty_model
from llama3.model.lora import adapter_tensors, adapters, peft_prefixes, place_lora
from llama3.model.transformer import Transformer

OTHER_BASE = CheckpointError.declare(
    "L3-LRA-002",
    "this adapter was trained on another base model",
    why="its base is {base}, these weights are {found}",
    fix="merge it into the model it belongs to",
)
UNREADABLE = CheckpointError.declare("L3-LRA-003", "{name} cannot be read", why="{error}", fix="write it again")
NO_ADAPTER = CheckpointError.declare("L3-LRA-004", "is not the configuration of a LoRA adapter", why="{error}")
UNSUPPORTED = CheckpointError.declare("L3-LRA-005", "{name}: {value!r} is not supported", fix="merge it with peft")
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

ADAPTER = "adapter"
"""The folder of a checkpoint that holds the adapters it was merged from."""
CONFIG_NAME, WEIGHTS_NAME, FACTS_NAME = "adapter_config.json", "adapter_model.safetensors", "llama3.json"
_UNSUPPORTED = {"use_dora": False, "bias": "none", "modules_to_save": None, "rank_pattern": {}, "alpha_pattern": {}}
"""Options of peft that change the result and that we do not have, with the value that means "off"."""


def base_hash(model: Transformer) -> str:
    """The `weights_hash` of a whole model without its adapters."""
    return weights_hash(base_tensors(model).items())


def weights_hash(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """blake3 (hex) of named tensors: each one's name and bytes, in the order of the names."""
    parts = {}
    for name, tensor in tensors:
        data = tensor.detach().cpu().contiguous().view(torch.uint8).numpy()
        parts[name] = f"{name}:{blake3_bytes(data.tobytes())}"
    return blake3_bytes("\n".join(parts[name] for name in sorted(parts)).encode())


def base_tensors(model: Transformer) -> dict[str, Tensor]:
    """The parameters of the plain model, whether adapters stand in it or not, sharded where it is. Heads are no part of
    it."""
    state = {name: x for name, x in model.state_dict().items() if ".lora_" not in name and "_head." not in name}
    return {name.replace(".base.weight", ".weight"): x for name, x in state.items()}


def save_adapter(tensors: Mapping[str, Tensor], section: LoRASection, folder: str | Path, base: str) -> None:
    """Write whole `adapter_tensors` so that `peft` loads them; `base` is the `base_hash` of their base model."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: x.cpu().contiguous() for name, x in tensors.items()}
    refuse_non_finite(tensors, "the adapter")
    target = folder / WEIGHTS_NAME
    temporary = temporary_beside(target)
    save_file(tensors, temporary, {"format": "pt"})
    fsync_file(temporary)
    publish(temporary, target)
    write_json_atomic(folder / FACTS_NAME, {"base": base})
    write_json_atomic(
        folder / CONFIG_NAME,
        {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": None,
            "inference_mode": True,
            "r": section.rank,
            "lora_alpha": section.alpha,
            "use_rslora": section.rslora,
            "lora_dropout": 0.0,
            "target_modules": list(section.targets),
            "bias": "none",
            "fan_in_fan_out": False,
        },
    )


def load_adapter(model: Transformer, folder: str | Path) -> LoRASection:
    """Put the adapters of `folder` (ours or peft's) into a plain `model`, in place.

    Raises CheckpointError with every mistake: another base, missing, extra or misshapen tensors, options of peft
    that we do not have, a damaged file. The model is unchanged then.
    """
    folder = Path(folder)
    section = _read_section(folder)
    facts = folder / FACTS_NAME
    if facts.exists() and (base := json.loads(facts.read_bytes()).get("base")) != (found := base_hash(model)):
        raise OTHER_BASE(folder, base=str(base)[:12], found=found[:12])
    try:
        tensors = load_file(folder / WEIGHTS_NAME)
    except (SafetensorError, OSError) as error:
        raise UNREADABLE(folder, name=WEIGHTS_NAME, error=error) from error
    refuse_non_finite(tensors, str(folder))
    _check(model, section, tensors, folder)
    place_lora(model, section)
    with torch.no_grad():
        for name, layer in adapters(model).items():
            for part, prefix in peft_prefixes(name):
                if part in layer.lora_A:
                    layer.lora_A[part].copy_(tensors[f"{prefix}.lora_A.weight"])
                    layer.lora_B[part].copy_(tensors[f"{prefix}.lora_B.weight"])
    return section


def _read_section(folder: Path) -> LoRASection:
    path = folder / CONFIG_NAME
    try:
        raw = json.loads(path.read_bytes())
        targets = raw["target_modules"]
        section = LoRASection(
            rank=raw["r"],
            alpha=raw["lora_alpha"],
            rslora=raw.get("use_rslora", False),
            targets=tuple(sorted([targets] if isinstance(targets, str) else targets)),
        )
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        raise NO_ADAPTER(path, error=error) from error
    problems = [
        UNSUPPORTED.problem(path, name=name, value=raw[name])
        for name, off in _UNSUPPORTED.items()
        if raw.get(name) not in (None, off)
    ]
    if raw.get("peft_type") != "LORA":
        problems.append(UNSUPPORTED.problem(path, name="peft_type", value=raw.get("peft_type")))
    if problems:
        raise CheckpointError.of(problems)
    return section


def _check(model: Transformer, section: LoRASection, tensors: Mapping[str, Tensor], folder: Path) -> None:
    twin = place_lora(empty_model(model.config, ()), section)
    expected = {name: x.shape for name, x in adapter_tensors(twin).items()}
    problems: list[Problem] = []
    for name in sorted({*expected, *tensors}):
        where = f"{folder}: {name}"
        if name not in expected:
            problems.append(ODD_TENSOR.problem(where))
        elif name not in tensors:
            problems.append(TENSOR_MISSING.problem(where))
        elif expected[name] != tensors[name].shape:
            found, wanted = tuple(tensors[name].shape), tuple(expected[name])
            problems.append(OTHER_SHAPE.problem(where, found=found, wanted=wanted))
    if problems:
        raise CheckpointError.of(problems)
