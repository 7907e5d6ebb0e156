"""The audit: has a model lost anything against the one it was made from? Stage `audit`, from two evaluations.

Each suite is compared item by item (the same tasks, prompts or documents before and after). It passes when the lower
end of the 95 % interval of its paired change lies above minus its margin: non-inferiority, so a suite that is too small
to tell fails. The interval is exact for shares of success, a studentised bootstrap for other figures. A release needs
every suite to pass, which keeps the error rate of the whole at that of one suite (an intersection-union test, Berger
1982). `python -m llama3.evaluation.audit_errors` tells that rate.

A suite of several families also fails where one of them shows a loss (its interval lies below 0) of more than the
margin: gains elsewhere do not make up for it. Most families are too small to exclude a loss, so none need do that.

It fails closed. A suite that is missing, that raised, that measured other items, too few of them or no finite
numbers has failed, and says why. Legend: N items.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from llama3.artifacts import Artifact, Report, StageOutput, stage
from llama3.artifacts.files import write_json_atomic
from llama3.config.audits import SafetyGateSection
from llama3.config.schema import Config
from llama3.errors import GateFailed
from llama3.evaluation.intervals import (
    ENOUGH_DOCUMENTS,
    Rate,
    are_trials,
    enough_trials,
    paired_trials,
    ratio,
    studentised,
)
from llama3.evaluation.kept_suites import RESULTS, SAMPLES
from llama3.evaluation.safety_gate import gate_rows, unreachable
from llama3.evaluation.stages import CONDITIONS, SCORE_BETTER, SCORED, UNPAIRED, evaluate
from llama3.evaluation.told_changes import told_interval, told_size

NO_AUDIT = GateFailed.declare("L3-AUD-001", "an audit is needed, this was made by the stage {stage!r}")
OTHER_MODEL = GateFailed.declare(
    "L3-AUD-002",
    "the audit is of the model {audited}, not of {wanted}",
    fix="evaluate and audit the model that is released",
)
NOTHING_COMPARED = GateFailed.declare("L3-AUD-003", "the audit compared nothing", why="{why}")
SUITE_FAILED = GateFailed.declare(
    "L3-AUD-004",
    "the audit failed",
    why="{why}",
    fix="train less or on more varied data, evaluate more items where these are too few to tell, widen audit.margins "
    "if the loss is acceptable, or take a suite that need not improve out of audit.must_improve",
)
NOT_AUDITABLE = GateFailed.declare(
    "L3-AUD-005",
    "no audit could pass, so this model is not trained on",
    why="{why}",
    fix="evaluate more items (evaluation.limit, more held-out rows), or widen audit.margins; the same command measures "
    "a suite that failed again",
)
NOT_MET = GateFailed.declare(
    "L3-AUD-006",
    "the audit failed",
    why="{why}",
    fix="train on safety data with borderline twins, set the guards otherwise (llama3 evaluate MODEL --suite safety "
    "shows the front), ask more prompts where these are too few to tell, or widen audit.safety",
)

EXAMPLES = 2
"""Items shown of each suite among those that got worse, and among those that got better."""


class AuditOptions(BaseModel):
    """Options of the stage."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    suites: list[str]
    margin: float
    relative_margin: float
    margins: dict[str, float]
    must_improve: list[str]
    seed: int
    safety: SafetyGateSection | None = None

    @classmethod
    def of(cls, config: Config) -> AuditOptions:
        """From the whole config."""
        return cls(
            suites=[slot.label for slot in config.evaluation.tasks],
            **config.audit.model_dump(),
            seed=config.run.seed,
        )


@dataclass(frozen=True, slots=True)
class Suite:
    """One suite of one model: its rows by item, or the error that stopped it."""

    better: str
    rows: Mapping[str, Mapping[str, Any]]
    error: str = ""
    scored: str = ""
    """What the share of its scores is called, where it is not the suite's own figure."""

    def column(self, name: str, default: Any = math.nan) -> np.ndarray:
        """A number of every row, float64[N]; NaN where it is none."""
        values = [row.get(name, default) for row in self.rows.values()]
        return np.array([v if isinstance(v, int | float) else math.nan for v in values], np.float64)


class _Incomparable(Exception):  # noqa: N818
    """A suite that cannot be compared."""


@stage(output="report")
def audit(before: Report, after: Report, *, options: AuditOptions, out: StageOutput) -> None:
    """Compare the evaluations `before` and `after`: `audit.json`, and its figures as metrics.

    {passed, faults: [why nothing can be compared], models: {before, after}, gates: {vr, frr} of `audit.safety` where it
    is there, suites: {NAME: {better, scored, comparable, before: {rate, low, high, n}, after, paired_low, paired_high,
    margin, families, passed, why}}}; a figure that is not known is null, as are both ends of a change that is not
    `comparable`: what was measured is told all the same. The paired
    change is positive where the model got better: in points for rates, as a share for costs. `families` has the
    change of each family of the suite, where there are several: {NAME: {n, change, paired_low, paired_high}}.
    """
    faults = list(different_conditions(before, after))
    suites: dict[str, dict[str, Any]] = {}
    examples: dict[str, list[dict[str, Any]]] = {}
    gates: dict[str, Any] = {}
    if not faults:
        if options.safety is not None:
            suite = options.safety.suite
            gates = gate_rows(_figures(before, suite), _figures(after, suite), options.safety)
        was, now = read_suites(before), read_suites(after)
        for name in dict.fromkeys([*options.suites, *was, *now]):
            suites[name] = compare(name, was.get(name), now.get(name), options)
            examples[name] = changed(was[name], now[name]) if suites[name]["after"] else []
        if not suites:
            faults.append("no suite was evaluated")
    figures = {
        "passed": not faults and all(row["passed"] for row in (*suites.values(), *gates.values())),
        "faults": faults,
        "models": {"before": _model(before), "after": _model(after)},
        "suites": suites,
        "gates": gates,
    }
    write_json_atomic(out.path / "audit.json", {**figures, "examples": examples})
    out.metrics.update(figures)


def require_passed(found: Artifact, model: Artifact | None = None) -> None:
    """The gate: nothing happens for a passed audit (of `model`, where given). Raises GateFailed naming each failure."""
    figures = found.metrics
    where = str(found.location)
    if found.manifest.stage != audit.name:
        raise NO_AUDIT(where, stage=found.manifest.stage)
    if model is not None and figures["models"]["after"] != model.hash:
        raise OTHER_MODEL(where, audited=str(figures["models"]["after"])[:12], wanted=model.hash[:12])
    problems = [NOTHING_COMPARED.problem(where, why=why) for why in figures["faults"]]
    problems += [
        SUITE_FAILED.problem(f"suite {name}", why=row["why"])
        for name, row in figures["suites"].items()
        if row["passed"] is not True
    ]
    problems += [
        NOT_MET.problem(row["title"], why=row["why"])
        for row in figures.get("gates", {}).values()
        if row["passed"] is not True
    ]
    if not problems and figures["passed"] is not True:
        problems = [NOTHING_COMPARED.problem(where, why="")]
    if problems:
        raise GateFailed.of(problems)


def require_auditable(evaluation: Artifact, options: AuditOptions) -> None:
    """The gate before training: against itself every model passes, unless a suite is missing, failed or has too few
    items to show anything. Then no model ever would. Raises GateFailed naming each such suite."""
    options = options.model_copy(update={"must_improve": []})
    suites = read_suites(evaluation)
    rows = {name: compare(name, suites.get(name), suites.get(name), options) for name in options.suites}
    problems = [NOT_AUDITABLE.problem(f"suite {name}", why=row["why"]) for name, row in rows.items() if row["why"]]
    if options.safety is not None:
        figures = _figures(evaluation, options.safety.suite)
        problems += [
            NOT_AUDITABLE.problem(f"suite {options.safety.suite}", why=why)
            for why in unreachable(figures, options.safety)
        ]
    if problems:
        raise GateFailed.of(problems)


def read_suites(evaluation: Artifact) -> dict[str, Suite]:
    """The suites of an evaluation by name. Rows that no other model's compare with are a fault of their suite."""
    results = json.loads(evaluation.file(RESULTS).read_text(encoding="utf-8"))
    rows: dict[str, dict[str, Mapping[str, Any]]] = {name: {} for name in results}
    twice: dict[str, str] = {}
    with evaluation.file(SAMPLES).open(encoding="utf-8") as file:
        for row in map(json.loads, file):
            of_suite, item = rows.setdefault(row["suite"], {}), str(row.get("id"))
            if item in of_suite:
                twice[row["suite"]] = f"the item {item!r} is there twice"
            of_suite[item] = row
    return {
        name: Suite(
            better=results.get(name, {}).get(SCORE_BETTER) or results.get(name, {}).get("better", ""),
            rows=of_suite,
            error=results.get(name, {}).get("error") or results.get(name, {}).get(UNPAIRED) or twice.get(name, ""),
            scored=results.get(name, {}).get(SCORED, ""),
        )
        for name, of_suite in rows.items()
    }


def _figures(evaluation: Artifact, suite: str) -> dict[str, Any]:
    """The figures of one suite; none where it was not evaluated."""
    results = json.loads(evaluation.file(RESULTS).read_text(encoding="utf-8"))
    figures: dict[str, Any] = results.get(suite, {})
    return figures


def compare(name: str, before: Suite | None, after: Suite | None, options: AuditOptions) -> dict[str, Any]:
    """The figures and the verdict of one suite, as `audit` writes them."""
    cost = "lower" in (getattr(before, "better", ""), getattr(after, "better", ""))
    margin = options.margins.get(name, options.relative_margin if cost else options.margin)
    row: dict[str, Any] = {
        "better": "lower" if cost else "higher",
        "scored": getattr(after, "scored", ""),
        "comparable": False,
        "before": None,
        "after": None,
        "paired_low": None,
        "paired_high": None,
        "margin": margin,
        "families": {},
        "passed": False,
        "why": "",
    }
    try:
        pairs = _paired(before, after)
        rates = ratio(pairs.old, pairs.weight, options.seed), ratio(pairs.new, pairs.weight, options.seed)
        row.update(zip(("before", "after"), (rate.to_json() for rate in rates), strict=True))
        low, high = _change(pairs, cost, options.seed)
        row.update(comparable=True, paired_low=low, paired_high=high, families=_families(pairs, cost, options.seed))
        row["why"] = _objection(len(pairs.old), row["better"], margin, low, high, name in options.must_improve)
        row["why"] = row["why"] or _lost_family(row["families"], margin, row["better"])
    except _Incomparable as error:
        row["why"] = str(error)
    row["passed"] = not row["why"]
    return row


@dataclass(frozen=True, slots=True)
class _Pairs:
    """The same items before and after, [N] each."""

    old: np.ndarray
    new: np.ndarray
    weight: np.ndarray
    family: np.ndarray
    """Names; empty where an item has none."""

    def of(self, family: str) -> _Pairs:
        """Those of one family."""
        chosen = self.family == family
        return _Pairs(self.old[chosen], self.new[chosen], self.weight[chosen], self.family[chosen])


def _paired(before: Suite | None, after: Suite | None) -> _Pairs:
    """Scores before and after, weights and families of the same items. Raises _Incomparable."""
    if before is None or after is None:
        raise _Incomparable(f"it was not evaluated {'before' if before is None else 'after'}")
    for when, suite in (("before", before), ("after", after)):
        if suite.error:
            raise _Incomparable(f"its evaluation {when} failed: {suite.error}")
        if not suite.rows:
            raise _Incomparable(f"its evaluation {when} has no items")
    if before.better != after.better or before.better not in ("higher", "lower"):
        raise _Incomparable(f"better is {before.better or 'unknown'!r} before and {after.better or 'unknown'!r} after")
    if before.rows.keys() != after.rows.keys():
        gone, come = before.rows.keys() - after.rows.keys(), after.rows.keys() - before.rows.keys()
        raise _Incomparable(f"the items differ: {len(gone)} only before, {len(come)} only after")
    after = Suite(after.better, {item: after.rows[item] for item in before.rows})
    weight_N = before.column("weight", 1)
    asked = [row.get("prompt") == after.rows[item].get("prompt") for item, row in before.rows.items()]
    if not all(asked) or not np.array_equal(weight_N, after.column("weight", 1)):
        raise _Incomparable("the items differ: the same id has another prompt or size")
    old, new = before.column("score"), after.column("score")
    numbers = {"scores before": old, "scores after": new, "weights": np.where(weight_N > 0, weight_N, np.nan)}
    for what, values_N in numbers.items():
        if broken := int(np.sum(~np.isfinite(values_N))):
            raise _Incomparable(f"{broken} of the {what} are no finite numbers")
    family = np.array([str(row.get("family") or "") for row in before.rows.values()])
    return _Pairs(old, new, weight_N, family)


def _change(pairs: _Pairs, cost: bool, seed: int) -> tuple[float, float]:
    """95 % interval of the paired change, positive where the model got better. Raises _Incomparable."""
    old, new = pairs.old, pairs.new
    with np.errstate(divide="ignore", invalid="ignore"):
        if cost:
            low, high = studentised(old - new, old, seed)
        elif are_trials(old, pairs.weight) and are_trials(new, pairs.weight):
            low, high = paired_trials(int((new < old).sum()), int((new > old).sum()), len(old))
        else:
            low, high = studentised(new - old, pairs.weight, seed)
            low, high = (low, high) if math.isfinite(low) and math.isfinite(high) else _few_changes(pairs)
    if not math.isfinite(low) or not math.isfinite(high):
        if cost and not old.any():
            raise _Incomparable("the change is no finite number: it cost nothing before")
        raise _Incomparable(f"{len(old)} items are too few for an interval of this change: evaluate more")
    return low, high


def _few_changes(pairs: _Pairs) -> tuple[float, float]:
    """The interval where a bootstrap cannot tell: of shares, a task that got worse at all counts as lost, and one that
    got better as gained only where it gained all."""
    old, new = pairs.old, pairs.new
    if (pairs.weight != 1).any() or min(old.min(), new.min()) < 0 or max(old.max(), new.max()) > 1:
        return -math.inf, math.inf
    move_N, n = new - old, len(old)
    low, _ = paired_trials(int((move_N < 0).sum()), int((move_N >= 1).sum()), n)
    _, high = paired_trials(int((move_N <= -1).sum()), int((move_N > 0).sum()), n)
    return low, high


def _families(pairs: _Pairs, cost: bool, seed: int) -> dict[str, dict[str, Any]]:
    """The change of each family, where there are several; no ends where one is too small for an interval."""
    names = [str(name) for name in np.unique(pairs.family)]
    return {name: _family(pairs.of(name), cost, seed) for name in names if name} if len(names) > 1 else {}


def _family(pairs: _Pairs, cost: bool, seed: int) -> dict[str, Any]:
    more, low, high = float((pairs.new - pairs.old).sum()), None, None
    size = float((pairs.old if cost else pairs.weight).sum())
    change = (-more if cost else more) / size if size > 0 else 0.0
    if not cost or len(pairs.old) >= ENOUGH_DOCUMENTS:
        with contextlib.suppress(_Incomparable):
            low, high = _change(pairs, cost, seed)
    return {"n": len(pairs.old), "change": change, "paired_low": low, "paired_high": high}


def _lost_family(families: Mapping[str, Mapping[str, Any]], margin: float, better: str) -> str:
    """Which family showed a loss of more than the margin, or nothing."""
    lost = {
        name: row
        for name, row in families.items()
        if row["paired_high"] is not None and row["paired_high"] < 0 and row["change"] < -margin
    }
    return "; ".join(
        f"the family {name} lost {told_size(-row['change'], better)} (n = {row['n']}), more than the margin of "
        f"{told_size(margin, better)}: 95 % interval of the change "
        f"{told_interval(row['paired_low'], row['paired_high'], better)}"
        for name, row in lost.items()
    )


def _objection(n: int, better: str, margin: float, low: float, high: float, must_improve: bool) -> str:
    """Why the suite fails, or nothing."""
    needed, most = ENOUGH_DOCUMENTS if better == "lower" else enough_trials(margin), told_size(margin, better)
    if n < needed:
        return f"{n} items cannot exclude a loss of {most}: at least {needed} are needed"
    interval = f"95 % interval of the change {told_interval(low, high, better)}"
    if not low > -margin:
        return f"a loss of more than the margin of {most} is not excluded: {interval}"
    if must_improve and not low > 0:
        return f"it must improve, which was not shown: {interval}"
    return ""


def changed(before: Suite, after: Suite, count: int = EXAMPLES) -> list[dict[str, Any]]:
    """Items with an answer that changed most for the worse and for the better; one that did not, where none did."""
    sign = -1 if before.better == "lower" else 1
    moves = [
        (sign * (after.rows[item]["score"] - row["score"]), item)
        for item, row in before.rows.items()
        if "answer" in row
    ]
    moves.sort(key=lambda move: move[0])
    worse, better = [item for move, item in moves if move < 0], [item for move, item in moves if move > 0]
    shown = [*worse[:count], *better[::-1][:count]] or [item for _, item in moves[:1]]
    return [
        {
            "id": item,
            "prompt": before.rows[item].get("prompt", ""),
            "expected": before.rows[item].get("reference"),
            "before": {key: before.rows[item].get(key) for key in ("answer", "score")},
            "after": {key: after.rows[item].get(key) for key in ("answer", "score")},
        }
        for item in shown
    ]


def different_conditions(before: Artifact, after: Artifact) -> Iterator[str]:
    """What was not the same in the two evaluations, so that their difference says nothing of the models."""
    for when, artifact in (("before", before), ("after", after)):
        if artifact.manifest.stage != evaluate.name:
            yield f"{when} is no evaluation but was made by the stage {artifact.manifest.stage!r}"
            return
    asked, asks = (json.loads(a.file(CONDITIONS).read_text(encoding="utf-8")) for a in (before, after))
    different = sorted(key for key in asked.keys() | asks.keys() if asked.get(key) != asks.get(key))
    if before.manifest.plugins != after.manifest.plugins:
        different.append("plugins")
    if different:
        yield f"the two evaluations were made with different {', '.join(different)}"


def _model(evaluation: Artifact) -> str | None:
    """Identity of the checkpoint that was evaluated; None for a model outside a run."""
    return next((parent.hash for parent in evaluation.manifest.parents if parent.role == "checkpoint"), None)


def table(figures: Mapping[str, Any]) -> list[tuple[str, str, str, str, str, str]]:
    """The rows of an audit for people: suite, before, after, change, margin, verdict; gates have a limit for both."""
    gates = [
        (
            row["title"],
            shown_rate(row["before"], "higher"),
            shown_rate(row["after"], "higher"),
            "-",
            f"<= {row['at_most']:.1%}",
            "passed" if row["passed"] is True else f"FAILED: {row['why']}",
        )
        for row in figures.get("gates", {}).values()
    ]
    return [
        (
            f"{name}, {row['scored']}" if row.get("scored") else name,
            shown_rate(row["before"], row["better"]),
            shown_rate(row["after"], row["better"]),
            "-" if row["paired_low"] is None else told_interval(row["paired_low"], row["paired_high"], row["better"]),
            told_size(-row["margin"], row["better"]),
            "passed" if row["passed"] is True else f"FAILED: {row['why']}",
        )
        for name, row in figures["suites"].items()
    ] + gates


TABLE_HEAD = ("suite", "before", "after", "change", "margin", "verdict")


def shown_rate(rate: Mapping[str, Any] | None, better: str) -> str:
    """A figure with its interval, of shares in percent."""
    if rate is None:
        return "-"
    if better == "lower":
        return f"{rate['rate']:.3f} [{rate['low']:.3f}, {rate['high']:.3f}] (n = {rate['n']})"
    return str(Rate(**rate))
