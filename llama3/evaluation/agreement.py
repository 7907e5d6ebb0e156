"""Do annotators agree? Percent, Cohen's kappa of every two, Krippendorff's alpha of all, with 95 % intervals.

An item is judged on a scale of nine places: 4 (the first answer is significantly better) to -4 (the second is), 0 where
both are alike. Which answer is better is a place on a scale of three. Intervals draw whole items with replacement.
Legend: N items, V values, B resamples.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from llama3.annotating.items import PairItem
from llama3.annotating.judgements import SKIP, STRENGTHS, TIE, Annotation
from llama3.evaluation.intervals import bootstrap, wilson

SCALE = tuple(range(-len(STRENGTHS), len(STRENGTHS) + 1))
SIDES = (-1, 0, 1)

Judged = Mapping[str, Mapping[str, int]]
"""Values of items by annotator and item."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """A coefficient over `n` items with its 95 % interval. None, and all of what it can be, where it says nothing:
    there is no item, or all judgements are the same."""

    value: float | None
    low: float
    high: float
    n: int

    def to_json(self) -> dict[str, Any]:
        """The fields as plain data."""
        return asdict(self)


def place_of(judgement: Annotation) -> int | None:
    """Of a judgement on the scale; None where it was skipped."""
    if judgement.verdict == SKIP:
        return None
    if judgement.verdict == TIE:
        return 0
    place = len(STRENGTHS) - STRENGTHS.index(judgement.verdict)
    return place if judgement.chosen == 0 else -place


def places(said: Mapping[str, Mapping[str, Annotation]]) -> dict[str, dict[str, int]]:
    """What annotators said of pairs as places on one scale; what they skipped is left out."""
    return {
        name: {item: place for item, one in of.items() if (place := place_of(one)) is not None}
        for name, of in said.items()
    }


def agreement_figures(places: Judged) -> dict[str, Any]:
    """All figures as plain data. `percent` is the share of equal sides among every two judgements of an item, `side`
    and `strength` are alphas (nominal, ordinal), `kappa` has every two annotators."""
    sides = {name: {item: _sign(place) for item, place in of.items()} for name, of in places.items()}
    two = {
        f"{one}, {other}": cohens_kappa(sides[one], sides[other]).to_json()
        for one, other in itertools.combinations(sorted(places), 2)
    }
    return {
        "judged": {name: len(of) for name, of in sorted(places.items())},
        "percent": percent(sides).to_json(),
        "side": krippendorffs_alpha(sides, SIDES, ordinal=False).to_json(),
        "strength": krippendorffs_alpha(places, SCALE, ordinal=True).to_json(),
        "kappa": two,
    }


def percent(judged: Judged) -> Agreement:
    """The share of equal values among every two judgements of an item."""
    rows = []
    for values in _by_item(judged):
        counts = np.unique(values, return_counts=True)[1]
        rows.append((float((counts * (counts - 1)).sum()), float(len(values) * (len(values) - 1))))
    return _estimate(np.array(rows).reshape(-1, 2), lambda sums_B2: sums_B2[:, 0] / sums_B2[:, 1], 0.0)


def krippendorffs_alpha(judged: Judged, scale: Sequence[int], *, ordinal: bool) -> Agreement:
    """Krippendorff's alpha (Krippendorff 2018, chapter 12) over the items with two judgements or more; nominal, or
    `ordinal` on the places of `scale`."""
    size, place = len(scale), {value: index for index, value in enumerate(scale)}
    rows = np.zeros((0, size * size))
    for values in _by_item(judged):
        counts_V = np.bincount([place[value] for value in values], minlength=size)
        pairs_VV = np.outer(counts_V, counts_V) - np.diag(counts_V)
        rows = np.concatenate([rows, pairs_VV.reshape(1, -1) / (len(values) - 1)])

    def alpha_B(sums_BC: np.ndarray) -> np.ndarray:
        seen_BVV = sums_BC.reshape(-1, size, size)
        counts_BV = seen_BVV.sum(2)
        total_B = counts_BV.sum(1)
        if ordinal:
            middle_BV = counts_BV.cumsum(1) - counts_BV / 2
            far_BVV = (middle_BV[:, :, None] - middle_BV[:, None]) ** 2
        else:
            far_BVV = np.broadcast_to(1.0 - np.eye(size), seen_BVV.shape)
        observed_B = (seen_BVV * far_BVV).sum((1, 2))
        expected_B = (counts_BV[:, :, None] * counts_BV[:, None] * far_BVV).sum((1, 2))
        return 1 - (total_B - 1) * observed_B / expected_B

    return _estimate(rows, alpha_B, -1.0)


def cohens_kappa(one: Mapping[str, int], other: Mapping[str, int]) -> Agreement:
    """Cohen's kappa (1960) of two annotators over the items that both judged, by which answer is better."""
    both = sorted(one.keys() & other.keys())
    size = len(SIDES)
    rows = np.zeros((len(both), size * size))
    for row, item in zip(rows, both, strict=True):
        row[SIDES.index(one[item]) * size + SIDES.index(other[item])] = 1

    def kappa_B(sums_BC: np.ndarray) -> np.ndarray:
        cells_BVV = sums_BC.reshape(-1, size, size) / sums_BC.sum(1)[:, None, None]
        agree_B = np.trace(cells_BVV, axis1=1, axis2=2)
        chance_B = (cells_BVV.sum(1) * cells_BVV.sum(2)).sum(1)
        return (agree_B - chance_B) / (1 - chance_B)

    return _estimate(rows, kappa_B, -1.0)


def wins(items: Mapping[str, PairItem], said: Mapping[str, Mapping[str, Annotation]]) -> list[dict[str, Any]]:
    """How often the answers of one model were preferred to another's, of the judgements that prefer one, with Wilson's
    interval; one row for every two models (paper 5.3)."""
    counts = Counter[tuple[str, str]]()
    for of in said.values():
        for name, one in of.items():
            models = [answer.model for answer in items[name].answers]
            if one.chosen is not None and models[0] != models[1]:
                counts[models[one.chosen], models[1 - one.chosen]] += 1
    rows = []
    for model, other in sorted({(min(two), max(two)) for two in counts}):
        won, lost = counts[model, other], counts[other, model]
        rows.append({"model": model, "other": other, **wilson(won, won + lost).to_json()})
    return rows


def _estimate(rows_NC: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], least: float) -> Agreement:
    """Of the rows and of resamples. A resample in which all judgements are the same counts as full agreement."""
    if len(rows_NC) == 0:
        return Agreement(None, least, 1.0, 0)

    def defined_B(sums_BC: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            found_B = statistic(sums_BC)
        return np.where(np.isfinite(found_B), found_B, 1.0)

    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(statistic(rows_NC.sum(0, keepdims=True))[0])
    if not math.isfinite(value):
        return Agreement(None, least, 1.0, len(rows_NC))
    low, high = bootstrap(rows_NC, defined_B)
    return Agreement(value, min(low, value), max(high, value), len(rows_NC))


def _by_item(judged: Judged) -> list[list[int]]:
    """The values of every item that two annotators or more have judged."""
    items = sorted({item for of in judged.values() for item in of})
    found = [[of[item] for of in judged.values() if item in of] for item in items]
    return [values for values in found if len(values) > 1]


def _sign(place: int) -> int:
    return (place > 0) - (place < 0)
