"""Models from disk, of whatever layout: the network that computes with the weights that a file holds."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from llama3.checkpoints.formats import open_weights
from llama3.checkpoints.hf import read_raw_config
from llama3.checkpoints.layouts import layout_of
from llama3.checkpoints.quantized import load_quantized
from llama3.checkpoints.source import WeightSource
from llama3.checkpoints.weights import hf_rows, non_finite, refuse_odd_names
from llama3.errors import CheckpointError, Problem
from llama3.model.build import HEADS, assign, empty_model
from llama3.model.config import ModelConfig
from llama3.model.needs import NOT_LOADED, memory_here, size
from llama3.model.shards import local, part_of
from llama3.model.transformer import Transformer

TOO_FEW_TENSORS = CheckpointError.declare(
    "L3-CKP-015",
    "says that there are {layers} layers, the weights have {tensors} tensors",
    fix="fetch the checkpoint again",
)
OTHER_SHAPE = CheckpointError.declare(
    "L3-CKP-007",
    "has shape {found} where the config says {wanted}",
    fix="use the config.json that belongs to these weights",
)


def load_model(
    path: str | Path, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Transformer:
    """Read a Llama-family model: a Hugging Face directory (a quantized one of ours too), Meta's, or a GGUF file.

    Memory holds the model in `dtype` and one tensor of the file at a time. Value and score heads are built where the
    checkpoint has them. Parameters get `dtype`; quantized ones of our own schemes keep theirs.

    Raises `CheckpointError` naming every missing, extra, misshapen or non-finite tensor, `DoesNotFit` where memory
    cannot hold it.
    """
    path = Path(path)
    if layout_of(path) == "hf" and "quantization" in (raw := read_raw_config(path)):
        return load_quantized(path, raw, dtype=dtype, device=device)
    source = open_weights(path)
    check_shapes(source)
    there, parameters = memory_here(), source.config.num_params()
    if there and torch.device(device).type == "cpu" and parameters * dtype.itemsize > there:
        raise NOT_LOADED(
            path,
            needed=size(parameters * dtype.itemsize),
            place="this machine",
            there=size(there),
            parameters=f"{parameters:,}",
            each=dtype.itemsize,
        )
    model = empty_model(source.config, source.shapes)
    state: dict[str, Tensor] = {}
    problems: list[Problem] = []
    for name, parameter in model.named_parameters():  # a tied output matrix is named once
        state[name] = torch.empty(parameter.shape, dtype=dtype, device=device)
        problems += read_parameter(source, name, state[name])
    if problems:
        raise CheckpointError.of(problems)
    assign(model, state)
    return model.requires_grad_(True)


@torch.no_grad()
def read_parameter(source: WeightSource, name: str, parameter: Tensor) -> list[Problem]:
    """Fill our parameter `name` from a file, or what this rank holds of it; the problems of what is not finite.

    Where a layout can, only that part is read.
    """
    mine, (rows, *columns) = local(parameter), part_of(parameter)
    if not mine.numel():
        return []
    problems: list[Problem] = []
    for hf, row_R in hf_rows(source.config, name, len(parameter)).items():
        first, stop = torch.searchsorted(row_R, torch.tensor([rows.start, rows.stop])).tolist()
        if first == stop:
            continue
        read = source.part(hf, (slice(first, stop), *columns))
        views = list(_views(mine, row_R[first:stop] - rows.start))
        for view, values in zip(views, read.split([len(view) for view in views]), strict=True):
            view.copy_(values)
        bad = (problem for view in views for problem in non_finite(view, f"{source.path}: {hf}"))
        problems += islice(bad, 1)
    return problems


def _views(tensor: Tensor, row_R: Tensor) -> Iterator[Tensor]:
    """Rows of a tensor, which rise: a view of each run of neighbours."""
    breaks = (row_R.diff() != 1).nonzero().squeeze(-1) + 1
    for run in torch.tensor_split(row_R, breaks):
        yield tensor[int(run[0]) : int(run[-1]) + 1]


def read_config(path: str | Path) -> ModelConfig:
    """The architecture of the model at `path`, of any layout. Raises `CheckpointError`."""
    return open_weights(path).config


def check_shapes(source: WeightSource) -> None:
    """Raise `CheckpointError` naming every tensor that the architecture has not, lacks, or has in another shape."""
    config, found = source.config, source.shapes
    if config.n_layers > len(found):  # before every tensor of them is named
        raise TOO_FEW_TENSORS(source.path, layers=config.n_layers, tensors=len(found))
    heads = {name: (1, config.dim) for name in HEADS if name in found}
    expected = config.parameter_shapes() | heads
    # Old converters also stored what is computed; a tied output matrix may be stored twice.
    tied = {"lm_head.weight"} if config.tied else set()
    ignored = {name for name in found if name.endswith("rotary_emb.inv_freq")} | tied
    refuse_odd_names(expected.keys(), found.keys() - ignored, source.path)
    problems = [
        OTHER_SHAPE.problem(f"{source.path}: {name}", found=found[name], wanted=shape)
        for name, shape in expected.items()
        if found[name] != shape
    ]
    if problems:
        raise CheckpointError.of(problems)
