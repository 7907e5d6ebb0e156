"""A language model that judges as Llama Guard does, asked for probabilities instead of words.

One forward pass over the prompt and all that may follow it, as a tree:

    [prompt] <- [safe]
             <- [unsafe\\nS] <- [1] ... [14]

gives the probabilities of both verdicts and of every category after the second one. p = P(unsafe) / (P(safe) +
P(unsafe)), and p of a category = p times its share among the categories. What belongs to neither verdict is left over:
where that is much, the model is no such guard, and there is no verdict. Which tokens spell an answer follows from the
model's own tokenizer and chat template.

Several texts are such trees side by side. All prompts begin with the categories: that is computed once.

Legend: M targets, S segments.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llama3.artifacts import Artifact
from llama3.errors import CheckpointError, ConfigError, LlamaError
from llama3.foreign import UnusableFile, read_text
from llama3.guarding.taught_frame import LLAMA_GUARD_3, SAFE, UNSAFE, framed, hardened
from llama3.guarding.windows import LEAST_CONTEXT, windows
from llama3.inference.llama import Llama, find_model
from llama3.model.batch import Batch, Segment, Tree
from llama3.model.score import score
from llama3.posttraining.examples import answer_example
from llama3.safety.guard import Turn

UNSURE = LlamaError.declare(
    "L3-GRD-040",
    "the model gives neither verdict: {rest} of the probability is left over",
    why="a guard answers 'safe' or 'unsafe'; above {most} it does not know how",
    fix="use a model that was trained as a guard: llama3 guard train",
)
NO_ROOM = ConfigError.declare(
    "L3-GRD-041",
    "the prompt of a guard has {tokens} tokens with nothing to judge",
    why="the model was made for {limit}",
    fix="use a model with a longer context, or fewer categories",
)
ONE_WORD = ConfigError.declare(
    "L3-GRD-042",
    "this tokenizer cannot tell the answers apart",
    why="{first!r} and {second!r} begin with the same tokens",
    fix="use another model",
)
BAD_SETTINGS = CheckpointError.declare(
    "L3-GRD-043", "how this guard is to be asked cannot be read", why="{error}", fix="train it again, or restore it"
)

SETTINGS_FILE = "llama_guard.json"
THRESHOLD = 0.5
"""Of a guard that was not calibrated."""
MOST_LEFT_OVER = 0.05
SLACK = 16
"""Tokens by which a text that is cut in the middle of a word may grow."""
BATCH_TOKENS = 8192
"""Tokens of the trees that are judged at once; more only where one tree has more."""


class LlamaGuardSettings(BaseModel):
    """The categories that the guard was taught, and the probability at which it was found to block best."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    taxonomy: dict[str, str]
    threshold: float = Field(THRESHOLD, gt=0, lt=1, strict=True, allow_inf_nan=False)


@dataclass(frozen=True, slots=True)
class Hazard:
    """The probability that a text is unsafe, and of each category; `rest` belongs to neither verdict."""

    p: float
    categories: Mapping[str, float]
    rest: float = 0.0

    @property
    def is_verdict(self) -> bool:
        return self.rest <= MOST_LEFT_OVER

    def verdict(self) -> Self:
        """Itself. Raises LlamaError (L3-GRD-040) where the model gives neither verdict."""
        if not self.is_verdict:
            raise UNSURE("guard", rest=f"{self.rest:.3f}", most=MOST_LEFT_OVER)
        return self


class LlamaGuardModel:
    """A guard that is ready to be asked. `taxonomy`: all categories that it knows, by their numbers; `threshold`: the
    probability at which it blocks if nothing else is said."""

    def __init__(self, llama: Llama, taxonomy: Mapping[str, str] = LLAMA_GUARD_3, threshold: float = THRESHOLD) -> None:
        self.llama, self.taxonomy, self.threshold = llama, dict(taxonomy), threshold

    @classmethod
    def load(cls, path: str | os.PathLike[str], taxonomy: Mapping[str, str] | None = None, device: str = "cpu") -> Self:
        """A model of any layout. `taxonomy`: in place of the one that it was taught, or of Llama Guard 3's.

        On a CPU its weights are float32, whatever computes faster: bfloat16 moved p of a guard of 135 million
        parameters by up to 0.07, which turned decisions near the threshold.

        Raises what `Llama.load` raises; CheckpointError and ArtifactError where a guard of ours is damaged, or without
        its manifest.
        """
        place = find_model(Path(path))
        if os.path.lexists(place / SETTINGS_FILE):
            Artifact(place).verify()
        taught = _taught(place)
        return cls(Llama.load(place, device=device), taxonomy or taught.taxonomy, taught.threshold)

    def judge(self, turns: Sequence[Turn], enabled: Mapping[str, str] | None = None) -> Hazard:
        """The last of `turns` (see `framed`), in the light of those before it as far as the context reaches.

        A message that is longer than that is judged in windows, the worst of which counts. `enabled`: the categories
        that count, of those of `taxonomy`; others are left out of the prompt, and what the model finds of them is safe.

        Raises LlamaError (L3-GRD-040) where the model gives neither verdict, ConfigError where nothing fits.
        """
        (hazard,) = self.weigh([turns], enabled)
        return hazard.verdict()

    def weigh(self, dialogs: Sequence[Sequence[Turn]], enabled: Mapping[str, str] | None = None) -> list[Hazard]:
        """As `judge`, of several conversations at once, also where that is no verdict. Raises ConfigError where nothing
        fits."""
        enabled = self.taxonomy if enabled is None else enabled
        parts = [self._parts(turns, enabled) for turns in dialogs]
        trees = [self._tree(part, enabled) for several in parts for part in several]
        hazards = (hazard for batch in _batches(trees) for hazard in self._ask(batch, enabled))
        # A window without a verdict leaves the whole text without one.
        worst = lambda found: max(found, key=lambda hazard: (not hazard.is_verdict, hazard.p))
        return [worst([next(hazards) for _ in several]) for several in parts]

    def _parts(self, turns: Sequence[Turn], enabled: Mapping[str, str]) -> list[Sequence[Turn]]:
        """The conversation, shortened at its beginning; or the last message in windows, each by itself."""
        limit = self.llama.config.max_seq_len - self._answer_tokens
        for first in range(len(turns)):
            if len(self._prompt(turns[first:], enabled)) <= limit:
                return [turns[first:]]
        last = turns[-1]
        room = limit - len(self._prompt([Turn(last.role, "")], enabled)) - SLACK
        if room < 3 * LEAST_CONTEXT:
            raise NO_ROOM("guard", tokens=limit - room, limit=self.llama.config.max_seq_len)
        tokenizer, ids = self.llama.tokenizer, self.llama.tokenizer.encode(hardened(last.content))
        cuts = windows(len(ids), room, LEAST_CONTEXT)
        return [[Turn(last.role, tokenizer.decode(ids[start:end]))] for start, end in cuts]

    def _prompt(self, turns: Sequence[Turn], enabled: Mapping[str, str]) -> np.ndarray:
        return self._answered(framed(turns, enabled), "")[0]

    def _answered(self, prompt: str, answer: str) -> tuple[np.ndarray, np.ndarray]:
        """The ids of a prompt, and of an answer without what ends it."""
        example = answer_example(self.llama.tokenizer, [{"role": "user", "content": prompt}], answer)
        content = ~example.answer.is_format & example.answer.is_target
        return example.prompt, example.answer.ids[content]

    @cached_property
    def _answers(self) -> Mapping[str, np.ndarray]:
        """The tokens of "safe" and of "unsafe" with each category. Raises ConfigError where one verdict begins the
        other."""
        texts = [SAFE, UNSAFE, *(f"{UNSAFE}\n{number}" for number in self.taxonomy)]
        answers = {text: self._answered("", text)[1] for text in texts}
        if _begins(answers[SAFE], answers[UNSAFE]):
            raise ONE_WORD("guard", first=SAFE, second=UNSAFE)
        return answers

    @cached_property
    def _answer_tokens(self) -> int:
        return max(map(len, self._answers.values()))

    @cached_property
    def _listed(self) -> list[np.ndarray]:
        """The tokens of "unsafe" with each category."""
        return [self._answers[f"{UNSAFE}\n{number}"] for number in self.taxonomy]

    def _tree(self, turns: Sequence[Turn], enabled: Mapping[str, str]) -> Tree:
        listed = self._listed
        shared = _shared(listed)
        segments = [Segment(self._prompt(turns, enabled))]
        segments += [Segment(self._answers[word], parent=0, is_target=True) for word in (SAFE, UNSAFE)]
        segments.append(Segment(listed[0][:shared], parent=0))
        segments += [Segment(ids[shared:], parent=3, is_target=True) for ids in listed]
        return Tree(segments)

    @torch.no_grad()
    def _ask(self, trees: Sequence[Tree], enabled: Mapping[str, str]) -> Iterator[Hazard]:
        batch = Batch.of_trees(trees).to(self.llama.transformer.embed.weight.device)
        logps_S = batch.sum_by_segment(score(self.llama.transformer, batch).logps_M)
        for p_S in logps_S.double().exp().view(len(trees), -1).tolist():
            safe, unsafe = p_S[1], p_S[2]
            rest = max(0.0, 1 - safe - unsafe)
            p, shares = unsafe / (safe + unsafe), _shares(p_S[4:], self._listed)
            by_number = zip(self.taxonomy, shares, strict=True)
            categories = {number: p * share for number, share in by_number if number in enabled}
            yield Hazard(min(1.0, sum(categories.values())), categories, rest)


def _batches(trees: Sequence[Tree]) -> Iterator[list[Tree]]:
    batch: list[Tree] = []
    room = BATCH_TOKENS
    for tree in trees:
        tokens = sum(len(segment.tokens) for segment in tree.segments)
        if batch and tokens > room:
            yield batch
            batch, room = [], BATCH_TOKENS
        batch.append(tree)
        room -= tokens
    if batch:
        yield batch


def _shares(found: Sequence[float], answers: Sequence[np.ndarray]) -> list[float]:
    """The share of each category. Where a number is spelt in digits "1" begins "10" too: what belongs to longer ones is
    not its own."""
    longer = [sum(p for p, other in zip(found, answers, strict=True) if _begins(own, other)) for own in answers]
    own = [max(0.0, p - more) for p, more in zip(found, longer, strict=True)]
    total = sum(own)
    return [p / total for p in own] if total > 0 else [1 / len(own)] * len(own)


def _begins(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether `second` is `first` and more."""
    return len(first) < len(second) and bool((second[: len(first)] == first).all())


def _shared(answers: Sequence[np.ndarray]) -> int:
    """How many tokens all begin with; each has one more at least."""
    shortest = min(map(len, answers))
    same = [len({int(ids[place]) for ids in answers}) == 1 for place in range(shortest - 1)]
    return next((place for place, is_same in enumerate(same) if not is_same), shortest - 1)


def _taught(place: Path) -> LlamaGuardSettings:
    """What a guard of ours was taught; for any other model Llama Guard 3's categories."""
    foreign = LlamaGuardSettings(taxonomy=dict(LLAMA_GUARD_3))
    if place.is_file():
        return foreign
    try:
        return LlamaGuardSettings.model_validate_json(read_text(place / SETTINGS_FILE))
    except FileNotFoundError:
        return foreign
    except (UnusableFile, ValidationError) as error:
        raise BAD_SETTINGS(place / SETTINGS_FILE, error=error) from None
