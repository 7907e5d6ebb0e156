"""`llama3 guard`: train guards, and ask those of a policy about a text."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llama3.cli import completion
from llama3.cli.output import JsonOption, note, print_json, print_table, say

if TYPE_CHECKING:
    from llama3.safety.engine import Decision
    from llama3.safety.guard import Verdict

REFUSED = 5
"""The exit code where a guard refuses, as in all commands."""
SHOWN = 60
"""Characters of a span that are printed."""

app = typer.Typer(no_args_is_help=True, help="Train guards, and ask those of a policy about a text.")


@app.command("check")
def check(
    text: Annotated[str, typer.Argument(help="The text to judge; - reads it from stdin.")],
    policy: Annotated[
        str,
        typer.Option(
            metavar="CONFIG",
            help="A config or a run with a safety.policy, or a release.",
            autocompletion=completion.configs,
        ),
    ],
    stage: Annotated[
        str, typer.Option(help="Where it stands: input, tool_result, output, tool_call, code or stream.")
    ] = "input",
    json: JsonOption = False,
) -> None:
    """Judge a text by the guards of a stage: each verdict, its probabilities and where. Exit code 5 where it is
    refused."""
    from llama3.plugins.registry import discover
    from llama3.safety.engine import PolicyEngine

    judged = sys.stdin.read() if text == "-" else text
    registry, asked = discover(), _policy(policy)
    with PolicyEngine(_at_stage(asked, stage), lambda name, options: registry.build("guards", name, options)) as engine:
        decision = engine.decide(stage, judged)
        if not engine.guards(stage) and stage != "tool_result":
            note(f"the policy has no guard at {stage}")
    if json:
        print_json(_told(decision, judged))
    else:
        say(decision.action)
        print_table(
            [_row(verdict, judged) for verdict in decision.verdicts],
            ("GUARD", "ACTION", "P", "CATEGORIES", "WHY", "WHERE"),
        )
    if decision.blocked:
        raise typer.Exit(REFUSED)


def _policy(given: str) -> Mapping[str, Any]:
    """The policy of a release, or that of a config."""
    from llama3.config import load
    from llama3.safety.carried import POLICY_FILE, carried_policy

    if (Path(given) / POLICY_FILE).is_file() and (carried := carried_policy(Path(given))) is not None:
        return carried
    return load(given).config.safety.policy


def _at_stage(policy: Mapping[str, Any], stage: str) -> Mapping[str, Any]:
    """Of the policy what is asked at a stage: no other guard need be loaded. Raises ConfigError for an unknown one."""
    from llama3.safety.policy import STAGES, UNKNOWN_STAGE

    if stage not in STAGES:
        raise UNKNOWN_STAGE("--stage", stage=stage, stages=list(STAGES))
    return {name: tree for name, tree in policy.items() if name in (stage, "input")}


def _told(decision: Decision, text: str) -> dict[str, Any]:
    verdicts = [
        {
            "guard": verdict.guard,
            "action": verdict.action,
            "status": verdict.status,
            "p": verdict.p,
            "categories": dict(verdict.categories),
            "spans": [
                {"start": s.start, "end": s.end, "category": s.category, "text": text[s.start : s.end]}
                for s in verdict.spans
            ],
            "reason": verdict.reason,
            "version": verdict.version,
            "ms": round(verdict.ms, 3),
        }
        for verdict in decision.verdicts
    ]
    return {
        "stage": decision.stage,
        "action": decision.action,
        "blocked": decision.blocked,
        "text": decision.text,
        "verdicts": verdicts,
    }


def _row(verdict: Verdict, text: str) -> tuple[str, ...]:
    scores = sorted(verdict.categories.items(), key=lambda item: -item[1])
    return (
        verdict.guard,
        verdict.action if verdict.status == "ok" else f"{verdict.action} ({verdict.status})",
        "-" if verdict.p is None else f"{verdict.p:.4f}",
        ", ".join(f"{name} {score:.2f}" for name, score in scores if score >= 0.005) or "-",
        verdict.reason or "-",
        "; ".join(_where(verdict, text)) or "-",
    )


def _where(verdict: Verdict, text: str) -> Iterator[str]:
    for span in verdict.spans:
        words = " ".join(text[span.start : span.end].split())
        yield f"{span.start}-{span.end} {words if len(words) <= SHOWN else words[: SHOWN - 3] + '...'}"


@app.command("train")
def train(
    config: Annotated[
        Path, typer.Argument(metavar="GUARD.YAML", help="kind, data and how: see docs/trained-guards.md.")
    ],
    json: JsonOption = False,
) -> None:
    """Train a guard from labelled rows, calibrate and measure it. The same command goes on where it was killed."""
    from llama3.guarding.asked import read_training

    asked = read_training(config)

    from llama3.guarding.training import train_guard  # after the checks: this imports torch

    made = train_guard(asked, config.read_text(encoding="utf-8"))
    key = Path(asked.run.dir) / asked.run.name / "artifacts" / asked.kind
    if json:
        print_json({"path": key, "hash": made.hash, "kind": asked.kind, **made.metrics})
        return
    say((made.path / "CARD.md").read_text(encoding="utf-8"), end="")
    note(f"the guard: {key}")
