"""How far the answers of a model move when its weights are kept in fewer bits: the paper's check of FP8 (6.2).

Benchmarks look the same though single answers are spoilt, so whole distributions are compared. The model as it was
answers prompts. Both models say how likely each of these answers is; where there is a reward model, both answer, and it
scores the answers of both.

Legend: N answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llama3.errors import DataError
from llama3.inference.llama import SCORE_TOKENS, Llama
from llama3.inference.sampling import Sampling
from llama3.model.batch import Batch, Segment, Tree
from llama3.model.score import score, top
from llama3.model.transformer import Transformer
from llama3.posttraining.examples import prompt_ids
from llama3.posttraining.services import answer_text
from llama3.tasks.rewards import CombinedReward, require_scorable
from llama3.tokenizer import Tokenizer, stop_ids
from llama3.training.microbatch import cut

NO_ROOM = DataError.declare(
    "L3-REL-008",
    "none of {count} prompts leaves room for {longest} tokens of answer",
    why="the model was made for {context} tokens",
    fix="lower --max-tokens, or give shorter prompts",
)

Dialog = Sequence[Mapping[str, Any]]
"""Messages, the last of them a user's."""


@dataclass(frozen=True, slots=True)
class Shift:
    """How a figure of N answers is distributed before and after."""

    n: int
    before: float
    """Mean."""
    after: float
    ks: float
    """Kolmogorov-Smirnov distance: the largest difference of the two shares below any one value."""
    wasserstein: float
    """1-Wasserstein distance: how far a value has to move on average to make one distribution of the other."""

    @classmethod
    def of(cls, before_N: Sequence[float], after_N: Sequence[float]) -> Shift:
        """Values that are no number are left out; n counts those before."""
        one, other = (np.sort(np.array(sample)[np.isfinite(sample)]) for sample in (before_N, after_N))
        values = np.sort(np.concatenate([one, other]))
        gap = np.abs(_share_below(one, values) - _share_below(other, values))
        return cls(
            n=len(one),
            before=float(one.mean()),
            after=float(other.mean()),
            ks=float(gap.max()),
            wasserstein=float((gap[:-1] * np.diff(values)).sum()),
        )


def _share_below(sorted_N: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Of the sample, up to each value."""
    return np.searchsorted(sorted_N, values, side="right") / len(sorted_N)


class Fidelity:
    """The answers of a model as it was, to compare others with."""

    def __init__(
        self, model: Llama, dialogs: Sequence[Dialog], *, max_tokens: int, seed: int, reward: CombinedReward | None
    ) -> None:
        """Raises DataError where no prompt leaves room for an answer, or the chat template takes none."""
        self._tokenizer = model.tokenizer
        self._sampling = Sampling(max_tokens, seed=seed, stop_ids=stop_ids(model.tokenizer))
        self._reward = reward
        context = model.engine.pool.max_tokens
        prompts = [(dialog, _prompt(model.tokenizer, dialog)) for dialog in dialogs]
        kept = [(dialog, prompt) for dialog, prompt in prompts if len(prompt) + max_tokens <= context]
        if not kept:
            raise NO_ROOM("prompts", count=len(dialogs), longest=max_tokens, context=context)
        self._dialogs, self._prompts = [dialog for dialog, _ in kept], [prompt for _, prompt in kept]
        answers = self._answers(model)
        self._lengths = [len(answer) for answer in answers]
        self._batch = Batch.of_trees(
            [
                Tree([Segment(prompt), Segment(np.asarray(answer, np.uint32), parent=0, is_target=True)])
                for prompt, answer in zip(self._prompts, answers, strict=True)
            ]
        )
        self._logps_N, self._likeliest_M = self._read(model.transformer)
        self._scores_N = self._scores(answers)

    def compare(self, model: Llama) -> dict[str, Any]:
        """How another model of the same tokenizer differs, as plain data.

        logp: the mean log-probability of a token of each answer, in nats
        top1_agreement: at how many tokens of the answers both find the same one likeliest
        reward: the scores of both models' own answers, where there is a reward model
        """
        logps_N, likeliest_M = self._read(model.transformer)
        found: dict[str, Any] = {
            "logp": asdict(Shift.of(self._logps_N, logps_N)),
            "top1_agreement": float((likeliest_M == self._likeliest_M).float().mean()),
        }
        if self._scores_N is not None:
            found["reward"] = asdict(Shift.of(self._scores_N, self._scores(self._answers(model)) or []))
        return found

    def _answers(self, model: Llama) -> list[list[int]]:
        return [answer.ids for (answer,) in model.engine.generate(self._prompts, self._sampling)]

    @torch.no_grad()
    def _read(self, model: Transformer) -> tuple[list[float], Tensor]:
        """The mean log-probability of each answer, and the likeliest token at each of its places."""
        device = model.embed.weight.device
        parts = [part.to(device) for part in cut(self._batch, SCORE_TOKENS)]
        logps_M = torch.cat([score(model, part).logps_M.cpu() for part in parts])
        likeliest_M = torch.cat([top(model, part, 1)[0][:, 0].cpu() for part in parts])
        return [float(answer.mean()) for answer in logps_M.split(self._lengths)], likeliest_M

    def _scores(self, answers: Sequence[Sequence[int]]) -> list[float] | None:
        if self._reward is None:
            return None
        texts = [answer_text(self._tokenizer, answer) for answer in answers]
        asked = [str(dialog[-1]["content"]) for dialog in self._dialogs]
        scores = self._reward.score(asked, texts, [{"context": dialog[:-1]} for dialog in self._dialogs])
        require_scorable(scores)
        return scores.total


def _prompt(tokenizer: Tokenizer, dialog: Dialog) -> np.ndarray:
    """As the model is asked; a model that was never taught to chat goes on from the text of the last message."""
    if tokenizer.chat_template is None:
        return tokenizer.encode(str(dialog[-1]["content"]), bos=True)
    return prompt_ids(tokenizer, dialog)
