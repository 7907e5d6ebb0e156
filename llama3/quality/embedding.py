"""Embeddings of whole dialogs, rows of length 1: by a sentence encoder, or by a language model's own states.

Legend: N texts, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from llama3.checkpoints.load import load_model
from llama3.data.encoders import load_encoder, token_batches
from llama3.inference.engine import throughput_engine
from llama3.inference.readers import text_directions
from llama3.posttraining.rehearsal import rehearsals
from llama3.posttraining.services import chunks
from llama3.tokenizer import Tokenizer

Float32 = npt.NDArray[np.float32]
LONGEST = 512
"""Tokens of a text that an encoder reads, where it says no limit of its own."""
AT_ONCE = 256
"""Texts between two parts that are kept."""
COMMON = 64
"""General prompts whose mean is what all states of a model share."""


class Embedder(Protocol):
    """Gives the same text the same embedding, to rounding, whatever else is embedded."""

    def embed(self, texts: Sequence[str]) -> Float32:
        """float32 [N, D]."""
        ...


class StateEmbedder:
    """The mean final state of the model in a folder (float32), without what all its states share: states of a language
    model lie in a narrow cone (Ethayarajh 2019), so the mean of general prompts' is taken off. What the context has no
    room for is left out."""

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        self._engine = throughput_engine(load_model(folder, device=device), "fp32")
        self._tokenizer = Tokenizer.load(folder)
        self._common_D = self._directions([row.prompt for row in rehearsals(COMMON, 0)]).mean(0)

    def embed(self, texts: Sequence[str]) -> Float32:
        return _to_length_1(self._directions(texts) - self._common_D)

    def _directions(self, texts: Sequence[str]) -> Float32:
        return text_directions(self._engine, self._tokenizer, [text or " " for text in texts])


class EncoderEmbedder:
    """The mean of an encoder's last states over the tokens of a text, as sentence encoders are trained to be read
    (Reimers and Gurevych 2019). Raises ConfigError as `load_encoder`."""

    def __init__(self, folder: str, device: str = "cpu") -> None:
        self._tokenizer, self._model = load_encoder(folder, "encoder")
        self._model.to(device)
        positions = getattr(self._model.config, "max_position_embeddings", LONGEST)
        self._longest = min(LONGEST, self._tokenizer.model_max_length, int(positions))

    def embed(self, texts: Sequence[str]) -> Float32:
        ids = self._tokenizer(list(texts), truncation=True, max_length=self._longest)["input_ids"]
        found_ND = np.zeros((len(texts), self._model.config.hidden_size), np.float32)
        for batch in token_batches([len(row) for row in ids]):
            padded = self._tokenizer.pad({"input_ids": [ids[n] for n in batch]}, return_tensors="pt")
            found_ND[batch] = self._means(padded.to(self._model.device))
        return _to_length_1(found_ND)

    @torch.inference_mode()
    def _means(self, inputs: Any) -> Float32:
        states_NTD = self._model(**inputs).last_hidden_state.float()
        mask_NT1 = inputs["attention_mask"][..., None]
        means_ND = (states_NTD * mask_NT1).sum(1) / mask_NT1.sum(1).clamp(min=1)
        found: Float32 = means_ND.cpu().numpy()
        return found


def embedded(embedder: Embedder, texts: Sequence[str], scratch: Path) -> Iterator[Float32]:
    """The embeddings of parts of the texts, in order. Each part is kept in `scratch`: what an earlier process computed
    of the same texts is read."""
    for number, part in enumerate(chunks(texts, AT_ONCE)):
        kept = scratch / f"embeddings-{number}.npy"
        if not kept.exists():
            begun = kept.with_suffix(".begun")
            with begun.open("wb") as file:
                np.save(file, embedder.embed(part), allow_pickle=False)
            begun.rename(kept)
        yield np.load(kept, allow_pickle=False)


def _to_length_1(rows_ND: Float32) -> Float32:
    """A row of zeros stays one: it is similar to nothing."""
    lengths_N1 = np.linalg.norm(rows_ND.astype(np.float64), axis=1, keepdims=True)
    found: Float32 = (rows_ND / np.where(lengths_N1 > 0, lengths_N1, 1)).astype(np.float32)
    return found
