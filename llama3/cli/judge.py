"""`llama3 judge`: how often a judge of answers errs, on rows that people labelled."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from llama3.cli.generate import DeviceOption
from llama3.cli.options import given_options
from llama3.cli.output import JsonOption, note, print_json, print_table

JudgeOptions = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="OPTION=VALUE", help="Of the judge: guard, path, url, threshold ... Repeatable."),
]


def judge(
    rows: Annotated[Path, typer.Argument(metavar="ROWS", help="A .jsonl of answers with labels.")],
    event: Annotated[Literal["violates", "refuses"], typer.Option(help="What is judged.")] = "violates",
    overrides: JudgeOptions = None,
    out: Annotated[Path | None, typer.Option(help="Write the card here, for `card` of the suite safety.")] = None,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Measure a judge: sensitivity, specificity, agreement (Cohen's kappa). Without --set: the signs of a refusal."""
    from pydantic import ValidationError

    from llama3.artifacts.files import write_json_atomic
    from llama3.config.safety_data import JudgeSection
    from llama3.errors import ConfigError
    from llama3.evaluation.judge_card import judge_card, read_labelled
    from llama3.evaluation.judge_choice import JudgeStack
    from llama3.plugins.options import problems_of

    given = given_options(overrides)
    try:
        section = JudgeSection.model_validate(given)
    except ValidationError as error:
        raise ConfigError.of(problems_of(error, JudgeSection, lambda loc: "--set")) from error
    labelled, digest = read_labelled(rows)
    with JudgeStack() as stack:
        card = judge_card(stack.build(section, event, device), event, labelled, section.threshold, digest)
    told = card.to_json()
    if out is not None:
        write_json_atomic(out, told)
        note(f"card: {out}")
    if json:
        print_json(told)
    else:
        print_table(lines(told), ("FIGURE", "VALUE"))


def lines(card: dict[str, Any]) -> list[tuple[str, str]]:
    """A card for people."""
    from llama3.evaluation.safety_tables import shown

    kappa = card["kappa"]
    return [
        ("judge", f"{card['identity']} of {card['event']!r} at {card['threshold']:g}"),
        ("sensitivity", shown(card["sensitivity"])),
        ("specificity", shown(card["specificity"])),
        ("Cohen's kappa", f"{kappa['rate']:.2f} [{kappa['low']:.2f}, {kappa['high']:.2f}] (n = {kappa['n']})"),
        ("not judged", f"{card['unjudged']} of {card['n']}"),
    ]
