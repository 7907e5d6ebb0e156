"""Guards by their names, whole and streamed, as the tests of built-in guards ask them."""

from __future__ import annotations

import asyncio

from llama3.errors import GuardBlocked
from llama3.plugins.registry import discover
from llama3.safety.engine import PolicyEngine
from llama3.safety.guard import ACTIONS, GuardInput
from llama3.safety.worker import settled


def engine(guard, options=None, stage="output", **leaf):
    """A policy of one guard."""
    tree = {"guard": {"name": guard, **(options or {})}, **leaf}
    return PolicyEngine({stage: tree}, lambda name, given: discover().build("guards", name, given))


def outcome(guards, text, stage="output"):
    """What may pass of a whole text; None where it is refused."""
    decision = guards.decide(stage, text)
    return None if decision.blocked else decision.text


def streamed(guards, pieces):
    """The same of a stream of an answer."""
    try:
        return "".join(guards.guard_stream(iter(pieces)))
    except GuardBlocked:
        return None


def cut(text, sizes):
    """The text in pieces of these sizes, again and again."""
    pieces, at = [], 0
    while at < len(text):
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(text[at : at + size])
        at += size
    return pieces


class Asked:
    """A guard, asked without a policy."""

    def __init__(self, name, options=None):
        self.guard = discover().build("guards", name, options or {})
        self._do(self.guard.open())

    def __call__(self, text, stage="output", **fields):
        return self._do(self.guard.check(GuardInput(stage=stage, text=text, **fields)))

    def close(self):
        self._do(self.guard.close())

    @staticmethod
    def _do(result):
        return asyncio.run(settled_later(result))


async def settled_later(result):
    return await settled(result)


def severity(verdict):
    return ACTIONS.index(verdict.action)
