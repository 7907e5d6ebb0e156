"""What the core gives an algorithm in `prepare`: log-probs of policy and reference, rollouts, rewards, statistics.

`build_services` makes only what the algorithm's spec names under `needs`; asking for anything else is an error that
says so.

Legend: T tokens, M targets, S segments, R trees (llama3.model.batch).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from llama3.errors import PluginError, Problem
from llama3.inference.completion import Completion, Generator
from llama3.inference.engine import throughput_engine
from llama3.inference.sampling import Sampling
from llama3.model.batch import Batch, Segment, Tree
from llama3.model.lora import without_adapters
from llama3.model.score import score
from llama3.model.transformer import Transformer
from llama3.plugins.specs import Need
from llama3.tasks.rewards import CombinedReward, Example, require_scorable
from llama3.tokenizer.chat import stop_ids
from llama3.training.algorithm import Rewarder, Sampler, Scorer, Stats, ValueModel
from llama3.training.microbatch import cut
from llama3.training.parallel import Parallel, ParallelContext
from llama3.training.rollouts import RolloutWatch

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
        return self._read(batch, "logps")

    def values(self, batch: Batch) -> Tensor:
        """The value head (M,) at the token before each target, fp32."""
        return self._read(batch, "values")

    @torch.no_grad()
    def _read(self, batch: Batch, want: Literal["logps", "values"]) -> Tensor:
        found_M = torch.empty(batch.num_targets, device=batch.tokens_T.device)
        rows_M = torch.arange(batch.num_targets, device=batch.tokens_T.device)
        for part in cut(batch.with_(per_target={"row": rows_M}), self.microbatch_tokens):
            with torch.autocast(batch.tokens_T.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                scored = score(self.model, part, {want}, self.temperature)
            found_M[part.per_target["row"]] = scored.logps_M if want == "logps" else scored.values_M
        return found_M


class LazyScorer:
    """A scorer that is made when it is first asked, because an algorithm may never ask (GRPO without a KL term)."""

    def __init__(self, make: Callable[[], Scorer]) -> None:
        self._make = make

    @cached_property
    def _scorer(self) -> Scorer:
        return self._make()

    def logps(self, batch: Batch) -> Tensor:
        return self._scorer.logps(batch)


def draw_seed(context: ParallelContext | None = None) -> int:
    """A seed from torch's generator, which the loop seeds by step: a resumed run samples the same. With a context it
    is the first rank's, so that an answer does not depend on which rank draws it; every rank must then call it."""
    seed = int(torch.randint(2**53, ()))
    return seed if context is None else int(context.reduce([seed if context.is_main else 0], "sum")[0])


class BaseScorer:
    """Log-probs by the base of a model with adapters: the reference needs no second copy of the weights."""

    def __init__(self, scorer: Scorer, model: nn.Module) -> None:
        self._scorer, self._model = scorer, model

    def logps(self, batch: Batch) -> Tensor:
        """Log-probs (M,) of the targets, fp32."""
        with without_adapters(self._model):
            return self._scorer.logps(batch)


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


class RolloutSampler:
    """Answers of the current policy as trees (the `Sampler` of llama3.training.algorithm)."""

    def __init__(self, generator: Generator, sampling: Sampling, *, draw_seed: Callable[[], int] = draw_seed) -> None:
        self._generator, self._sampling, self._draw_seed = generator, sampling, draw_seed
        self.max_tokens = sampling.max_tokens

    def rollouts(self, prompts: Batch, samples: int) -> Batch:
        """[prompt] <- [answer 1] ... [answer n] for each root of `prompts`; per_tree columns are kept.

        All prompts are sampled in one call.
        """
        ids_R = [segment.tolist() for segment in _segments(prompts)]
        completions = self._generator.generate(ids_R, replace(self._sampling, n=samples, seed=self._draw_seed()))
        trees = [
            Tree([Segment(ids), *map(_answer_segment, answers)])
            for ids, answers in zip(ids_R, completions, strict=True)
        ]
        batch = Batch.of_trees(trees).to(prompts.tokens_T.device)
        return batch.with_(per_tree=prompts.per_tree)


class TextRewarder:
    """Scores a batch's answers as text (the `Rewarder` of llama3.training.algorithm).

    `examples` is the table that per_tree["example"] points into; `watch` is shown every batch with its rewards.
    """

    def __init__(
        self,
        reward: CombinedReward,
        tokenizer: Tokenizer,
        examples: Sequence[Example],
        watch: RolloutWatch | None = None,
    ) -> None:
        self._reward, self._tokenizer, self._examples = reward, tokenizer, examples
        self._watch = watch or RolloutWatch()
        self._is_first = True

    def score(self, batch: Batch) -> Batch:
        """Add per_segment["reward"] and ["reward/<name>"]: NaN for prompts and for what cannot be scored.

        Raises DataError where nothing of the first batch can be.
        """
        answers = batch.segment_M.unique().tolist()
        segments = _segments(batch)
        texts = [answer_text(self._tokenizer, segments[segment].tolist()) for segment in answers]
        numbers = batch.per_tree["example"][batch.tree_S].tolist()
        examples = [self._examples[numbers[segment]] for segment in answers]
        prompts = [str(example.get("prompt", "")) for example in examples]
        scores = self._reward.score(prompts, texts, examples)
        if self._is_first:
            require_scorable(scores)
            self._is_first = False
        columns = {"reward": scores.total} | {f"reward/{name}": part for name, part in scores.parts.items()}
        scored = batch.with_(per_segment={name: self._column(batch, answers, x) for name, x in columns.items()})
        self._watch.seen(scored, list(zip(prompts, texts, strict=True)))
        return scored

    def _column(self, batch: Batch, segments: Sequence[int], values: Sequence[float]) -> Tensor:
        column_S = torch.full((batch.num_segments,), float("nan"), device=batch.tokens_T.device)
        column_S[list(segments)] = torch.tensor(values, device=batch.tokens_T.device)
        return column_S


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
    def sampler(self) -> Sampler:
        return self._get("rollouts")

    @property
    def reward(self) -> Rewarder:
        return self._get("reward")

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


def _segments(batch: Batch) -> Sequence[Tensor]:
    """The token ids of each segment."""
    return batch.tokens_T.split(batch.lengths_S.tolist())


def _answer_segment(answer: Completion) -> Segment:
    return Segment(
        answer.ids,
        parent=0,
        is_target=True,
        per_target={"sample_logps": answer.logps},
        per_segment={"finish_reason": int(answer.finish_reason)},
    )


def chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Consecutive pieces of at most `size` items."""
    return (items[start : start + size] for start in range(0, len(items), size))
