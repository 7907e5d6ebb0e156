"""What a herd came to: every suite at every station of every round, and what each step added.

A step is told by ablation: the same items answered by the model after it and by the model before it, their difference
with its paired 95 % interval (llama3.evaluation.comparison). The steps of a round add up to the round.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from llama3.artifacts import Artifact
from llama3.evaluation.comparison import side_by_side
from llama3.evaluation.told_changes import change_cells

Stations = list[dict[str, Artifact]]
"""Evaluations by round, 0 being the base, and station: sft, sft-mean, prefer, prefer-mean, final."""
STEPS = (
    ("sft", "sft", ""),
    ("averaging of sft", "sft-mean", "sft"),
    ("preference", "prefer", "sft-mean"),
    ("averaging of preference", "prefer-mean", "prefer"),
    ("averaging", "final", "prefer-mean"),
    ("round", "final", ""),
)
"""Each step: its name, the station after it and the one before it; "" is the round before."""
TEACHER = "teacher"


def station_rows(size: str, stations: Stations) -> Iterator[dict[str, Any]]:
    """{size, round, station, suite, better, figure: {rate, low, high, n}} of everything that was measured."""
    for n, found in enumerate(stations):
        for station, evaluation in found.items():
            told = side_by_side({station: evaluation})
            for suite, row in told["suites"].items():
                name = station if n else "base"
                yield {"size": size, "round": n, "station": name, "suite": suite, "better": row["better"],
                       **{key: row["models"][station][key] for key in ("figure", "why")}}  # fmt: skip


def steps_of(size: str, stations: Stations) -> Iterator[dict[str, Any]]:
    """{size, round, step, suite, better, n, change, low, high, way, why} of every step of every round; `n` items were
    answered before and after."""
    for n, found in enumerate(stations[1:], start=1):
        for step, after, before in STEPS:
            started = _station(found, before) if before else stations[n - 1]["final"]
            ended = _station(found, after)
            if ended is not started:
                yield from _change(size, n, step, started, ended)


def taught_steps(size: str, taught: Stations, alone: Stations) -> Iterator[dict[str, Any]]:
    """The same of the teacher: a size's rounds beside those of its twin without one."""
    for n, (found, other) in enumerate(zip(taught[1:], alone[1:], strict=True), start=1):
        yield from _change(size, n, TEACHER, other["final"], found["final"])


def _station(found: Mapping[str, Artifact], name: str) -> Artifact:
    """The mean is the model itself where there is one."""
    return found[name] if name in found else found[name.removesuffix("-mean")]


def _change(size: str, n: int, step: str, before: Artifact, after: Artifact) -> Iterator[dict[str, Any]]:
    for suite, row in side_by_side({"before": before, "after": after})["suites"].items():
        told = row["models"]["after"]
        place = {"size": size, "round": n, "step": step, "suite": suite, "better": row["better"]}
        place["n"] = None if told["change"] is None else told["figure"]["n"]
        figures = {"change": told["change"], "low": told["paired_low"], "high": told["paired_high"]}
        yield {**place, **figures, "way": told["way"], "why": told["why"]}


def round_table(herd: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """The stations for people: ROUND_HEAD."""
    for row in herd["rounds"]:
        figure = row["figure"]
        yield row["size"], str(row["round"]), row["station"], row["suite"], _figure(figure, row["better"]) or row["why"]


def step_table(herd: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """The steps for people: STEP_HEAD."""
    for row in herd["steps"]:
        change, ends = "-", row["why"]
        if row["change"] is not None:
            change, ends = change_cells(row["change"], row["low"], row["high"], row["better"])
        items = "-" if row["n"] is None else f"{row['n']:,}"
        yield row["size"], str(row["round"]), row["step"], row["suite"], items, change, ends, row["way"]


def data_rows(herd: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """The tables of data for people: DATA_HEAD."""
    for size, rounds in herd["data"].items():
        for n, found in enumerate(rounds, start=1):
            for kind, table in found.items():
                for category, row in table.items():
                    figures = (f"{row[key]:,.1f}" for key in COLUMNS)
                    before = "" if row.get("before") is None else f"{row['before']:,.1f}"
                    yield size, str(n), kind, category, str(row["examples"]), before, *figures


COLUMNS = ("percent", "turns", "tokens", "context", "answer")
ROUND_HEAD = ("size", "round", "station", "suite", "figure")
STEP_HEAD = ("size", "round", "step", "suite", "n", "change", "95 % interval", "")
DATA_HEAD = ("size", "round", "data", "category", "examples", "before", *COLUMNS)


def _figure(rate: Mapping[str, Any] | None, better: str) -> str:
    if rate is None:
        return ""
    scale, unit = (1, "") if better == "lower" else (100, " %")
    low, high = scale * rate["low"], scale * rate["high"]
    return (
        f"{scale * rate['rate']:.{1 if unit else 3}f}{unit} [{low:.{1 if unit else 3}f}, {high:.{1 if unit else 3}f}]"
    )
