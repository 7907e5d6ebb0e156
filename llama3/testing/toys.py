"""Toy parts for conformance tests: a model of a few thousand parameters, examples of every kind, and services."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llama3.model.batch import Batch, Segment, Tree
from llama3.model.build import init_weights
from llama3.model.config import ModelConfig
from llama3.model.score import score
from llama3.model.transformer import Transformer
from llama3.posttraining.examples import AnswerTokens
from llama3.tasks.data_kind import data_kind

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
    """Log-probs of a model without gradient."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model

    @torch.no_grad()
    def logps(self, batch: Batch) -> Tensor:
        logps_M = score(self.model, batch).logps_M
        assert logps_M is not None
        return logps_M


class ToySampler:
    """Draws random answers and scores them with the policy: off by a lot, but exactly what it says it is."""

    max_tokens = 8

    def __init__(self, policy: ToyScorer) -> None:
        self.policy = policy

    def rollouts(self, prompts: Batch, samples: int) -> Batch:
        """Answers are a function of the prompts, so that a repeated step repeats them."""
        rng = np.random.default_rng([int(prompts.tokens_T.sum()), samples])
        trees = []
        for root in prompts.roots_R.tolist():
            start, end = prompts.starts_S1[root : root + 2].tolist()
            answers = [Segment(toy_ids(rng), 0, True, per_segment={"finish_reason": 0}) for _ in range(samples)]
            root_segment = Segment(prompts.tokens_T[start:end].numpy(), per_segment={"finish_reason": -1})
            trees.append(Tree([root_segment, *answers]))
        batch = Batch.of_trees(trees)
        return batch.with_(per_target={"sample_logps": self.policy.logps(batch)})


class ToyRewarder:
    """The share of even tokens in an answer; prompts have none."""

    def score(self, batch: Batch) -> Batch:
        even_M = (batch.target_ids_M % 2 == 0).float()
        reward_S = batch.mean_by_segment(even_M)
        answers_S = batch.parents_S >= 0
        return batch.with_(per_segment={"reward": torch.where(answers_S, reward_S, torch.nan)})


def expected_toy_reward(model: Transformer, batch: Batch) -> float:
    """What `ToyRewarder` would give on average for the next token at each target: the mass on even tokens."""
    logits_MV = model(batch, lambda inner, h_TD: inner.logits(h_TD[batch.source_M]))
    return float(logits_MV.softmax(-1)[:, ::2].sum(-1).mean())


class ToyStats:
    """One process: what is here is all there is."""

    def sum(self, x: Tensor) -> Tensor:
        return x

    def moments(self, x_N: Tensor) -> tuple[Tensor, Tensor]:
        return x_N.mean(), x_N.std()

    def gather(self, x_N: Tensor) -> tuple[Tensor, slice]:
        return x_N, slice(0, len(x_N))


class ToyValues:
    """The policy's own value head."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model

    @torch.no_grad()
    def values(self, batch: Batch) -> Tensor:
        values_M = score(self.model, batch, frozenset({"values"})).values_M
        assert values_M is not None
        return values_M


class ToyServices:
    """Every service that an algorithm may need, made from one toy model and a frozen copy of it."""

    def __init__(self, model: Transformer) -> None:
        frozen = copy.deepcopy(model).requires_grad_(False)
        self.policy = ToyScorer(model)
        self.reference = self.teacher = ToyScorer(frozen)
        self.sampler = ToySampler(self.policy)
        self.reward = ToyRewarder()
        self.value = ToyValues(model)
        self.stats = ToyStats()

    @property
    def tokenizer(self) -> Any:
        raise NotImplementedError("toy batches have no text; read ids instead")


class ToyData:
    """The same examples at every step."""

    def __init__(self, examples: Sequence[Any]) -> None:
        self._examples = examples

    def examples(self, step: int) -> Sequence[Any]:
        return self._examples
