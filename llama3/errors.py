"""One error format for the CLI, the Python API and the server.

A `Problem` says where, what, why and how to fix it. Every exception of this project carries a list of
them, so that a user sees all mistakes of a file at once. The class of the exception decides the exit code.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong. `code` (such as "L3-CFG-012") is stable and listed in docs/errors.md."""

    code: str
    where: str
    what: str
    why: str = ""
    fix: str = ""

    def __str__(self) -> str:
        text = ". ".join(part.rstrip(".") for part in (self.what, self.why) if part)
        text = f"{self.where}: {text}" if self.where else text
        text = f"{text}. Fix: {self.fix}" if self.fix else text
        return f"{text} [{self.code}]"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """ "did you mean 'a' or 'b'?" with at most three near names, or an empty string."""
    near = difflib.get_close_matches(word, list(known), n=3, cutoff=0.6)
    return f"did you mean {' or '.join(map(repr, near))}?" if near else ""


class LlamaError(Exception):
    """Base of all errors that this project raises on purpose. `exit_code` is what the CLI returns."""

    exit_code: ClassVar[int] = 1

    def __init__(self, problems: Problem | Iterable[Problem]) -> None:
        self.problems = [problems] if isinstance(problems, Problem) else list(problems)
        super().__init__("\n".join(map(str, self.problems)))


class ConfigError(LlamaError):
    """The configuration or the command line cannot be run as written."""

    exit_code = 2


class PluginError(LlamaError):
    """A plugin is missing, broken, ambiguous or breaks its contract."""

    exit_code = 4


class DataError(LlamaError):
    """Input text, a token shard or a dataset is missing, damaged or unusable."""


class ArtifactError(LlamaError):
    """An artifact is incomplete, was changed after it was made, or is of another type."""


class CheckpointError(LlamaError):
    """A checkpoint is damaged or does not fit the model, the tokenizer or the run that wants it."""


class DoesNotFit(LlamaError):  # noqa: N818 - a public name of contracts.md
    """The request needs more memory, cache blocks or devices than there are."""

    exit_code = 3


class GuardBlocked(LlamaError):  # noqa: N818 - a public name of contracts.md
    """The safety policy refused the text."""

    exit_code = 5


class GateFailed(LlamaError):  # noqa: N818 - a public name of contracts.md
    """A release or audit gate did not pass."""

    exit_code = 5


class Interrupted(LlamaError):  # noqa: N818 - a public name of contracts.md
    """The user stopped the run; what was finished is saved and the same command resumes."""

    exit_code = 130
