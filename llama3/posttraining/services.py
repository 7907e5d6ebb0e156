"""What the core gives an algorithm in `prepare`: what policy, reference and teacher say, and statistics; and what the
loop scores answers with.

`build_services` makes only what the algorithm's spec names under `needs`; asking for anything else is an error that
says so.

Legend: T tokens, M targets, S segments, R trees (llama3.model.batch).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import numpy as np
from torch import Tensor

from llama3.errors import PluginError
from llama3.inference.sampling import Sampling
from llama3.model.batch import Batch
from llama3.plugins.specs import Need
from llama3.tasks.rewards import CombinedReward, Example
from llama3.tokenizer.chat import stop_ids
from llama3.training.algorithm import Scorer, Stats, ValueModel
from llama3.training.rollouts import Rewards, Rollouts

if TYPE_CHECKING:
    from llama3.tokenizer import Tokenizer

NOT_NAMED = PluginError.declare(
    "L3-SVC-001",
    "it asks for a service that its spec does not name: {need!r}",
    fix='add "{need}" to `needs` of its AlgorithmSpec',
)
NOT_SUPPLIED = PluginError.declare(
    "L3-SVC-002",
    "this stage cannot supply {missing}",
    why="it has {services}",
    fix="choose another algorithm",
)
NO_SERVICE = PluginError.declare(
    "L3-SVC-003",
    "it asks for services.{name}, which does not exist",
    why="since api 2 the loop draws and rewards answers before `prepare` is called",
    fix='read batch.per_segment["reward"] and what else docs/plugins.md names',
)

T = TypeVar("T")


class LazyScorer:
    """A scorer that is made when it is first asked, because an algorithm may never ask (GRPO without a KL term)."""

    def __init__(self, make: Callable[[], Scorer]) -> None:
        self._make = make

    @cached_property
    def _scorer(self) -> Scorer:
        return self._make()

    def logps(self, batch: Batch) -> Tensor:
        return self._scorer.logps(batch)

    def top(self, batch: Batch, k: int) -> tuple[Tensor, Tensor]:
        return self._scorer.top(batch, k)


class TextRewarder:
    """Scores a batch's answers as text (the `Rewarder` of llama3.training.rollouts).

    `examples` is the table that per_tree["example"] points into.
    """

    def __init__(self, reward: CombinedReward, tokenizer: Tokenizer, examples: Sequence[Example]) -> None:
        self._reward, self._tokenizer, self._examples = reward, tokenizer, examples

    def score(self, batch: Batch) -> Rewards:
        """The reward of every answer, its parts by plugin, and the texts."""
        answers = batch.segment_M.unique()
        segments = batch.tokens_T.split(batch.lengths_S.tolist())
        texts = [answer_text(self._tokenizer, segments[segment].tolist()) for segment in answers.tolist()]
        numbers = batch.per_tree["example"][batch.tree_S[answers]].tolist()
        examples = [self._examples[number] for number in numbers]
        prompts = [str(example.get("prompt", "")) for example in examples]
        scores = self._reward.score(prompts, texts, examples)
        columns = {"reward": scores.total} | {f"reward/{name}": part for name, part in scores.parts.items()}
        return Rewards(columns, list(zip(prompts, texts, strict=True)))


def answer_text(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """The text of an answer, without the stop token it may end with."""
    ends = bool(ids) and ids[-1] in stop_ids(tokenizer)
    return tokenizer.decode(np.asarray(ids[:-1] if ends else ids, dtype=np.uint32))


@dataclass(frozen=True, kw_only=True)
class RunServices:
    """The services of one training stage (`Services`); those not built raise PluginError when asked for."""

    policy: Scorer
    stats: Stats
    tokenizer: Tokenizer
    built: Mapping[Need, Any]
    context: int | None = None

    @property
    def sampling(self) -> Sampling:
        rollouts: Rollouts = self._get("rollouts")
        return rollouts.sampling

    @property
    def reference(self) -> Scorer:
        return self._get("reference")

    @property
    def value(self) -> ValueModel:
        return self._get("value")

    @property
    def teacher(self) -> Scorer:
        return self._get("teacher")

    def _get(self, need: Need) -> Any:
        if need not in self.built:
            raise NOT_NAMED("algorithm", need=need)
        return self.built[need]

    def __getattr__(self, name: str) -> NoReturn:
        """Of names that are none of the above. Raises PluginError."""
        if name.startswith("__"):
            raise AttributeError(name)
        raise NO_SERVICE("algorithm", name=name)


def build_services(
    algorithm: str,
    needs: frozenset[Need],
    makers: Mapping[Need, Callable[[], Any]],
    *,
    policy: Scorer,
    stats: Stats,
    tokenizer: Tokenizer,
    context: int | None = None,
) -> RunServices:
    """Call the maker of every need. Raises PluginError, before any work, for a need that has no maker."""
    if missing := sorted(needs - set(makers)):
        raise NOT_SUPPLIED(f"algorithm {algorithm}", missing=missing, services=sorted(makers) or "no services")
    return RunServices(
        policy=policy,
        stats=stats,
        tokenizer=tokenizer,
        built={need: makers[need]() for need in sorted(needs)},
        context=context,
    )


def chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Consecutive pieces of at most `size` items."""
    return (items[start : start + size] for start in range(0, len(items), size))
