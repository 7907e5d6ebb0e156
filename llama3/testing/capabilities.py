"""Conformance of capability recipes: sound dialogs, the same ones each time, and nothing kept that nobody verified.
Torch-free."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from llama3.artifacts import StageOutput
from llama3.config.slot_types import CapabilitySlot
from llama3.making.made import Made, Turns
from llama3.making.stage import all_made
from llama3.making.voices import Reply, Voice
from llama3.making.workshop import Passage, Workshop
from llama3.tasks import Custom, Split, Task
from llama3.tasks.extraction import extract
from llama3.tasks.rewards import CombinedReward
from llama3.testing.conformance import Conformance
from llama3.testing.toy_texts import CODE, sentences

COUNT, SEED = 6, 3
NONSENSE = (
    "",
    "wibble wobble",
    "\U0001f999\u0000\u202e",
    "```\n%%%\n```",
    "yes and no",
    "{}" * 50,
    "\n\n\n",
    "é" * 2000,
)
Talk = Callable[[Turns], str]


class CapabilityConformance(Conformance):
    """Checks of a recipe on a toy workshop: documents of prose and of Python, and sums as tasks.

    `talk` answers as a model that can do what the recipe asks for, where the author writes one: then something must be
    kept. Without it the model talks nonsense, and nothing may be.
    """

    family = "capabilities"
    talk: ClassVar[Any] = None

    def test_it_makes_sound_dialogs(self) -> None:
        for talk in self._voices():
            made = self._made(talk)
            assert all(one.reason == one.reason.strip() != "" for one in made), "a reason is empty"

    def test_the_same_again(self) -> None:
        for talk in self._voices():
            assert self._made(talk) == self._made(talk), "the same workshop, count and seed give other dialogs"

    def test_nonsense_is_not_kept(self) -> None:
        """What nobody verified is not learnt, of a model that babbles, one that repeats what it hears, a silent one."""
        for talk in (_babble, _echo, lambda dialog: ""):
            kept = [made for made in self._made(talk) if made.kept]
            assert not kept, f"kept as {kept[0].reason!r}: {kept[0].messages[-1]['content']!r:.80}"

    def test_without_material_it_makes_nothing(self) -> None:
        with ToyShop(_babble, material=False) as shop:
            assert not [made for made in self._of(shop) if made.kept]

    def test_what_was_answered_is_not_asked_again(self) -> None:
        """A recipe that was killed is begun again and goes on from what was written down."""
        for talk in self._voices():
            with ToyShop(talk) as shop:
                first = self._of(shop)
                asked = shop.voice.asked
                again = ToyShop(talk, folder=shop.folder)
                assert self._of(again) == first
                assert again.voice.asked == 0, f"{again.voice.asked} of {asked} dialogs were asked again"

    def test_a_model_that_can_do_it_is_learnt_from(self) -> None:
        if self.talk is not None:
            made = self._made(type(self).talk or _babble)
            assert any(one.kept for one in made), f"nothing is kept: {sorted({one.reason for one in made})}"

    # -- helpers ---------------------------------------------------------------------------------

    def _voices(self) -> list[Talk]:
        own = type(self).talk
        return [_babble, *([own] if own else [])]

    def _made(self, talk: Talk) -> list[Made]:
        with ToyShop(talk) as shop:
            return self._of(shop)

    def _of(self, shop: Workshop) -> list[Made]:
        slot = CapabilitySlot(name=self.plugin, prompts=COUNT, **self.options)
        return list(all_made(self.build(), slot, shop, SEED))


class ToyShop(Workshop):
    """A workshop without a corpus or a model; `voice` counts what it is asked."""

    def __init__(self, talk: Talk, *, material: bool = True, folder: Path | None = None) -> None:
        self._temporary = tempfile.TemporaryDirectory() if folder is None else None
        self.folder = Path(self._temporary.name) if self._temporary else folder or Path()
        self.voice, self._material = ToyVoice(talk), material
        super().__init__(
            StageOutput(self.folder, self.folder),
            speaker=lambda: self.voice,
            judge=lambda: self.voice,
            corpus=None,
            reward=CombinedReward({"sums": _Sums()}) if material else None,
            temperature=1.0,
            max_tokens=256,
            seed=SEED,
            tokens=lambda text: len(text.split()),
            room=4096,
        )

    def __enter__(self) -> ToyShop:
        return self

    def __exit__(self, *_: object) -> None:
        if self._temporary is not None:
            self._temporary.cleanup()

    def documents(self, count: int, seed: int, **wanted: Any) -> list[Passage]:
        """Of every kind and language that is asked for, in turn."""
        if not self._material:
            return []
        kind, language = wanted.get("kind"), wanted.get("language")
        prose = [Passage(sentences(12, n), f"p{n}", "toy", language or "en", "prose") for n in range(count)]
        code = [Passage(f"{CODE[0]}\n# {n}\n", f"c{n}", "toy", language or "python", "code") for n in range(count)]
        both = [one for pair in zip(prose, code, strict=True) for one in pair if kind in (None, one.kind)]
        return [one for one in both if len(one.text) >= wanted.get("least", 1)][:count]


class ToyVoice(Voice):
    """Answers by rule."""

    at_once = 4

    def __init__(self, talk: Talk) -> None:
        self.talk, self.asked = talk, 0

    def answer(
        self, dialogs: Sequence[Turns], samples: int, temperature: float, max_tokens: int, seed: int
    ) -> list[list[Reply]]:
        """All samples are the same."""
        self.asked += len(dialogs)
        return [[Reply(self.talk(dialog), True)] * samples for dialog in dialogs]


class _Sums:
    """Sums of two numbers, right where the result of the answer is."""

    def tasks(self, split: Split, count: int, seed: int) -> list[Task]:
        rng = random.Random(f"{split}/{seed}")
        pairs = [(number, rng.randrange(50)) for number in range(count)]
        return [
            Task(f"sum-{a}", "sums", f"What is {a} + {b}?", str(a + b), Custom("sums", {"is": str(a + b)}))
            for a, b in pairs
        ]

    def score(
        self, prompts: Sequence[str], answers: Sequence[str], examples: Sequence[Mapping[str, Any]]
    ) -> list[float | None]:
        right = [row["check"]["data"]["is"] for row in examples]
        return [float(extract(answer, result) == result) for answer, result in zip(answers, right, strict=True)]


def _babble(dialog: Turns) -> str:
    return NONSENSE[sum(len(turn["content"]) for turn in dialog) % len(NONSENSE)]


def _echo(dialog: Turns) -> str:
    return dialog[-1]["content"]
