"""A sequence classifier (RoBERTa and its kind) as a costly scorer of documents, in batches of about equal length."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llama3.errors import ConfigError

NO_LIBRARY = ConfigError.declare(
    "L3-CLS-040",
    "an encoder needs a library that is not installed",
    why="{error}",
    fix="pip install 'llama3[encoder]', or leave the encoder out",
)
NO_ENCODER = ConfigError.declare(
    "L3-CLS-041",
    "there is no sequence classifier here",
    why="{error}",
    fix="give a folder with config.json, a tokenizer and model.safetensors",
)
NO_LABEL = ConfigError.declare("L3-CLS-042", "the encoder has no label {label!r}", fix="its labels are {known}")

BATCH_TOKENS = 8192
"""Of a batch, padding included."""
CHARACTERS_PER_TOKEN = 16
"""More of a document than so many per token is not even cut into tokens."""


class Encoder:
    """Gives the probability of a label; the same document has the same one in whatever batch, to rounding."""

    def __init__(self, folder: str, label: str, tokens: int) -> None:
        """Loads from the folder alone, safetensors only. Raises ConfigError (L3-CLS-040 to 042)."""
        try:
            library: Any = importlib.import_module("transformers")
        except ImportError as error:
            raise NO_LIBRARY("encoder", error=error) from error
        if not Path(folder).is_dir():
            raise NO_ENCODER(folder, error="no such folder")
        local = {"local_files_only": True, "trust_remote_code": False}
        try:
            self.tokenizer = library.AutoTokenizer.from_pretrained(folder, **local)
            model = library.AutoModelForSequenceClassification.from_pretrained(folder, use_safetensors=True, **local)
        except Exception as error:  # of a library that reads somebody's files
            raise NO_ENCODER(folder, error=f"{type(error).__name__}: {error}") from error
        known = {str(name): int(number) for name, number in model.config.label2id.items()}
        if label not in known:
            raise NO_LABEL(folder, label=label, known=sorted(known))
        self.model, self.number, self.tokens = model.eval(), known[label], tokens
        self.hash = _content(Path(folder))

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """float64 [D]."""
        import torch

        found_D = np.zeros(len(texts))
        if not texts:
            return found_D
        begun = [text[: CHARACTERS_PER_TOKEN * self.tokens] for text in texts]
        ids = self.tokenizer(begun, truncation=True, max_length=self.tokens)["input_ids"]
        for batch in batches([len(row) for row in ids]):
            inputs = self.tokenizer.pad({"input_ids": [ids[d] for d in batch]}, return_tensors="pt")
            with torch.inference_mode():
                logits = self.model(**inputs).logits.double()
            share = logits.sigmoid()[:, 0] if logits.shape[1] == 1 else logits.softmax(-1)[:, self.number]
            found_D[batch] = share.numpy()
        return found_D


def batches(lengths: Sequence[int]) -> list[list[int]]:
    """Places of texts, those of about one length together, each batch within BATCH_TOKENS when it is padded."""
    found: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        longest = lengths[found[-1][0]] if found else 0
        if not found or longest * (len(found[-1]) + 1) > BATCH_TOKENS:
            found.append([])
        found[-1].append(place)
    return found


def _content(folder: Path) -> str:
    told = hashlib.blake2b(digest_size=16)
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        told.update(path.name.encode("utf-8", "surrogateescape") + b"\0" + path.read_bytes())
    return told.hexdigest()
