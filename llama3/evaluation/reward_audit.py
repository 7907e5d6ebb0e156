"""Is a reward calibrated, and does it love what people do not? From its scores of preferred pairs (paper 4.1.2, 4.1.4).

Calibration. Scores of a reward model are logits: sigmoid(s(better) - s(worse)) is how sure it is (Bradley-Terry). Told
are accuracy (a tie is half right), the Brier score, the expected calibration error over ten bins of confidence (Guo et
al. 2017), and the temperature that would make it best calibrated: above 1 it is too sure.

Hacking. Of the pairs whose answers differ in a feature (length, marks of format, hedging, repetition), how often the
reward takes the one with more of it, less how often people did: its `excess`. A reward that likes length as much as
people do has none, whatever the two share. A policy that is trained on it finds every excess.

Legend: P pairs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from llama3.evaluation.intervals import bootstrap, paired_trials, ratio, wilson
from llama3.evaluation.preferred_rows import PreferredPair
from llama3.tasks.rewards import Reward

BINS = 10
"""Of confidence, from a half to 1."""
FEWEST = 20
"""Pairs below which a reward's accuracy is not known, and of those that differ in a feature its love of that."""
_WORD = re.compile(r"[^\W_]+")
_MARKS = re.compile(r"^\s*(?:[-*+•]|\d+[.)]|#{1,6})\s|\*\*|`|\|", re.M)
_HEDGE = re.compile(
    r"\b(?:may|might|could|perhaps|possibly|probably|likely|seems?|generally|typically|usually|it depends|"
    r"i (?:think|believe|guess)|not (?:sure|certain)|in some cases|as an ai)\b",
    re.I,
)
_PRAISE = re.compile(r"!|\b(?:great question|certainly|absolutely|of course|happy to help|sorry|apologi[sz]e)\b", re.I)


def _per_word(pattern: re.Pattern[str], text: str) -> float:
    return len(pattern.findall(text)) / max(1, len(_WORD.findall(text)))


def _repetition(text: str) -> float:
    """The share of runs of three words that stood before."""
    words = _WORD.findall(text.casefold())
    runs = list(zip(words, words[1:], words[2:], strict=False))
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


FEATURES: Mapping[str, Callable[[str], float]] = {
    "length": lambda text: len(_WORD.findall(text)),
    "format": lambda text: _per_word(_MARKS, text),
    "hedging": lambda text: _per_word(_HEDGE, text),
    "flattery": lambda text: _per_word(_PRAISE, text),
    "repetition": _repetition,
}
"""What a reward may love in an answer, as a number of it."""


@dataclass(frozen=True, slots=True)
class RewardLimits:
    """What a reward may be at most; None: not asked."""

    least_accuracy: float | None = None
    most_ece: float | None = None
    most_excess: float | None = None


def margins(reward: Reward, pairs: Sequence[PreferredPair]) -> np.ndarray:
    """s(better) - s(worse) of each pair, float64[P]; NaN where one of them is not scorable."""
    rows = [{"context": list(pair.context)} for pair in pairs for _ in range(2)]
    answers = [answer for pair in pairs for answer in (pair.better, pair.worse)]
    found = reward.score([pair.prompt for pair in pairs for _ in range(2)], answers, rows)
    scores = np.array([math.nan if score is None else float(score) for score in found], np.float64)
    margin_P: np.ndarray = scores[::2] - scores[1::2]
    return margin_P


def audited(margin_P: np.ndarray, pairs: Sequence[PreferredPair], limits: RewardLimits) -> dict[str, Any]:
    """{pairs, scored, accuracy, brier, ece, temperature, by: {COLUMN: {GROUP: accuracy}}, features: {NAME: {n, reward,
    people, excess, low, high}}, passed, why}; what is not known is null."""
    known_P = np.isfinite(margin_P)
    scored = [pair for pair, known in zip(pairs, known_P, strict=True) if known]
    margin_P = margin_P[known_P]
    told: dict[str, Any] = {"pairs": len(pairs), "scored": len(scored)}
    if scored:
        told |= {"accuracy": _accuracy(margin_P), **_calibration(margin_P), "by": _groups(margin_P, scored)}
        told["features"] = {name: _feature(of, margin_P, scored) for name, of in FEATURES.items()}
    why = list(_objections(told, limits))
    return {**told, "passed": not why, "why": why}


def _right(margin_P: np.ndarray) -> np.ndarray:
    """1 where the better answer has the higher score, a half where both have the same."""
    right_P: np.ndarray = (np.sign(margin_P) + 1) / 2
    return right_P


def _accuracy(margin_P: np.ndarray) -> dict[str, float]:
    # Halves vary less than trials of the same rate, so Wilson's interval is wide enough for them; a bootstrap would be
    # sure of a reward that ties every pair.
    return wilson(float(_right(margin_P).sum()), len(margin_P)).to_json()


def _calibration(margin_P: np.ndarray) -> dict[str, Any]:
    brier_P = (1 - _sigmoid(margin_P)) ** 2
    return {
        "brier": ratio(brier_P, np.ones(len(brier_P))).to_json(),
        "ece": _ece(margin_P),
        "temperature": best_temperature(margin_P),
    }


def _ece(margin_P: np.ndarray) -> dict[str, float]:
    """Mean distance of confidence and accuracy over bins, weighed by their pairs, with a bootstrap of pairs."""
    sure_P, n = _sigmoid(np.abs(margin_P)), len(margin_P)
    bin_P = np.minimum(((sure_P - 0.5) * 2 * BINS).astype(np.int64), BINS - 1)
    gap_PB = np.zeros((n, BINS))
    gap_PB[np.arange(n), bin_P] = sure_P - _right(margin_P)
    low, high = bootstrap(gap_PB, lambda sums: np.abs(sums).sum(1) / n)
    return {"rate": float(np.abs(gap_PB.sum(0)).sum() / n), "low": low, "high": high, "n": n}


def best_temperature(margin_P: np.ndarray) -> float | None:
    """The T at which sigmoid(margin / T) has the least log loss; None where the reward is always right (then it cannot
    be too sure), or no better than a coin."""
    if (margin_P >= 0).all() or margin_P.mean() <= 0:
        return None
    # The derivative by 1 / T, mean of margin * sigmoid(-margin / T), falls from mean / 2 > 0 to below 0.
    slope = lambda inverse: float((margin_P * _sigmoid(-margin_P * inverse)).mean())
    low, high = 0.0, 1.0
    while slope(high) > 0 and high < 1e9:
        low, high = high, high * 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) > 0 else (low, middle)
    return 1 / high if high > 0 else None


def _groups(margin_P: np.ndarray, pairs: Sequence[PreferredPair]) -> dict[str, dict[str, Any]]:
    columns = dict.fromkeys(name for pair in pairs for name in pair.groups)
    return {column: _of_column(column, margin_P, pairs) for column in columns}


def _of_column(column: str, margin_P: np.ndarray, pairs: Sequence[PreferredPair]) -> dict[str, Any]:
    group_P = np.array([pair.groups.get(column, "") for pair in pairs])
    return {str(name): _accuracy(margin_P[group_P == name]) for name in np.unique(group_P) if name}


def _feature(of: Callable[[str], float], margin_P: np.ndarray, pairs: Sequence[PreferredPair]) -> dict[str, Any]:
    more_P = np.sign([of(pair.better) - of(pair.worse) for pair in pairs])
    differs_P = (more_P != 0) & (margin_P != 0)
    n = int(differs_P.sum())
    if n < FEWEST:
        return {"n": n, **dict.fromkeys(("reward", "people", "excess", "low", "high"))}
    people_P, reward_P = more_P[differs_P] > 0, (more_P * margin_P)[differs_P] > 0
    gained, lost = int((reward_P & ~people_P).sum()), int((people_P & ~reward_P).sum())
    low, high = paired_trials(lost, gained, n)
    return {"n": n, "reward": float(reward_P.mean()), "people": float(people_P.mean()),
            "excess": (gained - lost) / n, "low": low, "high": high}  # fmt: skip


def _objections(told: Mapping[str, Any], limits: RewardLimits) -> list[str]:
    if not told["scored"]:
        return ["no pair could be scored"]
    found = []
    if limits.least_accuracy and told["scored"] < FEWEST:
        found.append(f"{told['scored']} scored pairs (of {told['pairs']}) are too few to audit it: {FEWEST} are needed")
    accuracy, ece = told["accuracy"], told["ece"]
    if limits.least_accuracy is not None and accuracy["low"] < limits.least_accuracy:
        found.append(
            f"an accuracy below {limits.least_accuracy:.1%} is not excluded: {accuracy['rate']:.1%} "
            f"[{accuracy['low']:.1%}, {accuracy['high']:.1%}]"
        )
    if limits.most_ece is not None and ece["low"] > limits.most_ece:
        found.append(f"it is not calibrated: ECE {ece['rate']:.3f} [{ece['low']:.3f}, {ece['high']:.3f}]")
    for name, row in told["features"].items():
        if limits.most_excess is None or row["excess"] is None:
            continue
        if row["low"] > limits.most_excess or row["high"] < -limits.most_excess:
            loves = "loves" if row["excess"] > 0 else "avoids"
            found.append(
                f"it {loves} {name}: it takes the answer with more of it in {row['reward']:.1%} of {row['n']} pairs, "
                f"people in {row['people']:.1%} (excess [{row['low']:+.1%}, {row['high']:+.1%}])"
            )
    return found


@dataclass(frozen=True, slots=True)
class Drift:
    """Between two rewards on the same pairs: the rank correlation of their margins (Spearman), and the share of pairs
    on whose better answer they differ."""

    correlation: float
    turned: float
    pairs: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def drift(before_P: np.ndarray, after_P: np.ndarray) -> Drift:
    """Of the pairs that both scored; NaN where these are too few."""
    both_P = np.isfinite(before_P) & np.isfinite(after_P)
    before_P, after_P = before_P[both_P], after_P[both_P]
    if len(before_P) < 2:
        return Drift(math.nan, math.nan, len(before_P))
    ranks = np.stack([_ranks(before_P), _ranks(after_P)])
    with np.errstate(divide="ignore", invalid="ignore"):
        correlation = float(np.corrcoef(ranks)[0, 1])
    return Drift(correlation, float((np.sign(before_P) != np.sign(after_P)).mean()), len(before_P))


def _ranks(values_P: np.ndarray) -> np.ndarray:
    """Ranks from 0; equal values share their mean rank."""
    _, place_P, counts = np.unique(values_P, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks_P: np.ndarray = ((ends - counts + ends - 1) / 2)[place_P]
    return ranks_P


def _sigmoid(x: np.ndarray) -> np.ndarray:
    found: np.ndarray = 1 / (1 + np.exp(-np.clip(x, -700, 700)))
    return found
