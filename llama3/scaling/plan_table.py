"""A plan as plain data and as lines for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from llama3.errors import Problem
from llama3.model.needs import size
from llama3.scaling.layouts import AXES, Workload
from llama3.scaling.planner import Predicted
from llama3.scaling.step_time import link_rate
from llama3.training.parallel import Dims

HEAD = ("TP,CP,PP,DP", "ROWS", "RECOMPUTE", "STEP S", "MFU", "CAUSAL", "BUBBLE", "GB/RANK", "SENT GB", "DAYS", "COST",
        "OPTIONS")  # fmt: skip
"""MFU counts attention over the full square of a row, CAUSAL over what the mask leaves."""


def layout_text(dims: Dims) -> str:
    """As a user writes it."""
    return ",".join(str(getattr(dims, axis)) for axis in AXES)


def work_lines(work: Workload) -> list[tuple[str, str]]:
    """The question."""
    gpu, model = work.gpu, work.model
    network = f", {gpu.network / 1e9:g} GB/s to other nodes" if gpu.network else ""
    link = f", {gpu.link / 2e9:g} GB/s to {gpu.node - 1} others" if gpu.link else ""
    price = "" if work.price is None else f", {work.price:g} an hour each"
    return [
        ("model", f"{work.name}, {model.num_params():,} parameters"),
        ("GPUs", f"{work.gpus:,} x {work.gpu_name}: {size(int(gpu.memory))}{link}{network}{price}"),
        ("step", f"{work.batch:,} rows of {work.seq_len:,} tokens: {work.batch * work.seq_len:,}"),
        ("training", f"{work.tokens:.4g} tokens, {work.tokens / (work.batch * work.seq_len):,.0f} steps of this size"),
    ]


def table(found: Sequence[Predicted], top: int) -> list[list[str]]:
    """The fastest layouts, a row each."""
    return [_row(one) for one in found[:top]]


def _row(one: Predicted) -> list[str]:
    sent = sum(cost.sent + cost.behind for cost in one.costs.values())
    told = (f"{axis} {_options(options)}" for axis, options in one.way.options.items() if options)
    return [
        layout_text(one.dims),
        str(one.way.rows),
        one.way.step.recompute,
        f"{one.seconds:.3g}",
        f"{one.mfu:.1%}",
        f"{one.mfu_causal:.1%}",
        f"{one.together.bubble:.0%}",
        f"{one.bytes.total / 1e9:.1f}",
        f"{sent / 1e9:,.0f}",
        f"{one.days:,.1f}",
        "-" if one.price is None else f"{one.price:,.0f}",
        "; ".join(told),
    ]


def as_data(one: Predicted) -> dict[str, Any]:
    """Everything that is predicted of a layout in one way."""
    return {
        "layout": asdict(one.dims),
        "options": {axis: dict(options) for axis, options in one.way.options.items()},
        "config": config_text(one),
        "rows": one.way.rows,
        "microbatches": one.way.step.microbatches,
        "recompute": one.way.step.recompute,
        "fits": one.fits,
        "seconds": one.seconds,
        "seconds_by_part": {field.name: getattr(one.time, field.name) for field in fields(one.time)},
        "tokens_per_second_per_gpu": one.tokens_per_second,
        "mfu": one.mfu,
        "mfu_causal": one.mfu_causal,
        "bubble": one.together.bubble,
        "bytes": {
            "total": one.bytes.total,
            **{field.name: getattr(one.bytes, field.name) for field in fields(one.bytes)},
        },
        "sent": {axis: cost.sent + cost.behind for axis, cost in one.costs.items()},
        "days": one.days,
        "price": one.price,
    }


def explained(one: Predicted, problems: Sequence[Problem], best: Predicted | None) -> Iterator[tuple[str, str]]:
    """Why a layout is refused, or where its time goes, beside the best one."""
    yield "layout", f"{layout_text(one.dims)}{_way_text(one)}"
    yield "config", config_text(one)
    for problem in problems:
        yield "refused", str(problem)
    parts = {field.name: getattr(one.bytes, field.name) for field in fields(one.bytes)}
    told = ", ".join(f"{name} {size(int(value))}" for name, value in parts.items())
    yield "a rank holds", f"{size(int(one.bytes.total))} of {size(int(one.work.room))}: {told}"
    for axis, cost in one.costs.items():
        rate = link_rate(one.work.gpu, one.dims, axis) * one.efficiency.link
        waited = f"{size(int(cost.sent))} while it waits, {size(int(cost.behind))} while it computes"
        yield f"{axis} sends", f"{waited}, at {size(int(rate))} a second"
    for field in fields(one.time):
        seconds = getattr(one.time, field.name)
        yield (
            field.name,
            f"{seconds:.3g} s, {seconds / one.seconds:.0%} of the step{_beside(field.name, seconds, best)}",
        )
    yield (
        "step",
        f"{one.seconds:.3g} s, MFU {one.mfu:.1%} ({one.mfu_causal:.1%} causal){_beside('total', one.seconds, best)}",
    )
    for note in notes(one):
        yield "note", note


def _way_text(one: Predicted) -> str:
    step = one.way.step
    return f": {step.tokens:,} tokens in each of {step.microbatches} microbatches, recompute {step.recompute}"


def config_text(one: Predicted) -> str:
    """The layout as a section of a config."""
    axes = []
    for axis in AXES:
        size, options = getattr(one.dims, axis), one.way.options.get(axis, {})
        name = one.work.strategies.get(axis)
        named = {**({"name": name} if name else {}), "size": size, **options}
        if size > 1:
            axes.append(f"{axis}: {{{_options(named)}}}" if len(named) > 1 else f"{axis}: {size}")
    return f"parallelism: {{{', '.join(axes)}}}"


def _options(options: Mapping[str, Any]) -> str:
    """As YAML."""
    return ", ".join(f"{name}: {str(value).lower()}" for name, value in options.items())


def _beside(part: str, seconds: float, best: Predicted | None) -> str:
    if best is None:
        return ""
    of_best = getattr(best.time, part)
    if abs(seconds - of_best) < 0.005 * best.seconds:
        return ""
    return f"; {seconds - of_best:+.3g} s beside {layout_text(best.dims)}"


def notes(one: Predicted) -> Iterator[str]:
    """What is legal and may surprise."""
    dims, work = one.dims, one.work
    if dims.tp > work.gpu.node:
        yield f"tp {dims.tp} goes beyond the {work.gpu.node} GPUs of a node, whose exchanges are the most frequent"
    multiple = 2 * dims.cp * dims.tp if dims.cp > 1 else dims.tp
    if multiple > 1 and (one.way.rows * work.seq_len) % multiple:
        yield f"microbatches are padded to a multiple of {multiple} tokens"
    if dims.pp > 1 and one.way.step.microbatches < dims.pp:
        yield f"{one.way.step.microbatches} microbatches are fewer than the {dims.pp} ranks of the pipeline, which wait"


def refused_lines(work: Workload, refused: Sequence[tuple[Dims, Sequence[Problem]]]) -> Iterator[tuple[str, str]]:
    """Every layout that is refused, and why, briefly: of each the codes and the first problem."""
    for dims, problems in refused:
        codes = ", ".join(dict.fromkeys(problem.code for problem in problems))
        yield layout_text(dims), f"{codes}: {problems[0].what}"
