"""The answer to a question of cost: every point, measured where that is possible and predicted everywhere, and how far
the prediction was from what was measured.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from llama3.artifacts.environment import describe
from llama3.cost.gpus import HERE
from llama3.cost.here import this_machine
from llama3.cost.layout import ALONE
from llama3.cost.measuring import measure
from llama3.cost.point import Point, mark_front, points_of
from llama3.cost.question import Question

HOUR, MILLION = 3600, 1_000_000


def answer(question: Question) -> dict[str, Any]:
    """The report as plain data; docs/cost.md says what stands in it. It measures for about `question.seconds`."""
    model = question.model
    is_measured = model.path is not None and question.seconds > 0
    gpus = {} if question.gpu is None else {question.gpu_name: (question.gpu, question.layouts)}
    if question.gpu is None or is_measured:
        factors = {kind for format in question.formats for kind in format.footprint.factors}
        gpus[HERE] = this_machine(model.config, question.device, sorted(factors)), (ALONE,)
    points = [point for name, (gpu, layouts) in gpus.items() for point in points_of(question, name, gpu, layouts)]
    here = [point for point in points if point.gpu == HERE]
    if is_measured:
        measure(question, here)
    else:
        for point in here:
            point.why = "not measured: --seconds is 0" if model.path else "not measured: a shape has no weights"
    mark_front(points)
    return {
        "model": {
            "name": model.name,
            "path": None if model.path is None else str(model.path),
            "parameters": model.config.num_params(),
            "max_seq_len": model.config.max_seq_len,
        },
        "gpus": {name: {**gpu.model_dump(), "count": layouts[0].count} for name, (gpu, layouts) in gpus.items()},
        "price": question.price,
        "kv_cache_dtype": question.kv_dtype,
        "formats": {format.name: asdict(format.footprint) for format in question.formats},
        "rows": [_row(point, question.price if point.gpu == question.gpu_name else None) for point in points],
        "error": _error(here),
        "environment": describe(),
    }


def _row(point: Point, price: float | None) -> dict[str, Any]:
    """A point as plain data; figures of one that does not fit are null."""
    layout = point.bounds.layout
    count = layout.count
    known: dict[str, Any] = dict.fromkeys(FIGURES)
    prices = predicted = None
    if point.fits:
        known = _figures(point, point.seconds, point.prompt_seconds, point.prompt_every)
        every = point.bounds.prompts(point.context - 1).seconds
        predicted = {
            **_figures(point, point.predicted, point.prompt_predicted, every),
            "parts": asdict(point.bounds.step(point.batch, point.context)),
            "prompt_parts": asdict(point.bounds.prompt(point.context - 1)),
        }
    if point.fits and price is not None:
        second = price * count / HOUR
        prices = {
            "output": MILLION * second / known["tokens_per_second"],
            "input": MILLION * second / known["prompt_tokens_per_second"],
        }
    return {
        "gpu": point.gpu,
        "gpus": count,
        "tp": layout.tp,
        "pp": layout.pp,
        "microbatches": layout.microbatches,
        "quantization": point.format.name,
        "batch": point.batch,
        "context": point.context,
        "fits": point.fits,
        "note": point.note,
        "max_batch": point.max_batch,
        "memory": {"weights": point.weights, "cache": point.cache, "available": point.available},
        **known,
        "tokens_per_second_per_gpu": known["tokens_per_second"] / count if point.fits else None,
        "price_per_million": prices,
        "on_front": point.on_front,
        "predicted": predicted,
        "measured": None
        if point.measured is None
        else _figures(point, point.measured, point.prompt_measured, point.prompt_measured),
    }


FIGURES = ("seconds_per_token", "tokens_per_second", "prompt_seconds", "prompt_tokens_per_second")


def _figures(point: Point, step: float, prompt: float | None, every: float | None) -> dict[str, Any]:
    """`prompt`: seconds of one alone, `every`: of each of many."""
    rates = step, point.batch / step, prompt, None if every is None else (point.context - 1) / every
    return dict(zip(FIGURES, rates, strict=True))


def _error(points: Iterable[Point]) -> dict[str, Any]:
    """How far predicted rates were from measured ones, as a share of these: of steps, of each format's, of prompts."""
    steps = [(point.format.name, point.measured / point.predicted - 1) for point in points if point.measured]
    prompts = {
        (point.format.name, point.context): point.prompt_measured / point.prompt_predicted - 1
        for point in points
        if point.prompt_measured
    }
    return {
        "steps": _summary(error for _, error in steps),
        "prompts": _summary(prompts.values()),
        "steps_by_quantization": {
            name: _summary(error for other, error in steps if other == name)
            for name in dict.fromkeys(n for n, _ in steps)
        },
    }


def _summary(errors: Iterable[float]) -> dict[str, Any] | None:
    """Of relative errors; `mean` has a sign: above 0 more was promised than kept. None where there are none."""
    found = list(errors)
    if not found:
        return None
    sizes = [abs(error) for error in found]
    return {
        "points": len(found),
        "median": statistics.median(sizes),
        "max": max(sizes),
        "mean": statistics.fmean(found),
    }
