"""What `post_training.safety` would stumble over, found before a run starts. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from llama3.config.safety_data import BUILT_IN, JudgeSection
from llama3.config.schema import Config
from llama3.errors import ConfigError, LlamaError, Problem
from llama3.evaluation.safety_rows import SafetyPrompt, read_prompts
from llama3.evaluation.served import address_of
from llama3.plugins.registry import discover
from llama3.plugins.specs import AlgorithmSpec
from llama3.tasks.user_data import read_lines

ONE_KIND = ConfigError.declare(
    "L3-SFD-001",
    "{adversarial} adversarial prompts and {borderline} borderline ones cannot be in the ratio {ratio}",
    why="where nothing harmless is answered beside what is refused, a model learns to refuse",
    fix="add built_in to post_training.safety.prompts, or other files, or set post_training.safety.borderline",
)
NOTHING_LEARNT = ConfigError.declare(
    "L3-SFD-002", "nothing would be learnt of it", why="{why}", fix="remove post_training.safety, or {fix}"
)
ONE_SIDE = ConfigError.declare("L3-SFD-003", "the card of a judge belongs to rates of a suite", fix="remove it here")

NO_JUDGE = ConfigError.declare("L3-SFD-006", "there is no model at {path!r}", fix="name a folder or a file that is one")


def safety_data_problems(config: Config) -> Iterator[Problem]:
    """Prompts that cannot be read or balanced, and a section of which nothing would be learnt."""
    section = config.post_training.safety
    if section is None:
        return
    yield from _nothing_learnt(config)
    for name in ("violates", "refuses"):
        if getattr(section, name).card is not None:
            yield ONE_SIDE.problem(f"post_training.safety.{name}.card")
        yield from _judge_problems(getattr(section, name), f"post_training.safety.{name}")
    rows: list[SafetyPrompt] = []
    problems: list[Problem] = []
    for path in (path for path in section.prompts if path != BUILT_IN):
        try:
            rows += read_prompts(Path(path))
        except LlamaError as error:
            problems += error.problems
    yield from problems
    if problems or BUILT_IN in section.prompts:
        return
    adversarial = sum(row.kind == "adversarial" for row in rows)
    borderline = len(rows) - adversarial
    if not adversarial or borderline < section.borderline:
        where = "post_training.safety.prompts"
        yield ONE_KIND.problem(where, adversarial=adversarial, borderline=borderline, ratio=section.borderline)


def _judge_problems(judge: JudgeSection, where: str) -> Iterator[Problem]:
    """What is seen of a judge without loading or asking it."""
    if judge.path is not None and not Path(judge.path).exists():
        yield NO_JUDGE.problem(f"{where}.path", path=judge.path)
    if judge.url is not None:
        try:
            address_of(judge.url)
        except LlamaError as error:
            yield from (replace(problem, where=f"{where}.url") for problem in error.problems)


def _nothing_learnt(config: Config) -> Iterator[Problem]:
    post, where = config.post_training, "post_training.safety"
    if post.data is None:
        if not post.rounds:
            yield NOTHING_LEARNT.problem(where, why="there is no round", fix="set post_training.rounds above 0")
        return
    try:
        kind = read_lines(Path(post.data), most=1)[0].row.kind
    except LlamaError:
        return  # told by others
    if kind != "dialogs" and draws_itself(config):
        why = f"rows of {kind} are not finetuned on, and {post.algorithm.name!r} draws its own answers"
        yield NOTHING_LEARNT.problem(where, why=why, fix="choose an algorithm that learns from pairs, such as dpo")


def draws_itself(config: Config) -> bool:
    """Whether the preference stage learns from answers that it draws, not from pairs or labels."""
    spec = discover().spec("algorithms", config.post_training.algorithm.name)
    return isinstance(spec, AlgorithmSpec) and "rollouts" in spec.needs


def unlearnt_pairs(config: Config) -> list[str]:
    """What a user is told where the pairs of `post_training.safety` meet an algorithm that does not read pairs."""
    if config.post_training.safety is None or config.post_training.data is not None or not draws_itself(config):
        return []
    name = config.post_training.algorithm.name
    return [f"{name} draws its own answers: of post_training.safety the dialogs are learnt (by sft), the pairs are not"]
