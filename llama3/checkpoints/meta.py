"""Weights in and out in Meta's layout: `params.json` and `consolidated.NN.pth`, one file per model-parallel rank.

Source: the reference code of Llama 3 (llama-models, llama3/model.py). Column-parallel matrices are cut by rows,
row-parallel ones by columns; the embedding of Llama 3 is cut by rows (its vocabulary), that of Llama 2 by columns.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llama3.checkpoints.layouts import CONSOLIDATED, PARAMS_FILE
from llama3.checkpoints.license import license_of
from llama3.checkpoints.pth import Stored, read_pth
from llama3.checkpoints.source import common_dtype, half_split, no_architecture, read_into, read_tensor
from llama3.errors import CheckpointError, ConfigError
from llama3.foreign import Fields, UnusableFile, read_json
from llama3.model.config import PRESETS, ModelConfig, RopeScaling
from llama3.model.shards import Part

GAP = CheckpointError.declare(
    "L3-MTA-001",
    "holds {files}",
    why="{count} model-parallel ranks are {first} to {last}",
    fix="fetch the missing files",
)
UNEQUAL = CheckpointError.declare(
    "L3-MTA-002",
    "{name} and {more} more tensors are not there or not alike in {file}",
    fix="fetch the files of one model",
)
OTHER_PARAMS = CheckpointError.declare(
    "L3-MTA-003", "does not describe these weights ({kind}: {error})", fix="use the params.json of the model"
)
UNSAYABLE = ConfigError.declare("L3-MTA-004", "Meta's layout cannot say this {key}", fix="convert to hf")

_TOP = {
    "tok_embeddings.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_LAYER = {
    "attention_norm.weight": "input_layernorm.weight",
    "attention.wq.weight": "self_attn.q_proj.weight",
    "attention.wk.weight": "self_attn.k_proj.weight",
    "attention.wv.weight": "self_attn.v_proj.weight",
    "attention.wo.weight": "self_attn.o_proj.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "feed_forward.w1.weight": "mlp.gate_proj.weight",
    "feed_forward.w3.weight": "mlp.up_proj.weight",
    "feed_forward.w2.weight": "mlp.down_proj.weight",
}
_CUT_BY_COLUMNS = ("o_proj.weight", "down_proj.weight")
_COMPUTED = "rope.freqs"
"""Stored by Llama 2's code, computed by Llama 3's."""
_TYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64"}


class MetaWeights:
    """Meta's directory as a `llama3.checkpoints.source.WeightSource`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files = sorted(path.glob(CONSOLIDATED))
        self._refuse_gaps()
        self._ranks = [_in_hf_names(read_pth(file)) for file in self._files]
        self._refuse_unequal()
        self.config = read_meta_config(path, self._ranks)

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def license(self) -> str | None:
        return license_of(self.path)

    @cached_property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {name: self._whole(name) for name in self._ranks[0]}

    @property
    def types(self) -> Mapping[str, int]:
        return Counter(_TYPES[stored.storage.dtype] for stored in self._ranks[0].values())

    @property
    def dtype(self) -> torch.dtype:
        return common_dtype({_TYPES[x.storage.dtype] for x in self._ranks[0].values() if len(x.shape) > 1})

    def get(self, name: str) -> Tensor:
        parts = [ranks[name] for ranks in self._ranks]
        axis = _axis(name, parts[0].shape, self.config.dim)
        whole = torch.empty(self.shapes[name], dtype=getattr(torch, parts[0].storage.dtype))
        if axis is None:
            _read(whole, self._files[0], parts[0])
        else:
            for place, file, part in zip(whole.chunk(len(parts), axis), self._files, parts, strict=True):
                _read(place, file, part)
        if name.endswith("q_proj.weight"):
            return half_split(whole, self.config.n_heads)
        return half_split(whole, self.config.n_kv_heads) if name.endswith("k_proj.weight") else whole

    def part(self, name: str, part: Part) -> Tensor:
        return self.get(name)[part]

    def _whole(self, name: str) -> tuple[int, ...]:
        shape = self._ranks[0][name].shape
        axis = _axis(name, shape, self.config.dim)
        return tuple(size * len(self._ranks) if index == axis else size for index, size in enumerate(shape))

    def _refuse_gaps(self) -> None:
        names = [f"consolidated.{rank:02d}.pth" for rank in range(len(self._files))]
        if [file.name for file in self._files] != names:
            files = [file.name for file in self._files]
            raise GAP(self.path, files=files, count=len(names), first=names[0], last=names[-1])

    def _refuse_unequal(self) -> None:
        """Every rank must have the same tensors, of one shape and type."""
        first = self._ranks[0]
        for file, rank in zip(self._files[1:], self._ranks[1:], strict=True):
            odd = sorted(name for name in first.keys() | rank.keys() if _kind(first, name) != _kind(rank, name))
            if odd:
                raise UNEQUAL(file, name=odd[0], more=len(odd) - 1, file=self._files[0].name)


def read_meta_config(folder: Path, ranks: list[dict[str, Stored]]) -> ModelConfig:
    """The architecture that params.json describes; its vocabulary and FFN width are those of the tensors.

    Params of Llama 3.2 say that RoPE is scaled but not by how much: its released shapes are known by their sizes.
    """
    path = folder / PARAMS_FILE
    try:
        params = Fields(read_json(path))
    except (UnusableFile, OSError) as error:
        raise OTHER_PARAMS(path, kind="unreadable", error=error) from error
    try:
        embedding, gate = ranks[0]["model.embed_tokens.weight"], ranks[0]["model.layers.0.mlp.gate_proj.weight"]
        found = _values(params)
        cut = len(ranks) if embedding.shape[1] == found["dim"] else 1
        found |= {"ffn_dim": gate.shape[0] * len(ranks), "vocab_size": embedding.shape[0] * cut}
    except (KeyError, IndexError) as error:
        raise OTHER_PARAMS(path, kind=type(error).__name__, error=error) from error
    scaling = _scaling(params, found)
    found["max_seq_len"] = (
        params.whole("context_length") if "context_length" in params else _default_context(scaling is not None)
    )
    if params.faults:
        raise CheckpointError.of(OTHER_PARAMS.problem(path, kind="value", error=fault) for fault in params.faults)
    try:
        return ModelConfig(**found, rope_scaling=scaling, tied=_is_tied(folder, ranks))
    except ConfigError as error:
        raise no_architecture(path, error) from error
    except IndexError as error:
        raise OTHER_PARAMS(path, kind=type(error).__name__, error=error) from error


def _values(params: Fields) -> dict[str, Any]:
    """What params.json says in so many words."""
    n_heads = params.whole("n_heads")
    return {
        "dim": params.whole("dim"),
        "n_layers": params.whole("n_layers"),
        "n_heads": n_heads,
        "n_kv_heads": params.whole("n_kv_heads") if "n_kv_heads" in params else n_heads,
        "rope_theta": params.number("rope_theta") if "rope_theta" in params else 10_000.0,
        "norm_eps": params.number("norm_eps", 1e-5),
    }


def _scaling(params: Fields, found: Mapping[str, Any]) -> RopeScaling | None:
    """How RoPE is scaled, if it is."""
    if not params.flag("use_scaled_rope"):
        return None
    shape = ("dim", "n_layers", "vocab_size")
    small = [PRESETS["llama-3.2-1b"], PRESETS["llama-3.2-3b"]]
    known = any(all(found[key] == getattr(preset, key) for key in shape) for preset in small)
    factor = params.number("rope_scaling_factor") if "rope_scaling_factor" in params else 32.0 if known else 8.0
    high = params.number("rope_high_freq_factor") if "rope_high_freq_factor" in params else 4.0
    return RopeScaling(factor, high_freq_factor=high)


def _default_context(scaled: bool) -> int:
    return 131_072 if scaled else 8192


def _is_tied(folder: Path, ranks: list[dict[str, Stored]]) -> bool:
    """Whether the output matrix is missing, is the embedding's storage, or holds the same numbers."""
    files = sorted(folder.glob(CONSOLIDATED))
    for file, rank in zip(files, ranks, strict=True):
        embedding, output = rank["model.embed_tokens.weight"], rank.get("lm_head.weight")
        if output is None or output == embedding:
            continue
        if output.shape != embedding.shape or output.storage.dtype != embedding.storage.dtype:
            return False
        step = max(1, (1 << 22) // embedding.shape[1])
        for start in range(0, embedding.shape[0], step):
            if not torch.equal(_rows(file, embedding, start, step), _rows(file, output, start, step)):
                return False
    return True


def _rows(file: Path, stored: Stored, start: int, count: int) -> Tensor:
    shape = (min(count, stored.shape[0] - start), *stored.shape[1:])
    part = Stored(stored.storage, stored.start + start * stored.stride[0], shape, stored.stride)
    rows = torch.empty(shape, dtype=getattr(torch, stored.storage.dtype))
    _read(rows, file, part)
    return rows


def _read(place: Tensor, file: Path, stored: Stored) -> None:
    """Fill `place` with a stored tensor; straight from the file where both lie in one piece."""
    width = place.element_size()
    offset = stored.storage.offset + stored.start * width
    if place.is_contiguous() and stored.stride == torch.empty(stored.shape, device="meta").stride():
        read_into(place, file, offset)
    else:
        place.copy_(read_tensor(file, offset, place.dtype, (stored.span,)).as_strided(stored.shape, stored.stride))


def _in_hf_names(tensors: Mapping[str, Stored]) -> dict[str, Stored]:
    """By Hugging Face's names; a name that it has none for stays, what is computed is left out."""
    return {_hf_name(name): stored for name, stored in tensors.items() if name != _COMPUTED}


def _hf_name(name: str) -> str:
    if name in _TOP:
        return _TOP[name]
    parts = name.split(".", 2)
    if len(parts) == 3 and parts[0] == "layers" and parts[1].isdecimal() and parts[2] in _LAYER:
        return f"model.layers.{parts[1]}.{_LAYER[parts[2]]}"
    return name


def _axis(name: str, shape: tuple[int, ...], dim: int) -> int | None:
    """Along which axis the ranks cut a tensor; None where each has the whole."""
    if len(shape) == 1:
        return None
    if name == "model.embed_tokens.weight":
        return 0 if shape[1] == dim else 1
    return 1 if name.endswith(_CUT_BY_COLUMNS) else 0


def _kind(rank: Mapping[str, Stored], name: str) -> tuple[Any, ...]:
    return (rank[name].shape, rank[name].storage.dtype) if name in rank else ()


# -- writing ---------------------------------------------------------------------------------------


def meta_name(name: str) -> str:
    """Meta's name of a tensor in Hugging Face's layout."""
    tops = {hf: meta for meta, hf in _TOP.items()}
    layers = {hf: meta for meta, hf in _LAYER.items()}
    if name in tops:
        return tops[name]
    _, _, index, rest = name.split(".", 3)
    return f"layers.{index}.{layers[rest]}"


def meta_params(config: ModelConfig) -> dict[str, Any]:
    """The params.json of an architecture. Raises ConfigError for what it cannot say.

    Keys beyond Meta's own (`rope_scaling_factor`, `context_length`) stand there only where its defaults are wrong;
    its reference code passes over the latter.
    """
    scaling = config.rope_scaling
    unsaid = {
        "head_dim": config.head_dim * config.n_heads != config.dim,
        "rope_scaling": scaling is not None and (scaling.low_freq_factor, scaling.original_max_position) != (1.0, 8192),
    }
    if any(unsaid.values()):
        raise UNSAYABLE(PARAMS_FILE, key=next(key for key, bad in unsaid.items() if bad))
    multiplier, multiple = _ffn_rule(config.dim, config.ffn_dim)
    params = {
        "dim": config.dim,
        "n_layers": config.n_layers,
        "n_heads": config.n_heads,
        "n_kv_heads": config.n_kv_heads,
        "vocab_size": config.vocab_size,
        "ffn_dim_multiplier": multiplier,
        "multiple_of": multiple,
        "norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "use_scaled_rope": scaling is not None,
    }
    if scaling and (scaling.factor, scaling.high_freq_factor) != (8.0, 4.0):
        params |= {"rope_scaling_factor": scaling.factor, "rope_high_freq_factor": scaling.high_freq_factor}
    if config.max_seq_len != _default_context(scaling is not None):
        params["context_length"] = config.max_seq_len
    return params


def _ffn_rule(dim: int, ffn_dim: int) -> tuple[float, int]:
    """(ffn_dim_multiplier, multiple_of) from which Meta's code computes `ffn_dim`; round ones where there are."""
    for multiplier in (1.0, 1.2, 1.3, 1.4, 1.5):
        for multiple in (256, 1024, 4096):
            if ffn_rule(dim, multiplier, multiple) == ffn_dim:
                return multiplier, multiple
    return min(1.0, (ffn_dim + 0.5) / int(2 * 4 * dim / 3)), ffn_dim


def ffn_rule(dim: int, multiplier: float, multiple: int) -> int:
    """Meta's FFN width: 2/3 of 4 dim, times the multiplier, rounded up to a multiple."""
    return math.ceil(int(multiplier * int(2 * 4 * dim / 3)) / multiple) * multiple
