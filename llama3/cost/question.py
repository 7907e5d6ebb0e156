"""What is asked of `llama3 cost`: read, checked, and everything that is wrong told at once."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

from llama3.checkpoints.formats import open_weights
from llama3.checkpoints.quantized import QuantizedWeights
from llama3.checkpoints.scheme import QuantizationScheme, build_scheme
from llama3.config.serving import KvDtype
from llama3.cost.footprint import Footprint, plain, quantized
from llama3.cost.gpus import HERE, Gpu, find_gpu
from llama3.cost.layout import ALONE, GpuLayout, read_layouts
from llama3.errors import ConfigError, LlamaError, Problem, did_you_mean
from llama3.inference.llama import find_model
from llama3.model.config import PRESETS, ModelConfig, named_shape, shape_names
from llama3.model.device import device_of
from llama3.model.precision import DTYPES, ComputePrecision
from llama3.plugins.registry import discover
from llama3.plugins.specs import QuantizationSpec
from llama3.release.quantize import NOTHING

NO_MODEL = ConfigError.declare(
    "L3-CST-004",
    "neither a model on disk nor a shape",
    why="{near}",
    fix="give a run, a release, a folder or file of weights, or one of the shapes {shapes}",
)
NO_FORMAT = ConfigError.declare("L3-CST-005", "no format is called {name!r}", why="{near}", fix="choose among {known}")
NOT_WHOLE = ConfigError.declare(
    "L3-CST-006",
    "{text!r} is not a whole number from {least} to {most}",
    fix="write such numbers with commas between them, as in 1,8,64",
)
LONG_CONTEXT = ConfigError.declare(
    "L3-CST-007", "{context} tokens are more than the model's context of {limit}", fix="ask for less"
)
NO_PRICE = ConfigError.declare("L3-CST-008", "{price} is not an amount of money", fix="give what an hour costs")
UNEVEN = ConfigError.declare(
    "L3-CST-009",
    "{heads} key-value heads do not divide over {count} GPUs",
    why="tensor parallelism gives each GPU whole heads",
    fix="choose among {divisors}, or share the layers too: --layout all",
)
ONE_DEVICE = ConfigError.declare(
    "L3-CST-010", "this machine computes on one device", fix="leave out --gpus, or name a GPU with --gpu"
)
NO_LINK = ConfigError.declare(
    "L3-CST-011", "its description has no `{field}`", why="what several GPUs send each other takes time", fix="add it"
)
OTHER_FORMAT = ConfigError.declare(
    "L3-CST-012",
    "the model is quantized by {scheme} already",
    fix="leave out --quantization and --set, or give the model that it was made of",
)
NO_SCHEME = ConfigError.declare(
    "L3-CST-013", "no scheme that was asked for is called {name!r}", fix="write --set SCHEME.OPTION=VALUE"
)

LEAST_CONTEXT = 16
"""Tokens of a context: shorter ones are nobody's, and hold no answer to time."""
DEFAULT_CONTEXT = 1024
MOST = 1 << 30
"""Answers or tokens that can be asked for."""
T = TypeVar("T")


@dataclass(frozen=True)
class Model:
    """What is asked about: a model on disk, or a shape without weights (`path` is None).

    scheme, options: how one of our schemes quantized it, if one did
    """

    name: str
    config: ModelConfig
    path: Path | None = None
    scheme: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def find(cls, text: str) -> Model:
        """The model that `llama3 serve` would take for `text`, or a preset (`named_shape`). Raises what is wrong."""
        if not Path(text).exists():
            shape = named_shape(text)
            if shape is None:
                raise NO_MODEL(text, near=did_you_mean(text, shape_names()), shapes=list(PRESETS))
            return cls(*shape)
        path = find_model(Path(text))
        source = open_weights(path)
        if isinstance(source, QuantizedWeights):
            return cls(source.name, source.config, path, source.scheme, source.raw["quantization"]["options"])
        return cls(source.name, source.config, path)


@dataclass(frozen=True)
class Format:
    """A way to keep weights: as they are in a dtype, or by a scheme, with what that takes."""

    footprint: Footprint
    scheme: QuantizationScheme | None = None

    @property
    def name(self) -> str:
        return self.footprint.name


@dataclass(frozen=True)
class Question:
    """The points that are asked for, and on what.

    gpu: what is predicted for, None: only this machine; layouts: how several of that GPU share the model; price: of one
    of it, an hour
    kv_dtype: of the cache; device: of this machine ("cpu", "cuda"); seconds: how long to measure here, 0: not at all
    """

    model: Model
    formats: tuple[Format, ...]
    batches: tuple[int, ...]
    contexts: tuple[int, ...]
    gpu_name: str
    gpu: Gpu | None
    layouts: tuple[GpuLayout, ...]
    price: float | None
    device: str
    seconds: float
    kv_dtype: KvDtype = "auto"


def read_question(
    model: str,
    *,
    gpu: str = HERE,
    gpus: int = 1,
    layout: str | None = None,
    quantization: str | None = None,
    options: Mapping[str, Any] | None = None,
    batch: str = "1",
    context: str | None = None,
    price: float | None = None,
    device: str = "auto",
    seconds: float = 60.0,
    kv_dtype: KvDtype = "auto",
) -> Question:
    """Read what the command line says. `options`: of schemes, as "SCHEME.OPTION"; `context`: by default DEFAULT_CONTEXT
    or the model's own, where that is shorter.

    Raises everything that is wrong at once: a ConfigError where that is of several classes.
    """
    wrong: list[Problem] = []
    layouts: list[GpuLayout] = []
    found = _tried(lambda: Model.find(model), wrong)
    where = _tried(lambda: device_of(device).type, wrong) or "cpu"
    described = None if gpu == HERE else _tried(lambda: find_gpu(gpu), wrong)
    batches, contexts = _numbers("--batch", batch, 1, wrong), _contexts(found, context, wrong)
    if price is not None and not 0 <= price < math.inf:
        wrong.append(NO_PRICE.problem("--price", price=price))
    formats = _formats(found, quantization, options or {}, where if gpu == HERE else "cuda", kv_dtype, wrong)
    if found is not None:
        wrong += _too_long(found.config, contexts)
        offered = described[1] if described else None
        layouts = _layouts(found.config, gpus, layout, offered, gpu, wrong)
    if wrong:
        raise ConfigError.of(wrong)
    assert found is not None
    name, offered = described or (HERE, None)
    price = offered.price if price is None and offered is not None else price
    asked = tuple(formats), batches, contexts, name, offered, tuple(layouts)
    return Question(found, *asked, price, where, seconds, kv_dtype)


def _tried(work: Callable[[], T], wrong: list[Problem]) -> T | None:
    """What `work` gives; None where it raises, and what is wrong is noted."""
    try:
        return work()
    except LlamaError as error:
        wrong += error.problems
        return None


def _numbers(where: str, text: str, least: int, wrong: list[Problem]) -> tuple[int, ...]:
    """The numbers between the commas, each once, in order."""
    pieces = [piece.strip() for piece in text.split(",")]
    odd = [piece for piece in pieces if not (re.fullmatch(r"[0-9]{1,10}", piece) and least <= int(piece) <= MOST)]
    wrong += [NOT_WHOLE.problem(where, text=piece, least=least, most=f"{MOST:,}") for piece in odd]
    return tuple(dict.fromkeys(int(piece) for piece in pieces if piece not in odd))


def _contexts(model: Model | None, text: str | None, wrong: list[Problem]) -> tuple[int, ...]:
    if text is not None:
        return _numbers("--context", text, LEAST_CONTEXT, wrong)
    longest = DEFAULT_CONTEXT if model is None else model.config.max_seq_len
    return (max(LEAST_CONTEXT, min(DEFAULT_CONTEXT, longest)),)


def _too_long(config: ModelConfig, contexts: Iterable[int]) -> list[Problem]:
    limit = config.max_seq_len
    longer = [context for context in contexts if context > limit]
    return [LONG_CONTEXT.problem("--context", context=f"{context:,}", limit=f"{limit:,}") for context in longer]


def _layouts(
    config: ModelConfig, gpus: int, text: str | None, offered: Gpu | None, gpu: str, wrong: list[Problem]
) -> list[GpuLayout]:
    """How so many GPUs share the model."""
    if gpu == HERE:
        wrong += [ONE_DEVICE.problem(option) for option, given in (("--gpus", gpus > 1), ("--layout", text)) if given]
        return [ALONE]
    layouts = read_layouts(text, gpus, config, wrong)
    heads = config.n_kv_heads
    if text is None and heads % gpus:
        divisors = [count for count in range(1, heads + 1) if heads % count == 0]
        wrong.append(UNEVEN.problem("--gpus", heads=heads, count=gpus, divisors=divisors))
    for figure, is_needed in _needed(layouts, offered).items():
        if offered is not None and is_needed and not getattr(offered, figure):
            wrong.append(NO_LINK.problem(gpu, field=figure))
    return layouts


def _needed(layouts: Iterable[GpuLayout], offered: Gpu | None) -> dict[str, bool]:
    """Which figures of a GPU's connections the layouts are predicted by."""
    node = offered.node if offered is not None else 0
    sizes = {size for layout in layouts for size in (layout.tp, layout.count) if size > 1}
    return {"link": any(size <= node for size in sizes), "network": any(size > node for size in sizes)}


def _formats(
    model: Model | None,
    asked: str | None,
    options: Mapping[str, Any],
    device: str,
    kv_dtype: KvDtype,
    wrong: list[Problem],
) -> list[Format]:
    """The formats that are asked for, by default the one that the model is kept in, or bf16; none without a model."""
    kept = model.scheme if model is not None else None
    names = list(dict.fromkeys(name.strip() for name in (asked or kept or "bf16").split(",")))
    known = [*DTYPES, *discover().names("quantization")]
    given: dict[str, dict[str, Any]] = {name: {} for name in names}
    for key, value in options.items():
        name, _, option = key.rpartition(".")
        if name in given:
            given[name][option] = value
        else:
            wrong.append(NO_SCHEME.problem(f"--set {key}", name=name))
    found = []
    for name in names:
        if name not in known:
            wrong.append(NO_FORMAT.problem("--quantization", name=name, near=did_you_mean(name, known), known=known))
        elif kept is not None and (name != kept or given[name]):
            wrong.append(OTHER_FORMAT.problem(f"--quantization {name}", scheme=kept))
        elif model is not None:
            found.append(_tried(partial(_format, model, name, given[name], device, kv_dtype), wrong))
    return [format for format in found if format is not None]


def _format(model: Model, name: str, options: Mapping[str, Any], device: str, kv_dtype: KvDtype) -> Format:
    """The format of this name. Raises where a scheme does not run on the device, or takes nothing of the model."""
    if name in DTYPES:
        return Format(plain(model.config, cast(ComputePrecision, name), kv_dtype))
    spec = discover().spec("quantization", name)
    assert isinstance(spec, QuantizationSpec)
    scheme = build_scheme(name, options or model.options, device)
    taken = quantized(model.config, name, scheme, inputs=spec.activation_bits is not None, kv_dtype=kv_dtype)
    if not taken.quantized:
        raise NOTHING("--quantization", scheme=name, layers=model.config.n_layers)
    return Format(taken, scheme)
