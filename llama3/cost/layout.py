"""How GPUs share a model: `tp` of them each matrix, `pp` such groups the layers, with so many micro-batches at once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from llama3.errors import ConfigError, Problem
from llama3.model.config import ModelConfig

NO_LAYOUT = ConfigError.declare(
    "L3-SRV-062", "{text!r} is no layout", fix="write all, or TPxPP with commas between them, as in 8x2,4x4"
)
OTHER_COUNT = ConfigError.declare(
    "L3-SRV-063", "{layout} are {world} GPUs, --gpus says {gpus}", fix="make the product of the two equal to --gpus"
)
UNEVEN_LAYOUT = ConfigError.declare(
    "L3-SRV-064",
    "the model cannot be shared as {layout}",
    why="{heads} key-value heads are shared by a divisor of them, {layers} layers by as many stages at most",
    fix="--layout all lists what can be",
)
NO_EVEN = ConfigError.declare(
    "L3-SRV-066",
    "the model cannot be shared by {gpus} GPUs",
    why="{heads} key-value heads are shared by a divisor of them, {layers} layers by as many stages at most",
    fix="give another number of them",
)

ALL = "all"


@dataclass(frozen=True, slots=True)
class GpuLayout:
    """`tp` x `pp` GPUs. microbatches: 1, or one for each stage, so that all stages have work at once."""

    tp: int = 1
    pp: int = 1
    microbatches: int = 1

    @property
    def count(self) -> int:
        """GPUs."""
        return self.tp * self.pp

    @property
    def name(self) -> str:
        """As people write it."""
        return f"tp {self.tp}, pp {self.pp}"

    @property
    def turns(self) -> int:
        """How many times the time of one stage and one micro-batch an answer waits for its next token."""
        return max(self.pp, self.microbatches)


def read_layouts(text: str | None, gpus: int, config: ModelConfig, wrong: list[Problem]) -> list[GpuLayout]:
    """The layouts that are asked for, each pipeline with and without micro-batches. None: tensor parallelism alone."""
    if text is None:
        return [GpuLayout(tp=gpus)]
    if text.strip() == ALL:
        even = [layout for layout in _all(gpus) if _is_even(layout, config)]
        if not even:
            wrong.append(NO_EVEN.problem("--gpus", gpus=gpus, heads=config.n_kv_heads, layers=config.n_layers))
        return even
    layouts = []
    for piece in text.split(","):
        found = re.fullmatch(r"\s*([1-9][0-9]{0,5})x([1-9][0-9]{0,5})\s*", piece)
        if found is None:
            wrong.append(NO_LAYOUT.problem("--layout", text=piece.strip()))
            continue
        layout = GpuLayout(int(found[1]), int(found[2]))
        if layout.count != gpus:
            wrong.append(OTHER_COUNT.problem("--layout", layout=piece.strip(), world=layout.count, gpus=gpus))
        elif not _is_even(layout, config):
            heads, layers = config.n_kv_heads, config.n_layers
            wrong.append(UNEVEN_LAYOUT.problem("--layout", layout=piece.strip(), heads=heads, layers=layers))
        else:
            layouts += _with_microbatches(layout)
    return list(dict.fromkeys(layouts))


def _all(gpus: int) -> Iterator[GpuLayout]:
    for pp in (number for number in range(1, gpus + 1) if gpus % number == 0):
        yield from _with_microbatches(GpuLayout(gpus // pp, pp))


def _with_microbatches(layout: GpuLayout) -> list[GpuLayout]:
    """Without, and where there are stages to keep busy with."""
    return [GpuLayout(layout.tp, layout.pp, count) for count in dict.fromkeys((1, layout.pp))]


def _is_even(layout: GpuLayout, config: ModelConfig) -> bool:
    return config.n_kv_heads % layout.tp == 0 and layout.pp <= config.n_layers


ALONE = GpuLayout()
