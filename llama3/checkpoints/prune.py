"""The stage `prune`: a smaller copy of a model, to be trained on: fewer blocks, narrower ones, a narrower stream.

Blocks are kept evenly spaced, the first and the last among them (Sanh et al. 2019). Hidden units of a SwiGLU are kept
by the product of the norms of what they read and write, channels of the residual stream by the norms of what all
matrices read and write there (structured magnitude pruning, as in Muralidharan et al. 2024 but without data). Heads
stay. What is pruned must be trained on before it is worth anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Self

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from llama3.artifacts import Checkpoint, StageOutput, stage
from llama3.artifacts.files import write_json_atomic
from llama3.checkpoints.companions import stated_ids, write_companions
from llama3.checkpoints.formats import open_weights
from llama3.checkpoints.load import load_model
from llama3.checkpoints.weights import hf_views, save_model, to_hf
from llama3.config.sizes import PruneSection
from llama3.errors import ConfigError
from llama3.model.config import ModelConfig
from llama3.model.transformer import Transformer
from llama3.tokenizer import Tokenizer

NOT_SMALLER = ConfigError.declare(
    "L3-PRN-001", "{name} {wanted} is more than the {there} of the model", fix="give at most {there}"
)


class PruneOptions(BaseModel):
    """What is kept; None: all."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    n_layers: int | None = None
    dim: int | None = None
    ffn_dim: int | None = None

    @classmethod
    def of(cls, section: PruneSection) -> Self:
        """From the section of a size."""
        return cls(**section.model_dump(exclude={"of"}))


@stage(output="checkpoint")
def prune(checkpoint: Checkpoint, *, options: PruneOptions, out: StageOutput) -> None:
    """Write the smaller model, in fp32, with the tokenizer of the larger one. Raises ConfigError where it is not
    smaller."""
    model, source = load_model(checkpoint.path), open_weights(checkpoint.path)
    small, tokenizer = pruned(model, options), Tokenizer.load(checkpoint.path)
    save_model(small, out.path, extra=stated_ids(source, tokenizer))
    write_companions(source, tokenizer, out.path)
    write_json_atomic(out.path / "llama3.json", {"stage": "prune", **options.model_dump(exclude_none=True)})
    out.metrics |= {"parameters": small.config.num_params(), "of": model.config.num_params()}


@torch.no_grad()
def pruned(model: Transformer, options: PruneOptions) -> Transformer:
    """A smaller copy of `model`. Raises ConfigError with all that is no smaller."""
    config, wanted = model.config, options.model_dump(exclude_none=True)
    found = [
        NOT_SMALLER.problem(f"prune.{name}", name=name, wanted=value, there=getattr(config, name))
        for name, value in wanted.items()
        if value > getattr(config, name)
    ]
    if found:
        raise ConfigError.of(found)
    small = Transformer(replace(config, **wanted))
    tensors = dict(_kept(to_hf(config, dict(model.named_parameters())), config, small.config))
    for name, parameter in small.named_parameters():
        for hf, view in hf_views(small.config, name, parameter):
            view.copy_(tensors[hf].reshape(view.shape))
    return small


def _kept(tensors: Mapping[str, Tensor], old: ModelConfig, new: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    """What the smaller model keeps of every tensor, by its name there."""
    squares_D = torch.stack([_channel_squares(name, tensor) for name, tensor in tensors.items()]).sum(0)
    dim = _largest(squares_D, new.dim)
    layers = torch.linspace(0, old.n_layers - 1, new.n_layers).round().long().tolist()
    outside = {name for name in tensors if not name.startswith("model.layers.")}
    for name in outside:
        yield name, tensors[name].index_select(-1, dim)
    for index, layer in enumerate(layers):
        own = {name: tensors[f"model.layers.{layer}.{name}"] for name in _names(tensors, layer)}
        squares = [own[f"mlp.{part}_proj.weight"].square().sum(1) for part in ("gate", "up")]
        ffn = _largest((squares[0] + squares[1]) * own["mlp.down_proj.weight"].square().sum(0), new.ffn_dim)
        for name, tensor in own.items():
            if name in ("mlp.gate_proj.weight", "mlp.up_proj.weight"):
                tensor = tensor.index_select(0, ffn)
            elif name == "mlp.down_proj.weight":
                tensor = tensor.index_select(1, ffn)
            writes = name in ("mlp.down_proj.weight", "self_attn.o_proj.weight")
            yield f"model.layers.{index}.{name}", tensor.index_select(0 if writes else -1, dim)


def _names(tensors: Mapping[str, Tensor], layer: int) -> list[str]:
    prefix = f"model.layers.{layer}."
    return [name.removeprefix(prefix) for name in tensors if name.startswith(prefix)]


def _channel_squares(name: str, tensor: Tensor) -> Tensor:
    """How much a tensor reads from or writes to each channel of the residual stream, [D]; norms count nothing."""
    if tensor.dim() == 1:
        return torch.zeros_like(tensor)
    writes = name.endswith(("mlp.down_proj.weight", "self_attn.o_proj.weight"))
    return tensor.square().sum(1 if writes else 0)


def _largest(values_N: Tensor, count: int) -> Tensor:
    """The places of the `count` largest, in order."""
    return values_N.topk(count).indices.sort().values
