"""What a model should have answered to a prompt, and what it did answer that is worse (paper 5.4.3, 5.4.4).

adversarial: chosen a refusal in a good tone, the model's own where it wrote one, else a template;
             rejected what it wrote that violates
borderline:  chosen what it wrote that helps; rejected a refusal, its own where it wrote one, else a template

Of several answers that would do the likeliest is taken: the answer that costs least to learn, the mistake that the
model most needs to unlearn. Both must be far enough apart (paper 5.4.4: nearly orthogonal ones teach best).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from llama3.evaluation.safety_rows import SafetyPrompt
from llama3.safety.refusals import is_garbage
from llama3.safety.tone import good_refusal, tone

Distance = Callable[[str, str], float]
"""Of two answers: 1 - cosine of their directions, 0 to 2."""


@dataclass(frozen=True, slots=True)
class JudgedSample:
    """One answer of the model. `whole`: it ends with a sentence; `violates` and `refuses`: what the judges say, None
    where they cannot tell."""

    text: str
    mean_logp: float
    whole: bool
    violates: bool | None
    refuses: bool | None


@dataclass(frozen=True, slots=True)
class Learnt:
    """What one prompt teaches. `why` says what is missing: of the dialog (then of all), or of the pair."""

    prompt: SafetyPrompt
    answer: str = ""
    origin: str = ""
    """`own` or `template`: who wrote the answer."""
    rejected: str = ""
    distance: float | None = None
    """Of the pair, or of the two that were farthest apart and yet too near."""
    why: str = ""

    def dialog(self) -> dict[str, Any]:
        """As a row to finetune on; what the conversation says before is not learnt."""
        messages = [*_messages(self.prompt), {"role": "assistant", "content": self.answer}]
        return {"id": self.prompt.id, "source": "safety", **_told(self), "messages": messages}

    def pair(self) -> dict[str, Any]:
        """As a row of preferences."""
        row = {"id": self.prompt.id, **_told(self), "messages": _messages(self.prompt)}
        return {**row, "chosen": self.answer, "rejected": self.rejected, "distance": self.distance}

    def labels(self) -> list[dict[str, Any]]:
        """The pair as two rows of labels."""
        row = {"id": self.prompt.id, **_told(self), "messages": _messages(self.prompt)}
        return [{**row, "completion": text, "label": text == self.answer} for text in (self.answer, self.rejected)]


def learnt_from(
    prompt: SafetyPrompt, samples: Sequence[JudgedSample], distance: Distance, least: float, rng: random.Random
) -> Learnt:
    """What a prompt teaches, given the model's answers; with no answer that helps a borderline one teaches nothing."""
    template = good_refusal(prompt.lang, prompt.category, rng)
    question = prompt.turns[-1].content
    if prompt.kind == "adversarial":
        safe = [s for s in samples if s.violates is False and s.whole and tone(s.text, question).is_good]
        # One that says what it can help with instead is better than one that only declines.
        safe.sort(key=lambda s: (not tone(s.text, question).offers, -s.mean_logp))
        answer, origin = (safe[0].text, "own") if safe else (template, "template")
        worse = [s.text for s in _likeliest(samples) if s.violates]
    else:
        helpful = [s.text for s in _likeliest(samples) if s.refuses is False and s.whole and not is_garbage(s.text)]
        if not helpful:
            return Learnt(prompt, why="no_help")
        answer, origin = helpful[0], "own"
        worse = [*(s.text for s in _likeliest(samples) if s.refuses), template]
    if not worse:
        return Learnt(prompt, answer, origin, why="nothing_worse")
    found = [(text, distance(answer, text)) for text in worse]
    far = next(((text, apart) for text, apart in found if apart >= least and text != answer), None)
    if far is None:
        return Learnt(prompt, answer, origin, distance=max(apart for _, apart in found), why="too_near")
    return Learnt(prompt, answer, origin, *far)


def _likeliest(samples: Sequence[JudgedSample]) -> list[JudgedSample]:
    return sorted(samples, key=lambda sample: -sample.mean_logp)


def _told(learnt: Learnt) -> dict[str, str]:
    prompt = learnt.prompt
    return {"kind": prompt.kind, "lang": prompt.lang, "category": prompt.category, "origin": learnt.origin}


def _messages(prompt: SafetyPrompt) -> list[dict[str, Any]]:
    own = {"weight": 0}
    return [
        {"role": turn.role, "content": turn.content, **(own if turn.role == "assistant" else {})}
        for turn in prompt.turns
    ]
