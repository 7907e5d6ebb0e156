"""Who answers a recipe: a model on this machine, or one behind a server with OpenAI's interface."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from llama3.errors import DataError
from llama3.evaluation.served import ServedChat
from llama3.making.made import Turns

if TYPE_CHECKING:
    from llama3.config.precision import AutoPrecision
    from llama3.inference.engine import Engine
    from llama3.tokenizer import Tokenizer

BATCH, PARALLEL = 64, 8
"""Dialogs that are asked together of a model on this machine, and of a server."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer. `ended`: the model ended it itself; else it was cut off at `max_tokens`, or there is none."""

    text: str
    ended: bool


class Voice(Protocol):
    """Answers dialogs."""

    at_once: int
    """Dialogs that are best given together."""

    def answer(
        self, dialogs: Sequence[Turns], samples: int, temperature: float, max_tokens: int, seed: int
    ) -> list[list[Reply]]:
        """`samples` answers to each dialog, in order. A dialog that cannot be asked has empty ones."""


class LocalVoice:
    """The same dialog with the same seed gives the same answers, whatever is asked beside it."""

    at_once = BATCH

    def __init__(self, engine: Engine, tokenizer: Tokenizer) -> None:
        self.engine, self.tokenizer = engine, tokenizer

    @classmethod
    def of(cls, folder: Path, device: str, precision: AutoPrecision) -> LocalVoice:
        """The model in a folder, in any layout, with an engine for many dialogs. Raises as loading does."""
        from llama3.checkpoints.formats import load_tokenizer
        from llama3.checkpoints.load import load_model
        from llama3.inference.engine import throughput_engine

        return cls(throughput_engine(load_model(folder, device=device), precision), load_tokenizer(folder))

    def answer(
        self, dialogs: Sequence[Turns], samples: int, temperature: float, max_tokens: int, seed: int
    ) -> list[list[Reply]]:
        from llama3.inference.completion import FinishReason
        from llama3.inference.sampling import Sampling
        from llama3.posttraining.services import answer_text
        from llama3.tokenizer import stop_ids

        room = self.engine.pool.max_tokens - max_tokens
        prompts = [self._prompt(dialog) for dialog in dialogs]
        asked = [prompt for prompt in prompts if 0 < len(prompt) <= room]
        stops = stop_ids(self.tokenizer)
        sampling = Sampling(max_tokens, temperature, n=samples, seed=seed, stop_ids=stops)
        found = iter(self.engine.generate(asked, sampling))
        return [
            [Reply(answer_text(self.tokenizer, one.ids), one.finish_reason is FinishReason.STOP) for one in next(found)]
            if 0 < len(prompt) <= room
            else [Reply("", False)] * samples
            for prompt in prompts
        ]

    def _prompt(self, dialog: Turns) -> list[int]:
        """Its tokens; none where the chat template does not take it."""
        from llama3.posttraining.examples import prompt_ids

        try:
            ids: list[int] = prompt_ids(self.tokenizer, dialog).tolist()
        except DataError:
            return []
        return ids


class ServedVoice:
    """What a server gives is its own affair; it is told the seed, another one for each sample."""

    at_once = PARALLEL

    def __init__(self, chat: ServedChat) -> None:
        self.chat = chat

    def answer(
        self, dialogs: Sequence[Turns], samples: int, temperature: float, max_tokens: int, seed: int
    ) -> list[list[Reply]]:
        def ask(place: int) -> Reply:
            told = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed + place % samples}
            choice = self.chat.complete(list(map(dict, dialogs[place // samples])), **told)
            message = choice.get("message") if isinstance(choice, dict) else None
            said = message.get("content") if isinstance(message, dict) else None
            if not isinstance(said, str):
                return Reply("", False)
            # Half of a surrogate pair can be held by no file.
            return Reply(said.encode("utf-8", "replace").decode(), choice.get("finish_reason", "stop") == "stop")

        with ThreadPoolExecutor(self.at_once) as pool:
            replies = list(pool.map(ask, range(len(dialogs) * samples)))
        return [replies[start : start + samples] for start in range(0, len(replies), samples)]
