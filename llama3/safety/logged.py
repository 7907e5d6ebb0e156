"""What an audit log (llama3.safety.audit) says, read back: each decision is found again from what its guards said, and
what another policy would have decided of the same.

A guard that was not asked, because one before it objected or because the policy had no such guard, may have said
anything: a decision is known where it is the same whatever that was.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, PlainValidator, TypeAdapter, ValidationError

from llama3.errors import DataError, LlamaError, Problem
from llama3.plugins.specs import GuardStage
from llama3.safety.audit import bare_urls, policy_hash, text_hash
from llama3.safety.decision import Decision
from llama3.safety.engine import PolicyEngine, run_here
from llama3.safety.guard import ACTIONS, Action, GuardInput, Span, Status, Turn, Verdict, severity, trust_of
from llama3.safety.policy import Leaf, Policy, leaves_of, parse_policy
from llama3.safety.redaction import marked
from llama3.safety.replay import StoredVerdict, composed, has_failed, rank

NO_LOG = DataError.declare("L3-SAF-051", "the audit log cannot be read ({error})", fix="name the file of --audit")
BAD_LINE = DataError.declare(
    "L3-SAF-052",
    "is no line of an audit log ({error})",
    why="a decision is only found again from a line that is whole",
    fix="restore the line; one is cut short where the program was killed as it wrote, and those around it are read",
)

MOST_UNKNOWN = 6
"""Guards that were not asked, of which every answer is tried."""


def _as_text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("this is no text")
    return value


AnyText = Annotated[str, PlainValidator(_as_text)]
"""Texts may have surrogates, which pydantic's own strings have not."""
Place = Annotated[tuple[int, int], Field(strict=False)]
CategorySpan = Annotated[tuple[int, int, AnyText], Field(strict=False)]


class LoggedVerdict(BaseModel):
    """What came of a guard; `said` is its own action, before thresholds."""

    model_config = ConfigDict(frozen=True, strict=True)

    leaf: int
    guard: str
    version: str
    status: Status
    said: Action | None
    action: Action
    p: float | None
    categories: dict[str, float]
    spans: list[CategorySpan]
    reason: AnyText

    @property
    def stored(self) -> StoredVerdict:
        """As `llama3.safety.replay` takes it."""
        return StoredVerdict(self.said or "", self.status, self.p, self.categories)


class LoggedTurn(BaseModel):
    """A message before the text."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    role: AnyText
    content: AnyText


class LoggedDecision(BaseModel):
    """A decision, and what led to it. `text` is None where texts were not written down."""

    model_config = ConfigDict(frozen=True, strict=True)

    event: Literal["decision"]
    schema_version: Literal[1]
    policy: str
    request: str
    stage: GuardStage
    action: Action
    redacted: list[Place]
    begins: bool
    ends: bool
    characters: int
    text_sha256: str
    verdicts: list[LoggedVerdict]
    text: AnyText | None = None
    trace: list[LoggedTurn] = []
    language: str | None = None
    tools: dict[str, dict[str, Any]] = {}


class LoggedPolicy(BaseModel):
    """A policy that decided from there on."""

    model_config = ConfigDict(frozen=True, strict=True)

    event: Literal["policy"]
    schema_version: Literal[1]
    policy: str
    stages: dict[str, Any]


_LINE: TypeAdapter[LoggedDecision | LoggedPolicy] = TypeAdapter(LoggedDecision | LoggedPolicy)


@dataclass(frozen=True, slots=True)
class Entry:
    """A decision of a log, the number of its line, and the policy that decided."""

    line: int
    decision: LoggedDecision
    policy: Policy


@dataclass(frozen=True, slots=True)
class LogEntries:
    """The decisions of the whole lines, and a problem for each line that is torn, `torn` by its number."""

    entries: list[Entry] = field(default_factory=list)
    torn: dict[int, Problem] = field(default_factory=dict)


def read_log(path: Path) -> LogEntries:
    """Every decision. Raises DataError where the file cannot be read, or with every whole line that is none of a
    log's."""
    log = LogEntries()
    problems: list[Problem] = []
    policies: dict[str, Policy] = {}
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise NO_LOG(path, error=error.strerror or error) from error
    for number, line in enumerate(lines, 1):
        where = f"{path}:{number}"
        try:
            data = json.loads(line)
        except (ValueError, RecursionError) as error:
            log.torn[number] = BAD_LINE.problem(where, error=error)
            continue
        try:
            found = _LINE.validate_python(data)
            if isinstance(found, LoggedPolicy):
                policies[found.policy] = _policy_of(found)
            else:
                log.entries.append(Entry(number, found, policies[found.policy]))
        except (ValidationError, ValueError, RecursionError, LlamaError, KeyError) as error:
            problems.append(BAD_LINE.problem(where, error=_said(error)))
    if problems:
        raise DataError.of(problems)
    return log


def _policy_of(found: LoggedPolicy) -> Policy:
    policy = parse_policy(found.stages)
    if policy_hash(policy) != found.policy:
        raise ValueError("the policy is not the one of its hash")
    return policy


def _said(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(map(str, first['loc'][1:]))}: {first['msg']}".lstrip(": ")
    if isinstance(error, KeyError):
        return "no policy with its hash stands before it"
    return error.problems[0].what if isinstance(error, LlamaError) else str(error)


def faults_of(entry: Entry) -> list[str]:
    """Why a decision does not follow from what its guards said, by the policy that decided; none: it does."""
    logged, faults = entry.decision, []
    leaves = [leaf for _, leaf in entry.policy.leaves()]
    if bad := [str(v.leaf) for v in logged.verdicts if not 0 <= v.leaf < len(leaves)]:
        return [f"the policy has no guard {', '.join(bad)}"]
    for verdict in logged.verdicts:
        leaf = leaves[verdict.leaf]
        if verdict.guard != leaf.guard or severity(verdict.action) != rank(leaf, verdict.stored):
            faults.append(f"{verdict.guard}: {verdict.action} does not follow from {verdict.said or verdict.status}")
    said = {id(leaves[verdict.leaf]): verdict.stored for verdict in logged.verdicts}
    found = possible_actions(entry.policy, logged.stage, said)
    if found != {logged.action}:
        faults.append(f"{logged.action} is written, {_either(found)} follows")
    if logged.redacted != _redacted(logged):
        faults.append("other characters are redacted than were marked")
    if logged.text is not None and (
        text_hash(logged.text) != logged.text_sha256 or len(logged.text) != logged.characters
    ):
        faults.append("the text is not the one that was judged")
    return faults


def _redacted(logged: LoggedDecision) -> list[tuple[int, int]] | None:
    """The characters that the verdicts redact; None where they mark what the text does not have."""
    if logged.action != "redact":
        return []
    verdicts = [
        Verdict(action=one.action, spans=tuple(Span(start=start, end=end) for start, end, _ in one.spans))
        for one in logged.verdicts
    ]
    found = marked(verdicts, logged.characters)
    return None if found is None else list(found)


def possible_actions(policy: Policy, stage: str, said: Mapping[int, StoredVerdict]) -> set[Action]:
    """Every action that a policy may have come to, by what its leaves said (by `id`); of a leaf that is not there any
    answer is possible. All actions where more than MOST_UNKNOWN are missing."""
    tree = policy.tree(stage)
    if tree is None:
        return {"allow"}
    leaves = list(leaves_of(tree))
    unknown = [leaf for leaf in leaves if id(leaf) not in said]
    if len(unknown) > MOST_UNKNOWN:
        return set(ACTIONS)
    answers = [range(len(ACTIONS) + 1)] * len(unknown)  # the last stands for a failure
    tries = np.array(list(itertools.product(*answers)), np.int64).reshape(-1 if unknown else 1, len(unknown))
    ranks, failed = {}, {}
    for column, leaf in enumerate(unknown):
        failed[id(leaf)] = tries[:, column] == len(ACTIONS)
        ranks[id(leaf)] = np.where(failed[id(leaf)], severity(leaf.on_error), tries[:, column])
    for leaf in leaves:
        if id(leaf) in said:
            failed[id(leaf)] = np.full(len(tries), has_failed(leaf, said[id(leaf)]))
            ranks[id(leaf)] = np.full(len(tries), rank(leaf, said[id(leaf)]))
    found = composed(tree, ranks, failed)
    assert found is not None, "every leaf has a rank"
    return {ACTIONS[n] for n in np.unique(found)}


def _either(actions: set[Action]) -> str:
    return " or ".join(action for action in ACTIONS if action in actions)


@dataclass(frozen=True, slots=True)
class Otherwise:
    """What another policy makes of a decision: all actions that are possible, and the guards of which it would have to
    be known what they say."""

    actions: set[Action]
    missing: list[str] = field(default_factory=list)


def decided_by(policy: Policy, entry: Entry) -> Otherwise:
    """What another policy would have decided: a guard with the same options has said what it said."""
    theirs = [leaf for _, leaf in entry.policy.leaves()]
    known = {_key(theirs[verdict.leaf]): verdict.stored for verdict in entry.decision.verdicts}
    leaves = list(leaves_of(policy.tree(entry.decision.stage)))
    said = {id(leaf): known[_key(leaf)] for leaf in leaves if _key(leaf) in known}
    actions = possible_actions(policy, entry.decision.stage, said)
    missing = [leaf.guard for leaf in leaves if id(leaf) not in said]
    return Otherwise(actions, missing if len(actions) > 1 else [])


def _key(leaf: Leaf) -> str:
    return json.dumps([leaf.guard, bare_urls(leaf.options)], sort_keys=True)


def asked_again(engine: PolicyEngine, entry: Entry) -> Decision:
    """The decision on a text that the log has, by guards that are asked now."""
    logged = entry.decision
    assert logged.text is not None, "there is a text"
    x = GuardInput(
        stage=logged.stage,
        text=logged.text,
        begins=logged.begins,
        ends=logged.ends,
        trust=trust_of(logged.stage),
        trace=tuple(Turn(turn.role, turn.content) for turn in logged.trace),
        language=logged.language,
        tools=logged.tools,
        request_id=logged.request,
    )
    return run_here(engine.ajudge(x))


def changed_verdicts(entry: Entry, decision: Decision) -> Iterator[str]:
    """What guards say otherwise now than they did, where both were asked."""
    now: Sequence[Verdict] = decision.verdicts
    for before, after in zip(entry.decision.verdicts, now, strict=False):
        was, is_ = (before.status, before.action), (after.status, after.action)
        if (before.guard, *was) != (after.guard, *is_):
            version = "" if before.version == after.version else f" (version {before.version}, now {after.version})"
            yield f"{before.guard}: {before.action} ({before.status}), now {after.action} ({after.status}){version}"
