"""`llama3 audit-reward`: is a reward calibrated, and does it love what people do not?"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llama3.cli.generate import DeviceOption
from llama3.cli.options import PluginOptions, given_options, plugin_name
from llama3.cli.output import JsonOption, note, print_json, print_table, say
from llama3.errors import ConfigError, GateFailed
from llama3.evaluation.audit_remedies import remedies

if TYPE_CHECKING:
    from llama3.config.slot_types import Slot

REWARD_FAILED = GateFailed.declare(
    "L3-RWA-010",
    "the audit of the reward failed",
    why="{why}",
    fix="{fix}",
)
NO_REWARDS = ConfigError.declare(
    "L3-RWA-011",
    "this run trained no reward model",
    why="it has no artifact reward, reward-1, ...",
    fix="name the folder of a reward model, a run with post_training.reward, or a plugin of the family rewards",
)

NO_FOLDER = ConfigError.declare(
    "L3-RWA-013", "there is no such folder", fix="name a reward model's folder, a run, or a plugin: {rewards}"
)
NOT_A_PLUGIN = ConfigError.declare(
    "L3-RWA-014",
    "--set says nothing to {what}",
    why="its options are those of a plugin that is named",
    fix="leave out {options}, or name a plugin in place of the folder",
)
NO_ROUNDS = ConfigError.declare(
    "L3-RWA-015", "{reward!r} is no run whose rounds were audited", fix="give held-out pairs after it"
)
NO_AUDITS = ConfigError.declare(
    "L3-RWA-012",
    "no round of this run was audited",
    why="it has no artifact {key}, ...",
    fix="give held-out pairs, or run it with `post_training: {{audit: {{}}}}`",
)
MOST_NAMED = 10
"""Prompts with contradictions whose rows are named."""
_REWARD = re.compile(r"(?:(.+)-)?reward(?:-(\d+))?(?:-mean(\d+))?")
"""The key of a reward model: of a size or of the one model, of a round or not, and of how many it is the mean."""


def audit_reward(
    reward: Annotated[
        str, typer.Argument(help="A reward model's folder, a run that trained some (all rounds), or a reward's name.")
    ],
    rows: Annotated[
        Path | None,
        typer.Argument(
            metavar="ROWS",
            help="Held-out pairs, with strength, category, lang or not; none: what the audits of a run's rounds found.",
        ),
    ] = None,
    overrides: PluginOptions = None,
    least_accuracy: Annotated[float, typer.Option(min=0, max=1, help="Lower end of its interval, at least.")] = 0.5,
    most_ece: Annotated[float | None, typer.Option(min=0, max=1, help="Calibration error, at most.")] = None,
    most_excess: Annotated[
        float, typer.Option(min=0, max=1, help="How much more (or less) often than people it takes a feature, at most.")
    ] = 0.1,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Audit a reward on pairs that people ranked: accuracy, calibration, what it loves more than people do, and what
    changed between rounds. Without pairs: what the rounds of a run were found to be (`post_training.audit`), whether
    their policies hack their rewards too. Each size of a herd is judged on its own. Exit code 5 where the last reward,
    or a round, misses a limit."""
    if rows is None:
        _of_rounds(reward, given_options(overrides), json)
        return
    from llama3.evaluation.preferred_rows import contrary_rows, read_pairs
    from llama3.evaluation.reward_audit import RewardLimits, audited, drift, margins
    from llama3.tasks.rewards import build_rewards

    sizes = _judges(reward, given_options(overrides))
    pairs = read_pairs(rows)
    limits = RewardLimits(least_accuracy, most_ece, most_excess)
    figures: dict[str, Any] = {}
    moved: dict[str, Any] = {}
    for slots in sizes:
        built = {name: next(iter(build_rewards([slot], device).values())) for name, slot in slots.items()}
        margins_by = {name: margins(one, pairs) for name, one in built.items()}
        figures |= {name: audited(margin_P, pairs, limits) for name, margin_P in margins_by.items()}
        *earlier, last = margins_by
        moved |= {name: {"to": last, **drift(margins_by[name], margins_by[last]).to_json()} for name in earlier}
    ends = [last for *_, last in sizes]
    why = {last: figures[last]["why"] for last in ends if not figures[last]["passed"]}
    reasons = [reason for told in why.values() for reason in told]
    contrary = contrary_rows(pairs)
    found = {"rewards": figures, "drift": moved, "contradictions": contrary, "passed": not why, "why": reasons}
    if json:
        print_json(found)
    else:
        _show(found, ends)
        _tell_contrary(contrary, rows.name)
    if why:
        raise GateFailed.of(
            [REWARD_FAILED.problem(last, why="; ".join(told), fix=remedies(told)) for last, told in why.items()]
        )


def _of_rounds(reward: str, options: Mapping[str, Any], json: bool) -> None:
    """The stored audits of a run. Raises GateFailed where a round did not pass."""
    from llama3.artifacts.run import RunDir

    run = _folder(reward)
    if run is None:
        raise NO_ROUNDS("ROWS", reward=reward)
    _refuse_options(options, "the audits of a run")
    found = {key: made for key, made in RunDir(run).current().items() if made.manifest.stage == "audit_round"}
    if not found:
        sizes = (key.removesuffix("curate") for key in RunDir(run).current() if key.endswith("-curate"))
        raise NO_AUDITS(run, key=f"{next(sizes, '')}audit-1")
    told = {key: dict(made.metrics) for key, made in found.items()}
    if json:
        print_json(told)
    else:
        print_table([row for key, audit in told.items() for row in _policy(key, audit)], ("ROUND", "FIGURE", "VALUE"))
    if why := {key: audit["why"] for key, audit in told.items() if not audit["passed"]}:
        raise GateFailed.of(
            [REWARD_FAILED.problem(key, why="; ".join(reasons), fix=remedies(reasons)) for key, reasons in why.items()]
        )


def _policy(key: str, audit: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    if labels := audit["preferences"]:
        yield key, "mislabelled pairs", _share(labels["mislabelled"])
    if (judged := audit["judge"]) and judged["scored"]:
        yield key, "accuracy", _share(judged["accuracy"])
        yield key, "ece", "{rate:.3f} [{low:.3f}, {high:.3f}] (n = {n})".format(**judged["ece"])
    if policy := audit["policy"]:
        for name, words in (("reward", "reward, change by the preference step"), ("verified", "right answers, change")):
            yield key, words, _ends(policy[name])
        for name, row in policy["features"].items():
            related = "-" if row["correlation"] is None else f"{row['correlation']:+.2f}"
            yield key, f"  {name}", f"{row['before']:.2f} to {row['after']:.2f}, correlation with the reward {related}"
    yield key, "own answers", f"{audit['collapse']['own']:.1%} of the dialogs"
    yield key, "audit", "passed" if audit["passed"] else "FAILED"


def _ends(row: Mapping[str, float | None]) -> str:
    change, low, high = ("-" if row[name] is None else f"{row[name]:+.3f}" for name in ("change", "low", "high"))
    return f"{change} [{low}, {high}]"


def _folder(reward: str) -> Path | None:
    """The folder that is meant; None for the name of a plugin. Raises ConfigError where a path names no folder."""
    from llama3.plugins.registry import discover

    folder = Path(reward)
    if folder.is_dir():
        return folder
    if len(folder.parts) > 1 or folder.exists():
        raise NO_FOLDER(reward, rewards=", ".join(discover().names("rewards")))
    return None


def _refuse_options(options: Mapping[str, Any], what: str) -> None:
    if options:
        raise NOT_A_PLUGIN("--set", what=what, options=", ".join(options))


def _judges(reward: str, options: Mapping[str, Any]) -> list[dict[str, Slot]]:
    """What is audited, by name, the last one last: one by one for each size of a herd, but for the twins that measure
    what a teacher is worth."""
    from llama3.artifacts.run import RunDir
    from llama3.config.slot_types import Slot
    from llama3.posttraining.sampling import reward_of
    from llama3.sized import CONTROL

    folder = _folder(reward)
    if folder is None:
        return [{reward: Slot.model_validate({"name": plugin_name("rewards", reward), **options})}]
    is_run = (folder / "config.yaml").is_file()
    _refuse_options(options, "the reward models of a run" if is_run else "a reward model in a folder")
    if not is_run:
        return [{folder.name: reward_of(folder)}]
    sizes: dict[str, dict[int, tuple[int, str]]] = {}
    for key in RunDir(folder).current():
        if (found := _REWARD.fullmatch(key)) and not f"-{found[1] or ''}".endswith(CONTROL):
            rounds, number = sizes.setdefault(found[1] or "", {}), int(found[2] or 0)
            rounds[number] = max(rounds.get(number, (0, "")), (int(found[3] or 1), key))  # the mean of the most
    if not sizes:
        raise NO_REWARDS(folder)
    return [
        {key: reward_of(folder / "artifacts" / key) for _, (_, key) in sorted(rounds.items())}
        for _, rounds in sorted(sizes.items())
    ]


def _show(found: Mapping[str, Any], ends: Sequence[str]) -> None:
    print_table(list(_figures(found["rewards"])), ("REWARD", "FIGURE", "VALUE"))
    for name in ends:
        if features := list(_features(found["rewards"][name])):
            say(f"\n{name}: how often the answer with more of a feature is taken")
            print_table(features, ("FEATURE", "REWARD", "PEOPLE", "EXCESS", "PAIRS"))
    for name, moved in found["drift"].items():
        related = f"margins correlate {moved['correlation']:.3f}"
        note(f"{name} to {moved['to']}: {related}, {moved['turned']:.1%} of pairs turned")
    say(f"audit: {'passed' if found['passed'] else 'FAILED'}")


def _tell_contrary(contrary: Sequence[tuple[str, str]], rows: str) -> None:
    """No reward can be right about them all."""
    from llama3.tasks.contradictions import told_contradictions

    for told in told_contradictions({"orders": len(contrary)} if contrary else {}, rows):
        named = "; ".join(f"{one} and {other}" for one, other in contrary[:MOST_NAMED])
        note(f"{told}: {named}{'; ...' if len(contrary) > MOST_NAMED else ''}")


def _figures(rewards: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for name, told in rewards.items():
        yield name, "scored", f"{told['scored']} of {told['pairs']} pairs"
        if not told["scored"]:
            continue
        yield name, "accuracy", _share(told["accuracy"])
        for column, groups in told["by"].items():
            yield from ((name, f"  {column} {group}", _share(rate)) for group, rate in groups.items())
        for figure in ("brier", "ece"):
            yield name, figure, "{rate:.3f} [{low:.3f}, {high:.3f}] (n = {n})".format(**told[figure])
        if told["temperature"] is not None:
            yield name, "temperature", f"{told['temperature']:.3g}"


def _features(told: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for name, row in told.get("features", {}).items():
        if row["excess"] is None:
            yield name, "-", "-", "-", f"{row['n']} (few)"
        else:
            ends = f"{row['excess']:+.1%} [{row['low']:+.1%}, {row['high']:+.1%}]"
            yield name, f"{row['reward']:.1%}", f"{row['people']:.1%}", ends, str(row["n"])


def _share(rate: Mapping[str, Any]) -> str:
    from llama3.evaluation.safety_tables import shown

    return shown(rate)
