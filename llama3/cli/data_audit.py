"""`llama3 data audit` and `skip`: the documents behind a step of training, and data that training shall leave out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from llama3.cli.output import JsonOption, note, print_json, print_table, say
from llama3.errors import ConfigError

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Directory of a run that has begun to train.")]
StageOption = Annotated[
    str | None,
    typer.Option(
        "--stage",
        metavar="KEY",
        help="Which training of the run: its artifact. Default: pretrain; in a herd of its first size.",
    ),
]
NO_STEP = ConfigError.declare("L3-DAT-239", "neither a step nor a document is named", fix="give --step or --document")
BOTH = ConfigError.declare("L3-DAT-248", "both a step and a document are named", fix="give --step or --document")
BAD_STEPS = ConfigError.declare("L3-DAT-240", "{given!r} names no steps", fix="write 12, or 12-20 for all between")


def audit(
    run: RunArgument,
    step: Annotated[int | None, typer.Option(min=1, help="A step, counted from 1.")] = None,
    document: Annotated[
        str | None, typer.Option(metavar="ID", help="A document, by its id: which steps read it? Reads all of them.")
    ] = None,
    stage: StageOption = None,
    characters: Annotated[int, typer.Option(min=0, help="So much of the text of each part.")] = 80,
    json: JsonOption = False,
) -> None:
    """Show the documents behind a step, and prove by the run's own record that it learnt from these very tokens; or the
    steps behind a document."""
    from llama3.training.behind_steps import StepReader

    if step is None and document is None:
        raise NO_STEP("data audit")
    if step is not None and document is not None:
        raise BOTH("data audit")
    reader = StepReader(run, stage)
    if document is not None:
        steps = reader.steps_of(document)
        if json:
            print_json({"document": document, "steps": steps})
        else:
            say(f"{document}: read in " + (f"steps {', '.join(map(str, steps))}" if steps else "no step"))
        return
    assert step is not None
    told = reader.behind(step, characters)
    if json:
        print_json(told)
    else:
        _show(told)
    if told["proof"] == "differs":
        raise typer.Exit(1)


_PROOFS = {
    "equal": "equal to what the run wrote down when it learnt from it",
    "differs": "NOT what the run wrote down: other shards, or other code",
    "none": "the step has not been done yet",
}


def _show(told: Mapping[str, Any]) -> None:
    moved = (
        "" if told["data"] == told["step"] else f", the data of step {told['data']} (what is left out is passed over)"
    )
    say(f"step {told['step']}{moved}: {len(told['rows'])} rows of {told['seq_len']:,} tokens")
    say(f"tokens: {told['content']}, {_PROOFS[told['proof']]}")
    for row in told["rows"]:
        say(f"row {row['row']}: window {row['window']} of {row['source']}, pass {row['epoch'] + 1}")
        print_table(
            [("", part["id"], f"{part['tokens']:,}", part["url"] or "-", part["text"]) for part in row["parts"]],
            ("", "DOCUMENT", "TOKENS", "FROM", "TEXT"),
        )


def skip(
    run: RunArgument,
    steps: Annotated[str, typer.Option(metavar="N|N-M", help="Steps, counted from 1, whose data is left out.")],
    why: Annotated[str, typer.Option(help="Is written down with it.")] = "asked for by hand",
    stage: StageOption = None,
    json: JsonOption = False,
) -> None:
    """Leave out the data of some steps when the run goes on: from a checkpoint before them, on any number of ranks."""
    numbers = _steps(steps)

    from llama3.training.behind_steps import StepReader

    told = StepReader(run, stage).leave_out(numbers, why)
    if json:
        print_json(told)
        return
    note(f"written down: {told['file']}")
    say(f"the next llama3 run goes on after step {told['from_step']} without the data of steps {steps}")


def _steps(given: str) -> range:
    first, dash, last = given.partition("-")
    numbers = [int(text) for text in (first, last if dash else first) if text.isascii() and text.isdecimal()]
    if len(numbers) != 2 or not 1 <= numbers[0] <= numbers[1]:
        raise BAD_STEPS("--steps", given=given)
    return range(numbers[0], numbers[1] + 1)
