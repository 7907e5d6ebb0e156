"""What goes wrong in guards, injected: each fault takes the place of a guard's sound verdict. And cases of them, drawn
by a seed: a policy, what its guards say, what fails; `check_case` tells where the engine passed what it must not."""

from __future__ import annotations

import asyncio
import math
import random
import threading
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from llama3.errors import GuardBlocked
from llama3.safety.audit import AuditLog
from llama3.safety.decision import Decision
from llama3.safety.engine import PolicyEngine
from llama3.safety.guard import ACTIONS, Action, GuardInput, Span, Verdict, severity
from llama3.safety.logged import faults_of, read_log
from llama3.safety.policy import STAGES, Leaf, Node, leaves_of, parse_policy
from llama3.safety.redaction import marked, without

Fault = Callable[[GuardInput, Verdict], Any]
"""Gives what the guard gives instead, at once or awaited, or raises."""
FAULT_MS = 8.0
"""How long a guard that hangs is waited for."""
_release = threading.Event()


def _raise(error: Callable[[], BaseException]) -> Fault:
    def fault(x: GuardInput, verdict: Verdict) -> Any:
        raise error()  # a new one: each raise adds to the traceback of an old one

    return fault


async def _hang(x: GuardInput, verdict: Verdict) -> Verdict:
    await asyncio.sleep(3600)
    return verdict


async def _hang_on(x: GuardInput, verdict: Verdict) -> Verdict:
    while not _release.is_set():
        try:
            await asyncio.sleep(0.02)
        except asyncio.CancelledError:
            continue
    return verdict


def _block_thread(x: GuardInput, verdict: Verdict) -> Verdict:
    _release.wait(20)
    return verdict


async def _end_thread(x: GuardInput, verdict: Verdict) -> Verdict:
    asyncio.get_running_loop().stop()
    await asyncio.sleep(3600)
    return verdict


def _spans(*places: tuple[Any, Any]) -> Fault:
    spans = tuple(Span(start=start, end=end) for start, end in places)
    return lambda x, verdict: Verdict(action="redact", categories=verdict.categories, spans=spans)


def _says(**fields: Any) -> Fault:
    return lambda x, verdict: replace(verdict, **{"action": "allow", "spans": (), **fields})


QUICK_FAULTS: Mapping[str, Fault] = {
    "raises": _raise(lambda: RuntimeError("injected")),
    "is cancelled": _raise(asyncio.CancelledError),
    "is interrupted": _raise(KeyboardInterrupt),
    "ends the program": _raise(lambda: SystemExit(0)),
    "nothing": lambda x, verdict: None,
    "no verdict": lambda x, verdict: {"action": "allow", "status": "ok"},
    "too few fields": lambda x, verdict: SimpleNamespace(action="allow", status="ok"),
    "p is NaN": _says(p=math.nan),
    "p is above 1": _says(p=1.01),
    "p is text": _says(p="0.1"),
    "a score is NaN": _says(categories={"a": math.nan, "b": 0.0}),
    "a score is infinite": _says(categories={"a": -math.inf, "b": 0.0}),
    "scores are no mapping": _says(categories=[0.1]),
    "an unknown action": _says(action="fine"),
    "an action that is none": _says(action=None),
    "an error of its own": _says(status="error"),
    "nothing was checked": _says(status="skipped"),
    "marks behind the end": _spans((0, 10**6)),
    "marks before the beginning": _spans((-1, 2)),
    "marks that are no numbers": _spans(("0", 1)),
    "marks backwards": _spans((3, 1)),
    "marks that are none": _says(action="redact", spans=None),
}
"""Faults that are there at once."""
SLOW_FAULTS: Mapping[str, Fault] = {
    "hangs": _hang,
    "hangs and will not be stopped": _hang_on,
    "blocks its thread": _block_thread,
    "ends its thread": _end_thread,
}
"""Faults that only the time limit tells."""
FAULTS = {**QUICK_FAULTS, **SLOW_FAULTS}


def let_go() -> None:
    """Let all that hangs in its thread come back; what hangs later hangs again."""
    _release.set()
    _release.clear()


class FaultyGuard:
    """Gives a verdict, by way of a fault if there is one."""

    def __init__(self, says: Callable[[GuardInput], Verdict], fault: Fault | None) -> None:
        self._says, self._fault = says, fault

    def open(self) -> None:
        """Nothing to load."""

    def close(self) -> None:
        """Nothing to release."""

    def check(self, x: GuardInput) -> Any:
        """What the fault makes of the verdict."""
        verdict = self._says(x)
        return verdict if self._fault is None else self._fault(x, verdict)


@dataclass(frozen=True, slots=True)
class MarkedWord:
    """What a guard of a case says of texts with its word, and marks it; it allows others."""

    word: str
    action: Action
    scores: Mapping[str, float]

    def __call__(self, x: GuardInput) -> Verdict:
        at = x.text.find(self.word)
        if at < 0:
            return Verdict(action="allow", categories=dict.fromkeys(self.scores, 0.0))
        spans = (Span(start=at, end=at + len(self.word)),)
        return Verdict(action=self.action, categories=self.scores, spans=spans, reason=self.word)


@dataclass(frozen=True, slots=True)
class FaultCase:
    """A policy of one stage as a config has it, what its guards say and how they fail, by their names."""

    stage: str
    tree: Any
    says: Mapping[str, MarkedWord]
    faults: Mapping[str, str] = field(default_factory=dict)
    text: str = ""
    pieces: tuple[str, ...] = ()
    """The text as it is streamed."""

    @property
    def is_answer(self) -> bool:
        """Whether the stage judges what is streamed."""
        return self.stage in ("output", "stream")


def draw_case(rng: random.Random, *, slow: float = 0.02) -> FaultCase:
    """A case: a policy of up to six guards, none to all of which fail; `slow` is the share of faults that hang."""
    says: dict[str, MarkedWord] = {}
    faults: dict[str, str] = {}

    def leaf() -> Any:
        name = f"g{len(says)}"
        scores = {key: rng.randrange(5) / 4 for key in "ab"}
        says[name] = MarkedWord(f"<{name}>", rng.choice(ACTIONS), scores)
        written: dict[str, Any] = {"guard": name, "timeout_ms": 60_000}
        if rng.random() < 0.5:
            faults[name] = rng.choice(list(SLOW_FAULTS if rng.random() < slow else QUICK_FAULTS))
            if faults[name] in SLOW_FAULTS:
                written["timeout_ms"] = FAULT_MS
        if rng.random() < 0.3:
            levels = {level: rng.randrange(5) / 4 for level in ("flag", "block") if rng.random() < 0.7}
            written["thresholds"] = {rng.choice("ab"): levels or {"block": 0.5}}
        if rng.random() < 0.3:
            written["on_error"] = rng.choice(["review", "allow"])
            written |= {"advisory": True} if written["on_error"] == "allow" else {}
        return written

    def tree(depth: int) -> Any:
        if depth == 0 or len(says) > 3 or rng.random() < 0.3:
            return leaf()
        children = [tree(depth - 1) for _ in range(rng.randint(1, 3))]
        kind = rng.choice(["any", "any", "all", "first", "k_of"])
        return {"k_of": {"k": rng.randint(1, len(children)), "of": children}} if kind == "k_of" else {kind: children}

    made = tree(2)
    words = [word.word for word in says.values() if rng.random() < 0.8]
    parts = [*words, *("lorem ipsum " * rng.randint(0, 12) for _ in range(3))]
    rng.shuffle(parts)
    text, size = " ".join(parts), rng.choice([7, 60, 250])
    pieces = tuple(text[at : at + size] for at in range(0, len(text), size))
    return FaultCase(rng.choice(STAGES), made, says, faults, text, pieces)


def check_case(case: FaultCase, log: Path | None = None) -> list[str]:
    """What the engine did that it must not, in words; nothing: all is well.

    log: a file that is written anew, from which the decision is found again.
    """
    policy = parse_policy({case.stage: case.tree})
    tree = policy.stages[case.stage]
    assert tree is not None
    broken = {name: FAULTS[fault] for name, fault in case.faults.items()}
    audit = None if log is None else AuditLog(log)
    engine = PolicyEngine(policy, lambda name, options: FaultyGuard(case.says[name], broken.get(name)), audit)
    if log is not None and audit is not None:
        log.unlink(missing_ok=True)
        audit.begin(policy)
    try:
        decision = engine.decide(case.stage, case.text)
        found = list(_wrongs(case, tree, decision))
        if log is not None:
            found += [f"replay: {fault}" for entry in read_log(log).entries for fault in faults_of(entry)]
        if case.is_answer:
            found += _wrongs_of_stream(case, engine, decision)
        return found
    finally:
        let_go()
        engine.close()


def _wrongs(case: FaultCase, tree: Leaf | Node, decision: Decision) -> Iterator[str]:
    sound = {name: says(_asked(case)) for name, says in case.says.items()}
    clean = _composed(tree, lambda leaf: _sound_rank(leaf, sound[leaf.guard]))
    expected = _composed(tree, lambda leaf: _rank(case, leaf, sound), case.faults.keys())
    failing = [leaf for leaf in leaves_of(tree) if leaf.guard in case.faults]
    rank = severity(decision.action)
    if rank != expected:
        yield f"{decision.action} where {ACTIONS[expected]} follows"
    if rank < clean and all(leaf.on_error == "block" for leaf in failing):
        yield f"fail-open: {ACTIONS[clean]} became {decision.action}"
    if not decision.blocked and clean >= severity("review") and all(leaf.on_error != "allow" for leaf in failing):
        yield f"fail-open: {ACTIONS[clean]} passes"
    lying = [v.guard for v in decision.verdicts if (v.status != "ok") != (v.guard in case.faults)]
    if lying:
        yield f"the status of {', '.join(lying)} is wrong"
    marks = [sound[v.guard] for v in decision.verdicts if v.status == "ok" and v.action == "redact"]
    if decision.action == "redact" and not failing:
        expected_text = without(case.text, marked(marks, len(case.text)) or ())
        if decision.text != expected_text:
            yield "what was marked is not redacted"


def _wrongs_of_stream(case: FaultCase, engine: PolicyEngine, decision: Decision) -> Iterator[str]:
    """What a stream passes on must be what the whole text may pass. It may be stricter: a window of it may be blocked
    where the whole text would not be, by a guard that another one stands before."""
    passed: str | None
    try:
        passed = "".join(engine.guard_stream(iter(case.pieces)))
    except GuardBlocked:
        passed = None
    whole = None if decision.blocked else decision.text
    if passed is not None and passed != whole:
        yield "fail-open: a stream passes what the whole text does not"
    if passed is None and whole is not None and set(_kinds(case.tree)) <= {"any"}:
        yield "a stream is stopped where the whole text passes"


def _kinds(tree: Any) -> Iterator[str]:
    if "guard" not in tree:
        ((kind, body),) = tree.items()
        yield kind
        for child in body["of"] if kind == "k_of" else body:
            yield from _kinds(child)


def _asked(case: FaultCase) -> GuardInput:
    return GuardInput(stage=case.stage, text=case.text)  # type: ignore[arg-type]


def _rank(case: FaultCase, leaf: Leaf, sound: Mapping[str, Verdict]) -> int:
    return severity(leaf.on_error) if leaf.guard in case.faults else _sound_rank(leaf, sound[leaf.guard])


def _sound_rank(leaf: Leaf, verdict: Verdict) -> int:
    if not leaf.thresholds:
        return severity(verdict.action)
    reached = [
        severity("block" if level == "block" else "flag")
        for category, levels in leaf.thresholds.items()
        for level, least in levels.items()
        if verdict.categories[category] >= least
    ]
    return max(reached, default=0)


def _composed(tree: Leaf | Node, rank: Callable[[Leaf], int], failing: Set[str] = frozenset()) -> int:
    """Written anew for what it is to judge: the engine's own composition is not asked."""
    return _asked_in_turn(tree, rank, failing)[0]


def _asked_in_turn(tree: Leaf | Node, rank: Callable[[Leaf], int], failing: Set[str]) -> tuple[int, bool]:
    """The rank, and whether one that was asked has failed."""
    if isinstance(tree, Leaf):
        return rank(tree), tree.guard in failing
    if tree.kind != "first":
        found = [_asked_in_turn(child, rank, failing) for child in tree.children]
        return sorted((one for one, _ in found), reverse=True)[tree.k - 1], any(fails for _, fails in found)
    worst, has_failed = 0, False
    for child in tree.children:
        one, fails = _asked_in_turn(child, rank, failing)
        worst, has_failed = max(worst, one), has_failed or fails
        if one == severity("block") or (one and not fails):
            break
    return worst, has_failed
