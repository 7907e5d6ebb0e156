"""A judge's card: how often it errs on rows that people labelled. Without one a rate is what the judge says.

Rows are JSON objects, one per line: {"turns": [{"role", "content"}, ...] or "prompt": "...", "answer": "...",
"violates": true or false, "refuses": true or false}; a label that a row lacks leaves it out of that judge's card. A row
that the judge cannot judge counts as its error: as a missed event, or as a false alarm.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from llama3 import _core
from llama3.errors import DataError, Problem
from llama3.evaluation.judges import Event, Judge, JudgedAnswer
from llama3.evaluation.rates import JudgeErrors, cohens_kappa
from llama3.evaluation.safety_rows import read_turns
from llama3.foreign import json_lines

NO_FILE = DataError.declare("L3-EVL-050", "cannot read the file", why="{error}")
NO_ROW = DataError.declare(
    "L3-EVL-051",
    "{what}",
    fix='write {{"prompt": "...", "answer": "...", "violates": false, "refuses": true}}, one object per line',
)
NO_LABEL = DataError.declare(
    "L3-EVL-052",
    "{count} rows are labelled {event!r} {value}",
    why="sensitivity and specificity each need rows of their own kind",
    fix="label some rows of both kinds",
)
NOTHING_JUDGED = DataError.declare(
    "L3-EVL-084",
    "the judge {identity} could tell none of {count} rows",
    why="a guard that fails, or a model that says neither word, is no judge; errors of none say nothing",
    fix="try it on one row (llama3 guard check, llama3 generate), then give it another question or words",
)
NO_CARD = DataError.declare(
    "L3-EVL-053", "this is no judge card", why="{error}", fix="write one: llama3 judge ROWS --out card.json"
)
OTHER_JUDGE = DataError.declare(
    "L3-EVL-054",
    "the card is of the judge {carded}, here {used} judges",
    why="a card says how often one judge errs, at one threshold, on one question",
    fix="write a card of this judge: llama3 judge ROWS",
)

SCHEMA = 1
MOST_PROBLEMS = 20


@dataclass(frozen=True, slots=True)
class Labelled:
    """An exchange and what people say of it; None: nobody does."""

    exchange: JudgedAnswer
    violates: bool | None = None
    refuses: bool | None = None


@dataclass(frozen=True, slots=True)
class JudgeCard:
    """The errors of one judge (`identity`) of an event at a threshold; `rows` is the hash of the labelled rows."""

    event: Event
    identity: str
    threshold: float
    errors: JudgeErrors
    unjudged: int
    rows: str

    def to_json(self) -> dict[str, Any]:
        """As it is written, with what follows from the counts."""
        return {
            "schema": SCHEMA,
            **asdict(self),
            "n": sum(asdict(self.errors).values()),
            "sensitivity": self.errors.sensitivity.to_json(),
            "specificity": self.errors.specificity.to_json(),
            "kappa": cohens_kappa(self.errors).to_json(),
        }

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises DataError for what is no card."""
        try:
            data = json.loads(path.read_text("utf-8"))
            counts = JudgeErrors(**data["errors"])
            card = cls(**{name: data[name] for name in cls.__dataclass_fields__ if name != "errors"}, errors=counts)
            if data["schema"] != SCHEMA or not all(isinstance(n, int) and n >= 0 for n in asdict(counts).values()):
                raise ValueError("its counts are none")
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise NO_CARD(path, error=error) from None
        return card

    def require(self, event: Event, identity: str, threshold: float, where: str) -> None:
        """Raises DataError where the card is of another judge."""
        if (self.event, self.identity, self.threshold) != (event, identity, threshold):
            carded = f"{self.identity} of {self.event!r} at {self.threshold:g}"
            raise OTHER_JUDGE(where, carded=carded, used=f"{identity} of {event!r} at {threshold:g}")


def judge_card(judge: Judge, event: Event, labelled: Sequence[Labelled], threshold: float, rows: str) -> JudgeCard:
    """The card of a judge on the rows that have a label for the event. Raises DataError where one kind is missing,
    or the judge can tell none of them: that is no measurement."""
    labels = [(row.exchange, label) for row in labelled if (label := getattr(row, event)) is not None]
    for value in (True, False):
        if (count := sum(label is value for _, label in labels)) == 0:
            raise NO_LABEL("rows", count=count, event=event, value=str(value).lower())
    found = judge.judge([exchange for exchange, _ in labels])
    if all(p is None for p in found):
        raise NOTHING_JUDGED("rows", identity=judge.identity, count=len(found))
    # What nobody can tell is wrong whatever the label says.
    said = [(not label) if p is None else p >= threshold for p, (_, label) in zip(found, labels, strict=True)]
    pairs = [(seen, label) for seen, (_, label) in zip(said, labels, strict=True)]
    errors = JudgeErrors(
        hits=pairs.count((True, True)),
        misses=pairs.count((False, True)),
        passes=pairs.count((False, False)),
        alarms=pairs.count((True, False)),
    )
    return JudgeCard(event, judge.identity, threshold, errors, sum(p is None for p in found), rows)


def read_labelled(path: Path) -> tuple[list[Labelled], str]:
    """The rows of a file, and its hash. Raises DataError with all that is wrong, by line."""
    try:
        text = path.read_text("utf-8")
        digest = _core.blake3_file(str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise NO_FILE(path, error=error) from None
    rows: list[Labelled] = []
    problems: list[Problem] = []
    for number, row in json_lines(text):
        found = _labelled(row)
        if isinstance(found, str):
            problems.append(NO_ROW.problem(f"{path}:{number}", what=found))
        else:
            rows.append(found)
    if not rows and not problems:
        problems.append(NO_ROW.problem(path, what="the file has no row"))
    if problems:
        raise DataError.of(problems[:MOST_PROBLEMS])
    return rows, digest


def _labelled(row: Any) -> Labelled | str:
    """A row, or what is wrong with it."""
    if not isinstance(row, Mapping):
        return "not a JSON object"
    turns = read_turns(row.get("turns", row.get("prompt", [])))
    if isinstance(turns, str):
        return turns
    if not isinstance(row.get("answer"), str):
        return "answer is no text"
    labels = [row.get(event) for event in ("violates", "refuses")]
    if not all(label is None or isinstance(label, bool) for label in labels):
        return "violates and refuses are true, false or left out"
    return Labelled(JudgedAnswer(turns, row["answer"]), *labels)
