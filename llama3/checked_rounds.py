"""The human check of a round of the recipe: what people find in its sample ends the run."""

from __future__ import annotations

from llama3.config import Config
from llama3.errors import GateFailed
from llama3.evaluation.round_check import RoundCheckOptions, check_round
from llama3.execution import Executor
from llama3.outcome import Round

NOT_RIGHT = GateFailed.declare(
    "L3-PST-203",
    "the human check of a round did not pass",
    why="{why}",
    fix="check what is open (llama3 annotate {run} --as NAME), or mend the prompts or rewards that made the answers, "
    "or widen post_training.audit.human",
)


def require_checked(make: Executor, config: Config, n: int, done: Round) -> None:
    """Nothing happens where people find little wrong, or nobody asks them (`post_training.audit.human`). What is not
    checked yet is told, and ends the run only where it is required.

    Raises GateFailed (L3-PST-203), DataError where a file of annotations is broken.
    """
    section = config.post_training.audit.human if config.post_training.audit is not None else None
    if section is None:
        make.withdraw(f"check-{n}")
        return
    options = RoundCheckOptions.of(section, make.run.path, make.name_of(f"reject-{n}"))
    found = make(check_round, f"check-{n}", options, dialogs=done.asked)
    told = found.metrics
    if not told["passed"]:
        raise NOT_RIGHT(f"round {n}: {found.location.name}", why=told["why"], run=make.run.path)
    if told["open"]:
        rest = f"{told['sample'] - told['checked']} of {told['sample']}"
        make.warn([f"round {n}: {rest} answers of the sample are not checked yet (llama3 annotate {make.run.path})"])
