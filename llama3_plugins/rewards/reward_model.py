"""The score of a trained reward model: what the algorithm `reward_model` makes of preferences (paper 4.1.2).

Scores are logits whose differences count: sigmoid(s(a) - s(b)) is the probability that a is preferred to b. They rank
answers and verify none. An answer that is longer with its prompt than the model allows is not scorable.

Legend: N answers, S segments.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from llama3.errors import CheckpointError
from llama3.rewards import (
    DialogExample,
    Example,
    Tokenizer,
    answer_example,
    cut,
    device_of,
    load_model,
    pack_rankings,
    score,
)
from llama3_plugins.rewards.options import RewardModelOptions

NO_HEAD = CheckpointError.declare(
    "L3-RWM-001",
    "has no score head: it is no reward model",
    fix="train one with `post_training: {{reward: {{}}}}`",
)


class RewardModelReward:
    """A `Reward` (llama3.tasks.rewards). Raises CheckpointError where the checkpoint has no score head."""

    verifies = False

    def __init__(self, options: RewardModelOptions) -> None:
        folder = Path(options.path)
        self._batch_tokens = options.batch_tokens
        self._tokenizer = Tokenizer.load(folder)
        self._model = load_model(folder, device=device_of(options.device)).requires_grad_(False)
        if self._model.score_head is None:
            raise NO_HEAD(folder)

    def score(self, prompts: Sequence[str], answers: Sequence[str], examples: Sequence[Example]) -> list[float | None]:
        """One logit per answer; None where prompt and answer are too long for the model."""
        dialogs = [self._dialog(*row) for row in zip(prompts, answers, examples, strict=True)]
        known = [i for i, dialog in enumerate(dialogs) if dialog.num_tokens <= self._model.config.max_seq_len]
        scores: list[float | None] = [None] * len(dialogs)
        if known:
            for i, number in zip(known, self._scores([dialogs[i] for i in known]).tolist(), strict=True):
                scores[i] = number
        return scores

    def _dialog(self, prompt: str, answer: str, example: Example) -> DialogExample:
        """Prompt and answer, which may be empty; `context` of a task's row are the messages before the prompt."""
        asked = [*example.get("context", ()), {"role": "user", "content": prompt}]
        return answer_example(self._tokenizer, asked, answer)

    @torch.no_grad()
    def _scores(self, dialogs: Sequence[DialogExample]) -> Tensor:
        """The scores (N,), in order; the answers to one prompt that follow each other share its tokens."""
        groups = [list(group) for _, group in itertools.groupby(dialogs, key=lambda dialog: dialog.prompt.tobytes())]
        rankings = pack_rankings([(group[0].prompt, [dialog.answer for dialog in group]) for group in groups])
        batch = rankings.to(self._model.embed.weight.device)
        parts = [
            score(self._model, part, {"score"}).score_S[part.parents_S >= 0] for part in cut(batch, self._batch_tokens)
        ]
        return torch.cat(parts).cpu()
