"""The policy engine: runs the guards of a stage, composes their verdicts, fails closed, holds back streams.

Its core is asynchronous; `decide` and `guard_stream` are the synchronous forms of `adecide` and `aguard_stream`, for
code without an event loop.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, SupportsFloat, TypeVar

from llama3.errors import GuardBlocked, PluginError
from llama3.plugins.targets import describe
from llama3.safety.guard import ACTIONS, Action, Guard, GuardInput, Span, Turn, Verdict, severity
from llama3.safety.policy import Leaf, Node, Policy, parse_policy
from llama3.safety.redaction import HeldBack, Ranges, marked, without
from llama3.safety.worker import TURNING_SECONDS, Raised, Worker

REFUSED = GuardBlocked.declare(
    "L3-SAF-020",
    "the text was refused",
    why="{reasons}",
    fix="rephrase the text, or change safety.policy if it should pass",
)
TOO_LATE = GuardBlocked.declare(
    "L3-SAF-021",
    "the answer was cut short",
    why="a guard wants something redacted that was passed on already",
    fix="ask without a stream, where the whole answer is judged before any of it is seen",
)
NO_GUARD = PluginError.declare(
    "L3-SAF-024",
    "the guard {guard!r} has no {missing}",
    why="a guard has the methods open, check and close, plain or async",
    fix="derive it from llama3.guards.Guard, which has the first and the last",
)
NOT_OPENED = PluginError.declare("L3-SAF-022", "the guard {guard!r} tried to end the program", why="{error}")

log = logging.getLogger(__name__)
T = TypeVar("T")
HOLD_BACK = 200
"""Characters of a stream that are kept until more text has been scanned after them."""
CLOSING_SECONDS = 5.0
"""How long a guard may take to release what it holds."""
WINDOW = 4000
"""Characters before the held-back tail that every scan of a stream sees again."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The composed action of one stage and the verdicts behind it."""

    stage: str
    action: Action
    verdicts: tuple[Verdict, ...] = ()
    text: str = ""
    """What may pass: the text that was judged, without what is to be redacted."""
    marked: Ranges = ()
    """The characters of the judged text that are redacted in `text`."""

    @property
    def blocked(self) -> bool:
        """Whether the text must not pass (`review` waits for a human, so it does not pass either)."""
        return severity(self.action) >= severity("review")

    def raise_if_blocked(self) -> None:
        """Raises GuardBlocked with the reason of every guard that objected."""
        if not self.blocked:
            return
        reasons = "; ".join(f"{v.guard}: {v.reason}" for v in self.verdicts if severity(v.action) >= severity("review"))
        raise REFUSED(f"{self.stage} guard", reasons=reasons)


class PolicyEngine:
    """Guards text by a policy. Use as a context manager, or call `open` and `close`.

    Args:
        policy: the parsed policy, or its plain data.
        build: makes the guard of a leaf from its name and options (the plugin registry's `build`).
        audit: a JSONL file to which every decision is appended; the text enters only as its hash.
    """

    def __init__(
        self,
        policy: Policy | Mapping[str, Any],
        build: Callable[[str, Mapping[str, Any]], Guard],
        audit: Path | None = None,
    ) -> None:
        self.policy = policy if isinstance(policy, Policy) else parse_policy(policy)
        self.audit = audit
        self.most_waiting: int | None = None
        """Checks of one tenant that may wait at a guard before what is asked is judged; None: any number. What a model
        wrote is always judged: it was let in."""
        self._workers = {id(leaf): _worker(leaf, build) for _, leaf in self.policy.leaves()}

    def __enter__(self) -> PolicyEngine:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> None:
        """Load every guard once; an error here is the caller's, so that nothing starts unguarded."""
        for _, leaf in self.policy.leaves():
            worker = self._workers[id(leaf)]
            missing = [name for name in ("open", "check", "close") if not hasattr(worker.guard, name)]
            if missing:
                raise NO_GUARD("safety.policy", guard=leaf.guard, missing=" and ".join(missing))
            result = worker.open()
            if isinstance(result, Raised):
                if isinstance(result.error, Exception):
                    raise result.error
                raise NOT_OPENED("safety.policy", guard=leaf.guard, error=describe(result.error)) from result.error

    def close(self) -> None:
        """Release what the guards hold. One that fails or hangs in that is named in a warning; one that hangs already
        is not waited for, and is closed if ever it comes back."""
        closings = [(worker, *worker.close()) for worker in self._workers.values()]
        wait([turned for _, turned, _ in closings], TURNING_SECONDS)
        for worker, turned, closed in closings:
            try:
                result = closed.result(CLOSING_SECONDS if turned.done() else 0)
            except TimeoutError:
                result = Raised(TimeoutError("it hangs"))
            worker.stop(closed)
            if isinstance(result, Raised):
                log.warning("guard %s failed to close: %s", worker.name, describe(result.error))

    def guards(self, stage: str) -> list[str]:
        """Names of the guards that stand at a stage."""
        return [leaf.guard for name, leaf in self.policy.leaves() if name == stage]

    def down(self) -> list[str]:
        """Guards that cannot be asked now: they hang, or could not be opened again after they did."""
        return sorted({worker.name for worker in self._workers.values() if worker.is_down})

    def decide(self, stage: str, text: str, trace: Iterable[Turn] = (), request_id: str = "") -> Decision:
        """The synchronous form of `adecide`."""
        return run_here(self.adecide(stage, text, trace, request_id))

    async def adecide(
        self, stage: str, text: str, trace: Iterable[Turn] = (), request_id: str = "", tenant: str = ""
    ) -> Decision:
        """Judge one text. A stage without guards allows; tool results of which a policy says nothing are judged as
        what a user says. Where texts wait for a guard, tenants share its time fairly.

        Raises LlamaError where `most_waiting` texts of the tenant wait already.
        """
        return await self._decide(stage, text, tuple(trace), request_id, tenant)

    async def _decide(
        self,
        stage: str,
        text: str,
        trace: tuple[Turn, ...],
        request_id: str,
        tenant: str,
        *,
        begins: bool = True,
        ends: bool = True,
    ) -> Decision:
        stages = self.policy.stages
        tree = stages.get("input" if stage == "tool_result" and stage not in stages else stage)
        if tree is None:
            return Decision(stage, "allow", text=text)
        trust = {"input": "user", "tool_result": "third_party"}.get(stage, "model")
        x = GuardInput(
            stage=stage,  # type: ignore[arg-type]
            text=text,
            begins=begins,
            ends=ends,
            trust=trust,  # type: ignore[arg-type]
            trace=trace,
            request_id=request_id,
        )
        action, verdicts = await self._evaluate(tree, x, tenant)
        ranges = marked(verdicts, text) if action == "redact" else ()
        assert ranges is not None, "such a verdict is a failure of its leaf"
        decision = Decision(stage, action, tuple(verdicts), without(text, ranges), ranges)
        self._record(decision, x)
        return decision

    async def _evaluate(self, tree: Leaf | Node, x: GuardInput, tenant: str) -> tuple[Action, list[Verdict]]:
        if isinstance(tree, Leaf):
            verdict = await self._ask(tree, x, tenant)
            return verdict.action, [verdict]
        if tree.kind == "first":
            return await self._first(tree, x, tenant)
        children = [asyncio.ensure_future(self._evaluate(child, x, tenant)) for child in tree.children]
        try:
            results = await asyncio.gather(*children)
        finally:
            for child in children:
                child.cancel()
        ranked = sorted((severity(action) for action, _ in results), reverse=True)
        return ACTIONS[ranked[tree.k - 1]], [verdict for _, verdicts in results for verdict in verdicts]

    async def _first(self, node: Node, x: GuardInput, tenant: str) -> tuple[Action, list[Verdict]]:
        seen: list[Verdict] = []
        for child in node.children:
            action, verdicts = await self._evaluate(child, x, tenant)
            seen += verdicts
            if action != "allow":
                return action, seen
        return "allow", seen

    async def _ask(self, leaf: Leaf, x: GuardInput, tenant: str) -> Verdict:
        """The verdict of one guard, whatever it does: a late answer is none, and a failure is the leaf's `on_error`."""
        started = time.monotonic()
        limit = leaf.timeout_ms / 1000
        most = None if x.trust == "model" else self.most_waiting

        def ask(guard: Guard, began: float) -> Awaitable[Verdict] | Verdict:
            return guard.check(replace(x, deadline=began + limit))

        try:
            raw = await self._workers[id(leaf)].check(ask, tenant, limit, most)
        except TimeoutError as error:
            why = str(error) or f"no answer in {leaf.timeout_ms:g} ms"
            verdict = Verdict(action=leaf.on_error, status="timeout", reason=why)
        else:
            verdict = _verdict_of(leaf, raw, x.text)
        return replace(verdict, guard=leaf.guard, ms=1000 * (time.monotonic() - started))

    def _record(self, decision: Decision, x: GuardInput) -> None:
        if self.audit is None:
            return
        row = {
            "request": x.request_id,
            "stage": decision.stage,
            "action": decision.action,
            "text_sha256": hashlib.sha256(x.text.encode("utf-8", "surrogatepass")).hexdigest(),
            "verdicts": [
                {"guard": v.guard, "action": v.action, "status": v.status, "p": v.p, "reason": v.reason}
                for v in decision.verdicts
            ],
        }
        with self.audit.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    async def aguard_stream(
        self,
        pieces: AsyncIterable[str],
        stage: str = "output",
        trace: Iterable[Turn] = (),
        request_id: str = "",
        tenant: str = "",
    ) -> AsyncIterator[str]:
        """Pass on the pieces of a stream, each character only after it was scanned with text behind it.

        Raises:
            GuardBlocked: when the policy refuses; nothing of the refused tail was passed on.
        """
        if not self.guards(stage):
            async for piece in pieces:
                yield piece
            return
        held, turns = HeldBack(HOLD_BACK, WINDOW), tuple(trace)
        async for piece in pieces:
            if held.add(piece):
                begin = held.begin
                window = self._decide(stage, held.text[begin:], turns, request_id, tenant, begins=not begin, ends=False)
                yield _pass_on(held, await window, begin)
        yield _pass_on(held, await self.adecide(stage, held.text, turns, request_id, tenant), whole=True)

    def guard_stream(
        self, pieces: Iterable[str], stage: str = "output", trace: Iterable[Turn] = (), request_id: str = ""
    ) -> Iterator[str]:
        """The synchronous form of `aguard_stream`. The pieces are made outside of any event loop, so that what makes
        them may take its time and be interrupted."""
        if not self.guards(stage):
            yield from pieces
            return
        held, turns = HeldBack(HOLD_BACK, WINDOW), tuple(trace)
        for piece in pieces:
            if held.add(piece):
                begin = held.begin
                window = self._decide(stage, held.text[begin:], turns, request_id, "", begins=not begin, ends=False)
                yield _pass_on(held, run_here(window), begin)
        yield _pass_on(held, self.decide(stage, held.text, turns, request_id), whole=True)


def _pass_on(held: HeldBack, decision: Decision, begin: int = 0, *, whole: bool = False) -> str:
    """What of a stream may be passed on after a decision. Raises GuardBlocked."""
    decision.raise_if_blocked()
    piece = held.release(decision.marked, begin, whole=whole)
    if piece is None:
        raise TOO_LATE(f"{decision.stage} guard")
    return piece


def _worker(leaf: Leaf, build: Callable[[str, Mapping[str, Any]], Guard]) -> Worker:
    return Worker(leaf.guard, lambda: build(leaf.guard, leaf.options))


def _verdict_of(leaf: Leaf, answer: Any, text: str) -> Verdict:
    try:
        if isinstance(answer, Raised):
            return Verdict(action=leaf.on_error, status="error", reason=describe(answer.error))
        return _judge(leaf, answer, text)
    except Exception as error:
        return Verdict(action=leaf.on_error, status="error", reason=describe(error))


def _judge(leaf: Leaf, answer: Any, text: str) -> Verdict:
    """The leaf's action from an answer; raises ValueError on anything a sound guard cannot say."""
    if not isinstance(answer, Verdict):
        raise ValueError(f"the guard returned {type(answer).__name__}, not a Verdict")
    verdict = _read_once(answer)
    if verdict.action not in ACTIONS or verdict.status != "ok":
        raise ValueError(f"the guard's verdict is not usable ({verdict.status}, {verdict.action}, {verdict.reason})")
    if verdict.action == "redact" and not leaf.thresholds and marked([verdict], text) is None:
        raise ValueError("the guard marks characters that the text does not have")
    if not leaf.thresholds:
        return verdict
    missing = leaf.thresholds.keys() - verdict.categories.keys()
    if missing:
        raise ValueError(f"the guard gave no score for {', '.join(sorted(missing))}")
    actions: list[Action] = ["allow"]
    for category, levels in leaf.thresholds.items():
        actions += [action for action, level in levels.items() if verdict.categories[category] >= level]  # type: ignore[misc]
    return replace(verdict, action=max(actions, key=severity))


def _read_once(answer: Verdict) -> Verdict:
    """A verdict of plain values, so that none of them changes between two looks. Raises ValueError for scores that are
    no probabilities."""
    categories = {str(name): _probability(score) for name, score in dict(answer.categories).items()}
    p = None if answer.p is None else _probability(answer.p)
    spans = tuple(Span(start=span.start, end=span.end, category=str(span.category)) for span in answer.spans)
    words = {name: str(getattr(answer, name)) for name in ("action", "status", "reason", "version")}
    return Verdict(p=p, categories=categories, spans=spans, **words)  # type: ignore[arg-type]


def _probability(score: Any) -> float:
    if isinstance(score, bool) or not isinstance(score, SupportsFloat) or not 0 <= (value := float(score)) <= 1:
        raise ValueError(f"the score {score!r} is no probability")
    return value


def run_here(work: Coroutine[Any, Any, T]) -> T:
    """Run to completion, also when the caller already stands inside an event loop (a notebook, a server)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()
