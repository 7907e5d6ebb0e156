"""The workshop: everything that a capability recipe may use. Torch-free until it is used."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from llama3 import _core
from llama3.artifacts import StageOutput
from llama3.artifacts.files import append_json_line, canonical_json, read_json_lines
from llama3.data.corpus import Corpus
from llama3.data.sampling import DrawnRows
from llama3.making.made import Turns
from llama3.making.voices import Reply, Voice
from llama3.tasks import NotEnoughTasks, Task
from llama3.tasks.rewards import CombinedReward, verifies
from llama3.tasks.sandbox import Limits, Ran, Script, run_scripts

JOURNAL = "answers.jsonl"
JUDGE_TOKENS = 256
LIMITS = Limits(cpu_seconds=2.0)


@dataclass(frozen=True, slots=True)
class Passage:
    """A document of the run's corpus that is trained on, or the beginning of it."""

    text: str
    id: str
    source: str
    language: str
    """A language tag, or the programming language; "und" where it is unknown."""
    kind: Literal["prose", "code", "made"]
    url: str = ""
    """Where it was found."""


class Workshop:
    """Models to ask, material to begin from, and what verifies. Every answer is written down when it is there, so that
    a recipe that was killed goes on with the first that is missing."""

    def __init__(
        self,
        out: StageOutput,
        *,
        speaker: Callable[[], Voice],
        judge: Callable[[], Voice],
        corpus: Path | None,
        reward: CombinedReward | None,
        temperature: float,
        max_tokens: int,
        seed: int,
        tokens: Callable[[str], int],
        room: int,
        last: bool = True,
    ) -> None:
        self._out, self._corpus, self._reward, self._seed = out, corpus, reward, seed
        self._voices = {"speaker": speaker, "judge": judge}
        self._opened: dict[str, Voice] = {}
        self.temperature, self.max_tokens = temperature, max_tokens
        """Of `ask`, unless it is told otherwise."""
        self.last = last
        """Whether no round follows: told to recipes whose spec says `last_differs`, and true for others."""
        self.tokens, self.room = tokens, room
        """How many tokens the round's model reads a text as, and how many a dialog may have."""
        self.asked = 0
        """Dialogs that were answered."""

    def ask(
        self,
        dialogs: Sequence[Turns],
        *,
        samples: int = 1,
        temperature: float | None = None,
        max_tokens: int | None = None,
    ) -> list[list[Reply]]:
        """`samples` answers to each dialog, in order, of the model that makes them: that of the round, or the one that
        the config names. Ask for many at once: a model answers them together. Equal dialogs get equal answers."""
        temperature = self.temperature if temperature is None else temperature
        return self._answers("speaker", dialogs, samples, temperature, max_tokens or self.max_tokens)

    def judge(self, dialogs: Sequence[Turns], *, max_tokens: int = JUDGE_TOKENS) -> list[str]:
        """The likeliest answer to each dialog of the model that judges: the one that `judge` names in the config, else
        the one that makes the dialogs. What cannot be read in it is no verdict (`llama3.capabilities.verdict`)."""
        return [first.text for (first,) in self._answers("judge", dialogs, 1, 0.0, max_tokens)]

    def documents(
        self,
        count: int,
        seed: int,
        *,
        kind: Literal["prose", "code"] | None = None,
        language: str | None = None,
        least: int = 1,
    ) -> list[Passage]:
        """At most `count` documents of the run's corpus, drawn by the seed; of those that are trained on, never
        held-out ones. `least`: characters that they have."""
        if self._corpus is None:
            return []
        drawing = DrawnRows(count, seed)
        names = ["text", "id", "source", "language", "kind", "url"]
        for batch in Corpus(self._corpus).documents("train"):
            for row in batch.records.select(names).to_pylist():
                fits = kind in (None, row["kind"]) and language in (None, row["language"])
                if fits and len(row["text"]) >= least:
                    drawing.offer(row["id"], lambda row=row: row)  # type: ignore[misc]
        return [Passage(**row) for row in drawing.rows]

    def tasks(self, count: int, seed: int) -> list[Task]:
        """At most `count` tasks to train on of the run's rewards (`post_training.rewards`)."""
        if self._reward is None:
            return []
        try:
            return self._reward.tasks("train", count, seed)
        except NotEnoughTasks:
            return []

    def passed(self, tasks: Sequence[Task], answers: Sequence[str]) -> list[bool]:
        """Whether each answer is right, as the run's rewards tell right from wrong."""
        if self._reward is None or not tasks:
            return [False] * len(tasks)
        prompts, examples = [task.prompt for task in tasks], [task.to_json() for task in tasks]
        return self._reward.score(prompts, answers, examples).passed

    def score(self, dialogs: Sequence[Turns]) -> list[float | None]:
        """What rewards that rank, such as a reward model, say of the last message of each dialog, whole or begun; None
        where there is no such reward. In its first round a run has no reward model of its own yet."""
        if self._ranking is None or not dialogs:
            return [None] * len(dialogs)
        prompts, answers = [dialog[-2]["content"] for dialog in dialogs], [dialog[-1]["content"] for dialog in dialogs]
        examples = [{"context": list(dialog[:-2])} for dialog in dialogs]
        return [None if math.isnan(total) else total for total in self._ranking.score(prompts, answers, examples).total]

    def run_python(self, scripts: Sequence[Script], *, limits: Limits | None = None) -> list[Ran]:
        """What each script wrote, its errors and its exit status, from the sandbox: no files but the given ones, no
        network, no processes, and two seconds of computing unless `limits` say otherwise."""
        return run_scripts(scripts, limits or LIMITS)

    # -- inside ----------------------------------------------------------------------------------

    @cached_property
    def _ranking(self) -> CombinedReward | None:
        rewards = {} if self._reward is None else self._reward.rewards
        ranking = {name: one for name, one in rewards.items() if not verifies(one)}
        return CombinedReward(ranking) if ranking else None

    @cached_property
    def _journal(self) -> dict[str, list[Reply]]:
        rows = read_json_lines(self._out.scratch / JOURNAL)
        return {row["key"]: [Reply(text, ended) for text, ended in row["replies"]] for row in rows}

    def _answers(
        self, who: str, dialogs: Sequence[Turns], samples: int, temperature: float, max_tokens: int
    ) -> list[list[Reply]]:
        plain = [[{"role": turn["role"], "content": turn["content"]} for turn in dialog] for dialog in dialogs]
        keys = [_key(who, dialog, samples, temperature, max_tokens) for dialog in plain]
        missing = {key: dialog for key, dialog in zip(keys, plain, strict=True) if key not in self._journal}
        self.asked += len(dialogs)
        waiting = list(missing.items())
        if waiting and who not in self._opened:
            self._opened[who] = self._voices[who]()
        with self._out.progress("ask" if who == "speaker" else who, len(waiting)) as progress:
            while waiting:
                voice = self._opened[who]
                some, waiting = waiting[: voice.at_once], waiting[voice.at_once :]
                found = voice.answer([dialog for _, dialog in some], samples, temperature, max_tokens, self._seed)
                for (key, _), replies in zip(some, found, strict=True):
                    told = [[reply.text, reply.ended] for reply in replies]
                    append_json_line(self._out.scratch / JOURNAL, {"key": key, "replies": told})
                    self._journal[key] = replies
                progress.advance(len(some))
        return [self._journal[key] for key in keys]


def _key(*asked: Any) -> str:
    return _core.blake3_bytes(canonical_json(asked))
