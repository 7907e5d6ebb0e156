"""Replay: text that a model was pre-trained on, learnt again among the dialogs of its finetuning, so that it keeps what
it knew of text (Robins 1995; the mix with pre-training gradients of Ouyang et al. 2022, arXiv 2203.02155).

The text is that of the shards which the model's lineage names. A model that came from elsewhere has none: it rehearses
with its own answers (rehearsal.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from llama3.data.loader import TokenLoader
from llama3.data.trained_on import shards_of
from llama3.errors import ConfigError
from llama3.posttraining.examples import AnswerTokens, DialogExample

NOTHING_KNOWN = ConfigError.declare(
    "L3-FIN-005",
    "nobody knows what text the model was pre-trained on",
    why="its lineage names no token shards that are still there",
    fix="set post_training.sft.replay to 0; post_training.reject.rehearsal guards a model from elsewhere",
)

LONGEST = 128
"""Tokens of a piece. Longer ones would be few among the dialogs, and so would come in some steps only."""


def with_replay(
    dialogs: Sequence[DialogExample], share: float, model: Path, context: int, seed: int
) -> list[DialogExample]:
    """The dialogs, and behind them so many pieces of text that about `share` of all target tokens is text.

    Raises ConfigError (L3-FIN-005) where the text is not known.
    """
    targets = sum(int(np.sum(np.broadcast_to(d.answer.is_target, len(d.answer.ids)))) for d in dialogs)
    wanted = targets * share / (1 - share)
    return [*dialogs, *_pieces(wanted, model, min(LONGEST, context), seed)]


def _pieces(wanted: float, model: Path, length: int, seed: int) -> list[DialogExample]:
    plan = shards_of(model)
    if plan is None:
        raise NOTHING_KNOWN("post_training.sft.replay")
    rows = TokenLoader(plan, seq_len=length, seed=seed).rows(0, max(1, round(wanted / (length - 1))))
    ends_D = np.append(rows.starts_D[1:], rows.tokens.size)
    pieces = (rows.tokens.reshape(-1)[start:end] for start, end in zip(rows.starts_D, ends_D, strict=True))
    return [_example(ids) for ids in pieces if len(ids) > 1]


def _example(ids: np.ndarray) -> DialogExample:
    """Every token of a piece is a target but its first, which is there to predict the second from."""
    return DialogExample(ids[:1], AnswerTokens(ids[1:], np.zeros(len(ids) - 1, bool)))
