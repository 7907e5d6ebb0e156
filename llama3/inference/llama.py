"""`Llama`: a model with its tokenizer, in text. What `llama3.load` returns.

model = llama3.load("runs/quickstart")
model.generate(["def fibonacci(n):"], max_tokens=64)
model.chat([Message("user", "What is 2 + 2?")])
model.logprobs(["The sky is blue."])
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llama3.checkpoints.formats import load_tokenizer
from llama3.checkpoints.layouts import holds_model
from llama3.checkpoints.load import load_model
from llama3.errors import ArtifactError, DoesNotFit
from llama3.inference.completion import Completion, FinishReason
from llama3.inference.engine import Engine
from llama3.inference.sampling import Sampling
from llama3.model.batch import Batch
from llama3.model.config import ModelConfig
from llama3.model.device import device_of
from llama3.model.score import score
from llama3.model.transformer import Transformer
from llama3.plugins.specs import GuardStage
from llama3.safety.engine import PolicyEngine
from llama3.safety.guard import Turn
from llama3.tokenizer.chat import Message, render, stop_ids
from llama3.tokenizer.tokenizer import Tokenizer

LONG_CHAT = DoesNotFit.declare(
    "L3-GEN-006",
    "the conversation has {tokens} tokens",
    why="the context holds {limit} with the answer",
    fix="drop its oldest messages",
)
NO_MODEL = ArtifactError.declare(
    "L3-GEN-007",
    "no model is here",
    why="a model directory holds config.json, weights and a tokenizer; a run has one when its first round is over",
    fix="give the path of a checkpoint, a release, a run or a .gguf file",
)

TEMPERATURE, TOP_P = 0.6, 0.9
"""How answers are drawn unless said otherwise: the defaults of Meta's reference code."""
SCORE_TOKENS = 8192
"""Tokens that `logprobs` scores at once."""
_STAGES: dict[str, GuardStage] = {"user": "input", "tool": "tool_result", "ipython": "tool_result"}
"""The guard stage at which a message of this role enters."""


class Llama:
    """A transformer, its tokenizer and an engine.

    With a `guard`, `generate`, `chat` and `stream` raise GuardBlocked instead of taking a prompt or giving an answer
    that it refuses.
    """

    def __init__(self, transformer: Transformer, tokenizer: Tokenizer, *, guard: PolicyEngine | None = None) -> None:
        self.transformer = transformer
        self.tokenizer = tokenizer
        self.guard = guard

    @classmethod
    def load(cls, path: str | Path, *, device: str = "auto", guard: PolicyEngine | None = None) -> Llama:
        """From a checkpoint or a release (a directory with config.json, weights and tokenizer; quantized ones too),
        Meta's directory, a .gguf file, or a run directory (see `find_model`).

        device: "cpu", "cuda", or "auto": the GPU where there is one

        Raises DoesNotFit if there is no such device, ArtifactError if there is no model, CheckpointError or DataError
        if it is damaged.
        """
        where = device_of(device)
        folder = find_model(Path(path))
        return cls(load_model(folder, device=where), load_tokenizer(folder), guard=guard)

    @property
    def config(self) -> ModelConfig:
        return self.transformer.config

    @cached_property
    def engine(self) -> Engine:
        """Made at first use."""
        return Engine(self.transformer)

    def generate(
        self,
        prompts: Sequence[str] | str,
        *,
        max_tokens: int = 64,
        temperature: float = TEMPERATURE,
        top_p: float = TOP_P,
        top_k: int = 0,
        seed: int = 0,
        n: int = 1,
    ) -> list[Any]:
        """Continue each prompt as plain text, up to the end of the text.

        Returns one string per prompt; with n > 1 a list of n strings per prompt.
        """
        if isinstance(prompts, str):
            raise TypeError("generate takes a sequence of prompts, not one string")
        if self.guard is not None:
            for prompt in prompts:
                self.guard.decide("input", prompt).raise_if_blocked()
        sampling = Sampling(max_tokens, temperature, top_p, top_k, n, seed, stop_ids(self.tokenizer))
        ids = [self.tokenizer.encode(prompt, bos=True) for prompt in prompts]
        answers = [[self._text(completion) for completion in group] for group in self.engine.generate(ids, sampling)]
        if self.guard is not None:
            for text in (text for group in answers for text in group):
                self.guard.decide("output", text).raise_if_blocked()
        return answers if n > 1 else [group[0] for group in answers]

    def chat(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int | None = None,
        temperature: float = TEMPERATURE,
        top_p: float = TOP_P,
        seed: int = 0,
    ) -> Message:
        """The assistant's next message, of at most `max_tokens` and what the context has room for."""
        pieces = self.stream(messages, max_tokens=max_tokens, temperature=temperature, top_p=top_p, seed=seed)
        return Message("assistant", "".join(pieces))

    def stream(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int | None = None,
        temperature: float = TEMPERATURE,
        top_p: float = TOP_P,
        seed: int = 0,
    ) -> Iterator[str]:
        """The assistant's next message, piece by piece as it is made; leaving the loop stops it.

        The guard judges the last message, with those before it as its trace, and the messages are rendered, before
        this returns. What is answered is judged with all of them as its trace.
        """
        trace = [Turn(message.role, message.text) for message in messages]
        if self.guard is not None and messages and (stage := _STAGES.get(messages[-1].role)):
            self.guard.decide(stage, trace[-1].content, trace[:-1]).raise_if_blocked()
        prompt = render(self.tokenizer, messages, generation_prompt=True).ids
        room = self.engine.pool.max_tokens - len(prompt)
        if room < 1:
            raise LONG_CHAT("chat", tokens=len(prompt), limit=self.engine.pool.max_tokens)
        tokens = room if max_tokens is None else min(max_tokens, room)
        sampling = Sampling(tokens, temperature, top_p, seed=seed, stop_ids=stop_ids(self.tokenizer))
        pieces = self._pieces(prompt, sampling)
        return pieces if self.guard is None else self.guard.guard_stream(pieces, trace=trace)

    def logprobs(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Log-probability of each token of each text, in nats, float32[tokens], given a beginning of text before it.

        Where the tokenizer begins no text with BOS, nothing predicts the first token: that one is left out.
        """
        if isinstance(texts, str):
            raise TypeError("logprobs takes a sequence of texts, not one string")
        ids = [self.tokenizer.encode(text, bos=True) for text in texts]
        found: list[np.ndarray] = []
        group: list[np.ndarray] = []
        for index, tokens in enumerate(ids):
            group.append(tokens)
            if index + 1 == len(ids) or sum(map(len, group)) + len(ids[index + 1]) > SCORE_TOKENS:
                found += self._score(group)
                group = []
        return found

    @torch.no_grad()
    def _score(self, documents: list[np.ndarray]) -> list[np.ndarray]:
        predicted = [document for document in documents if len(document) > 1]
        logps = np.empty(0, np.float32)
        if predicted:
            starts = np.cumsum([0, *(len(document) for document in predicted[:-1])])
            batch = Batch.of_documents(np.concatenate(predicted), starts).to(self.transformer.embed.weight.device)
            logps_M = score(self.transformer, batch).logps_M
            assert logps_M is not None
            logps = logps_M.cpu().numpy()
        return np.split(logps, np.cumsum([max(len(document) - 1, 0) for document in documents])[:-1])

    def _pieces(self, prompt: np.ndarray, sampling: Sampling) -> Iterator[str]:
        decoder = self.tokenizer.stream()
        for token in self.engine.stream(prompt, sampling):
            if token not in sampling.stop_ids and (piece := decoder.push(token)):
                yield piece
        if piece := decoder.flush():
            yield piece

    def _text(self, completion: Completion) -> str:
        ids = completion.ids[:-1] if completion.finish_reason is FinishReason.STOP else completion.ids
        return self.tokenizer.decode(ids)


def load(path: str | Path, *, device: str = "auto") -> Llama:
    """`Llama.load` without a guard."""
    return Llama.load(path, device=device)


def find_model(path: Path) -> Path:
    """The model that `path` means: itself, or a run's release, final weights, or last finished round."""
    rounds = sorted((path / "artifacts").glob("average-*"), key=lambda folder: (len(folder.name), folder.name))
    made = [path / "artifacts" / key for key in ("release", "final")]
    candidates = [path, *made, *(folder for folder in rounds[::-1] if folder.is_symlink())]
    for folder in candidates:
        if holds_model(folder):
            return folder
    raise NO_MODEL(path)
