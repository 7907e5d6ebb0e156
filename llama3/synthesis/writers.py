"""Who writes: a model on this machine, or one behind a server with OpenAI's interface."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

from llama3.evaluation.served import ServedChat, address_of

if TYPE_CHECKING:
    from llama3.inference.llama import Llama

BATCH = 32
"""Prompts that a model on this machine gets together."""


class TextWriter(Protocol):
    """Answers prompts."""

    name: str
    """Of the model, for what it wrote."""
    at_once: int
    """Prompts that are best given together."""

    def write(self, prompts: Sequence[str], seed: int) -> list[str]:
        """An answer to each; "" where there is none. Raises DataError where nobody answers any more."""
        ...


class LocalWriter:
    """The same prompt with the same seed gives the same answer, whatever is asked beside it."""

    at_once = BATCH

    def __init__(self, model: Llama, name: str, max_tokens: int, temperature: float) -> None:
        self.model, self.name, self.max_tokens, self.temperature = model, name, max_tokens, temperature

    def write(self, prompts: Sequence[str], seed: int) -> list[str]:
        from llama3.evaluation.answers import drawn_of

        dialogs = [[{"role": "user", "content": prompt}] for prompt in prompts]
        said = drawn_of(self.model, dialogs, max_tokens=self.max_tokens, temperature=self.temperature, seed=seed)
        return [answer for (answer,) in said]


class ServedWriter:
    """What a server gives is its own affair; it is told the seed."""

    def __init__(self, chat: ServedChat, max_tokens: int, temperature: float, parallel: int) -> None:
        self.chat, self.max_tokens, self.temperature, self.at_once = chat, max_tokens, temperature, parallel
        self.name = chat.name

    def write(self, prompts: Sequence[str], seed: int) -> list[str]:
        with ThreadPoolExecutor(self.at_once) as pool:
            return list(pool.map(lambda prompt: self._answer(prompt, seed), prompts))

    def _answer(self, prompt: str, seed: int) -> str:
        choice = self.chat.complete(prompt, max_tokens=self.max_tokens, temperature=self.temperature, seed=seed)
        message = choice.get("message") if isinstance(choice, dict) else None
        said = message.get("content") if isinstance(message, dict) else None
        return said if isinstance(said, str) else ""


def is_served(model: str) -> bool:
    """Whether a model is named by the address of its server. Raises ConfigError for an address that is none."""
    return model.startswith(("http://", "https://")) and bool(address_of(model))


def writer_of(
    model: str,
    served: str | None = None,
    *,
    max_tokens: int = 768,
    temperature: float = 0.7,
    parallel: int = 8,
    device: str = "auto",
) -> TextWriter:
    """The model at a path, or behind the address of a server (`served`: its name there, default the first listed).

    Raises ConfigError for what is no address, DataError where no server answers, ArtifactError where there is no model.
    """
    if is_served(model):
        return ServedWriter(ServedChat(model, served, "writer"), max_tokens, temperature, parallel)
    from llama3.evaluation.stages import OutsideModel
    from llama3.inference.llama import Llama

    found = OutsideModel.at(model)
    return LocalWriter(Llama.load(found.path, device=device), f"local-{found.blake3[:16]}", max_tokens, temperature)
