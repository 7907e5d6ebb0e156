"""The policy engine: runs the guards of a stage, composes their verdicts, fails closed, holds back streams.

Its core is asynchronous; `decide` and `guard_stream` are the synchronous forms of `adecide` and `aguard_stream`, for
code without an event loop.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import replace
from threading import Timer
from typing import Any, SupportsFloat, TypeVar

from llama3.errors import LlamaError, PluginError
from llama3.plugins.specs import GuardStage
from llama3.plugins.targets import describe
from llama3.safety.answers import ANSWER_STAGES, GuardedAnswer
from llama3.safety.audit import AuditLog, LeafVerdict
from llama3.safety.decision import Decision
from llama3.safety.guard import ACTIONS, Action, Guard, GuardInput, Span, Turn, Verdict, severity, trust_of
from llama3.safety.policy import Leaf, Node, Policy, parse_policy
from llama3.safety.redaction import marked, without
from llama3.safety.worker import AT_ONCE, TURNING_SECONDS, Raised, Worker

NO_GUARD = PluginError.declare(
    "L3-SAF-024",
    "the guard {guard!r} has no {missing}",
    why="a guard has the methods open, check and close, plain or async",
    fix="derive it from llama3.guards.Guard, which has the first and the last",
)
BAD_AT_ONCE = PluginError.declare(
    "L3-SAF-025",
    "`at_once` of the guard {guard!r} is {value!r}",
    why="it says about how many texts the guard is asked at once",
    fix="give a whole number from 1, or leave it out",
)
NOT_OPENED = PluginError.declare("L3-SAF-022", "the guard {guard!r} could not be opened", why="{error}")

log = logging.getLogger(__name__)
T = TypeVar("T")
OPENING_SECONDS = 600.0
"""How long a guard may take to load what it needs, which may be a large model."""
TELLING_SECONDS = 20.0
"""After which it is told which guard is waited for."""
SLOW_TO_OPEN = "the guard %s is not open after %g s; it is waited for, for %g s at most"
CLOSING_SECONDS = 5.0
"""How long a guard may take to release what it holds."""


class PolicyEngine:
    """Guards text by a policy. Use as a context manager, or call `open` and `close`.

    Args:
        policy: the parsed policy, or its plain data.
        build: makes the guard of a leaf from its name and options (the plugin registry's `build`).
        audit: where every decision is written down.
    """

    def __init__(
        self,
        policy: Policy | Mapping[str, Any],
        build: Callable[[str, Mapping[str, Any]], Guard],
        audit: AuditLog | None = None,
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
        """Load every guard once, so that nothing starts unguarded; where one cannot, those before it are closed again.

        Raises PluginError, what errors of this package a guard raises, and ConfigError where the audit cannot be
        written.
        """
        if self.audit is not None:
            self.audit.begin(self.policy)
        opened: list[Worker] = []
        try:
            for _, leaf in self.policy.leaves():
                opened.append(self._workers[id(leaf)])
                _open(leaf, opened[-1])
        except BaseException:
            _close(opened[:-1])
            raise

    def close(self) -> None:
        """Release what the guards hold. One that fails or hangs in that is named in a warning; one that hangs already
        is not waited for, and is closed if ever it comes back."""
        _close(self._workers.values())

    def guards(self, stage: str) -> list[str]:
        """Names of the guards that stand at a stage."""
        return [leaf.guard for name, leaf in self.policy.leaves() if name == stage]

    def down(self) -> list[str]:
        """Guards that cannot be asked now: they hang, or could not be opened again after they did."""
        return sorted({worker.name for worker in self._workers.values() if worker.is_down})

    def decide(
        self,
        stage: str,
        text: str,
        trace: Iterable[Turn] = (),
        request_id: str = "",
        *,
        language: str | None = None,
        tools: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> Decision:
        """The synchronous form of `adecide`."""
        return run_here(self.adecide(stage, text, trace, request_id, language=language, tools=tools))

    def judge_all(self, inputs: Iterable[GuardInput]) -> list[Decision]:
        """The decision of each (see `guard_input`), side by side where their guards judge several texts at once."""

        async def judged() -> list[Decision]:
            with ExitStack() as stack:
                for worker in self._workers.values():
                    stack.enter_context(worker.held())
                asked = [asyncio.ensure_future(self.ajudge(x)) for x in inputs]
                await asyncio.sleep(0)  # each asks its first guard
            return await asyncio.gather(*asked)

        return run_here(judged())

    async def adecide(
        self,
        stage: str,
        text: str,
        trace: Iterable[Turn] = (),
        request_id: str = "",
        tenant: str = "",
        *,
        language: str | None = None,
        tools: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> Decision:
        """Judge one text. A stage without guards allows; tool results of which a policy says nothing are judged as
        what a user says. Where texts wait for a guard, tenants share its time fairly.

        language, tools: as `GuardInput` has them.

        Raises LlamaError where `most_waiting` texts of the tenant wait already.
        """
        x = guard_input(stage, text, trace, request_id, language=language, tools=tools)
        return await self.ajudge(x, tenant)

    async def ajudge(self, x: GuardInput, tenant: str = "") -> Decision:
        """Judge a text as guards will see it. Raises as `adecide`."""
        tree = self.policy.tree(x.stage)
        if tree is None:
            return Decision(x.stage, "allow", text=x.text)
        action, asked = await self._evaluate(tree, x, tenant)
        verdicts = tuple(one.verdict for one in asked)
        ranges = marked(verdicts, len(x.text)) if action == "redact" else ()
        assert ranges is not None, "such a verdict is a failure of its leaf"
        decision = Decision(x.stage, action, verdicts, without(x.text, ranges), ranges)
        if self.audit is not None:
            self.audit.record(decision, x, asked)
        return decision

    async def _evaluate(self, tree: Leaf | Node, x: GuardInput, tenant: str) -> tuple[Action, list[LeafVerdict]]:
        if isinstance(tree, Leaf):
            found = await self._ask(tree, x, tenant)
            return found.verdict.action, [found]
        if tree.kind == "first":
            return await self._first(tree, x, tenant)
        children = [asyncio.ensure_future(self._evaluate(child, x, tenant)) for child in tree.children]
        try:
            results = await asyncio.gather(*children)
        finally:
            for child in children:
                child.cancel()
        ranked = sorted((severity(action) for action, _ in results), reverse=True)
        return ACTIONS[ranked[tree.k - 1]], [one for _, asked in results for one in asked]

    async def _first(self, node: Node, x: GuardInput, tenant: str) -> tuple[Action, list[LeafVerdict]]:
        """The first that objects decides. Where it objects because a guard failed, those behind it are asked too and
        the severest counts: a failure in front of them must not keep them from being asked."""
        seen: list[LeafVerdict] = []
        worst: Action = "allow"
        for child in node.children:
            action, asked = await self._evaluate(child, x, tenant)
            seen += asked
            worst = max(worst, action, key=severity)
            has_failed = any(one.verdict.status != "ok" for one in asked)
            if action == "block" or (action != "allow" and not has_failed):
                break
        return worst, seen

    async def _ask(self, leaf: Leaf, x: GuardInput, tenant: str) -> LeafVerdict:
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
            verdict, said = Verdict(action=leaf.on_error, status="timeout", reason=why), None
        else:
            verdict, said = _verdict_of(leaf, raw, x.text)
        return LeafVerdict(leaf, replace(verdict, guard=leaf.guard, ms=1000 * (time.monotonic() - started)), said)

    async def ajudge_answer(self, text: str, trace: Iterable[Turn] = (), request_id: str = "", tenant: str = "") -> str:
        """What may pass of an answer of a model, judged as `aguard_stream` does. Raises GuardBlocked."""
        answer = self._answer(trace, request_id, tenant)
        answer.add(text)
        return await answer.rest()

    def judge_answer(self, text: str, trace: Iterable[Turn] = (), request_id: str = "") -> str:
        """The synchronous form of `ajudge_answer`."""
        return run_here(self.ajudge_answer(text, trace, request_id))

    async def aguard_stream(
        self, pieces: AsyncIterable[str], trace: Iterable[Turn] = (), request_id: str = "", tenant: str = ""
    ) -> AsyncIterator[str]:
        """Pass on the pieces of an answer of a model, each character only after the guards of `output` and `stream`
        scanned it with text behind it, and those of `code` saw it whole where it is code between fences.

        Raises:
            GuardBlocked: when the policy refuses; nothing of the refused tail was passed on.
        """
        if not self._guards_answers():
            async for piece in pieces:
                yield piece
            return
        answer = self._answer(trace, request_id, tenant)
        async for piece in pieces:
            if answer.add(piece):
                yield await answer.window()
        yield await answer.rest()

    def guard_stream(self, pieces: Iterable[str], trace: Iterable[Turn] = (), request_id: str = "") -> Iterator[str]:
        """The synchronous form of `aguard_stream`. The pieces are made outside of any event loop, so that what makes
        them may take its time and be interrupted."""
        if not self._guards_answers():
            yield from pieces
            return
        answer = self._answer(trace, request_id)
        for piece in pieces:
            if answer.add(piece):
                yield run_here(answer.window())
        yield run_here(answer.rest())

    def _guards_answers(self) -> bool:
        return any(self.policy.stages.get(stage) is not None for stage in ANSWER_STAGES)

    def _answer(self, trace: Iterable[Turn], request_id: str, tenant: str = "") -> GuardedAnswer:
        turns = tuple(trace)

        def judge(
            stage: GuardStage, text: str, *, begins: bool = True, ends: bool = True, language: str | None = None
        ) -> Coroutine[Any, Any, Decision]:
            x = GuardInput(
                stage=stage,
                text=text,
                begins=begins,
                ends=ends,
                trust=trust_of(stage),
                trace=turns,
                language=language,
                request_id=request_id,
            )
            return self.ajudge(x, tenant)

        return GuardedAnswer(judge, {stage for stage, tree in self.policy.stages.items() if tree is not None})


def _open(leaf: Leaf, worker: Worker) -> None:
    missing = [name for name in ("open", "check", "close") if not hasattr(worker.guard, name)]
    if missing:
        raise NO_GUARD("safety.policy", guard=leaf.guard, missing=" and ".join(missing))
    at_once = getattr(worker.guard, "at_once", AT_ONCE)
    if type(at_once) is not int or at_once < 1:
        raise BAD_AT_ONCE("safety.policy", guard=leaf.guard, value=at_once)
    telling = Timer(TELLING_SECONDS, log.warning, (SLOW_TO_OPEN, leaf.guard, TELLING_SECONDS, OPENING_SECONDS))
    telling.daemon = True
    telling.start()
    try:
        result = worker.open(OPENING_SECONDS)
    except TimeoutError:
        why = f"it takes longer than {OPENING_SECONDS:g} s"
        raise NOT_OPENED("safety.policy", guard=leaf.guard, error=why) from None
    finally:
        telling.cancel()
    if isinstance(result, Raised):
        if isinstance(result.error, LlamaError):
            raise result.error
        raise NOT_OPENED("safety.policy", guard=leaf.guard, error=describe(result.error)) from result.error


def _close(workers: Iterable[Worker]) -> None:
    closings = [(worker, *worker.close()) for worker in workers]
    wait([turned for _, turned, _ in closings], TURNING_SECONDS)
    for worker, turned, closed in closings:
        try:
            result = closed.result(CLOSING_SECONDS if turned.done() else 0)
        except TimeoutError:
            result = Raised(TimeoutError("it hangs"))
        worker.stop(closed)
        if isinstance(result, Raised):
            log.warning("guard %s failed to close: %s", worker.name, describe(result.error))


def _worker(leaf: Leaf, build: Callable[[str, Mapping[str, Any]], Guard]) -> Worker:
    return Worker(leaf.guard, lambda: build(leaf.guard, leaf.options))


def _verdict_of(leaf: Leaf, answer: Any, text: str) -> tuple[Verdict, Action | None]:
    """The leaf's verdict, and the action that its guard gave; None where that is no sound answer."""
    try:
        if isinstance(answer, Raised):
            return Verdict(action=leaf.on_error, status="error", reason=describe(answer.error)), None
        verdict = _sound(answer, len(text))
        return replace(verdict, action=_action(leaf, verdict)), verdict.action
    except Exception as error:
        return Verdict(action=leaf.on_error, status="error", reason=describe(error)), None


def _sound(answer: Any, length: int) -> Verdict:
    """A verdict on a text of so many characters; raises ValueError on anything that a sound guard cannot say."""
    if not isinstance(answer, Verdict):
        raise ValueError(f"the guard returned {type(answer).__name__}, not a Verdict")
    verdict = _read_once(answer)
    if verdict.action not in ACTIONS or verdict.status != "ok":
        raise ValueError(f"the guard's verdict is not usable ({verdict.status}, {verdict.action}, {verdict.reason})")
    is_outside = any(not _is_place(span.start, span.end, length) for span in verdict.spans)
    if is_outside or (verdict.action == "redact" and marked([verdict], length) is None):
        raise ValueError("the guard marks characters that the text does not have")
    return verdict


def _is_place(start: object, end: object, length: int) -> bool:
    return type(start) is int and type(end) is int and 0 <= start <= end <= length


def _action(leaf: Leaf, verdict: Verdict) -> Action:
    """What the leaf does. Raises ValueError for scores that it needs and the guard does not give."""
    if not leaf.thresholds:
        return verdict.action
    missing = leaf.thresholds.keys() - verdict.categories.keys()
    if missing:
        raise ValueError(f"the guard gave no score for {', '.join(sorted(missing))}")
    actions: list[Action] = ["allow"]
    for category, levels in leaf.thresholds.items():
        actions += [action for action, level in levels.items() if verdict.categories[category] >= level]  # type: ignore[misc]
    return max(actions, key=severity)


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


def guard_input(
    stage: str,
    text: str,
    trace: Iterable[Turn] = (),
    request_id: str = "",
    *,
    language: str | None = None,
    tools: Mapping[str, Mapping[str, Any]] | None = None,
) -> GuardInput:
    """A whole text as the guards of a stage see it."""
    at: GuardStage = stage  # type: ignore[assignment]  # one that nobody knows has no guards
    return GuardInput(
        stage=at,
        text=text,
        trust=trust_of(at),
        trace=tuple(trace),
        language=language,
        tools=tools or {},
        request_id=request_id,
    )


def run_here(work: Coroutine[Any, Any, T]) -> T:
    """Run to completion, also when the caller already stands inside an event loop (a notebook, a server)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()
