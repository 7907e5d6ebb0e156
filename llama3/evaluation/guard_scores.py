"""What each guard of a policy says of each text of a conversation, stored, and what other policies make of that.

Every message that is not the model's own is judged where it enters, the answer at `output` and `stream`, and each code
between its fences at `code`, by every guard of the stage alone: so that one can be taken out, or another threshold be
tried, without asking anybody again. Guards at `tool_call` are not asked: no tools are offered. Legend: N conversations,
T texts of a stage.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from llama3.config.slot_types import Slot
from llama3.plugins.registry import discover
from llama3.plugins.specs import GuardSpec, GuardStage
from llama3.safety.answers import ANSWER_STAGES, TEXT_STAGES
from llama3.safety.dialog import OWN, STAGES
from llama3.safety.engine import PolicyEngine, guard_input
from llama3.safety.fences import CodeFences
from llama3.safety.guard import Turn
from llama3.safety.policy import Leaf, Policy
from llama3.safety.replay import REVIEW, StoredVerdict, bare, composed, has_failed, rank
from llama3.tasks.named_files import named_files

ENTRY: tuple[GuardStage, ...] = ("input", "tool_result")
"""Stages of what others wrote."""
ASKED: tuple[GuardStage, ...] = (*ENTRY, *ANSWER_STAGES)
"""Stages whose guards are measured."""
Setting = float | str
"""Of a leaf: a score from which on it blocks, OFF, or AS_IS."""
OFF, AS_IS = "off", "as configured"


@dataclass(frozen=True, slots=True)
class GuardScores:
    """`row_T`: by stage, to which of `count` conversations each text belongs; `said`: by the leaf's number in
    `policy.leaves()`, what it says of each text of its stage."""

    policy: Policy
    row_T: Mapping[str, np.ndarray]
    said: Mapping[int, Sequence[StoredVerdict]]
    count: int

    @property
    def leaves(self) -> list[tuple[int, str, Leaf]]:
        """The leaves that were asked: number, stage, leaf."""
        return [(n, stage, leaf) for n, (stage, leaf) in enumerate(self.policy.leaves()) if n in self.said]

    def label(self, number: int) -> str:
        """A leaf's name: its stage and guard, and its number where the stage has that guard twice."""
        names = [f"{stage}/{leaf.guard}" for _, stage, leaf in self.leaves]
        own = names[[n for n, _, _ in self.leaves].index(number)]
        return own if names.count(own) == 1 else f"{own}#{number}"

    def ranks(self, number: int, setting: Setting) -> np.ndarray | None:
        """The rank of a leaf's action on each text of its stage; None where it is off."""
        if setting == OFF:
            return None
        _, leaf = list(self.policy.leaves())[number]
        if not isinstance(setting, str):
            leaf = replace(leaf, thresholds=self.levels(number, setting))
        return np.array([rank(leaf, said) for said in self.said[number]], np.int64)

    def failed(self, number: int) -> np.ndarray:
        """Of which texts of its stage a leaf's guard gave no sound answer."""
        _, leaf = list(self.policy.leaves())[number]
        return np.array([has_failed(leaf, said) for said in self.said[number]], np.bool_)

    def levels(self, number: int, level: float) -> dict[str, dict[str, float]]:
        """Thresholds that block from `level` on in every category that the guard scores."""
        return {category: {"block": level} for category in self.categories(number)}

    def categories(self, number: int) -> list[str]:
        """The categories that a leaf has scored wherever it did not fail; none where they differ."""
        rows = [frozenset(said.categories) for said in self.said[number] if said.status == "ok"]
        return sorted(rows[0]) if len(set(rows)) == 1 else []

    def blocked_N(self, ranks: Mapping[int, np.ndarray | None] | None = None, off: Collection[int] = ()) -> np.ndarray:
        """Which conversations do not get through, bool[N]: with the ranks of some leaves, the others as configured, and
        without those that are off."""
        found_N = np.zeros(self.count, bool)
        given = {n: ranks[n] if ranks and n in ranks else self.ranks(n, AS_IS) for n, _, _ in self.leaves}
        by_leaf = {id(leaf): found for n, _, leaf in self.leaves if n not in off and (found := given[n]) is not None}
        failed = {id(leaf): self.failed(n) for n, _, leaf in self.leaves}
        for stage, row_T in self.row_T.items():
            action_T = composed(self.policy.stages.get(stage), by_leaf, failed)
            if action_T is not None:
                found_N[row_T[action_T >= REVIEW]] = True
        return found_N

    def to_rows(self) -> list[list[dict[str, Any]]]:
        """What was said of each conversation, as samples hold it."""
        rows: list[list[dict[str, Any]]] = [[] for _ in range(self.count)]
        for number, stage, _ in self.leaves:
            for row, said in zip(self.row_T[stage], self.said[number], strict=True):
                told = {"guard": self.label(number), "action": said.action, "status": said.status, "p": said.p}
                rows[row].append({**told, "categories": dict(said.categories)})
        return rows


def guard_scores(policy: Policy, dialogs: Sequence[Sequence[Turn]], answers: Sequence[str]) -> GuardScores:
    """Ask every guard of the policy about every text, once about each. Raises as opening a guard does."""
    texts = _texts(policy, dialogs, answers)
    said = {n: _said(stage, leaf, texts[stage]) for n, (stage, leaf) in enumerate(policy.leaves()) if stage in texts}
    row_T = {stage: np.array([row for row, *_ in found], np.int64) for stage, found in texts.items()}
    return GuardScores(policy, row_T, said, len(dialogs))


Text = tuple[int, str, Sequence[Turn], str | None]
Question = tuple[str, str, tuple[Turn, ...], str | None]
"""Stage, text, what stands before it, and the language of code."""
_HEARD: dict[str, dict[Question, StoredVerdict]] = {}
"""What guards that are models said in this process, by their options and the content of their models: the models of a
run are asked the same prompts, and a guard that is a model is slow."""
MOST_HEARD = 200_000


def _said(stage: str, leaf: Leaf, texts: Sequence[Text]) -> list[StoredVerdict]:
    """What a leaf's guard says of each text of its stage."""
    registry = discover()
    heard = _heard(leaf)
    questions: list[Question] = [(stage, text, tuple(trace), language) for _, text, trace, language in texts]
    missing = [question for question in dict.fromkeys(questions) if question not in heard]
    with PolicyEngine(
        Policy({stage: bare(leaf)}), lambda name, options: registry.build("guards", name, options)
    ) as engine:
        asked = (guard_input(at, text, trace, language=language) for at, text, trace, language in missing)
        found = [StoredVerdict.of(decision.verdicts[0]) for decision in engine.judge_all(asked)]
    said = {**heard, **dict(zip(missing, found, strict=True))}
    heard |= {question: verdict for question, verdict in said.items() if verdict.status == "ok"}
    return [said[question] for question in questions]


def _heard(leaf: Leaf) -> dict[Question, StoredVerdict]:
    """What is known of a guard already; of one that is no model, or may say otherwise, nothing is kept."""
    spec = discover().spec("guards", leaf.guard)
    if not (isinstance(spec, GuardSpec) and spec.models and spec.deterministic):
        return {}
    if sum(map(len, _HEARD.values())) > MOST_HEARD:
        _HEARD.clear()
    options = dict(leaf.options)
    content = named_files([Slot(**{"name": leaf.guard, **options})])
    if not {options[name] for name in spec.models if options.get(name)} <= content.keys():
        return {}  # another model might lie there the next time
    return _HEARD.setdefault(json.dumps([leaf.guard, options, content], sort_keys=True, default=str), {})


def _texts(policy: Policy, dialogs: Sequence[Sequence[Turn]], answers: Sequence[str]) -> dict[str, list[Text]]:
    """By guarded stage (conversation, text, what stands before it, the language of code). As in the engine, a tool's
    result is judged as what a user says where the policy says nothing of it."""
    texts: dict[str, list[Text]] = {stage: [] for stage in ASKED if policy.stages.get(stage) is not None}
    for row, (turns, answer) in enumerate(zip(dialogs, answers, strict=True)):
        for place, turn in enumerate(turns):
            stage = STAGES.get(turn.role, "input")
            if stage == "tool_result" and stage not in policy.stages:
                stage = "input"
            if turn.role != OWN and stage in texts:
                texts[stage].append((row, turn.content, turns[:place], None))
        for stage in TEXT_STAGES:
            if stage in texts:
                texts[stage].append((row, answer, turns, None))
        if "code" in texts:
            blocks = CodeFences().flush(answer)
            texts["code"] += [(row, block.code, turns, block.language or None) for block in blocks]
    return texts
