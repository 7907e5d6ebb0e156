"""The policy engine: runs the guards of a stage, composes their verdicts, fails closed, holds back streams.

Its core is asynchronous; `decide` and `guard_stream` are the synchronous forms of `adecide` and `aguard_stream`, for
code without an event loop.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from llama3.errors import GuardBlocked
from llama3.safety.guard import ACTIONS, Action, Guard, GuardInput, Turn, Verdict, severity
from llama3.safety.policy import Leaf, Node, Policy, parse_policy

REFUSED = GuardBlocked.declare(
    "L3-SAF-020",
    "the text was refused",
    why="{reasons}",
    fix="rephrase the text, or change safety.policy if it should pass",
)

T = TypeVar("T")
HOLD_BACK = 200
"""Characters of a stream that are kept until more text has been scanned after them."""
WINDOW = 4000
"""Characters before the held-back tail that every scan of a stream sees again."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The composed action of one stage and the verdicts behind it."""

    stage: str
    action: Action
    verdicts: tuple[Verdict, ...] = ()

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
        self._guards: dict[int, Guard] = {id(leaf): build(leaf.guard, leaf.options) for _, leaf in self.policy.leaves()}

    def __enter__(self) -> PolicyEngine:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> None:
        """Load every guard once; an error here is the caller's, so that nothing starts unguarded."""
        _run(self._each("open"))

    def close(self) -> None:
        """Release what the guards hold."""
        _run(self._each("close"))

    async def _each(self, method: str) -> None:
        for guard in self._guards.values():
            await getattr(guard, method)()

    def guards(self, stage: str) -> list[str]:
        """Names of the guards that stand at a stage."""
        return [leaf.guard for name, leaf in self.policy.leaves() if name == stage]

    def decide(self, stage: str, text: str, trace: Iterable[Turn] = (), request_id: str = "") -> Decision:
        """The synchronous form of `adecide`."""
        return _run(self.adecide(stage, text, trace, request_id))

    async def adecide(self, stage: str, text: str, trace: Iterable[Turn] = (), request_id: str = "") -> Decision:
        """Judge one text. A stage without guards allows."""
        tree = self.policy.stages.get(stage)
        if tree is None:
            return Decision(stage, "allow")
        trust = {"input": "user", "tool_result": "third_party"}.get(stage, "model")
        x = GuardInput(stage=stage, text=text, trust=trust, trace=tuple(trace), request_id=request_id)  # type: ignore[arg-type]
        action, verdicts = await self._evaluate(tree, x)
        decision = Decision(stage, action, tuple(verdicts))
        self._record(decision, x)
        return decision

    async def _evaluate(self, tree: Leaf | Node, x: GuardInput) -> tuple[Action, list[Verdict]]:
        if isinstance(tree, Leaf):
            verdict = await self._ask(tree, x)
            return verdict.action, [verdict]
        if tree.kind == "first":
            return await self._first(tree, x)
        results = await asyncio.gather(*(self._evaluate(child, x) for child in tree.children))
        ranked = sorted((severity(action) for action, _ in results), reverse=True)
        return ACTIONS[ranked[tree.k - 1]], [verdict for _, verdicts in results for verdict in verdicts]

    async def _first(self, node: Node, x: GuardInput) -> tuple[Action, list[Verdict]]:
        seen: list[Verdict] = []
        for child in node.children:
            action, verdicts = await self._evaluate(child, x)
            seen += verdicts
            if action != "allow":
                return action, seen
        return "allow", seen

    async def _ask(self, leaf: Leaf, x: GuardInput) -> Verdict:
        started = time.monotonic()
        limit = leaf.timeout_ms / 1000
        try:
            raw = await asyncio.wait_for(self._guards[id(leaf)].check(replace(x, deadline=started + limit)), limit)
            verdict = _judge(leaf, raw)
        except TimeoutError:
            verdict = Verdict(action=leaf.on_error, status="timeout", reason=f"no answer in {leaf.timeout_ms:g} ms")
        except Exception as error:
            verdict = Verdict(action=leaf.on_error, status="error", reason=f"{type(error).__name__}: {error}")
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
    ) -> AsyncIterator[str]:
        """Pass on the pieces of a stream, each character only after it was scanned with text behind it.

        Raises:
            GuardBlocked: when the policy refuses; nothing of the refused tail was passed on.
        """
        if not self.guards(stage):
            async for piece in pieces:
                yield piece
            return
        held, turns = _HeldBack(), tuple(trace)
        async for piece in pieces:
            if held.add(piece):
                (await self.adecide(stage, held.window, turns, request_id)).raise_if_blocked()
                yield held.release()
        (await self.adecide(stage, held.text, turns, request_id)).raise_if_blocked()
        yield held.rest

    def guard_stream(
        self, pieces: Iterable[str], stage: str = "output", trace: Iterable[Turn] = (), request_id: str = ""
    ) -> Iterator[str]:
        """The synchronous form of `aguard_stream`. The pieces are made outside of any event loop, so that what makes
        them may take its time and be interrupted."""
        if not self.guards(stage):
            yield from pieces
            return
        held, turns = _HeldBack(), tuple(trace)
        for piece in pieces:
            if held.add(piece):
                self.decide(stage, held.window, turns, request_id).raise_if_blocked()
                yield held.release()
        self.decide(stage, held.text, turns, request_id).raise_if_blocked()
        yield held.rest


class _HeldBack:
    """A stream on its way through guards: `text` is all of it so far, of which `released` characters were passed on.
    The last HOLD_BACK are kept until more text has been scanned after them."""

    def __init__(self) -> None:
        self.text, self.released, self.scanned = "", 0, 0

    def add(self, piece: str) -> bool:
        """Take a piece. Whether it is time to scan."""
        self.text += piece
        return len(self.text) - self.scanned >= HOLD_BACK

    @property
    def window(self) -> str:
        """What is to be scanned: the text that is held back, and WINDOW characters before it."""
        return self.text[max(0, self.released - WINDOW) :]

    def release(self) -> str:
        """What may be passed on after a scan that allowed the window."""
        self.scanned = len(self.text)
        piece = self.text[self.released : self.scanned - HOLD_BACK]
        self.released += len(piece)
        return piece

    @property
    def rest(self) -> str:
        """What may be passed on after a scan that allowed all of the text."""
        return self.text[self.released :]


def _judge(leaf: Leaf, verdict: Verdict) -> Verdict:
    """The leaf's action from a verdict; raises ValueError on anything a sound guard cannot say."""
    if not isinstance(verdict, Verdict):
        raise ValueError(f"the guard returned {type(verdict).__name__}, not a Verdict")
    scores = [*verdict.categories.values(), *([] if verdict.p is None else [verdict.p])]
    if verdict.action not in ACTIONS or verdict.status != "ok" or not all(map(math.isfinite, scores)):
        raise ValueError(f"the guard's verdict is not usable ({verdict.status}, {verdict.action}, {verdict.reason})")
    if not leaf.thresholds:
        return verdict
    missing = leaf.thresholds.keys() - verdict.categories.keys()
    if missing:
        raise ValueError(f"the guard gave no score for {', '.join(sorted(missing))}")
    actions: list[Action] = ["allow"]
    for category, levels in leaf.thresholds.items():
        actions += [action for action, level in levels.items() if verdict.categories[category] >= level]  # type: ignore[misc]
    return replace(verdict, action=max(actions, key=severity))


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Run to completion, also when the caller already stands inside an event loop (a notebook, a server)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()
