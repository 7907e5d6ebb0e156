"""Weights in and out, in Hugging Face's layout: `config.json` and safetensors, whole or sharded. Initialisation.

The model keeps query, key and value, and gate and up, as one matrix each (see transformer.py); `to_hf` and `from_hf`
take them apart and put them together. No pickle is ever read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Container, Iterator, Mapping, Set
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from llama3.artifacts.files import fsync_file, publish, temporary_beside, write_json_atomic
from llama3.errors import CheckpointError, ConfigError, Problem
from llama3.model.config import ModelConfig
from llama3.model.transformer import Transformer

CONFIG_FILE = "config.json"
SINGLE_FILE = "model.safetensors"
INDEX_FILE = SINGLE_FILE + ".index.json"
MAX_SHARD_BYTES = 5_000_000_000

_PLAIN = {
    "attention_norm.weight": "input_layernorm.weight",
    "attention.out.weight": "self_attn.o_proj.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "ffn.down.weight": "mlp.down_proj.weight",
}
"""Parameters of a layer that are the same in both layouts, by their names in ours and theirs."""
_QKV, _GATE_UP = "attention.qkv.weight", "ffn.gate_up.weight"
_HF_QKV = tuple(f"self_attn.{x}_proj.weight" for x in "qkv")
_HF_GATE_UP = ("mlp.gate_proj.weight", "mlp.up_proj.weight")
HEADS = ("value_head.weight", "score_head.weight")


def to_hf(config: ModelConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict as Hugging Face's; a tied output matrix is left out, extra heads keep their names."""
    out = {"model.embed_tokens.weight": state["embed.weight"], "model.norm.weight": state["norm.weight"]}
    for index in range(config.n_layers):
        ours, theirs = f"layers.{index}.", f"model.layers.{index}."
        out |= {theirs + hf: state[ours + name] for name, hf in _PLAIN.items()}
        out |= {theirs + hf: part for hf, part in zip(_HF_QKV, _split_qkv(config, state[ours + _QKV]), strict=True)}
        out |= {theirs + hf: part for hf, part in zip(_HF_GATE_UP, state[ours + _GATE_UP].chunk(2), strict=True)}
    if not config.tied:
        out["lm_head.weight"] = state["lm_head.weight"]
    out |= {name: state[name] for name in HEADS if name in state}
    return {name: tensor.contiguous() for name, tensor in out.items()}


def from_hf(config: ModelConfig, get: Callable[[str], Tensor]) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of our state dict from Hugging Face's, one at a time; `get` reads one of theirs."""
    yield "embed.weight", get("model.embed_tokens.weight")
    for index in range(config.n_layers):
        ours, theirs = f"layers.{index}.", f"model.layers.{index}."
        for name, hf in _PLAIN.items():
            yield ours + name, get(theirs + hf)
        yield ours + _QKV, _join_qkv(config, *(get(theirs + hf) for hf in _HF_QKV))
        yield ours + _GATE_UP, torch.cat([get(theirs + hf) for hf in _HF_GATE_UP])
    yield "norm.weight", get("model.norm.weight")
    if not config.tied:
        yield "lm_head.weight", get("lm_head.weight")


def _split_qkv(config: ModelConfig, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    grouped = qkv.unflatten(0, (config.n_kv_heads, -1, config.head_dim))
    return grouped[:, :-2].flatten(0, 2), grouped[:, -2].flatten(0, 1), grouped[:, -1].flatten(0, 1)


def _join_qkv(config: ModelConfig, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    parts = [x.unflatten(0, (config.n_kv_heads, -1, config.head_dim)) for x in (q, k, v)]
    return torch.cat(parts, dim=1).flatten(0, 2)


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
    state = model.state_dict()
    tensors = {name: x.detach().to("cpu", dtype or x.dtype) for name, x in to_hf(model.config, state).items()}
    refuse_non_finite(tensors, "the model")
    write_tensors(tensors, folder, max_shard_bytes=max_shard_bytes)
    stored = str(next(iter(tensors.values())).dtype).removeprefix("torch.")
    write_json_atomic(Path(folder) / CONFIG_FILE, {**model.config.to_hf(), "dtype": stored, **(extra or {})})


def load_model(
    folder: str | Path, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Transformer:
    """Read a Llama-family checkpoint directory, or a quantized one of ours.

    Raises `CheckpointError` naming every missing, extra, misshapen or non-finite tensor. Value and score heads are
    built where the checkpoint has them. `dtype` is that of the parameters; quantized ones keep theirs.
    """
    folder = Path(folder)
    raw = read_raw_config(folder)
    if "quantization" in raw:
        from llama3.model.quantized import load_quantized  # it builds on this module

        return load_quantized(folder, raw, dtype=dtype, device=device)
    config = parse_config(raw, folder)
    with Tensors(folder) as tensors:
        _check_shapes(tensors.shapes, config, folder)
        state = dict(from_hf(config, tensors.get))
        state |= {name: tensors.get(name) for name in HEADS if name in tensors.shapes}
    refuse_non_finite(state, str(folder))
    model = empty_model(config, state)
    assign(model, {name: tensor.to(device, dtype) for name, tensor in state.items()})
    return model.requires_grad_(True)


def empty_model(config: ModelConfig, names: Container[str]) -> Transformer:
    """A model without storage, with the heads that `names` holds parameters of."""
    with torch.device("meta"):
        return Transformer(config, **{name.removesuffix(".weight"): name in names for name in HEADS})


def assign(model: Transformer, state: dict[str, Tensor]) -> None:
    """Give an empty model its tensors; a tied output matrix shares the embedding's."""
    tied = {"lm_head.weight": state["embed.weight"]} if model.config.tied else {}
    model.load_state_dict({**state, **tied}, assign=True)
    if model.config.tied:
        model.lm_head.weight = model.embed.weight


def init_weights(model: Transformer, seed: int) -> Transformer:
    """Draw all parameters anew: each depends on (seed, its name) only, not on the order or number of the others.

    Matrices are normal with standard deviation dim ** -0.5 of their input, those that write into the residual stream
    divided by sqrt(2 * layers); embeddings use dim ** -0.5, so that a tied output matrix starts near uniform.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                parameter.fill_(1.0)
                continue
            deviation = parameter.shape[-1] ** -0.5
            if name.endswith(("attention.out.weight", "ffn.down.weight")):
                deviation /= (2 * model.config.n_layers) ** 0.5
            drawn = torch.empty(parameter.shape).normal_(0.0, deviation, generator=generator(seed, name))
            parameter.copy_(drawn)
    return model


def generator(seed: int, name: str) -> torch.Generator:
    """Draws a parameter: a function of the seed and its name only."""
    digest = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def read_config(folder: str | Path) -> ModelConfig:
    """The architecture that `folder/config.json` describes. Raises `CheckpointError`."""
    return parse_config(read_raw_config(Path(folder)), Path(folder))


def read_raw_config(folder: Path) -> dict[str, Any]:
    """The contents of `folder/config.json`."""
    path = folder / CONFIG_FILE
    try:
        raw = json.loads(path.read_bytes())
    except OSError as error:
        why = f"the folder holds {_listing(folder)}" if folder.is_dir() else "there is no such folder"
        what = f"cannot be read ({error.strerror})"
        raise CheckpointError(Problem("L3-CKP-001", str(path), what, why, "give the folder of a checkpoint")) from error
    except ValueError as error:
        what = f"is not JSON ({error})"
        raise CheckpointError(Problem("L3-CKP-002", str(path), what, fix="fetch the checkpoint again")) from error
    if not isinstance(raw, dict):
        raise CheckpointError(Problem("L3-CKP-002", str(path), "is not an object", fix="fetch the checkpoint again"))
    return raw


def parse_config(raw: Mapping[str, Any], folder: Path) -> ModelConfig:
    """The architecture in the contents of a config.json."""
    try:
        return ModelConfig.from_hf(raw, str(folder / CONFIG_FILE))
    except ConfigError as error:
        raise CheckpointError(error.problems) from error


class Tensors:
    """The tensors of a checkpoint directory, from one file or from the shards that its index names. Context manager."""

    def __init__(self, folder: Path) -> None:
        self._files: dict[Path, Any] = {}
        self._file_of = self._index(folder)
        self.shapes: dict[str, tuple[int, ...]] = {}
        for name, path in self._file_of.items():
            self.shapes[name] = tuple(self._open(path).get_slice(name).get_shape())

    def __enter__(self) -> Tensors:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.clear()

    def get(self, name: str) -> Tensor:
        return self._open(self._file_of[name]).get_tensor(name)

    def _open(self, path: Path) -> Any:
        if path not in self._files:
            try:
                self._files[path] = safe_open(path, framework="pt")
            except (SafetensorError, OSError) as error:
                raise CheckpointError(
                    Problem(
                        "L3-CKP-003",
                        str(path),
                        f"is not a whole safetensors file ({error})",
                        fix="fetch or write the checkpoint again",
                    )
                ) from error
        return self._files[path]

    def _index(self, folder: Path) -> dict[str, Path]:
        if (single := folder / SINGLE_FILE).exists():
            return dict.fromkeys(self._open(single).keys(), single)
        index = folder / INDEX_FILE
        if not index.exists():
            pickled = any(folder.glob("*.bin")) or any(folder.glob("*.pth"))
            why = (
                "pickled weights can run code and are never read" if pickled else f"the folder holds {_listing(folder)}"
            )
            raise CheckpointError(
                Problem(
                    "L3-CKP-004",
                    str(folder),
                    f"has no {SINGLE_FILE} and no {INDEX_FILE}",
                    why,
                    "use a safetensors checkpoint",
                )
            )
        try:
            weight_map = json.loads(index.read_bytes())["weight_map"]
            files = {name: folder / Path(file).name for name, file in weight_map.items()}
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise CheckpointError(
                Problem("L3-CKP-005", str(index), f"is not a weight index ({error!r})", fix="fetch it again")
            ) from error
        for path in sorted(set(files.values())):
            present = set(self._open(path).keys())
            if missing := sorted(name for name, file in files.items() if file == path and name not in present):
                raise CheckpointError(
                    Problem(
                        "L3-CKP-006",
                        str(path),
                        f"lacks {missing[0]} and {len(missing) - 1} more",
                        "the index names it",
                        "fetch it again",
                    )
                )
        return files


def _check_shapes(found: Mapping[str, tuple[int, ...]], config: ModelConfig, folder: Path) -> None:
    heads = {name: (1, config.dim) for name in HEADS if name in found}
    expected = config.parameter_shapes() | heads
    # Old converters also stored what is computed; a tied output matrix may be stored twice.
    tied = {"lm_head.weight"} if config.tied else set()
    ignored = {name for name in found if name.endswith("rotary_emb.inv_freq")} | tied
    refuse_odd_names(expected.keys(), found.keys() - ignored, folder)
    fix = "use the config.json that belongs to these weights"
    problems = [
        Problem("L3-CKP-007", f"{folder}: {name}", f"has shape {found[name]} where the config says {shape}", fix=fix)
        for name, shape in expected.items()
        if found[name] != shape
    ]
    if problems:
        raise CheckpointError(problems)


def refuse_odd_names(expected: Set[str], found: Set[str], where: Path) -> None:
    """Raise `CheckpointError` that names every tensor too few and too many."""
    fix = "use the config.json that belongs to these weights"
    problems = [Problem("L3-CKP-008", f"{where}: {name}", "is missing", fix=fix) for name in sorted(expected - found)]
    problems += [
        Problem("L3-CKP-009", f"{where}: {name}", "is not a tensor of this model", fix=fix)
        for name in sorted(found - expected)
    ]
    if problems:
        raise CheckpointError(problems)


def refuse_non_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    problems = [
        Problem(
            "L3-CKP-010",
            f"{where}: {name}",
            "holds NaN or infinity",
            "the run that wrote it diverged or the file is damaged",
            "go back to an earlier checkpoint",
        )
        for name, tensor in tensors.items()
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all())
    ]
    if problems:
        raise CheckpointError(problems)


def write_tensors(tensors: Mapping[str, Tensor], folder: str | Path, *, max_shard_bytes: int = MAX_SHARD_BYTES) -> None:
    """Write tensors as `model.safetensors`, or as shards and an index above `max_shard_bytes`; never half."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    shards = _shards(tensors, max_shard_bytes)
    names = (
        [SINGLE_FILE]
        if len(shards) == 1
        else [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    )
    for name, shard in zip(names, shards, strict=True):
        _replace(folder / name, partial(_save_tensors, shard))
    if len(shards) > 1:
        weight_map = {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
        size = sum(tensor.nbytes for tensor in tensors.values())
        write_json_atomic(folder / INDEX_FILE, {"metadata": {"total_size": size}, "weight_map": weight_map})
        (folder / SINGLE_FILE).unlink(missing_ok=True)


def _save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    save_file(tensors, path, metadata={"format": "pt"})


def _shards(tensors: Mapping[str, Tensor], limit: int) -> list[dict[str, Tensor]]:
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if shards[-1] and size + tensor.nbytes > limit:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
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


def _listing(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())[:5] if folder.is_dir() else []
    return ", ".join(names) or "nothing"
