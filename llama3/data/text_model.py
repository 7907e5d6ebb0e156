"""Classifiers of texts that are cheap enough for every document: fastText models (Joulin et al. 2016), own or others'.

The library is an extra; it is the maintained fork of the archived original. Letters: D texts, L labels.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from llama3 import _core
from llama3.data.fasttext_file import check_fasttext
from llama3.errors import ConfigError

NO_LIBRARY = ConfigError.declare(
    "L3-CLS-001",
    "fastText models need a library that is not installed",
    why="{error}",
    fix="pip install 'llama3[fasttext]', or leave the model out",
)
NO_FILE = ConfigError.declare("L3-CLS-003", "there is no model of texts here", why="{error}", fix="give a .bin or .ftz")
NO_SUCH_LABEL = ConfigError.declare("L3-CLS-004", "the model has no label {label!r}", fix="its labels are {known}")

MODEL = "model.bin"
"""Of a folder that `llama3 data classify train` wrote."""
PREFIX = "__label__"
CHARACTERS = 10_000
"""Of a text are read unless said otherwise: longer ones change no verdict and cost time."""


class TextModel:
    """A fastText classifier. The same file and text give the same probabilities.

    Texts are read as one line each, runs of white space as one blank, the first `characters` of them."""

    def __init__(self, path: str | os.PathLike[str], characters: int = CHARACTERS) -> None:
        """`path` is a `.bin` or `.ftz`, or a folder that `llama3 data classify train` wrote.

        Raises ConfigError (L3-CLS-001, L3-CLS-003) without the library or the file, DataError (L3-CLS-002) for a file
        that is not sound.
        """
        file = Path(path)
        file = file / MODEL if file.is_dir() else file
        library = fasttext_library()
        try:
            check_fasttext(file)
            self.hash = _core.blake3_file(str(file))
        except OSError as error:
            raise NO_FILE(file, error=error.strerror or error) from error
        self._model: Any = library.load_model(str(file))
        self.characters = characters
        self.labels = [label.removeprefix(PREFIX) for label in self._model.labels]

    def require(self, labels: Sequence[str]) -> None:
        """Raises ConfigError (L3-CLS-004) for all labels that the model does not have."""
        wrong = [label for label in labels if label not in self.labels]
        if wrong:
            known = self.labels if len(self.labels) < 200 else [*self.labels[:200], "..."]
            raise ConfigError.of(NO_SUCH_LABEL.problem("labels", label=label, known=known) for label in wrong)

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """float64 [D, L], in the order of `labels`; a text of nothing has what the model makes of nothing."""
        places = {PREFIX + label: number for number, label in enumerate(self.labels)}
        found_DL = np.zeros((len(texts), len(self.labels)))
        if not texts:
            return found_DL
        names_DL, shares_DL = self._model.predict([as_line(text, self.characters) for text in texts], k=-1)
        for row_L, names, shares in zip(found_DL, names_DL, shares_DL, strict=True):
            row_L[[places[name] for name in names]] = shares
        return np.clip(found_DL, 0.0, 1.0)  # the library adds 1e-5 to each

    def of_label(self, texts: Sequence[str], label: str) -> np.ndarray:
        """float64 [D]: the probability of a label."""
        probabilities: np.ndarray = self.probabilities(texts)[:, self.labels.index(label)]
        return probabilities


def as_line(text: str, characters: int) -> str:
    """The beginning of a text as the one line that fastText reads. Its marks of labels are broken."""
    return " ".join(text[:characters].replace("\0", " ").replace(PREFIX, "__ label__").split())


def fasttext_library() -> ModuleType:
    """Raises ConfigError (L3-CLS-001) where it is not installed."""
    try:
        return importlib.import_module("fasttext")
    except ImportError as error:
        raise NO_LIBRARY("fastText", error=error) from error
