"""Toy parts for conformance tests: a model of a few thousand parameters, examples of every kind, and services."""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from llama3.inference.completion import Completion, FinishReason
from llama3.inference.llama import Llama
from llama3.inference.sampling import Sampling
from llama3.model.batch import Batch, Segment, Tree
from llama3.model.build import init_weights
from llama3.model.config import ModelConfig
from llama3.model.score import score, top
from llama3.model.transformer import Transformer
from llama3.posttraining.examples import AnswerTokens
from llama3.tasks import Custom, Split, Task
from llama3.tasks.data_kind import data_kind
from llama3.tasks.rewards import Example
from llama3.testing.toy_texts import PROSE
from llama3.tokenizer import Tokenizer
from llama3.training.rollouts import Rewarder, Rewards, Rollouts

VOCAB = 48
CONFIG = ModelConfig(dim=16, n_layers=2, n_heads=2, n_kv_heads=1, ffn_dim=32, vocab_size=VOCAB, max_seq_len=64)


def toy_model(seed: int = 0) -> Transformer:
    """A tiny Llama with both scalar heads, in float32 on the CPU."""
    return init_weights(Transformer(CONFIG, value_head=True, score_head=True), seed)


def toy_examples(data: str, count: int = 8, seed: int = 0) -> list[Any]:
    """Examples of a kind (`AlgorithmSpec.data`), random and of differing lengths."""
    rng, kind = np.random.default_rng(seed), data_kind(data)
    return [kind.toy(rng) for _ in range(count)]


def toy_ids(rng: np.random.Generator, length: int = 0) -> np.ndarray:
    """Token ids: `length` of them, or two to seven."""
    return rng.integers(1, VOCAB, length or int(rng.integers(2, 8)))


def toy_answer(rng: np.random.Generator) -> AnswerTokens:
    """Content tokens and one end token, which is format."""
    ids = toy_ids(rng)
    return AnswerTokens(np.append(ids, 0), np.append(np.zeros(len(ids), np.bool_), True))


class ToyScorer:
    """What a model says of a batch, without gradient."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model

    @torch.no_grad()
    def logps(self, batch: Batch) -> Tensor:
        return score(self.model, batch).logps_M

    @torch.no_grad()
    def values(self, batch: Batch) -> Tensor:
        return score(self.model, batch, {"values"}).values_M

    def top(self, batch: Batch, k: int) -> tuple[Tensor, Tensor]:
        return top(self.model, batch, k)


class ToyGenerator:
    """Random answers with their log-probs under the policy: off by a lot, but exactly what it says it is.

    Answers are a function of the prompts, so that a repeated step repeats them; every fourth was cut off.
    """

    def __init__(self, policy: ToyScorer) -> None:
        self.policy = policy

    def generate(self, prompts: Sequence[npt.ArrayLike], sampling: Sampling) -> list[list[Completion]]:
        ids = [np.asarray(prompt).tolist() for prompt in prompts]
        rng = np.random.default_rng([sum(map(sum, ids)), sampling.n])
        drawn = [[toy_ids(rng) for _ in range(sampling.n)] for _ in ids]
        trees = [Tree([Segment(p), *(Segment(a, 0, True) for a in row)]) for p, row in zip(ids, drawn, strict=True)]
        logps = iter(self.policy.logps(Batch.of_trees(trees)).split([len(a) for row in drawn for a in row]))
        return [
            [Completion(a.tolist(), next(logps).tolist(), FinishReason(int(a[0]) % 4 == 0)) for a in row]
            for row in drawn
        ]


class ToyRewarder:
    """The share of even tokens in an answer."""

    def score(self, batch: Batch) -> Rewards:
        answers = batch.segment_M.unique()
        even_S = batch.mean_by_segment((batch.target_ids_M % 2 == 0).float())
        return Rewards({"reward": even_S[answers].tolist()}, [("", "")] * len(answers))


TOY_SAMPLING = Sampling(max_tokens=8)


def toy_rollouts(model: Transformer, rewarder: Rewarder | None = None) -> Rollouts:
    """Rewarded answers, as the loop draws them."""
    return Rollouts(ToyGenerator(ToyScorer(model)), TOY_SAMPLING, rewarder or ToyRewarder())


def expected_toy_reward(model: Transformer, batch: Batch) -> float:
    """What `ToyRewarder` would give on average for the next token at each target: the mass on even tokens."""
    logits_MV = model(batch, lambda inner, h_TD, _: inner.logits(h_TD[batch.source_M]))
    return float(logits_MV.softmax(-1)[:, ::2].sum(-1).mean())


class ToyStats:
    """One process: what is here is all there is."""

    def sum(self, x: Tensor) -> Tensor:
        return x

    def moments(self, x_N: Tensor) -> tuple[Tensor, Tensor]:
        return x_N.mean(), x_N.std()

    def gather(self, x_N: Tensor) -> tuple[Tensor, slice]:
        return x_N, slice(0, len(x_N))


class ToyServices:
    """What an algorithm may need, of one toy model: a frozen copy is the reference, another the teacher."""

    def __init__(self, model: Transformer) -> None:
        frozen = copy.deepcopy(model).requires_grad_(False)
        self.policy = self.value = ToyScorer(model)
        self.reference = ToyScorer(frozen)
        self.teacher = ToyScorer(toy_model(seed=1))
        self.sampling = TOY_SAMPLING
        self.stats = ToyStats()
        self.context = model.config.max_seq_len

    @property
    def tokenizer(self) -> Any:
        raise NotImplementedError("toy batches have no text; read ids instead")


class ToyData:
    """The same examples at every step."""

    def __init__(self, examples: Sequence[Any]) -> None:
        self._examples = examples

    def examples(self, step: int) -> Sequence[Any]:
        return self._examples


@cache
def toy_tokenizer() -> Tokenizer:
    """A few merges over bytes, and Llama 3's chat format."""
    return Tokenizer.train(PROSE, 320, 16)


def toy_llama(seed: int = 0, layers: int = 1) -> Llama:
    """A tiny model in text: it knows nothing, but speaks and scores."""
    config = ModelConfig(
        dim=16,
        n_layers=layers,
        n_heads=2,
        n_kv_heads=1,
        ffn_dim=32,
        vocab_size=toy_tokenizer().vocab_size,
        max_seq_len=512,
    )
    return Llama(init_weights(Transformer(config), seed), toy_tokenizer())


class ToyTaskReward:
    """Sums of two numbers; a task of any other reward is not scorable."""

    def tasks(self, split: Split, count: int, seed: int) -> list[Task]:
        rng = random.Random(f"{split}/{seed}")
        first = 0 if split == "train" else 100
        pairs = [(first + number, rng.randrange(50)) for number in range(count)]
        return [Task(f"sum-{a}", "sums", f"{a} + {b} =", str(a + b), Custom("toy", {"sum": a + b})) for a, b in pairs]

    def score(self, prompts: Sequence[str], answers: Sequence[str], examples: Sequence[Example]) -> list[float | None]:
        sums = [example.get("check", {}).get("data", {}).get("sum") for example in examples]
        return [None if s is None else float(answer == str(s)) for s, answer in zip(sums, answers, strict=True)]
