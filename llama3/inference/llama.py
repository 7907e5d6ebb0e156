"""`Llama`: a model with its tokenizer, in text. What `llama3.load` returns.

model = llama3.load("runs/quickstart")
model.generate("def fibonacci(n):", max_tokens=64, stop="\\n\\n")
model.chat([{"role": "user", "content": "What is 2 + 2?"}])
model.logprobs(["The sky is blue."])
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack, overload

import numpy as np
import torch

from llama3.artifacts.artifact import artifact_around
from llama3.checkpoints.formats import load_tokenizer
from llama3.checkpoints.layouts import holds_model
from llama3.checkpoints.load import load_model
from llama3.errors import ArtifactError, ConfigError, DataError, DoesNotFit
from llama3.inference.completion import Completion, FinishReason
from llama3.inference.engine import Engine
from llama3.inference.request import Request
from llama3.inference.sampling import Sampling
from llama3.inference.stops import Stops, read_stops
from llama3.model.batch import Batch
from llama3.model.config import ModelConfig
from llama3.model.device import device_of
from llama3.model.precision import DTYPES, chosen
from llama3.model.score import score
from llama3.model.transformer import Transformer
from llama3.safety.dialog import DialogGuard
from llama3.safety.engine import PolicyEngine
from llama3.safety.guard import Turn
from llama3.tokenizer.chat import Dialog, Message, read_dialog, render, stop_ids
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
DANGLING = ArtifactError.declare(
    "L3-EXP-021",
    "is a link to {target}, which is not beside it",
    why="a run's artifacts/release is a link, and cp -r copies links as links",
    fix="copy what it points to: cp -rL RUN/artifacts/release FOLDER",
)
NO_MESSAGES = DataError.declare(
    "L3-GEN-010", "there are no messages", fix='write [{{"role": "user", "content": "..."}}]'
)
MANY_STREAMS = ConfigError.declare(
    "L3-GEN-009",
    "{prompts} prompts with {n} answers each do not stream",
    fix="give one string and n=1, or stream=False",
)

TEMPERATURE, TOP_P = 0.6, 0.9
"""How answers are drawn unless said otherwise: the defaults of Meta's reference code."""
SCORE_TOKENS = 8192
"""Tokens that `logprobs` scores at once."""


class ChatOptions(TypedDict, total=False):
    """How `Llama.chat` and `Llama.stream` answer."""

    max_tokens: int | None
    temperature: float
    top_p: float
    top_k: int
    seed: int
    stop: str | Sequence[str] | None


class Llama:
    """A transformer, its tokenizer and an engine.

    With a `guard`, `generate`, `chat` and `stream` raise GuardBlocked instead of taking a prompt or giving an answer
    that it refuses; what it redacts, neither the model nor the reader sees.
    """

    def __init__(self, transformer: Transformer, tokenizer: Tokenizer, *, guard: PolicyEngine | None = None) -> None:
        self.transformer = transformer
        self.tokenizer = tokenizer
        self.guard = guard
        self._dialogs = None if guard is None else DialogGuard(guard)

    @classmethod
    def load(cls, path: str | Path, *, device: str = "auto", guard: PolicyEngine | None = None) -> Llama:
        """From a checkpoint or a release (a directory with config.json, weights and tokenizer; quantized ones too),
        Meta's directory, a .gguf file, or a run directory (see `find_model`).

        device: "cpu", "cuda", or "auto": the GPU where there is one. There the weights are bfloat16, the precision that
        Llama 3 is published in, if it computes in it; on a CPU they are float32.

        Raises DoesNotFit if there is no such device, ArtifactError if there is no model, CheckpointError or DataError
        if it is damaged.
        """
        where = device_of(device)
        folder = find_model(Path(path))
        dtype = DTYPES[chosen("auto", "sampling", where)] if where.type == "cuda" else torch.float32
        return cls(load_model(folder, dtype=dtype, device=where), load_tokenizer(folder), guard=guard)

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
        stop: str | Sequence[str] | None = None,
        stream: bool = False,
    ) -> Any:
        """Continue each prompt as plain text, up to the end of the text or to one of the texts in `stop`.

        Returns a string for one prompt, a list of strings for a sequence of prompts; with n > 1 a list of n strings in
        the place of each. With `stream`, for one prompt and one answer, an iterator over the pieces as they are made.
        """
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        stops = read_stops(stop)
        sampling = Sampling(max_tokens, temperature, top_p, top_k, n, seed, stop_ids(self.tokenizer))
        if stream and not (isinstance(prompts, str) and n == 1):
            raise MANY_STREAMS("stream", prompts=len(texts), n=n)
        texts = [self._admitted(prompt) for prompt in texts]
        ids = [self.tokenizer.encode(prompt, bos=True) for prompt in texts]
        if stream:
            pieces = self._pieces(ids[0], sampling, stops)
            return pieces if self.guard is None else self.guard.guard_stream(pieces, trace=[Turn("user", texts[0])])
        answers = [
            [self._judged(answer, [Turn("user", text)]) for answer in group]
            for text, group in zip(texts, self._answers(ids, sampling, stops), strict=True)
        ]
        found = answers if n > 1 else [group[0] for group in answers]
        return found[0] if isinstance(prompts, str) else found

    @overload
    def chat(self, messages: Dialog, *, stream: Literal[False] = ..., **options: Unpack[ChatOptions]) -> Message: ...

    @overload
    def chat(self, messages: Dialog, *, stream: Literal[True], **options: Unpack[ChatOptions]) -> Iterator[str]: ...

    def chat(
        self, messages: Dialog, *, stream: bool = False, **options: Unpack[ChatOptions]
    ) -> Message | Iterator[str]:
        """The assistant's next message, of at most `max_tokens` and what the context has room for.

        Args:
            messages: `{"role": ..., "content": ...}` or `Message` each, or a string: one message of the user.
            stream: give an iterator over the pieces of the answer as they are made, as `Llama.stream` does.
            options: max_tokens, temperature, top_p, top_k, seed, stop (texts that end an answer, not part of it)
        """
        if stream:
            return self.stream(messages, **options)
        pieces, trace = self._answer(messages, **options)
        return Message("assistant", self._judged("".join(pieces), trace))

    def stream(self, messages: Dialog, **options: Unpack[ChatOptions]) -> Iterator[str]:
        """The assistant's next message, piece by piece as it is made; leaving the loop stops it. Options as in `chat`.

        The guard judges every message but the assistant's own, with those before it as its trace, and the messages
        are rendered, before this returns. What is answered is judged with all of them as its trace. A message that was
        judged in an earlier call, after the same messages, is not judged again.
        """
        pieces, trace = self._answer(messages, **options)
        return pieces if self.guard is None else self.guard.guard_stream(pieces, trace=trace)

    def _answer(
        self,
        messages: Dialog,
        *,
        max_tokens: int | None = None,
        temperature: float = TEMPERATURE,
        top_p: float = TOP_P,
        top_k: int = 0,
        seed: int = 0,
        stop: str | Sequence[str] | None = None,
    ) -> tuple[Iterator[str], list[Turn]]:
        """The pieces of the next message, not judged yet, and what they answer to, which was."""
        messages, stops = read_dialog(messages), read_stops(stop)
        if not messages:
            raise NO_MESSAGES("chat")
        trace = [Turn(message.role, message.text) for message in messages]
        if self._dialogs is not None:
            trace = self._dialogs.admit(trace)
            messages = [_with_text(message, turn.content) for message, turn in zip(messages, trace, strict=True)]
        prompt = render(self.tokenizer, messages, generation_prompt=True).ids
        room = self.engine.pool.max_tokens - len(prompt)
        if room < 1:
            raise LONG_CHAT("chat", tokens=len(prompt), limit=self.engine.pool.max_tokens)
        tokens = room if max_tokens is None else min(max_tokens, room)
        sampling = Sampling(tokens, temperature, top_p, top_k, seed=seed, stop_ids=stop_ids(self.tokenizer))
        return self._pieces(prompt, sampling, stops), trace

    def logprobs(self, texts: Sequence[str] | str) -> Any:
        """Log-probability of each token of each text, in nats, float32[tokens], given a beginning of text before it: a
        list of arrays, for one string its array.

        Where the tokenizer begins no text with BOS, nothing predicts the first token: that one is left out.
        """
        if isinstance(texts, str):
            return self.logprobs([texts])[0]
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

    def _answers(self, prompts: list[np.ndarray], sampling: Sampling, stops: tuple[str, ...]) -> list[list[str]]:
        """The texts of all answers. With `stops` they are read token by token in turns, each up to its stop."""
        if not stops:
            return [[self._text(answer) for answer in group] for group in self.engine.generate(prompts, sampling)]
        requests: list[Request] = []
        try:
            for prompt in prompts:
                requests.append(self.engine.submit(prompt, sampling))
            readers = [
                [self._read(self.engine.tokens(request, index), sampling, stops) for index in range(sampling.n)]
                for request in requests
            ]
            found = [["" for _ in group] for group in readers]
            live = [(row, index) for row, group in enumerate(readers) for index in range(len(group))]
            while live:
                pieces = [(row, index, next(readers[row][index], None)) for row, index in live]
                live = [(row, index) for row, index, piece in pieces if piece is not None]
                for row, index, piece in pieces:
                    found[row][index] += piece or ""
                    if piece is None:
                        self.engine.cancel(requests[row], index)
            return found
        finally:
            for request in requests:
                self.engine.cancel(request)

    def _pieces(self, prompt: np.ndarray, sampling: Sampling, stops: tuple[str, ...] = ()) -> Iterator[str]:
        """The pieces of one answer; leaving the loop cancels it."""
        with contextlib.closing(self.engine.stream(prompt, sampling)) as tokens:  # type: ignore[type-var]
            yield from filter(None, self._read(tokens, sampling, stops))

    def _read(self, tokens: Iterator[int], sampling: Sampling, stops: tuple[str, ...]) -> Iterator[str]:
        """For every token what text may be passed on, which may be none (control tokens have none); ends at the first
        of `stops`."""
        decoder, ending = self.tokenizer.stream(), Stops(stops)
        silent = sampling.stop_ids.union(self.tokenizer.special_tokens.values())
        for token in tokens:
            yield ending.push(decoder.push(token) if token not in silent else "")
            if ending.is_over:
                return
        yield ending.push(decoder.flush()) + ending.flush()

    def _admitted(self, prompt: str) -> str:
        """What of a user's text the guard lets in. Raises GuardBlocked."""
        if self.guard is None:
            return prompt
        decision = self.guard.decide("input", prompt)
        decision.raise_if_blocked()
        return decision.text

    def _judged(self, answer: str, trace: Sequence[Turn]) -> str:
        """What of an answer the guard lets pass. Raises GuardBlocked."""
        return answer if self.guard is None else self.guard.judge_answer(answer, trace)

    def _text(self, completion: Completion) -> str:
        ids = completion.ids[:-1] if completion.finish_reason is FinishReason.STOP else completion.ids
        return self.tokenizer.decode(ids, skip_special=True)


def _with_text(message: Message, text: str) -> Message:
    """The message, or where its text is not what it was one with that text."""
    return message if message.text == text else dataclasses.replace(message, content=text)


def load(path: str | Path, *, device: str = "auto") -> Llama:
    """`Llama.load` without a guard."""
    return Llama.load(path, device=device)


def find_model(path: Path) -> Path:
    """The model that `path` means: itself, or a run's release, final weights, or last finished round.

    What a stage made is verified: its files, and no others, as they were written. Raises ArtifactError.
    """
    rounds = sorted((path / "artifacts").glob("average-*"), key=lambda folder: (len(folder.name), folder.name))
    made = [path / "artifacts" / key for key in ("release", "final")]
    candidates = [path, *made, *(folder for folder in rounds[::-1] if folder.is_symlink())]
    for folder in candidates:
        if holds_model(folder):
            artifact_around(folder)
            return folder
    ggufs = sorted(path.glob("*.gguf")) if path.is_dir() else []
    if len(ggufs) == 1:
        return ggufs[0]
    if path.is_symlink() and not path.exists():
        raise DANGLING(path, target=os.readlink(path))
    raise NO_MODEL(path)
