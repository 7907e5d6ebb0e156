"""One error format for the CLI, the Python API and the server.

A `Problem` says where, what, why and how to fix it. Every exception of this project carries a list of
them, so that a user sees all mistakes of a file at once. The class of the exception decides the exit code.

An error is declared once, at the top of the module that finds it, and raised in one line:

    NO_ROOM = DoesNotFit.declare("L3-GEN-005", "{tokens} tokens do not fit", fix="shorten the prompt")

    raise NO_ROOM(where, tokens=9000)                    # one problem
    problems.append(NO_ROOM.problem(where, tokens=9000)) # several: raise DoesNotFit.of(problems)

docs/errors.md is made of the declarations.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Generic, Self, TypeVar

CODE = re.compile(r"[A-Z][A-Z0-9]*-[A-Z][A-Z0-9]*-\d{3}")
"""Owner, area and number. L3 is this project's; a plugin takes a prefix of its own, such as ACME-RWD-001."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong. `code` (such as "L3-CFG-012") is stable and listed in docs/errors.md."""

    code: str
    where: str
    what: str
    why: str = ""
    fix: str = ""

    @classmethod
    def of_row(cls, row: Mapping[str, str]) -> Problem:
        """A problem that another process told as plain data (`dataclasses.asdict`)."""
        return cls(**row)

    def __str__(self) -> str:
        text = ""
        for part in (self.what, self.why, self.fix and f"Fix: {self.fix}"):
            if sentence := _without_stop(part):
                text += (" " if text.endswith((".", "?", "!")) else ". ") * bool(text) + sentence
        where = self.where.rstrip(": ")
        told = f"{where}: {text} [{self.code}]" if where else f"{text} [{self.code}]"
        return printable(without_credentials(told), lines=False)


_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What moves a terminal's cursor, rules its colours, turns the direction of writing, or cannot be written at all."""


def printable(text: str, *, lines: bool = True) -> str:
    """`text` as it can be told to a terminal: every control character is spelled out, such as \\x1b.

    Whatever is told may come from somebody else's file. With `lines`, line breaks and tabs stay what they are.
    """
    text = _CONTROLS.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode("ascii"), text)
    return text if lines else text.replace("\n", "\\n").replace("\t", "\\t")


_CREDENTIALS = re.compile(r"(?<=://)(?:[^/?#\s\"'<>@]*+@)++")


def without_credentials(text: str) -> str:
    """`text` whose URLs name no user and no password."""
    return _CREDENTIALS.sub("", text)


def _without_stop(text: str) -> str:
    """`text` without the mark that ends it; an ellipsis, `?` and `!` say something and stay."""
    text = text.strip()
    return text if text.endswith("..") else text.rstrip(" .,;:")


def said_by(error: BaseException) -> str:
    """What an error says; "" where it cannot be written, as anybody's class may do."""
    try:
        return str(error)
    except Exception:
        return ""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """ "did you mean 'a' or 'b'?" with at most three near names, or an empty string.

    Near is what a slip of the keys makes: a third of the letters, three at most, left out, added, changed or swapped
    with their neighbour; another case or hyphen; or the beginning of a longer name. A word that only looks somewhat
    alike would send a reader the wrong way.
    """
    near = sorted((slips, name) for name in set(known) if (slips := _slips(word, name)) is not None)
    near = [row for row in near if row[0] == 0] or near
    return f"did you mean {' or '.join(repr(name) for _, name in near[:3])}?" if near else ""


def _slips(word: str, name: str) -> int | None:
    """How many slips turn `word` into `name`; None where they are not near."""
    typed, meant = (text.casefold().replace("-", "_") for text in (word, name))
    limit = min(3, max(1, len(typed) // 3))
    if abs(len(typed) - len(meant)) <= limit and (slips := _distance(typed, meant)) <= limit:
        return slips if slips < len(meant) else None
    return limit + 1 if len(typed) >= 4 and meant.startswith(typed) else None


def _distance(one: str, other: str) -> int:
    """Letters left out, added, changed, or swapped with their neighbour (restricted Damerau-Levenshtein distance)."""
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        before, last, row = row, before, [i]
        for j, wanted in enumerate(other, 1):
            best = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != wanted))
            if i > 1 and j > 1 and (letter, one[i - 2]) == (other[j - 2], wanted):
                best = min(best, last[j - 2] + 1)
            row.append(best)
    return row[-1]


class LlamaError(Exception):
    """Base of all errors that this project raises on purpose. `exit_code` is what the CLI returns."""

    exit_code: ClassVar[int] = 1
    named_plugin = False

    def __init__(self, problems: Problem | Iterable[Problem]) -> None:
        """Raises TypeError for anything else, such as a text: an error is declared, under a code that stays."""
        self.problems = [problems] if isinstance(problems, Problem) else list(problems)
        if not all(isinstance(problem, Problem) for problem in self.problems):
            kind = type(self).__name__
            raise TypeError(f"{kind} takes Problems, not {problems!r}; declare it: {kind}.declare(CODE, WHAT)")
        super().__init__("\n".join(map(str, self.problems)))

    def name_plugin(self, plugin: str) -> None:
        """Puts `plugin`, which has raised this, before every place. Who is named first stays."""
        if self.named_plugin:
            return
        self.named_plugin = True
        self.problems = [replace(one, where=f"{plugin}: {one.where}".rstrip(": ")) for one in self.problems]
        self.args = ("\n".join(map(str, self.problems)),)

    def __reduce__(self) -> tuple[Any, ...]:
        """As it is: what it is made of tells less."""
        return _again, (type(self), self.args, self.__dict__)

    @classmethod
    def declare(cls, code: str, what: str, *, why: str = "", fix: str = "") -> Declaration[Self]:
        """Declare an error of this class. `what`, `why` and `fix` are templates with named fields.

        Raises ValueError for a malformed code or template, and for a code that another error has.
        """
        declaration = Declaration(code, cls, what, why, fix)
        # A module that is loaded again declares the same once more.
        if DECLARED.setdefault(code, declaration) != declaration:
            raise ValueError(f"{code} is declared already: {DECLARED[code].what}")
        return declaration

    @classmethod
    def of(cls, problems: Iterable[Problem]) -> LlamaError:
        """One exception for problems that were found together, of the class that they were all declared with.

        It is of this class where theirs differ, as in the check of a config, and where nobody declared them.
        """
        found = list(problems)
        classes = {DECLARED[problem.code].error if problem.code in DECLARED else cls for problem in found}
        return classes.pop()(found) if len(classes) == 1 else cls(found)


def _again(kind: type[LlamaError], args: tuple[str, ...], state: dict[str, Any]) -> LlamaError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


E = TypeVar("E", bound=LlamaError, covariant=True)


@dataclass(frozen=True)
class Declaration(Generic[E]):
    """An error that can be raised: its code, its class (so its exit code) and its templates.

    A field of a template is a keyword of the call. A list reads "a, b"; an exception reads as its message in one
    line, an OSError as what the system says.
    """

    code: str
    error: type[E]
    what: str
    why: str
    fix: str

    def __post_init__(self) -> None:
        if not CODE.fullmatch(self.code):
            raise ValueError(f"{self.code!r} is no code such as ACME-RWD-001")
        if not all(field.isidentifier() for field in self.fields):
            raise ValueError(f"{self.code}: every field of a template needs a name")

    @property
    def fields(self) -> frozenset[str]:
        """Names of the fields, which `problem` takes as keywords."""
        parts = string.Formatter().parse("".join((self.what, self.why, self.fix)))
        return frozenset(re.split(r"[.\[]", name)[0] for _, name, _, _ in parts if name is not None)

    def __call__(self, where: object = "", /, **fields: object) -> E:
        """The exception with this one problem."""
        return self.error(self.problem(where, **fields))

    def problem(self, where: object = "", /, **fields: object) -> Problem:
        """The problem at `where` (a file with line, a dotted path, a name). Raises TypeError for other fields."""
        if fields.keys() != self.fields:
            raise TypeError(f"{self.code} takes the fields {sorted(self.fields)}, got {sorted(fields)}")
        what, why, fix = (_SENTENCE.vformat(text, (), fields) for text in (self.what, self.why, self.fix))
        return Problem(self.code, str(where), what, why, fix)


class _Sentence(string.Formatter):
    """Fills a template as `str.format` does, with lists and exceptions as a reader wants them."""

    def convert_field(self, value: Any, conversion: Any) -> Any:
        if conversion == "r" and isinstance(value, list):
            return ", ".join(map(repr, value))
        return super().convert_field(value, conversion)

    def format_field(self, value: Any, format_spec: str) -> str:
        if isinstance(value, list):
            value = ", ".join(map(str, value))
        elif isinstance(value, BaseException):
            said = value.strerror if isinstance(value, OSError) and value.strerror else str(value)
            value = " ".join(said.split()).rstrip(".") or type(value).__name__
        return str(super().format_field(value, format_spec))


_SENTENCE = _Sentence()
DECLARED: dict[str, Declaration[Any]] = {}
"""Every declared error by its code, as far as modules are imported."""


def from_core(error: Exception, where: object) -> LlamaError:
    """The declared error that an exception of the Rust core stands for; its args are (code, fields)."""
    code, fields = error.args
    raised: LlamaError = DECLARED[code](where, **fields)
    return raised


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
