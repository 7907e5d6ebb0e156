"""`llama3 guard`: train guards, ask those of a policy about a text, and read what was decided."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llama3.cli import completion
from llama3.cli.generate import AuditOption, AuditTextsOption
from llama3.cli.output import JsonOption, note, print_json, print_table, say
from llama3.errors import ConfigError, DataError

if TYPE_CHECKING:
    from llama3.safety.decision import Decision
    from llama3.safety.guard import Verdict
    from llama3.safety.logged import Entry

NO_TOOLS = ConfigError.declare(
    "L3-CLI-024", "is no list of tools ({error})", fix='write [{{"type": "function", "function": {{"name": ...}}}}]'
)

PolicyOption = Annotated[
    str,
    typer.Option(
        metavar="POLICY",
        help="A policy, a config or a run with one (safety.policy), or a release.",
        autocompletion=completion.configs,
    ),
]
NO_TEXTS = DataError.declare(
    "L3-SAF-054",
    "the log has no texts to ask about",
    why="it was written without --audit-texts",
    fix="replay it without --ask, from what its guards said",
)
NOT_FOUND_AGAIN = DataError.declare(
    "L3-SAF-053",
    "{count} of {decisions} decisions do not follow from what the log says of them",
    why="the log was changed, or was written by another version",
    fix="see `faults` of those lines",
)
NOTHING = DataError.declare(
    "L3-SAF-055",
    "the log has no decision: nothing was verified",
    why="it is empty, or nobody was asked at a stage with guards",
    fix="name the file of --audit of a command that has ended",
)
REFUSED = 5
"""The exit code where a guard refuses, as in all commands."""
SHOWN = 60
"""Characters of a span that are printed."""

app = typer.Typer(no_args_is_help=True, help="Train guards, ask those of a policy, and read what was decided.")


@app.command("check")
def check(
    text: Annotated[str, typer.Argument(help="The text to judge; - reads it from stdin.")],
    policy: PolicyOption,
    stage: Annotated[
        str, typer.Option(help="Where it stands: input, tool_result, output, tool_call, code or stream.")
    ] = "input",
    tools: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="A JSON list of the tools that may be called, as a request has it."),
    ] = None,
    audit: AuditOption = None,
    audit_texts: AuditTextsOption = False,
    json: JsonOption = False,
) -> None:
    """Judge a text by the guards of a stage: each verdict, its probabilities and where, and what of it passes where it
    is redacted. Exit code 5 where it is refused."""
    from llama3.cli.guarding import log_at, policy_named
    from llama3.plugins.registry import discover
    from llama3.safety.engine import PolicyEngine

    log = log_at(audit, texts=audit_texts)
    judged = sys.stdin.read() if text == "-" else text
    schemas = {} if tools is None else _schemas(tools)
    registry, asked = discover(), policy_named(policy)[0]
    build = lambda name, options: registry.build("guards", name, options)
    with PolicyEngine(_at_stage(asked, stage), build, log) as engine:
        decision = engine.decide(stage, judged, tools=schemas)
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
        if decision.marked and not decision.blocked:
            say(f"passes as: {decision.text}")
    if decision.blocked:
        raise typer.Exit(REFUSED)


def _schemas(path: Path) -> dict[str, dict[str, Any]]:
    """The JSON schemas of the arguments of tools, by their names. Raises ConfigError."""
    from pydantic import TypeAdapter, ValidationError

    from llama3.serving.chat_fields import ToolSpec
    from llama3.serving.tools import schemas_of

    try:
        return schemas_of(TypeAdapter(list[ToolSpec]).validate_json(path.read_bytes()))
    except OSError as error:
        raise NO_TOOLS(path, error=error.strerror or error) from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise NO_TOOLS(path, error=f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


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


@app.command("replay")
def replay(
    log: Annotated[Path, typer.Argument(dir_okay=False, help="What --audit of chat, generate, serve or batch wrote.")],
    policy: Annotated[
        str | None,
        typer.Option(
            metavar="POLICY",
            help="Tell where this policy would have decided otherwise: a policy, a config, a run or a release.",
            autocompletion=completion.configs,
        ),
    ] = None,
    ask: Annotated[
        bool, typer.Option("--ask", help="Ask the guards again, about the texts of a log that has them.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Find each decision of an audit log again, from what its guards said. Exit code 1 where one does not follow, where
    a line is torn, and where there is none."""
    from llama3.safety.logged import read_log

    found = read_log(log)
    rows = list(_replayed(found.entries, policy, ask=ask))
    wrong = sum(bool(row["faults"]) for row in rows)
    summary = {
        "decisions": len(rows),
        "found_again": len(rows) - wrong,
        "otherwise": sum("would_be" in row and row["would_be"] != [row["action"]] for row in rows),
        "said_otherwise": sum(bool(row.get("now")) for row in rows),
        "torn": len(found.torn),
    }
    if json:
        print_json(
            {
                "path": str(log),
                **summary,
                "torn_lines": list(found.torn),
                "rows": [row for row in rows if _is_told(row)],
            }
        )
    else:
        for row in filter(_is_told, rows):
            say(f"{log}:{row['line']}: {row['stage']}: " + "; ".join(_outcomes(row)))
        say("; ".join(f"{name.replace('_', ' ')}: {count}" for name, count in summary.items()))
    problems = list(found.torn.values())
    if wrong:
        problems.append(NOT_FOUND_AGAIN.problem(log, count=wrong, decisions=len(rows)))
    if not rows:
        problems.append(NOTHING.problem(log))
    if problems:
        raise DataError.of(problems)


def _replayed(entries: Sequence[Entry], policy: str | None, *, ask: bool) -> Iterator[dict[str, Any]]:
    """What is found of each decision. Raises DataError where guards are to be asked about texts that are not there."""
    from contextlib import ExitStack

    from llama3.cli.guarding import policy_named
    from llama3.plugins.registry import discover
    from llama3.safety.audit import policy_hash
    from llama3.safety.engine import PolicyEngine
    from llama3.safety.logged import asked_again, changed_verdicts, decided_by, faults_of
    from llama3.safety.policy import parse_policy

    other = None if policy is None else parse_policy(policy_named(policy)[0])
    if ask and any(entry.decision.text is None for entry in entries):
        raise NO_TEXTS("--ask")
    registry = discover()
    with ExitStack() as open_now:
        engines: dict[str, PolicyEngine] = {}
        for entry in entries:
            logged = entry.decision
            row: dict[str, Any] = {"line": entry.line, "request": logged.request, "stage": logged.stage}
            row |= {"action": logged.action, "faults": faults_of(entry)}
            if ask:
                chosen = other or entry.policy
                key = policy_hash(chosen)
                if key not in engines:
                    engine = PolicyEngine(chosen, lambda name, options: registry.build("guards", name, options))
                    engines[key] = open_now.enter_context(engine)
                decision = asked_again(engines[key], entry)
                row["would_be"] = [decision.action]
                row["now"] = [] if other else list(changed_verdicts(entry, decision))
            elif other is not None:
                found = decided_by(other, entry)
                row |= {"would_be": sorted(found.actions), "not_asked": found.missing}
            yield row


def _is_told(row: Mapping[str, Any]) -> bool:
    return bool(row["faults"] or row.get("now") or row.get("would_be", [row["action"]]) != [row["action"]])


def _outcomes(row: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"fault: {fault}" for fault in row["faults"])
    if row.get("not_asked"):
        yield f"{row['action']}, not known by the other policy: {', '.join(row['not_asked'])} was not asked"
    elif row.get("would_be", [row["action"]]) != [row["action"]]:
        yield f"{row['action']}, now {' or '.join(row['would_be'])}"
    yield from row.get("now", ())
