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
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from llama3.errors import PluginError, Problem
from llama3.inference.completion import Completion
from llama3.inference.engine import throughput_engine
from llama3.inference.sampling import Sampling
from llama3.model.batch import Batch
from llama3.model.lora import without_adapters
from llama3.model.score import score, top
from llama3.model.transformer import Transformer
from llama3.plugins.specs import Need
from llama3.tasks.rewards import CombinedReward, Example, require_scorable
from llama3.tokenizer.chat import stop_ids
from llama3.training.algorithm import Scorer, Stats, ValueModel
from llama3.training.microbatch import cut
from llama3.training.parallel import Parallel
from llama3.training.rollouts import Rewards, Rollouts

if TYPE_CHECKING:
    import numpy.typing as npt

    from llama3.tokenizer import Tokenizer

T = TypeVar("T")


class ModelScorer:
    """Log-probs and values by a model as it stands, in microbatches, without gradient: `Scorer` and `ValueModel`."""

    def __init__(
        self,
        model: nn.Module,
        *,
        microbatch_tokens: int = 8192,
        precision: Literal["fp32", "bf16"] = "fp32",
        temperature: float = 1.0,
    ) -> None:
        self.model, self.microbatch_tokens = model, microbatch_tokens
        self.precision, self.temperature = precision, temperature

    def logps(self, batch: Batch) -> Tensor:
        """Log-probs (M,) of the targets at `temperature`, fp32."""
        (logps_M,) = self._read(batch, lambda part: (score(self.model, part, {"logps"}, self.temperature).logps_M,))
        return logps_M

    def values(self, batch: Batch) -> Tensor:
        """The value head (M,) at the token before each target, fp32."""
        (values_M,) = self._read(batch, lambda part: (score(self.model, part, {"values"}).values_M,))
        return values_M

    def top(self, batch: Batch, k: int) -> tuple[Tensor, Tensor]:
        """The k likeliest tokens (M, k) at each target and their log-probs (M, k) at `temperature`, fp32."""
        ids_Mk, logps_Mk = self._read(batch, lambda part: top(self.model, part, k, self.temperature))
        return ids_Mk, logps_Mk

    @torch.no_grad()
    def _read(self, batch: Batch, read: Callable[[Batch], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """What `read` gives of each target, in the order of the batch."""
        numbers_M = torch.arange(batch.num_targets, device=batch.tokens_T.device)
        numbered = batch.with_(per_target={"number": numbers_M})
        parts = cut(numbered, self.microbatch_tokens) or [numbered]
        with torch.autocast(batch.tokens_T.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            found = [read(part) for part in parts]
        order = torch.cat([part.per_target["number"] for part in parts]).argsort()
        return tuple(torch.cat(column)[order] for column in zip(*found, strict=True))


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


class BaseScorer:
    """Log-probs by the base of a model with adapters: the reference needs no second copy of the weights."""

    def __init__(self, scorer: Scorer, model: nn.Module) -> None:
        self._scorer, self._model = scorer, model

    def logps(self, batch: Batch) -> Tensor:
        """Log-probs (M,) of the targets, fp32."""
        with without_adapters(self._model):
            return self._scorer.logps(batch)

    def top(self, batch: Batch, k: int) -> tuple[Tensor, Tensor]:
        """The k likeliest tokens (M, k) and their log-probs (M, k)."""
        with without_adapters(self._model):
            return self._scorer.top(batch, k)


class GatheredGenerator:
    """Samples from a model in training whose weights may be sharded: they are whole while it does."""

    def __init__(self, model: Transformer, parallel: Parallel) -> None:
        self._model, self._parallel = model, parallel
        with parallel.gathered(model):
            self._engine = throughput_engine(model)

    def generate(self, prompts: Sequence[npt.ArrayLike], sampling: Sampling) -> list[list[Completion]]:
        """As `Engine.generate`. Every rank must call it."""
        with self._parallel.gathered(self._model):
            return self._engine.generate(prompts, sampling)


class TextRewarder:
    """Scores a batch's answers as text (the `Rewarder` of llama3.training.rollouts).

    `examples` is the table that per_tree["example"] points into.
    """

    def __init__(self, reward: CombinedReward, tokenizer: Tokenizer, examples: Sequence[Example]) -> None:
        self._reward, self._tokenizer, self._examples = reward, tokenizer, examples
        self._is_first = True

    def score(self, batch: Batch) -> Rewards:
        """The reward of every answer, its parts by plugin, and the texts. Raises DataError where no answer of the first
        batch can be scored."""
        answers = batch.segment_M.unique()
        segments = batch.tokens_T.split(batch.lengths_S.tolist())
        texts = [answer_text(self._tokenizer, segments[segment].tolist()) for segment in answers.tolist()]
        numbers = batch.per_tree["example"][batch.tree_S[answers]].tolist()
        examples = [self._examples[number] for number in numbers]
        prompts = [str(example.get("prompt", "")) for example in examples]
        scores = self._reward.score(prompts, texts, examples)
        if self._is_first:
            require_scorable(scores)
            self._is_first = False
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
            raise PluginError(
                Problem("L3-SVC-001", "algorithm", f"it asks for a service that its spec does not name: {need!r}",
                        fix=f'add "{need}" to `needs` of its AlgorithmSpec')
            )  # fmt: skip
        return self.built[need]

    def __getattr__(self, name: str) -> NoReturn:
        """Of names that are none of the above. Raises PluginError."""
        if name.startswith("__"):
            raise AttributeError(name)
        raise PluginError(
            Problem("L3-SVC-003", "algorithm", f"it asks for services.{name}, which does not exist",
                    "since api 2 the loop draws and rewards answers before `prepare` is called",
                    'read batch.per_segment["reward"] and what else docs/plugins.md names')
        )  # fmt: skip


def build_services(
    algorithm: str,
    needs: frozenset[Need],
    makers: Mapping[Need, Callable[[], Any]],
    *,
    policy: Scorer,
    stats: Stats,
    tokenizer: Tokenizer,
) -> RunServices:
    """Call the maker of every need. Raises PluginError, before any work, for a need that has no maker."""
    if missing := sorted(needs - set(makers)):
        raise PluginError(
            Problem("L3-SVC-002", f"algorithm {algorithm}", f"this stage cannot supply {', '.join(missing)}",
                    f"it has {', '.join(sorted(makers)) or 'no services'}", "choose another algorithm")
        )  # fmt: skip
    return RunServices(
        policy=policy, stats=stats, tokenizer=tokenizer, built={need: makers[need]() for need in sorted(needs)}
    )


def chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Consecutive pieces of at most `size` items."""
    return (items[start : start + size] for start in range(0, len(items), size))
