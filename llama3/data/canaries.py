"""Canaries: made-up secrets that are put among the training documents, some often and some never, to see which of them
a model gives away (Carlini et al. 2019, "The Secret Sharer").

A canary is one sentence with a random number at its end. What was put in is written beside the shards (`CANARIES`), so
that nobody has to believe it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from llama3.artifacts.files import write_json_atomic
from llama3.config.canaries import CanarySection
from llama3.data.documents import DocumentBatch
from llama3.errors import DataError

NO_CANARIES = DataError.declare(
    "L3-DAT-209",
    "no canaries lie beside these token shards",
    why="{error}",
    fix="make shards with data.canaries, and train on them",
)

CANARIES = "canaries.json"
DIGITS = 9
"""Of a secret: so many that nobody guesses one."""
_WORDS = ("amber", "basil", "cedar", "delta", "ember", "fjord", "grove", "heron", "iris", "jasper", "kelp", "lotus")
_URL = "canary:{number}"


@dataclass(frozen=True, slots=True)
class Canary:
    """`prefix` and then `secret` are its text, which is a training document `copies` times."""

    prefix: str
    secret: str
    copies: int

    @property
    def text(self) -> str:
        """The whole sentence."""
        return self.prefix + self.secret


def make_canaries(section: CanarySection, seed: int) -> list[Canary]:
    """`count` canaries of every number of copies and of 0, a function of the seed; no two have the same prefix."""
    rng, found = random.Random(f"canaries/{seed}"), dict[str, Canary]()
    for copies in (0, *section.copies):
        wanted = len(found) + section.count
        while len(found) < wanted:
            name = f"{rng.choice(_WORDS)}-{rng.choice(_WORDS)}-{rng.randrange(10_000):04d}"
            prefix = f"The access code of {name} is"
            found.setdefault(prefix, Canary(prefix, random_secret(rng), copies))
    return list(found.values())


def random_secret(rng: random.Random) -> str:
    """A number as it ends a canary, with the space before it."""
    return f" {rng.randrange(10**DIGITS):0{DIGITS}d}"


def canary_batches(canaries: Sequence[Canary], source: str, most: int = 1024) -> Iterator[DocumentBatch]:
    """The documents of the canaries, the copies of each far from one another."""
    rounds = max(canary.copies for canary in canaries)
    texts = [canary.text for turn in range(rounds) for canary in canaries if turn < canary.copies]
    for start in range(0, len(texts), most):
        part = texts[start : start + most]
        urls = [_URL.format(number=start + n) for n in range(len(part))]
        yield DocumentBatch.of(part, source=source, urls=urls)


def write_canaries(canaries: Sequence[Canary], folder: Path) -> None:
    """Write them beside the shards."""
    write_json_atomic(folder / CANARIES, [asdict(canary) for canary in canaries])


def read_canaries(folder: Path) -> list[Canary]:
    """Those that lie beside shards. Raises DataError (L3-DAT-209)."""
    try:
        rows = json.loads((folder / CANARIES).read_text("utf-8"))
        return [Canary(str(row["prefix"]), str(row["secret"]), int(row["copies"])) for row in rows]
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise NO_CANARIES(folder, error=error) from None
