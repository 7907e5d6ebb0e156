"""Prompt-lookup speculative decoding: an answer often repeats its prompt or itself, so what followed the last time that
its latest tokens stood there is a draft of what comes next (Yang et al., "Inference with Reference", 2023; Saxena,
"Prompt lookup decoding", 2023).

A forward computes the scores after the last token and after each token of the draft. At every place the token is drawn
that would be drawn without a draft, with that place's own random number; the draft was right as far as it equals what
is drawn. So answers are the same with and without, greedy or sampled, and no rule of acceptance is needed.

Legend: N tokens of a prompt and its answer so far.
"""

from __future__ import annotations

from typing import get_args

import numpy as np
import numpy.typing as npt
import torch

from llama3.config.serving import Speculative
from llama3.errors import ConfigError
from llama3.inference.paged_cache import FEW_TOKENS

NO_SPECULATION = ConfigError.declare("L3-GEN-020", "{name!r} is no way to speculate", fix="give one of: {methods}")

DRAFT_ROWS = {torch.float32: 16, torch.bfloat16: 8}
"""Rows of a forward that cost little more than one (`make bench-speculative`)."""
LONGEST_DRAFT = FEW_TOKENS - 1
"""With the token before it as many as the core attends to where their keys lie."""
FIRST_DRAFT = 4
LONGEST_PAUSE = 15
"""Steps without a draft after several that were wrong from the start."""
SHORTEST_MATCH, LONGEST_MATCH = 2, 8
"""Latest tokens that have to stand earlier, and those that are looked at. After one token alone too much follows."""


def draft_rows(method: str, dtype: torch.dtype) -> int:
    """Rows of a forward that drafts may fill up: with more of them it is bound by arithmetic, no longer by reading the
    weights, and a draft costs what it gives. 0: there are no drafts. Raises ConfigError for an unknown method."""
    if method not in get_args(Speculative):
        raise NO_SPECULATION("speculative", name=method, methods=", ".join(get_args(Speculative)))
    return 0 if method == "off" else DRAFT_ROWS.get(dtype, max(DRAFT_ROWS.values()))


class PromptLookup:
    """Drafts for one answer, longer while they turn out right."""

    def __init__(self, prompt: npt.NDArray[np.uint32], max_tokens: int) -> None:
        self._tokens = np.empty(len(prompt) + max_tokens, np.uint32)
        self._tokens[: len(prompt)] = prompt
        self._start = self._end = len(prompt)
        self._length = FIRST_DRAFT
        self._pause = self._resting = 0

    def draft(self, ids: list[int], most: int) -> list[int]:
        """What may come after `ids`, the answer so far: up to `most` tokens, or none."""
        known, self._end = self._end - self._start, self._start + len(ids)
        self._tokens[self._start + known : self._end] = ids[known:]
        if self._resting or most < 1:
            self._resting = max(0, self._resting - 1)
            return []
        return continuation(self._tokens[: self._end], min(most, self._length))

    def learn(self, drafted: int, accepted: int) -> None:
        """So many tokens of the last draft were right."""
        if accepted == 0:
            self._length = 1
            self._resting = self._pause = min(2 * self._pause + 1, LONGEST_PAUSE)
            return
        self._pause = 0
        self._length = min(2 * self._length, LONGEST_DRAFT) if accepted == drafted else accepted


def continuation(tokens_N: npt.NDArray[np.uint32], count: int) -> list[int]:
    """The `count` tokens that followed where the longest suffix of `tokens_N` that occurs before occurred last; none if
    it is shorter than SHORTEST_MATCH. Where they reach the end they begin again, as in a loop."""
    places, matched = np.flatnonzero(tokens_N[:-1] == tokens_N[-1]), 1  # of the suffix's last token
    while matched < min(LONGEST_MATCH, len(tokens_N) - 1):
        longer = places[places >= matched]
        longer = longer[tokens_N[longer - matched] == tokens_N[-1 - matched]]
        if not len(longer):
            break
        places, matched = longer, matched + 1
    if matched < SHORTEST_MATCH:
        return []
    found: list[int] = np.resize(tokens_N[places[-1] + 1 :][:count], count).tolist()
    return found
