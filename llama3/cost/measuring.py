"""Measuring points on this machine, format by format, each for its share of the time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import groupby

from llama3.artifacts.progress import Display
from llama3.checkpoints.load import load_model
from llama3.checkpoints.quantized import quantize_model
from llama3.config.serving import KvDtype
from llama3.cost.here import decode_seconds, prompt_seconds
from llama3.cost.point import Point
from llama3.cost.question import Format, Question
from llama3.errors import DoesNotFit
from llama3.model.memory import give_back_freed_memory
from llama3.model.needs import size
from llama3.model.precision import DTYPES
from llama3.model.transformer import Transformer

SLOWER = 4
"""Times its prediction that a step may be expected to take: it is not begun where less time is left."""
PROMPTS_SHARE = 0.5
"""Share of the time left that a prompt may take: steps are what most time is spent in when a model serves."""
TIME_IS_OVER = "not measured: the time was over (--seconds)"


def measure(question: Question, points: Sequence[Point]) -> None:
    """Times the points that fit, until `question.seconds` are over; the others say why they have no figures."""
    with Display().task("measured", len(points)) as bar:
        for format, of_format in groupby(points, key=lambda point: point.format):
            own = list(of_format)
            fitting = [point for point in own if point.fits]
            why = _not_here(question, format, own[0].available)
            if why:
                for point in fitting:
                    point.why = why
            elif fitting:
                model = _load(question, format)
                end = time.monotonic() + question.seconds / len(question.formats)
                _measure(model, fitting, end, question.kv_dtype)
                del model
                give_back_freed_memory()
            bar.advance(len(own))


def _measure(model: Transformer, points: Sequence[Point], end: float, kv_dtype: KvDtype) -> None:
    """Context by context: its prompt once, for a prompt is read alone, then the steps of all batches."""
    for context in dict.fromkeys(point.context for point in points):
        own = [point for point in points if point.context == context]
        share = (end - time.monotonic()) * PROMPTS_SHARE
        is_short = own[0].prompt_predicted < share
        seconds = prompt_seconds(model, context - 1, share, kv_dtype) if is_short else None
        for point in own:
            point.prompt_measured = seconds
            if time.monotonic() + SLOWER * point.predicted > end:
                point.why = TIME_IS_OVER
                continue
            try:
                point.measured = decode_seconds(model, point.batch, context, kv_dtype)
            except DoesNotFit as error:  # more blocks than can be numbered
                point.why = f"not measured: {error.problems[0].what}"


def _not_here(question: Question, format: Format, available: float) -> str:
    """Why a format cannot be measured on this machine, or nothing."""
    if format.scheme is not None and (problems := format.scheme.supports(question.device)):
        return f"not measured: {problems[0].what}"
    # While it is quantized there are the model in bfloat16 and, in float32, what is quantized.
    needed = format.footprint.resident + (0 if question.model.scheme else 6 * format.footprint.quantized)
    if needed > available:
        return f"not measured: quantizing takes {size(needed)}, {size(int(available))} there"
    return ""


def _load(question: Question, format: Format) -> Transformer:
    assert question.model.path is not None
    loaded = load_model(question.model.path, dtype=DTYPES[format.footprint.dtype], device=question.device)
    if format.scheme is not None and question.model.scheme is None:
        quantize_model(loaded, format.scheme)
    return loaded.requires_grad_(False)
