"""Weights out: how our state dict lies in Hugging Face's layout, and files that are whole or not there.

The model keeps query, key and value, and gate and up, as one matrix each (see transformer.py); `hf_views` says where
in them each tensor of a checkpoint lies. No pickle is ever executed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Set
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from llama3.artifacts.files import fsync_file, publish, temporary_beside, write_json_atomic
from llama3.checkpoints.hf import INDEX_FILE, SINGLE_FILE
from llama3.checkpoints.layouts import CONFIG_FILE
from llama3.errors import CheckpointError, Problem
from llama3.model.config import ModelConfig
from llama3.model.transformer import Transformer

TENSOR_MISSING = CheckpointError.declare(
    "L3-CKP-008", "is missing", fix="use the config.json that belongs to these weights"
)
ODD_TENSOR = CheckpointError.declare(
    "L3-CKP-009", "is not a tensor of this model", fix="use the config.json that belongs to these weights"
)
NOT_FINITE = CheckpointError.declare(
    "L3-CKP-010", "holds NaN or infinity", why="{why}", fix="go back to an earlier checkpoint"
)

MAX_SHARD_BYTES = 5_000_000_000

_PLAIN = {
    "attention_norm.weight": "input_layernorm.weight",
    "attention.out.weight": "self_attn.o_proj.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "ffn.down.weight": "mlp.down_proj.weight",
}
"""Parameters of a layer that are the same in both layouts, by their names in ours and theirs."""
_OUTSIDE = {"embed.weight": "model.embed_tokens.weight", "norm.weight": "model.norm.weight"}
"""The same of those outside of the layers, where the names differ."""


def hf_views(config: ModelConfig, name: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
    """(Hugging Face's name, the view of our parameter `name` that holds it) of every tensor that is part of it.

    A view has the elements of its tensor in order, but not always its shape: rows of queries, keys and values, and of
    gate and up, are grouped. A tied output matrix is no tensor, extra heads keep their names.
    """
    if not name.startswith("layers."):
        return [] if config.tied and name == "lm_head.weight" else [(_OUTSIDE.get(name, name), tensor)]
    _, index, ours = name.split(".", 2)
    theirs = f"model.layers.{index}."
    if ours == "attention.qkv.weight":
        qkv = tensor.unflatten(0, (config.n_kv_heads, -1, config.head_dim))
        views = {"q_proj": qkv[:, :-2], "k_proj": qkv[:, -2], "v_proj": qkv[:, -1]}
        return [(f"{theirs}self_attn.{part}.weight", view) for part, view in views.items()]
    if ours == "ffn.gate_up.weight":
        gate, up = tensor.unflatten(0, (config.ffn_groups, 2, -1)).unbind(1)
        return [(f"{theirs}mlp.gate_proj.weight", gate), (f"{theirs}mlp.up_proj.weight", up)]
    return [(theirs + _PLAIN[ours], tensor)]


def hf_rows(config: ModelConfig, name: str, rows: int) -> dict[str, Tensor]:
    """For every tensor that is part of our parameter `name`: which of the parameter's rows its own rows are. These
    rise, so that rows that follow each other in a parameter do so in the tensor too."""
    return {hf: view.flatten() for hf, view in hf_views(config, name, torch.arange(rows))}


def to_hf(config: ModelConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict as Hugging Face's; a tied output matrix is left out, extra heads keep their names."""
    return dict(hf for name, tensor in state.items() for hf in hf_tensors(config, name, tensor))


def hf_tensors(config: ModelConfig, name: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
    """As `hf_views`, each in its own shape."""
    shapes = config.parameter_shapes()
    return [(hf, view.reshape(shapes.get(hf, view.shape))) for hf, view in hf_views(config, name, tensor)]


def save_model(
    model: Transformer,
    folder: str | Path,
    *,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write `config.json` and the weights into `folder` in a layout that `transformers` loads.

    Every file is written beside its place, synced and renamed; an older checkpoint in the folder is whole until then.
    dtype: cast the weights (default: as they are); extra: further keys of config.json (token ids)
    """
    state = {name: parameter.detach() for name, parameter in model.named_parameters()}
    refuse_non_finite(to_hf(model.config, state), "the model")
    shapes = {name: tensor.shape for name, tensor in state.items()}
    write_model(
        model.config,
        shapes,
        iter(state.items()),
        folder,
        dtype=dtype or model.embed.weight.dtype,
        max_shard_bytes=max_shard_bytes,
        extra=extra,
    )


def write_model(
    config: ModelConfig,
    shapes: Mapping[str, torch.Size],
    parameters: Iterator[tuple[str, Tensor]],
    folder: str | Path,
    *,
    dtype: torch.dtype,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """As `save_model`, of whole parameters that come one at a time, in the order of `shapes`. Memory holds one shard.

    Raises CheckpointError where one of them is not finite.
    """
    empty = {name: torch.empty(shape, dtype=dtype, device="meta") for name, shape in shapes.items()}
    sizes = {hf: tensor.nbytes for hf, tensor in to_hf(config, empty).items()}
    stream = (hf for name, parameter in parameters for hf in hf_tensors(config, name, parameter))

    def take(name: str) -> Tensor:
        found, tensor = next(stream)
        assert found == name, f"{found} came where {name} was due"
        if problems := non_finite(tensor, name):
            raise CheckpointError.of(problems)
        return tensor.to("cpu", dtype)

    write_shards(sizes, take, Path(folder), max_shard_bytes)
    stored = str(dtype).removeprefix("torch.")
    write_json_atomic(Path(folder) / CONFIG_FILE, {**config.to_hf(), "dtype": stored, **(extra or {})})


def refuse_odd_names(expected: Set[str], found: Set[str], where: Path) -> None:
    """Raise `CheckpointError` that names every tensor too few and too many."""
    problems = [TENSOR_MISSING.problem(f"{where}: {name}") for name in sorted(expected - found)]
    problems += [ODD_TENSOR.problem(f"{where}: {name}") for name in sorted(found - expected)]
    if problems:
        raise CheckpointError.of(problems)


def refuse_non_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    """Raise `CheckpointError` that names every tensor with NaN or infinity in it."""
    if problems := [problem for name, x in tensors.items() for problem in non_finite(x, f"{where}: {name}")]:
        raise CheckpointError.of(problems)


def non_finite(tensor: Tensor, where: str) -> list[Problem]:
    """The problem of a tensor that holds NaN or infinity. Copies nothing but FP8."""
    if not tensor.is_floating_point() or not tensor.numel():
        return []
    if tensor.itemsize == 1:  # torch knows no extremes of FP8
        tensor = tensor.to(torch.bfloat16)
    low, high = torch.aminmax(tensor)
    if bool(torch.isfinite(low) & torch.isfinite(high)):
        return []
    why = "the run that wrote it diverged or the file is damaged"
    if tensor.dtype == torch.float16:
        why += ", or its values are too large for float16"
    return [NOT_FINITE.problem(where, why=why)]


def write_tensors(tensors: Mapping[str, Tensor], folder: str | Path, *, max_shard_bytes: int = MAX_SHARD_BYTES) -> None:
    """Write tensors as `model.safetensors`, or as shards and an index above `max_shard_bytes`; never half."""
    sizes = {name: tensor.nbytes for name, tensor in tensors.items()}
    write_shards(sizes, tensors.__getitem__, Path(folder), max_shard_bytes)


def write_shards(sizes: Mapping[str, int], get: Callable[[str], Tensor], folder: Path, max_shard_bytes: int) -> None:
    """As `write_tensors`, but of tensors that `get` makes when their shard's turn has come. `sizes`: in bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    shards = _shards(sizes, max_shard_bytes)
    files = (
        [SINGLE_FILE]
        if len(shards) == 1
        else [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    )
    for file, names in zip(files, shards, strict=True):
        _replace(folder / file, partial(save_tensors, {name: get(name) for name in names}, metadata={"format": "pt"}))
    if len(shards) > 1:
        weight_map = {name: file for file, names in zip(files, shards, strict=True) for name in names}
        metadata = {"total_size": sum(sizes.values())}
        write_json_atomic(folder / INDEX_FILE, {"metadata": metadata, "weight_map": weight_map})
        (folder / SINGLE_FILE).unlink(missing_ok=True)


def save_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """As safetensors' `save_file`, readable by whom any new file is: the library's own are their owner's alone."""
    path.touch()
    mode = path.stat().st_mode
    save_file(tensors, path, metadata)
    path.chmod(mode)


def _shards(sizes: Mapping[str, int], limit: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    total = 0
    for name, size in sizes.items():
        if shards[-1] and total + size > limit:
            shards.append([])
            total = 0
        shards[-1].append(name)
        total += size
    return shards


def _replace(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file beside its place, sync it, and give it its name."""
    temporary = temporary_beside(path)
    try:
        write(temporary)
        fsync_file(temporary)
        publish(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
