"""What is asked of `llama3 plan MODEL`: read, checked, and everything that is wrong told at once."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from llama3.config.presets import presets
from llama3.config.schema import STRATEGIES
from llama3.cost.gpus import HERE, Gpu, find_gpu
from llama3.errors import ConfigError, LlamaError, Problem, did_you_mean
from llama3.model.config import PRESETS, named_shape, shape_names
from llama3.plugins.registry import discover
from llama3.plugins.specs import ParallelSpec
from llama3.scaling.layouts import AXES, Workload
from llama3.training.parallel import Dims

NO_MODEL = ConfigError.declare(
    "L3-PLN-001",
    "neither a shape, nor a config, nor a run",
    why="{near}",
    fix="give one of the shapes {shapes}, a YAML file or the folder of a run",
)
NOT_POSITIVE = ConfigError.declare(
    "L3-PLN-002", "{value} is not above 0 and finite", fix="give what you mean to train with"
)
LONG_ROWS = ConfigError.declare(
    "L3-PLN-003", "rows of {seq_len} tokens are longer than the model's context of {most}", fix="ask for less"
)
UNEVEN_TOKENS = ConfigError.declare(
    "L3-PLN-004",
    "{tokens} tokens a step are no whole rows of {seq_len}",
    fix="choose a multiple, such as {nearest}",
)
NO_LINK = ConfigError.declare(
    "L3-PLN-005",
    "its description has no {missing}",
    why="what {count} GPUs send each other takes time",
    fix="add it (docs/planning.md)",
)
ELSEWHERE = ConfigError.declare(
    "L3-PLN-006",
    "a shape is planned for GPUs, not for this machine",
    fix="name a GPU; what this machine holds is asked with a config or a run: llama3 plan my.yaml",
)
BAD_LAYOUT = ConfigError.declare(
    "L3-PLN-007", "{text!r} is no layout", fix="write four sizes TP,CP,PP,DP, such as 8,1,16,128"
)
OTHER_COUNT = ConfigError.declare(
    "L3-PLN-008",
    "{text} are {product} GPUs, not {gpus}",
    fix="choose sizes that multiply to the number of GPUs",
)
NO_AXIS = ConfigError.declare(
    "L3-PLN-009", "{text!r} names no strategy of an axis", fix="write AXIS=NAME with one of {known}{near}"
)

MOST = 1 << 40
DEFAULT_TOKENS = 15.6e12
"""Of a whole training: the paper's 405B."""
DEFAULT_BATCH = 1 << 24
"""Tokens of a step: the paper's last and longest phase."""
DEFAULT_SEQ_LEN = 8192


@dataclass(frozen=True)
class PlanQuestion:
    """The work, and the layouts that are asked about by name, if any."""

    work: Workload
    layout: Dims | None = None
    explained: Dims | None = None


def not_known(text: str) -> Problem:
    """That a text names nothing that can be planned."""
    near = did_you_mean(text, [*shape_names(), *presets()])
    return NO_MODEL.problem(text, near=near, shapes=list(PRESETS))


def read_question(
    model: str,
    *,
    gpus: int,
    gpu: str,
    seq_len: int | None,
    batch_tokens: float | None,
    tokens: float,
    price: float | None,
    strategies: Iterable[str] = (),
    layout: str | None = None,
    explain: str | None = None,
) -> PlanQuestion:
    """The question as data. Raises ConfigError with everything that is wrong with it."""
    wrong: list[Problem] = []
    shape = named_shape(model)
    if shape is None:
        wrong.append(not_known(model))
    offered = _gpu(gpu, gpus, wrong)
    numbers = {"--gpus": gpus, "--seq-len": seq_len, "--batch-tokens": batch_tokens, "--tokens": tokens}
    for name, value in numbers.items():
        if value is not None and not 0 < value < MOST * 1024:
            wrong.append(NOT_POSITIVE.problem(name, value=f"{value:g}"))
    if price is not None and not (0 <= price < math.inf):
        wrong.append(NOT_POSITIVE.problem("--price", value=f"{price:g}"))
    config = None if shape is None else shape[1]
    length = seq_len or min(DEFAULT_SEQ_LEN, config.max_seq_len if config else DEFAULT_SEQ_LEN)
    if config is not None and length > config.max_seq_len:
        wrong.append(LONG_ROWS.problem("--seq-len", seq_len=f"{length:,}", most=f"{config.max_seq_len:,}"))
    batch = int(batch_tokens) if batch_tokens is not None and math.isfinite(batch_tokens) else DEFAULT_BATCH
    if length > 0 and batch > 0 and batch % length:
        nearest = max(1, round(batch / length)) * length
        wrong.append(
            UNEVEN_TOKENS.problem("--batch-tokens", tokens=f"{batch:,}", seq_len=f"{length:,}", nearest=nearest)
        )
    supplied = _strategies(strategies, wrong)
    dims = {name: _dims(name, text, gpus, wrong) for name, text in (("--layout", layout), ("--explain", explain))}
    if wrong or shape is None or offered is None:
        raise ConfigError.of(wrong)
    name, found = offered
    work = Workload(
        name=shape[0],
        model=shape[1],
        gpu_name=name,
        gpu=found,
        gpus=gpus,
        seq_len=length,
        batch=batch // length,
        tokens=tokens,
        price=found.price if price is None else price,
        registry=discover(),
        strategies=supplied,
    )
    return PlanQuestion(work, dims["--layout"], dims["--explain"])


def _gpu(name: str, count: int, wrong: list[Problem]) -> tuple[str, Gpu] | None:
    if name == HERE:
        wrong.append(ELSEWHERE.problem("--gpu"))
        return None
    try:
        found = find_gpu(name)
    except LlamaError as error:
        wrong += error.problems
        return None
    missing = "link" if not found[1].link else "network" if not found[1].network and count > found[1].node else ""
    if count > 1 and missing:
        wrong.append(NO_LINK.problem(name, missing=f"`{missing}`", count=f"{count:,}"))
    return found


def _strategies(given: Iterable[str], wrong: list[Problem]) -> dict[str, str]:
    """What is to supply an axis, of AXIS=NAME each."""
    registry = discover()
    found = {}
    for text in given:
        axis, _, name = text.partition("=")
        fitting = [
            known
            for known in registry.names("parallelism")
            if isinstance(spec := registry.spec("parallelism", known), ParallelSpec) and spec.axis == axis
        ]
        if axis not in STRATEGIES or name not in fitting:
            near = did_you_mean(name, fitting)
            known = fitting if axis in STRATEGIES else list(AXES)
            wrong.append(NO_AXIS.problem("--strategy", text=text, known=known, near=f"; {near}" if near else ""))
        found[axis] = name
    return found


def _dims(where: str, text: str | None, gpus: int, wrong: list[Problem]) -> Dims | None:
    if text is None or text == "refused":
        return None
    pieces = text.split(",")
    if len(pieces) != len(AXES) or not all(piece.strip().isdecimal() and int(piece) > 0 for piece in pieces):
        wrong.append(BAD_LAYOUT.problem(where, text=text))
        return None
    dims = Dims(**dict(zip(AXES, map(int, pieces), strict=True)))
    if dims.world != gpus:
        wrong.append(OTHER_COUNT.problem(where, text=text, product=f"{dims.world:,}", gpus=f"{gpus:,}"))
    return dims
