"""What is read off a prompt while the engine computes it: log-probabilities of its tokens, or its mean state.

Legend: N texts, T tokens of a piece, D model dim, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from llama3.inference.engine import Engine
from llama3.inference.forwards import OutputHead
from llama3.inference.sampling import Sampling, Top, likeliest
from llama3.tokenizer import Tokenizer

ROWS = 64
"""Rows of scores over the vocabulary that exist at once in float32."""


class PromptLogps:
    """The log-probability of every token of a prompt but the first, as `llama3.model.score.score` computes it, and the
    `top` likeliest tokens there."""

    def __init__(self, prompt: npt.NDArray[np.uint32], top: int) -> None:
        self.prompt = prompt
        self.logps: list[float] = []
        self.tops: list[Top] = []
        self._top = top
        self._read = 0

    def read(self, model: OutputHead, h_TD: Tensor) -> None:
        """The next tokens' states."""
        for rows_TD in h_TD.split(ROWS):
            next_ids = self.prompt[self._read + 1 : self._read + 1 + len(rows_TD)].astype(np.int64)
            self._read += len(rows_TD)
            if not len(next_ids):
                return
            logits_TV = model.logits(rows_TD[: len(next_ids)])
            ids_T1 = torch.from_numpy(next_ids)[:, None].to(logits_TV.device)
            logps_TV = logits_TV.float().log_softmax(-1)
            self.logps += logps_TV.gather(1, ids_T1).squeeze(1).tolist()
            self.tops += likeliest(logps_TV, self._top)


class MeanState:
    """The mean of a prompt's final hidden states."""

    def __init__(self) -> None:
        self._sum: npt.NDArray[np.float64] | None = None
        self._count = 0

    def read(self, model: OutputHead, h_TD: Tensor) -> None:
        """The next tokens' states."""
        part = h_TD.double().sum(0).cpu().numpy()
        self._sum = part if self._sum is None else self._sum + part
        self._count += len(h_TD)

    @property
    def direction(self) -> npt.NDArray[np.float32]:
        """The mean, scaled to length 1: float32[D]."""
        assert self._sum is not None, "the prompt is not computed yet"
        length = np.linalg.norm(self._sum)
        return (self._sum / (length or 1.0)).astype(np.float32)


def text_directions(engine: Engine, tokenizer: Tokenizer, texts: Sequence[str]) -> npt.NDArray[np.float32]:
    """Of each text the direction of its mean state, float32[N, D]; what the context has no room for is left out."""
    readers, requests = [], []
    for text in texts:
        ids = tokenizer.encode(text, bos=True)[: engine.pool.max_tokens - 1]
        readers.append(MeanState())
        requests.append(engine.submit(ids, Sampling(1, temperature=0), reader=readers[-1]))
    for request in requests:
        engine.wait(request)
    return np.stack([reader.direction for reader in readers])
