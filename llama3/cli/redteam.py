"""`llama3 redteam`: attack a model behind its guards, and keep what gets through for the next round of training."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llama3.cli import completion
from llama3.cli.generate import DeviceOption, MaxTokensOption, ModelArgument, SeedOption
from llama3.cli.options import PluginOptions, given_options, plugin_name
from llama3.cli.output import JsonOption, note, print_json, print_table, say
from llama3.errors import ConfigError, PluginError, did_you_mean
from llama3.plugins.asking import ODD_RESULT, asking, what

if TYPE_CHECKING:
    from llama3.attackers import Attacker, SafetyPrompt
    from llama3.evaluators import JudgeSection
    from llama3.redteam.archive import Archive
    from llama3.redteam.journal import Journal
    from llama3.redteam.loop import RedTeam
    from llama3.redteam.target import GuardedModel
    from llama3.safety.engine import PolicyEngine

TWO_POLICIES = ConfigError.declare(
    "L3-RED-007", "two policies are given", fix="name a config by -c, or a policy by --policy"
)
NO_SEEDS = ConfigError.declare(
    "L3-RED-008",
    "there is no prompt to begin with",
    why="an attack begins at a row of the kind adversarial",
    fix="give a file of such rows by --prompts",
)
NO_STYLE = ConfigError.declare("L3-RED-009", "the attacker {attacker!r} has no style {style!r}", why="{near}")
MEASURES = "safety"
"""The suite whose prompts are the seeds where no others are given."""

NO_STYLES = PluginError.declare("L3-RED-013", "it has no style", fix="mend the attacker: `styles` names what it writes")
NOTHING_TRIED = ConfigError.declare(
    "L3-RED-014",
    "nothing was put to the model, so nothing is known of it",
    why="the budget or the minutes have no room for the first attack",
    fix="raise --budget or --minutes",
)


def redteam(
    model: ModelArgument,
    prompts: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Rows to begin with (default: those that the attacker brings).")
    ] = None,
    out: Annotated[Path, typer.Option(file_okay=False, help="A new folder, or one that this command began.")] = Path(
        "redteam"
    ),
    budget: Annotated[int, typer.Option(min=1, help="Messages that are put to the model, at most.")] = 300,
    seed: SeedOption = 0,
    config: Annotated[
        str | None,
        typer.Option("--config", "-c", help="Its safety.policy stands before the model (default: the model's own)."),
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(
            metavar="POLICY",
            help="The same by any name: a policy, a config or a run with one (safety.policy), or a release.",
            autocompletion=completion.configs,
        ),
    ] = None,
    attacker: Annotated[
        str | None, typer.Option(help="Who writes them, of the plugins of the family attackers (default: templates).")
    ] = None,
    overrides: PluginOptions = None,
    style: Annotated[list[str] | None, typer.Option(help="Only this style. Repeatable; default: all.")] = None,
    judge: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OPTION=VALUE",
            help="Who judges: guard=NAME (category), path=MODEL or url=ADDRESS (served, question, words); threshold, "
            "card. Repeatable.",
        ),
    ] = None,
    at_once: Annotated[int, typer.Option(min=1, max=1024, help="Conversations that are held at once.")] = 16,
    max_tokens: MaxTokensOption = 64,
    minutes: Annotated[
        float | None, typer.Option(min=0.0, help="Begin no round after so many minutes; the same command goes on.")
    ] = None,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Attack a model behind its guards. finds.jsonl holds what got through, as rows for training and for the suite
    `safety`; report.html shows where. The same command goes on where it was killed."""
    from llama3.checkpoints.adopt import content_hash
    from llama3.evaluation.judge_choice import JudgeStack
    from llama3.inference.llama import find_model
    from llama3.model.device import device_of
    from llama3.plugins.registry import discover
    from llama3.redteam.journal import Journal, require_ours
    from llama3.redteam.loop import RedTeam, RedTeamLimits
    from llama3.redteam.publish import FINDS, PAGE, REPORT, publish

    began = time.monotonic()
    require_ours(out)
    name, options = _attacker_name(attacker), given_options(overrides)
    section, guarding = _judge_section(judge), _policy(model, config, policy)
    writer: Attacker = discover().build("attackers", name, options)
    styles = _styles(name, writer, style)
    rows = _rows(name, writer, prompts)
    where = device_of(device)
    limits = RedTeamLimits(budget, seed, at_once, section.threshold, minutes)
    with ExitStack() as stack:
        guards = stack.enter_context(_guards(guarding))
        judging = stack.enter_context(JudgeStack()).build(section, "violates", str(where))
        made_of = {
            "model": content_hash(find_model(Path(model))),
            "device": str(where),
            "prompts": [row.to_json() for row in rows],
            "policy": guarding,
            "attacker": {"options": options, **discover().identity("attackers", name)},
            "styles": styles,
            "judge": [judging.identity, section.threshold],
            "limits": [seed, at_once, max_tokens],
        }
        journal = stack.enter_context(Journal(out, made_of))
        targets: list[GuardedModel] = []

        def target() -> GuardedModel:
            from llama3.inference.llama import load
            from llama3.redteam.target import GuardedModel

            targets.append(GuardedModel(load(model, device=device), guards, max_tokens))
            return targets[-1]

        seeds = [row for row in rows if row.kind == "adversarial"]
        team = RedTeam(writer, name, target, judging, seeds, styles, limits)
        archive = _run(team, journal)
        cost = _cost(team.seconds, sum(one.answers for one in targets), time.monotonic() - began)
        head = {"model": Path(model).name or model, "attacker": name, "judge": judging.identity, "styles": styles,
                "exhausted": team.exhausted}  # fmt: skip
        report = publish(out, head, archive, journal.attempts, rows, cost)
    _warn(report)
    if team.timed_out:
        note("ended: the minutes were over before the budget was spent; the same command goes on")
    _tell_what_is_left_out(seeds)
    if json:
        print_json({"path": str(out), **report})
    else:
        _show(report)
        note(f"details: {out / REPORT}, {out / PAGE}; for the next round: {out / FINDS}")


def _attacker_name(given: str | None) -> str:
    from llama3.config.schema import ATTACKER

    return ATTACKER if given is None else plugin_name("attackers", given)


def _judge_section(given: list[str] | None) -> JudgeSection:
    """Who judges. Raises ConfigError with everything that is wrong in it."""
    from pydantic import ValidationError

    from llama3.evaluators import JudgeSection
    from llama3.plugins.options import problems_of

    try:
        return JudgeSection.model_validate(given_options(given, "--judge"))
    except ValidationError as error:
        raise ConfigError.of(problems_of(error, JudgeSection, lambda loc: "--judge")) from error


def _policy(model: str, config: str | None, policy: str | None) -> Mapping[str, Any]:
    """The guards that stand before the model, checked."""
    from llama3.cli.guarding import policy_for, policy_named
    from llama3.config import load
    from llama3.safety.carried import require_places
    from llama3.safety.policy import parse_policy

    if config is not None and policy is not None:
        raise TWO_POLICIES("--policy")
    found: Mapping[str, Any]
    if config is not None:
        found = load(config).config.safety.policy
        source = f"policy of {config}"
    elif policy is not None:
        found, source = policy_named(policy)
    else:
        found, source = policy_for(Path(model))
    require_places(parse_policy(found, source), source)
    note(f"guards: {source}")
    return found


def _guards(policy: Mapping[str, Any]) -> PolicyEngine:
    from llama3.plugins.registry import discover
    from llama3.safety.engine import PolicyEngine

    registry = discover()
    return PolicyEngine(policy, lambda name, options: registry.build("guards", name, options))


def _styles(name: str, attacker: Attacker, wanted: Sequence[str] | None) -> list[str]:
    """The styles that are tried. Raises ConfigError for one that the attacker does not have."""
    with asking(f"attacker {name}", "styles"):
        known = list(attacker.styles)
    if odd := [what(style) for style in known if not isinstance(style, str)]:
        raise ODD_RESULT(f"attacker {name}", method="styles", fault=f"of one style {odd[0]}, not text")
    if not known:
        raise NO_STYLES(f"attacker {name}")
    for style in wanted or ():
        if style not in known:
            near = did_you_mean(style, known) or f"it has {', '.join(known)}"
            raise NO_STYLE("--style", attacker=name, style=style, near=near)
    return [style for style in known if not wanted or style in wanted]


def _rows(name: str, attacker: Attacker, prompts: Path | None) -> list[SafetyPrompt]:
    """Seeds and their twins. Raises DataError for a bad file, and ConfigError where there is nothing to begin with."""
    from llama3.attackers import SafetyPrompt, read_prompts

    if prompts is not None:
        rows = read_prompts(prompts)
    else:
        with asking(f"attacker {name}", "seeds"):
            rows = list(attacker.seeds())
        if odd := [what(row) for row in rows if not isinstance(row, SafetyPrompt)]:
            raise ODD_RESULT(f"attacker {name}", method="seeds", fault=f"of one row {odd[0]}, not a SafetyPrompt")
    if not any(row.kind == "adversarial" for row in rows):
        raise NO_SEEDS(prompts or "--prompts")
    return rows


def _tell_what_is_left_out(seeds: Sequence[SafetyPrompt]) -> None:
    """Of finds that no round may learn, as long as it is measured on what they began at."""
    from llama3.alignment.holding_out import kept_prompts, without_kept
    from llama3.config.slot_types import Slot

    free, _ = without_kept(seeds, kept_prompts([Slot(name=MEASURES)]))
    if len(free) < len(seeds):
        note(
            f"{len(seeds) - len(free)} of {len(seeds)} seeds are prompts of the suite {MEASURES}: a round that is "
            "measured on it leaves out what was found from them; for one that learns give seeds of your own (--prompts)"
        )


def _run(team: RedTeam, journal: Journal) -> Archive:
    from llama3.artifacts.progress import Display

    with Display().task("messages", team.limits.budget) as bar:
        archive = team.run(journal, lambda messages: bar.advance(messages))
    if not journal.attempts:
        raise NOTHING_TRIED(journal.folder)
    return archive


def _cost(seconds: Mapping[str, float], answers: int, whole: float) -> dict[str, float]:
    """What this call of the command took; what it found done already cost nothing."""
    spent = {f"{name}_seconds": round(value, 3) for name, value in sorted(seconds.items())}
    each = answers / seconds["target"] if answers else 0.0
    return {"answers": answers, "seconds": round(whole, 3), **spent, "answers_per_second": round(each, 2)}


def _warn(report: Mapping[str, Any]) -> None:
    from llama3.redteam.figures import warnings_of

    if report["exhausted"]:
        note("ended: nothing new could be tried; more prompts or styles make more attacks")
    for line in warnings_of(report["figures"]):
        note(f"warning: {line}")


def _show(report: Mapping[str, Any]) -> None:
    from llama3.redteam.figures import red_team_tables

    for table in red_team_tables(report["figures"]):
        if table.rows:
            say(f"\n{table.title.lower()}")
            print_table(table.rows, [head.upper() for head in table.head])
    say("\ncost of this call")
    print_table([(name.replace("_", " "), f"{value:,}") for name, value in report["cost_of_last_call"].items()])
