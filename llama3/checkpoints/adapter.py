"""Adapter directories as `peft` reads them: `adapter_config.json` and `adapter_model.safetensors`. Reading is in
peft_adapter.py.

Ours also hold `llama3.json` with the hash of the base weights, so that an adapter is never merged into another model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from llama3._core import blake3_bytes
from llama3.artifacts.files import fsync_file, publish, temporary_beside, write_json_atomic
from llama3.checkpoints.weights import refuse_non_finite, save_tensors
from llama3.config.schema import LoRASection
from llama3.model.transformer import Transformer

ADAPTER = "adapter"
"""The folder of a checkpoint that holds the adapters it was merged from."""
CONFIG_NAME, WEIGHTS_NAME, FACTS_NAME = "adapter_config.json", "adapter_model.safetensors", "llama3.json"


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
    save_tensors(tensors, temporary, {"format": "pt"})
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
