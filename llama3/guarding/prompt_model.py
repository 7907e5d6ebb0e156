"""A trained prompt guard: how like an attack a text is, and where.

The model is a small Llama with a score head. A text is unfolded (llama3.guarding.reading), its words are parted
(llama3.guarding.words), and it is cut into windows that
overlap; each follows the beginning-of-text token, and its score is read at its last token. The text's score is the
largest of its windows.

Legend: T texts, S segments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from llama3.artifacts import Artifact
from llama3.checkpoints.load import load_model
from llama3.errors import CheckpointError
from llama3.foreign import UnusableFile, read_text
from llama3.guarding.prompt_rows import TRUSTS, ClassifierKind, Trusted
from llama3.guarding.reading import unfolded
from llama3.guarding.windows import LEAST_CONTEXT, windows
from llama3.guarding.words import costs_of, parted
from llama3.model.batch import Batch, Segment, Tree
from llama3.model.device import device_of
from llama3.model.score import score
from llama3.model.transformer import Transformer
from llama3.safety.normalise import Normalised
from llama3.tokenizer import Tokenizer
from llama3.training.microbatch import cut

NO_GUARD = CheckpointError.declare(
    "L3-GRD-010",
    "this is no guard of the kind {kind}",
    why="{reason}",
    fix="train one with `llama3 guard train` (kind: {kind}), and give its folder: RUN/artifacts/{kind}",
)

OTHER_KIND = CheckpointError.declare(
    "L3-GRD-011",
    "this model was trained as {kind}, not as {wanted}",
    fix="name it for the guard {kind}, or train another with kind: {wanted}",
)

SETTINGS_FILE = "prompt_guard.json"
BATCH_TOKENS = 8192
"""Tokens that are scored at once."""
Threshold = Annotated[float, Field(gt=0, lt=1, strict=True, allow_inf_nan=False)]


class PromptGuardSettings(BaseModel):
    """How the model is to be asked: what was true when it was trained and calibrated."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: ClassifierKind = "prompt_guard"
    words: tuple[str, ...] = ()
    """The commonest words of what it learnt from, by which letters are parted (llama3.guarding.words)."""
    window: int = Field(gt=0)
    overlap: int = Field(ge=0)
    thresholds: dict[Trusted, Threshold]
    """The least probability that is an attack, by whose text it is: one for each."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if missing := [trust for trust in TRUSTS if trust not in self.thresholds]:
            raise ValueError(f"there is no threshold of {' and '.join(missing)}")
        if self.window < self.overlap + LEAST_CONTEXT:
            raise ValueError(f"window must exceed overlap by at least {LEAST_CONTEXT}")
        return self


@dataclass(frozen=True, slots=True)
class PromptScore:
    """The probability of an attack, and the characters of the window that gave it."""

    p: float
    start: int = 0
    end: int = 0


@dataclass(frozen=True, slots=True)
class ReadText:
    """A text as the model reads it: token ids, and of each of them the first character in `read.text`."""

    ids: np.ndarray
    first_char: np.ndarray
    read: Normalised

    def original(self, start: int, end: int) -> tuple[int, int]:
        """The characters of the text as written that tokens `start` to `end` stand for."""
        last = self.first_char[end] if end < len(self.ids) else len(self.read.text)
        first = int(self.first_char[start])
        return self.read.original_span(first, max(int(last), first + 1))


class PromptGuardModel:
    """A prompt guard that is ready to be asked. `version` tells one training from another."""

    def __init__(
        self, model: Transformer, tokenizer: Tokenizer, settings: PromptGuardSettings, version: str = ""
    ) -> None:
        self.model, self.tokenizer, self.settings, self.version = model, tokenizer, settings, version

    @classmethod
    def load(cls, folder: str | Path, device: str = "cpu", kind: ClassifierKind = "prompt_guard") -> Self:
        """From the folder that training wrote. Raises CheckpointError where it is none of that kind, ArtifactError
        where its manifest is missing, or a file is not as the manifest says."""
        folder = Path(folder)
        settings = _settings(folder, kind)
        if settings.kind != kind:
            raise OTHER_KIND(folder, kind=settings.kind, wanted=kind)
        artifact = Artifact(folder)
        artifact.verify()
        model = load_model(folder, device=device_of(device)).requires_grad_(False)
        if model.score_head is None:
            raise NO_GUARD(folder, kind=kind, reason="the model has no score head")
        return cls(model, Tokenizer.load(folder), settings, artifact.hash[:12])

    def scores(self, texts: Sequence[str]) -> list[PromptScore]:
        """The score of each text; 0 for one in which there is nothing to read."""
        return self.of_read([self.reader.read(text) for text in texts])

    @cached_property
    def reader(self) -> TextReader:
        return TextReader(self.tokenizer, self.settings.words)

    @torch.no_grad()
    def of_read(self, texts: Sequence[ReadText]) -> list[PromptScore]:
        """As `scores`, of texts that were read already."""
        cuts = [windows(len(text.ids), self.settings.window, self.settings.overlap) for text in texts]
        asked = [place for place, found in enumerate(cuts) if found]
        scores = [PromptScore(0.0)] * len(texts)
        if not asked:
            return scores
        batch = pack_windows([(texts[place].ids, cuts[place], {}) for place in asked], self.reader.bos)
        logits = np.concatenate([self._logits(part) for part in cut(batch, BATCH_TOKENS)])
        probabilities = 1 / (1 + np.exp(-logits.astype(np.float64)))  # float32 could not tell sure from very sure
        for place, found in zip(
            asked, np.split(probabilities, np.cumsum([len(cuts[a]) for a in asked])[:-1]), strict=True
        ):
            worst = int(found.argmax())
            scores[place] = PromptScore(float(found[worst]), *texts[place].original(*cuts[place][worst]))
        return scores

    def _logits(self, batch: Batch) -> np.ndarray:
        scored = score(self.model, batch.to(self.model.embed.weight.device), {"score"})
        return scored.score_S[batch.parents_S >= 0].cpu().numpy()


class TextReader:
    """Texts as token ids. `words`: those by which letters that stand together are parted."""

    def __init__(self, tokenizer: Tokenizer, words: Sequence[str] = ()) -> None:
        self.tokenizer, self.words, self._costs = tokenizer, tuple(words), costs_of(words)
        bos = tokenizer.bos_id
        assert bos is not None, "our own tokenizers have one"
        self.bos = bos
        self._bytes_of = np.array([len(tokenizer.decode_bytes([id])) for id in range(tokenizer.vocab_size)])

    def read(self, text: str) -> ReadText:
        """Linear in the text."""
        read = parted(unfolded(text), self._costs) if self._costs else unfolded(text)
        ids = self.tokenizer.encode(read.text).astype(np.int64)
        ends_of_chars = np.cumsum(_utf8_lengths(read.text))
        first_bytes = np.cumsum(self._bytes_of[ids]) - self._bytes_of[ids]
        return ReadText(ids, np.searchsorted(ends_of_chars, first_bytes, "right"), read)


def _utf8_lengths(text: str) -> np.ndarray:
    """Bytes of each character; a lone surrogate is encoded as U+FFFD, which has three as well."""
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    return 1 + (points > 0x7F).astype(np.int64) + (points > 0x7FF) + (points > 0xFFFF)


def pack_windows(texts: Sequence[tuple[np.ndarray, Sequence[tuple[int, int]], Mapping[str, float]]], bos: int) -> Batch:
    """One tree per text (its ids, its windows, and columns of the tree): the beginning of text, from which every window
    goes on by itself. Only a window's last token is a target: where the score is read."""
    return Batch.of_trees([_tree(ids, cuts, columns, bos) for ids, cuts, columns in texts])


def _tree(ids: np.ndarray, cuts: Sequence[tuple[int, int]], columns: Mapping[str, Any], bos: int) -> Tree:
    segments = [Segment(ids[start:end], parent=0, is_target=np.arange(start, end) == end - 1) for start, end in cuts]
    return Tree([Segment(np.array([bos])), *segments], dict(columns))


def _settings(folder: Path, kind: ClassifierKind) -> PromptGuardSettings:
    try:
        return PromptGuardSettings.model_validate_json(read_text(folder / SETTINGS_FILE))
    except FileNotFoundError:
        raise NO_GUARD(folder, kind=kind, reason=f"it has no {SETTINGS_FILE}") from None
    except (UnusableFile, NotADirectoryError) as error:
        raise NO_GUARD(folder, kind=kind, reason=str(error)) from None
    except ValidationError as error:
        raise NO_GUARD(folder, kind=kind, reason=f"{SETTINGS_FILE}: {'; '.join(map(_told, error.errors()))}") from None


def _told(error: ErrorDetails) -> str:
    return ": ".join(part for part in (".".join(map(str, error["loc"])), error["msg"]) if part)
