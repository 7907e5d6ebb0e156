"""The card of a prompt guard: what it was trained on, and what it does with texts that it never saw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from llama3.guarding.disguises import DISGUISES, disguised
from llama3.guarding.figures import separation, share_on_or_above
from llama3.guarding.prompt_model import PromptGuardModel
from llama3.guarding.prompt_rows import ClassifierKind, PromptRow, Side, Trusted
from llama3.release.markdown import number, table, text

NAMES: Mapping[ClassifierKind, tuple[str, str, str]] = {
    "prompt_guard": ("Prompt guard", "prompt attacks", "attacks"),
    "toxicity": ("Toxicity guard", "toxic texts", "toxic texts"),
}
"""Of each kind: what it is called, what it finds, and that in a table."""


def figures_of(
    guard: PromptGuardModel,
    thresholds: Mapping[Trusted, float],
    sides: Mapping[Side, Sequence[PromptRow]],
    elsewhere: Sequence[PromptRow],
    fpr: float,
    seed: int,
) -> dict[str, Any]:
    """Counts of the data, thresholds, and what was measured on the test side, in disguises, and elsewhere."""
    measured = _Measured(guard, thresholds)
    test = sides["test"]
    found: dict[str, Any] = {
        "data": {side: _counts(rows) for side, rows in sides.items()},
        "thresholds": dict(thresholds),
        "fpr": fpr,
        "test": measured.of(test, fpr, seed),
        "disguises": {name: measured.rates(test, partial(disguised, name=name, seed=seed)) for name in DISGUISES},
    }
    if elsewhere:
        found["elsewhere"] = measured.of(elsewhere, fpr, seed)
    return found


class _Measured:
    """What a guard with its thresholds makes of rows."""

    def __init__(self, guard: PromptGuardModel, thresholds: Mapping[Trusted, float]) -> None:
        self.guard, self.thresholds = guard, thresholds

    def of(self, rows: Sequence[PromptRow], fpr: float, seed: int) -> dict[str, Any]:
        """Separation where there are both kinds, the rates at the thresholds, and those of each source."""
        scores, is_attack = self._scores(rows), np.array([row.is_attack for row in rows])
        both = is_attack.any() and not is_attack.all()
        found = {"separation": separation(scores[is_attack], scores[~is_attack], fpr, seed)} if both else {}
        sources = sorted({row.source for row in rows})
        by_source = {source: self._rates(rows, scores, [row.source == source for row in rows]) for source in sources}
        return found | self._rates(rows, scores, [True] * len(rows)) | {"sources": by_source}

    def rates(self, rows: Sequence[PromptRow], change: Callable[[str], str]) -> dict[str, Any]:
        """Recall and false positives of changed texts at the thresholds."""
        return self._rates(rows, self._scores(rows, change), [True] * len(rows))

    def _scores(self, rows: Sequence[PromptRow], change: Callable[[str], str] = str) -> np.ndarray:
        return np.array([score.p for score in self.guard.scores([change(row.text) for row in rows])])

    def _rates(self, rows: Sequence[PromptRow], scores: np.ndarray, chosen: Sequence[bool]) -> dict[str, Any]:
        # How far above its own threshold a text lies: rows of both kinds of trust stand in one rate.
        levels = np.array([self.thresholds[row.trust or "user"] for row in rows])
        above, is_attack, mask = scores - levels, np.array([row.is_attack for row in rows]), np.array(chosen)
        parts = {"recall": above[mask & is_attack], "fpr": above[mask & ~is_attack]}
        return {name: share_on_or_above(part, 0.0) for name, part in parts.items() if len(part)}


def _counts(rows: Sequence[PromptRow]) -> dict[str, Any]:
    return {
        "attacks": sum(row.is_attack for row in rows),
        "harmless": sum(not row.is_attack for row in rows),
        "trust": dict(sorted(Counter(row.trust or "both" for row in rows).items())),
        "sources": dict(sorted(Counter(row.source for row in rows).items())),
    }


def card_text(figures: Mapping[str, Any]) -> str:
    """The card as Markdown."""
    return "\n".join(_lines(figures)).rstrip() + "\n"


def _lines(figures: Mapping[str, Any]) -> Iterator[str]:
    test = figures["test"]
    title, found, finds = NAMES[figures["kind"]]
    yield f"# {title}"
    yield ""
    yield f"A classifier of {found} with {figures['parameters']:,} parameters, which reads windows of "
    yield f"{figures['window']} tokens that overlap by {figures['overlap']}. It was trained on these rows from nothing."
    yield ""
    yield "## Data"
    yield ""
    head = ("side", finds, "harmless", "sources")
    rows = ((side, str(n["attacks"]), str(n["harmless"]), _named(n["sources"])) for side, n in figures["data"].items())
    yield from table(head, rows)
    yield ""
    yield "## Thresholds"
    yield ""
    yield f"Chosen on the side `calibrate`, for a share of {figures['fpr']:.2%} of harmless texts at most."
    yield ""
    yield from table(("text of", "threshold"), ((name, number(t)) for name, t in figures["thresholds"].items()))
    yield ""
    yield "## Texts of the same sources that it never saw"
    yield ""
    yield from _section(test, finds)
    yield "## In disguise"
    yield ""
    yield from table(
        ("disguise", "found", "false positives"), ((n, *_pair(r)) for n, r in figures["disguises"].items())
    )
    yield ""
    if "elsewhere" in figures:
        yield "## Texts from elsewhere"
        yield ""
        yield from _section(figures["elsewhere"], finds)
    yield "## Limits"
    yield ""
    yield f"It knows {finds} like those that it was shown. Whoever can ask it at will finds texts that pass."
    yield "False positives rise where texts are unlike those that it was trained and calibrated on."


def _section(found: Mapping[str, Any], finds: str) -> Iterator[str]:
    if "separation" in found:
        names = {"auc": "AUC", "recall": f"recall at {found['separation']['fpr']:.2%} false positives"}
        for key, name in names.items():
            value = found["separation"][key]
            yield f"- {name}: {value['value']:.4f} [{value['low']:.4f}, {value['high']:.4f}]"
    recall, fpr = _pair(found)
    yield f"- at the thresholds: {recall} of the {finds} are found, {fpr} of the harmless texts too"
    yield ""
    yield from table(
        ("source", "found", "false positives"), ((text(n), *_pair(r)) for n, r in found["sources"].items())
    )
    yield ""


def _pair(rates: Mapping[str, Any]) -> tuple[str, str]:
    return _rate(rates.get("recall")), _rate(rates.get("fpr"))


def _rate(rate: Mapping[str, float] | None) -> str:
    return "-" if rate is None else f"{rate['rate']:.1%} [{rate['low']:.1%}, {rate['high']:.1%}] of {rate['n']}"


def _named(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{text(name)} {count}" for name, count in counts.items())
