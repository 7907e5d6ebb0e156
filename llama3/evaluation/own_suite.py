"""What a user's own rows are measured by, where the config does not say: their held-out part, as a suite of its own.

Of dialogs the suite is what the held-out answers cost the model (`answer_bits`), and it must improve; of pairs and
labels it is how often the better answer is the likelier one (`preference_accuracy`), of prompts with answers the share
that is solved (`pass_rate`). Shares have a ceiling, at which nothing could improve: they must not get worse by more
than the margin. A suite comes with enough held-out rows to tell anything. In exchange a preset's `must_improve` goes:
it names tasks that the rows do not teach.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llama3.config.merge import Layers, Origin
from llama3.config.schema import own_rows_suite
from llama3.errors import LlamaError
from llama3.evaluation.intervals import ENOUGH_DOCUMENTS, enough_trials
from llama3.tasks.answer_pairs import answer_pairs
from llama3.tasks.user_data import PREVIEW, Line, read_lines

SUITE = "own_rows"


def add_own_suite(layers: Layers) -> None:
    """Add the suite of `post_training.data` to the values of a config, and say so in its notes."""
    post, audit, measured = (layers.values.get(name) for name in ("post_training", "audit", "evaluation"))
    if not (isinstance(post, dict) and isinstance(audit, dict) and isinstance(measured, dict)):
        return
    path, tasks = post.get("data"), measured.get("tasks")
    if not isinstance(path, str) or not isinstance(tasks, list):
        return
    try:
        lines = read_lines(Path(path), most=PREVIEW)
    except LlamaError:
        return  # told with all that is wrong with the rows
    kind, origin = lines[0].row.kind, Origin("default", "the rows of post_training.data")
    held_out = [line for line in lines if line.split == "held_out"]
    suite = None if _is_there(tasks) else _suite(path, kind, held_out, audit.get("margin"))
    if suite is not None:
        layers.set(["evaluation", "tasks"], [*tasks, suite], origin)
    elif kind == "dialogs" and not _is_there(tasks):
        layers.notes.append(
            f"{path}: {len(held_out)} of its dialogs are held out, {ENOUGH_DOCUMENTS} are needed to measure by: "
            "they are no suite. Give more rows, or mark some with split: held_out"
        )
    if _is_inherited(layers, "audit", "must_improve") and (
        kind == "dialogs" or _is_inherited(layers, "post_training", "rewards")
    ):
        wanted = [SUITE] if suite is not None and kind == "dialogs" else []
        if audit.get("must_improve") or wanted:
            layers.notes.append(_told(path, audit.get("must_improve"), wanted, len(held_out), suite is not None))
            layers.set(["audit", "must_improve"], wanted, origin)


def _suite(path: str, kind: str, held_out: list[Line], margin: Any) -> dict[str, Any] | None:
    """The suite of held-out rows, or None where they are too few or have no answers."""
    if kind == "dialogs":
        enough = len(held_out) >= ENOUGH_DOCUMENTS
    else:
        enough = isinstance(margin, float) and 0 < margin < 1 and _trials(kind, held_out) >= enough_trials(margin)
    return own_rows_suite(SUITE, path, kind) if enough else None


def _trials(kind: str, held_out: list[Line]) -> int:
    """How many items that are right or wrong the rows give."""
    if kind in ("pairs", "labels"):
        return len(answer_pairs(held_out))
    answered = kind == "prompts" and all(line.row.columns.get("answer") not in (None, "") for line in held_out)
    return len(held_out) if answered else 0


def _is_there(tasks: list[Any]) -> bool:
    return any(isinstance(task, dict) and task.get("suite") == SUITE for task in tasks)


def _is_inherited(layers: Layers, *path: str) -> bool:
    """Whether a value is a preset's, or nobody's."""
    origin = layers.origins.get(path)
    return origin is None or origin.kind in ("default", "preset")


def _told(path: str, dropped: Any, wanted: list[str], held_out: int, measured: bool) -> str:
    gone = f"audit.must_improve is not {dropped} but {wanted}: the tasks of the preset are not what {path} teaches"
    if measured:
        return f"{gone}; its {held_out:,} held-out rows are the suite {SUITE}"
    return f"{gone}; {held_out:,} rows are held out, too few or of a kind to be a suite"
