"""The guard against collapse: text of a model that is too alike, or too large a part of all text, is told before
anything is trained on it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from llama3.artifacts.files import finite
from llama3.config.synthesis import CollapseSection
from llama3.data.variety import Diversity, diversity


def collapse_figures(made: Mapping[str, Sequence[str]], read: Mapping[str, Sequence[str]]) -> dict[str, dict[str, Any]]:
    """By task the diversity of what was `made` and of the passages that were `read` for it, text for text, the longer
    of both cut to the words of the shorter: only equal amounts can be compared."""
    return {task: _compared(texts, read[task]) for task, texts in made.items()}


def _compared(made: Sequence[str], read: Sequence[str]) -> dict[str, Any]:
    pairs = [_as_long(one.split(), other.split()) for one, other in zip(made, read, strict=True)]
    both = diversity([one for one, _ in pairs]), diversity([other for _, other in pairs])
    return {name: _plain(found) for name, found in zip(("made", "read"), both, strict=True)}


def _as_long(one: list[str], other: list[str]) -> tuple[str, str]:
    length = min(len(one), len(other))
    return " ".join(one[:length]), " ".join(other[:length])


def _plain(found: Diversity) -> dict[str, Any]:
    figures: dict[str, Any] = finite(asdict(found))
    return figures


def collapse_signs(figures: Mapping[str, Mapping[str, Any]], share: float, limits: CollapseSection) -> list[str]:
    """What is beyond the limits, a sentence each. `share`: bytes of synthetic text among all text."""
    return [*_of_share(share, limits), *(sign for task, row in figures.items() for sign in _of_task(task, row, limits))]


def _of_share(share: float, limits: CollapseSection) -> Iterator[str]:
    if share > limits.most_share:
        yield f"{100 * share:.1f} % of the text that is read is synthetic (most_share {limits.most_share:g})"


def _of_task(task: str, row: Mapping[str, Any], limits: CollapseSection) -> Iterator[str]:
    made, read = row["made"], row["read"]
    kept = {"distinct": (made["distinct"][2], read["distinct"][2]), "entropy": (made["entropy"], read["entropy"])}
    for name, (ours, theirs) in kept.items():
        least = getattr(limits, f"least_{name}")
        if ours is not None and theirs and ours / theirs < least:
            yield f"{task}: {name} of 3-grams {ours:.3f}, of the passages {theirs:.3f} (least_{name} {least:g} of it)"
    ours, theirs = made["self_bleu"], read["self_bleu"]
    if ours is not None and theirs is not None and ours - theirs > limits.most_self_bleu:
        limit = f"most_self_bleu {limits.most_self_bleu:g} above it"
        yield f"{task}: self-BLEU {ours:.3f}, of the passages {theirs:.3f} ({limit})"
