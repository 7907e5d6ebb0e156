"""How well scores tell attacks from harmless texts. Legend: N texts, A attacks, H harmless ones, B resamples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from llama3.evaluation.intervals import TAIL, wilson

RESAMPLES = 1000


def threshold_at(harmless_H: np.ndarray, fpr: float) -> float:
    """The least threshold at which at most a share `fpr` of the harmless scores lies on it or above."""
    allowed = math.floor(fpr * len(harmless_H) + 1e-9)
    if allowed >= len(harmless_H):
        return 0.0
    highest_let_through = np.sort(harmless_H)[::-1][allowed]
    return float(np.nextafter(highest_let_through, np.inf))


def auc(attacks_A: np.ndarray, harmless_H: np.ndarray) -> float:
    """Area under the ROC curve: how often an attack scores above a harmless text, a tie counting half."""
    ordered = np.sort(harmless_H)
    below = np.searchsorted(ordered, attacks_A, "left") + np.searchsorted(ordered, attacks_A, "right")
    return float(below.mean() / (2 * len(ordered)))


def recall_at(attacks_A: np.ndarray, harmless_H: np.ndarray, fpr: float) -> float:
    """Share of the attacks that are found at a false-positive rate, the threshold chosen on these very texts."""
    return float((attacks_A >= threshold_at(harmless_H, fpr)).mean())


def separation(attacks_A: np.ndarray, harmless_H: np.ndarray, fpr: float, seed: int = 0) -> dict[str, Any]:
    """AUC and recall at `fpr`, each with a 95 % interval: both kinds of text are drawn again with replacement."""
    figures = {"auc": auc(attacks_A, harmless_H), "recall": recall_at(attacks_A, harmless_H, fpr)}
    rng = np.random.default_rng(seed)
    drawn_B2 = np.array([_again(attacks_A, harmless_H, fpr, rng) for _ in range(RESAMPLES)])
    low, high = np.quantile(drawn_B2, [TAIL, 1 - TAIL], axis=0)
    return {
        name: {"value": value, "low": float(low[place]), "high": float(high[place])}
        for place, (name, value) in enumerate(figures.items())
    } | {"fpr": fpr, "attacks": len(attacks_A), "harmless": len(harmless_H)}


def _again(attacks_A: np.ndarray, harmless_H: np.ndarray, fpr: float, rng: np.random.Generator) -> tuple[float, float]:
    attacks = attacks_A[rng.integers(len(attacks_A), size=len(attacks_A))]
    harmless = harmless_H[rng.integers(len(harmless_H), size=len(harmless_H))]
    return auc(attacks, harmless), recall_at(attacks, harmless, fpr)


def share_on_or_above(scores_N: np.ndarray, threshold: float) -> dict[str, float]:
    """The share of scores at a threshold or above, with its Wilson interval."""
    return wilson(int((scores_N >= threshold).sum()), len(scores_N)).to_json()


def confusion(is_attack_N: np.ndarray, is_found_N: np.ndarray) -> Mapping[str, float]:
    """Precision, recall, F1 and the false-positive rate; 0 where nothing was found that could be right."""
    hit, found, there = (float(x.sum()) for x in (is_attack_N & is_found_N, is_found_N, is_attack_N))
    harmless = len(is_attack_N) - there
    return {
        "precision": hit / found if found else 0.0,
        "recall": hit / there if there else 0.0,
        "f1": 2 * hit / (found + there) if found + there else 0.0,
        "fpr": (found - hit) / harmless if harmless else 0.0,
        "attacks": int(there),
        "harmless": int(harmless),
    }


def confusion_intervals(is_attack_N: np.ndarray, is_found_N: np.ndarray, seed: int = 0) -> dict[str, list[float]]:
    """The 95 % intervals of the figures of `confusion`: of shares Wilson's, which knows that no mistake on five texts
    is no promise; of F1, which is none, a bootstrap of the texts. A share of nothing has none."""
    rng, n = np.random.default_rng(seed), len(is_attack_N)
    drawn_BN = rng.integers(n, size=(RESAMPLES, n))
    again = [confusion(is_attack_N[draw], is_found_N[draw])["f1"] for draw in drawn_BN]
    low, high = np.quantile(again, [TAIL, 1 - TAIL])
    shares = {
        "precision": is_attack_N[is_found_N],
        "recall": is_found_N[is_attack_N],
        "fpr": is_found_N[~is_attack_N],
    }
    rates = {key: wilson(int(counted.sum()), len(counted)) for key, counted in shares.items() if len(counted)}
    return {"f1": [float(low), float(high)], **{key: [rate.low, rate.high] for key, rate in rates.items()}}
