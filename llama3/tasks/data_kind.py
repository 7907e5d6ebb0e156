"""What a kind of data is: the columns that a user writes, the file it is kept in, and what an algorithm learns from it.

    written row --parse--> UserRow --stored--> row of the kind's file --example--> example --collate--> Batch

The plugin's spec names the file and the type of artifact that holds it; `AlgorithmSpec.data` names the kind. Rows are
checked before a run starts, so a kind must import without torch: `collate` and `toy` import what they need when called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

from llama3.errors import DataError
from llama3.plugins.asking import asked, what
from llama3.plugins.registry import discover
from llama3.plugins.specs import DataKindSpec
from llama3.tasks.task import Split

if TYPE_CHECKING:
    import numpy as np

    from llama3.model.batch import Batch
    from llama3.tokenizer import Tokenizer

MISSING_FIELD = DataError.declare("L3-DLG-007", "the field {error} is missing")

Row = Mapping[str, Any]
Message = Mapping[str, Any]
"""`role`, `content`, and `weight: 0` where an answer is not to be learnt."""


@dataclass(frozen=True, slots=True)
class UserRow:
    """A row that was understood."""

    prompt: tuple[Message, ...]
    answers: tuple[str, ...] = ()
    """Best first, where they are ranked."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """What else the kind keeps of the row."""
    kind: str = ""
    id: str | None = None
    split: Split | None = None

    @property
    def prompt_text(self) -> str:
        """All of the prompt's text: what decides whether the row is held out."""
        return "\n".join(message["content"] for message in self.prompt)


class Example(Protocol):
    """What `collate` packs."""

    @property
    def num_tokens(self) -> int:
        """Of the longest path through its tree."""


E = TypeVar("E", bound=Example)
Writer = Callable[[Sequence[UserRow], str], Iterable[Row]]
"""Makes the rows of a file from rows that have their ids, and the name of the file they came from."""


class DataKind(Generic[E]):
    """Built by the plugins of the family `data_kinds`: subclass it. A kind that no user writes needs only `collate` and
    `toy`."""

    required: ClassVar[Sequence[tuple[str, ...]]] = ()
    """Columns that a row must have: all of one of these."""
    optional: ClassVar[frozenset[str] | None] = frozenset()
    """Columns that it may have beside them; None: any."""
    aside: ClassVar[frozenset[str]] = frozenset()
    """More such columns, by which no row is taken for one of this kind: other kinds may have them too."""

    @property
    def stored(self) -> Mapping[str, Writer]:
        """Kinds that rows of this one can be learnt as, itself first, and what writes the rows of each one's file."""
        return {}

    def parse(self, row: Row, where: str) -> UserRow:
        """Understand a row whose columns were checked. Raises DataError."""
        raise NotImplementedError

    def example(self, tokenizer: Tokenizer, row: Row, where: str) -> E:
        """The example of a row of the kind's file. Raises DataError; a KeyError says that a field is missing."""
        raise NotImplementedError

    def collate(self, examples: Sequence[E]) -> Batch:
        """Examples as one forest, on the CPU: how an algorithm reads them that has no `collate` of its own."""
        raise NotImplementedError

    def toy(self, rng: np.random.Generator) -> E:
        """A random example for conformance tests (llama3.testing.toys)."""
        raise NotImplementedError

    def examples(self, tokenizer: Tokenizer, rows: Sequence[Row]) -> list[E]:
        """The examples of all rows, in order. Raises DataError with the problems of all bad ones."""
        examples, problems = [], []
        for number, row in enumerate(rows, 1):
            where = f"row {number} ({row.get('id', 'no id')})"
            try:
                examples.append(self.example(tokenizer, row, where))
            except DataError as error:
                problems += error.problems
            except KeyError as error:
                problems.append(MISSING_FIELD.problem(where, error=error))
        if problems:
            raise DataError.of(problems)
        return examples

    @property
    def columns(self) -> frozenset[str]:
        """All that the kind gives a meaning to."""
        return frozenset().union(self.optional or (), *self.required)

    def known(self, columns: frozenset[str]) -> int:
        """How many of a row's columns the kind gives a meaning to."""
        return len(columns & self.columns)

    def missing(self, columns: frozenset[str]) -> frozenset[str]:
        """What a row with these columns lacks of the set that it comes closest to."""
        closest = max(self.required, key=lambda needed: (len(columns & {*needed}), -len(needed)))
        return frozenset(closest) - columns


def data_kind(name: str) -> DataKind[Any]:
    """The kind called `name`. Raises PluginError."""
    faults = {
        "parse": _parse_fault,
        "example": _example_fault,
        "examples": _examples_fault,
        "collate": _collate_fault,
    }
    return asked(f"data_kinds.{name}", discover().build("data_kinds", name), faults)


def _parse_fault(row: object, *_: Any) -> str:
    return "" if isinstance(row, UserRow) else f"{what(row)}, not a UserRow"


def _example_fault(example: object, *_: Any) -> str:
    counts = isinstance(getattr(example, "num_tokens", None), Integral)
    return "" if counts else f"{what(example)}, whose `num_tokens` is no whole number"


def _examples_fault(examples: object, tokenizer: Tokenizer, rows: Sequence[Row]) -> str:
    if not isinstance(examples, Sequence):
        return f"{what(examples)}, not a list of examples"
    if len(examples) != len(rows):
        return f"it has {len(examples)} examples of {len(rows)} rows"
    return next((fault for example in examples if (fault := _example_fault(example))), "")


def _collate_fault(batch: object, *_: Any) -> str:
    from llama3.model.batch import Batch  # whoever has collated has torch

    return "" if isinstance(batch, Batch) else f"{what(batch)}, not a Batch"


def data_kind_spec(name: str) -> DataKindSpec:
    """What the kind called `name` says of itself. Raises PluginError."""
    spec = discover().spec("data_kinds", name)
    assert isinstance(spec, DataKindSpec)
    return spec


def written_kinds() -> dict[str, DataKind[Any]]:
    """The installed kinds that a user can write, by name. Raises PluginError where one of them cannot be built."""
    usable = [row.name for row in discover().list("data_kinds") if row.status == "ok"]
    kinds = {name: data_kind(name) for name in usable}
    return {name: kind for name, kind in kinds.items() if kind.required}
