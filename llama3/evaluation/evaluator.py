"""What an evaluator is: it measures one model on held-out data and returns figures and the samples behind them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from llama3.data.corpus import Corpus, Split
    from llama3.data.plan import TokenPlan
    from llama3.evaluation.safety_rows import SafetyPrompt
    from llama3.inference.llama import Llama
    from llama3.tasks.rewards import Reward

HELD_OUT_BYTES = 200_000
"""Held-out text on which models and baselines are compared."""


@dataclass(frozen=True, slots=True)
class Subject:
    """The model under test and the data that it may be measured on."""

    model: Llama
    corpus: Corpus
    """For evaluators with `with_text`."""
    rewards: Mapping[str, Reward]
    max_tokens: int
    policy: Mapping[str, Any] = field(default_factory=dict)
    """The guards that stand before and behind it, as `safety.policy` has them, for evaluators with `with_policy`."""
    shards: TokenPlan | None = None
    """The token shards that it was pre-trained on, for evaluators with `with_shards`; None where nobody knows them."""


Better = Literal["higher", "lower"]
"""Which scores are better. "higher": shares of success, compared by their difference; "lower": costs, relatively."""


@dataclass(frozen=True, slots=True)
class Result:
    """`metrics` are JSON values by name; `samples` are JSON rows, one per item, that show how they came about.

    An audit compares two models item by item (llama3.evaluation.audit). It needs of every row `id` (the same item has
    the same id for every model) and `score` (a number); a row's `weight` (default 1) is the item's size. The suite's
    figure is sum(score) / sum(weight): a share of successes, or bits over bytes. A suite with other rows is told of and
    compares no models; one whose result is of another kind has failed.

    A report draws the metric `heat_map`, where there is one: {lengths, depths, shares}, the share that was found (null:
    not asked) in a row of all depths for each length. Rows of a suite that a gate of long-context stages asks have the
    `length` of their item, in tokens.
    """

    metrics: dict[str, Any]
    samples: list[dict[str, Any]] = field(default_factory=list)
    better: Better = "higher"
    rate_better: Better | None = None
    """Which way is better of the suite's first metric, where that is not the share of the scores but its opposite, such
    as a rate of violations; None: as of the scores."""
    scored: str = ""
    """With `rate_better`: what the share of the scores is called, for an audit, which compares them."""


class Evaluator(Protocol):
    """Built by `factory(options)`. An exception fails this evaluator's task only, which the same command measures
    again. Options whose items are of chosen lengths say so (`AsksAtLengths`)."""

    def run(self, subject: Subject, limit: int, seed: int) -> Result:
        """Measure `subject` on at most `limit` held-out items chosen by `seed`."""
        ...


@runtime_checkable
class AsksAtLengths(Protocol):
    """Options of an evaluator whose items are of chosen lengths. A config whose suite has no room in the context of its
    model, or of a stage, is refused before any training. Optional."""

    def lengths_at(self, context: int) -> Collection[int]:
        """The lengths in tokens, prompt and answer, of the items that a model with such a context is asked; none where
        none fits, whatever the tokenizer."""
        ...


@runtime_checkable
class KeepsPrompts(Protocol):
    """An evaluator that asks prompts about safety tells which, so that `post_training.safety` trains on none of them.
    Optional."""

    def kept_prompts(self) -> Sequence[SafetyPrompt]:
        """All prompts that it may ask."""
        ...


def texts(
    corpus: Corpus,
    split: Split,
    max_bytes: int | None = None,
    document_bytes: int | None = None,
    source: str | None = None,
) -> Iterator[bytes]:
    """The documents of a split and a source (None: all) as UTF-8, in corpus order, up to about `max_bytes`; with
    `document_bytes` of each its first piece of that size that is none of another's."""
    total = 0
    seen: set[bytes] = set()
    for batch in corpus.documents(split=split, source=source):
        for text in batch.texts:
            if max_bytes is not None and total >= max_bytes:
                return
            data = text.encode()
            if document_bytes is not None:
                data = next((piece for piece in _pieces(data, document_bytes) if piece not in seen), b"")
                seen.add(data)
            total += len(data)
            if data:
                yield data


def _pieces(data: bytes, size: int) -> Iterator[bytes]:
    """A text cut into pieces of at most `size` bytes (4 or more), never within a character."""
    start = 0
    while start < len(data):
        piece = data[start : start + size].decode(errors="ignore").encode()
        yield piece
        start += len(piece)
