"""Two models that answer the same dialogs, for people to compare (paper 4.2.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llama3 import _core
from llama3.annotating.items import Messages, ModelAnswer, PairItem, paired
from llama3.artifacts.files import canonical_json
from llama3.errors import ConfigError, DataError
from llama3.inference.llama import Llama

NOT_TWO = ConfigError.declare(
    "L3-ANN-060", "{count} models are named", why="two answers are compared", fix="give --model twice, or not at all"
)
SAME_ANSWERS = DataError.declare(
    "L3-ANN-061",
    "both models give the same answer, or none",
    why="in each of {tries} tries",
    fix="raise --temperature, or name other models",
)
TRIES = 4


class TwoModels:
    """The models at `paths`, which may be one: then two of its answers are compared. Raises what `Llama.load` does."""

    def __init__(self, paths: Sequence[str], *, device: str, max_tokens: int, temperature: float, seed: int) -> None:
        if len(paths) != 2:
            raise NOT_TWO("--model", count=len(paths))
        self.paths, self.seed = tuple(paths), seed
        self._options: dict[str, Any] = {"max_tokens": max_tokens, "temperature": temperature}
        self._models = {path: Llama.load(path, device=device) for path in dict.fromkeys(paths)}

    def answer(self, messages: Messages, category: str = "", follows: str = "") -> PairItem:
        """Two answers that differ; the same ones for the same seed. Raises DataError (L3-ANN-061) where there are none,
        and DoesNotFit where the dialog is too long."""
        for attempt in range(TRIES):
            answers = [self._one(messages, number, attempt) for number in (0, 1)]
            if answers[0].text != answers[1].text and all(answer.text.strip() for answer in answers):
                return paired(messages, answers, category, self.seed, follows)
        raise SAME_ANSWERS("answers", tries=TRIES)

    def _one(self, messages: Messages, number: int, attempt: int) -> ModelAnswer:
        name = canonical_json([self.seed, number, attempt, *messages])
        seed = int(_core.blake3_bytes(name)[:8], 16)
        path = self.paths[number]
        text = self._models[path].chat([dict(message) for message in messages], seed=seed, **self._options).text
        return ModelAnswer(path, text)
