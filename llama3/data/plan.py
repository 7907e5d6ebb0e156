"""The plan of a token stream: which shards make up each source, and in which proportions sources are read.

A plan is the `plan.json` of a `shards` artifact. Its hash pins the content of every shard, so that a
loader's state can name the exact stream it belongs to.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from llama3 import _core
from llama3.artifacts.files import canonical_json, write_json_atomic
from llama3.errors import ConfigError, DataError, Problem

NO_PLAN = DataError.declare(
    "L3-DAT-201",
    "cannot read the plan of token shards",
    why="{why}",
    fix="give the directory of a shards artifact, as the stage `shard` and llama3.data.ShardWriter make it",
)
BAD_MIX = ConfigError.declare("L3-DAT-202", "no source {lacking}", fix="the sources are {known}")

PLAN = "plan.json"
IN_RUN = "artifacts/shard"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ShardEntry(_Part):
    """One `.tok` file beside the plan. `root` is the hash that stands for its content."""

    path: str
    tokens: int = Field(ge=1)
    documents: int = Field(ge=1)
    root: str


class SourceEntry(_Part):
    """The shards of one source, in order."""

    name: str
    shards: list[ShardEntry] = Field(min_length=1)

    @property
    def tokens(self) -> int:
        """Tokens of all shards."""
        return sum(shard.tokens for shard in self.shards)


class TokenPlan(_Part):
    """Sources and their weights. Without a `mix` each source is read in proportion to its size; a source that the mix
    does not name is not read. A mix may name a class in place of sources: its weight is shared by the sources that
    `classes` puts into it, by their sizes."""

    version: Literal[2] = 2
    tokenizer: str
    vocab_size: int = Field(ge=1)
    sources: list[SourceEntry] = Field(min_length=1)
    mix: dict[str, float] = {}
    classes: dict[str, str] = {}
    _folder: Path = PrivateAttr(default=Path())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> TokenPlan:
        """The plan of a `shards` directory, of a plan file, or of a run. Raises DataError (L3-DAT-201)."""
        if not isinstance(path, str | os.PathLike):
            raise NO_PLAN("plan", why=f"a {type(path).__name__} was given")
        file = Path(path)
        file = file / IN_RUN if (file / IN_RUN).is_dir() and not (file / PLAN).exists() else file
        file = file / PLAN if file.is_dir() else file
        try:
            plan = cls.model_validate(json.loads(file.read_bytes()))
        except OSError as error:
            why = error.strerror or str(error)
        except ValidationError as error:
            first = error.errors()[0]
            why = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        except (ValueError, RecursionError) as error:
            why = str(error)
        else:
            plan._folder = file.parent
            return plan
        raise NO_PLAN(file, why=why)

    @property
    def folder(self) -> Path:
        """Where it was loaded from, and its shards lie."""
        return self._folder

    def save(self, folder: Path) -> None:
        """Write plan.json into `folder`."""
        write_json_atomic(folder / PLAN, self._content())

    @property
    def hash(self) -> str:
        """blake3 of the plan: contents of all shards, mix and tokenizer."""
        return _core.blake3_bytes(canonical_json(self._content()))

    def _content(self) -> dict[str, Any]:
        """As it is written. Without classes it says nothing of them, so that it is the same plan as ever."""
        return self.model_dump(mode="json", exclude=None if self.classes else {"classes"})

    def with_mix(self, mix: Mapping[str, float], classes: Mapping[str, str] | None = None) -> TokenPlan:
        """The same plan with other weights, and other classes where they are given. Raises ConfigError (L3-DAT-202)."""
        of_class = self.classes if classes is None else dict(classes)
        changed = self.model_copy(update={"mix": dict(mix), "classes": of_class})
        changed._folder = self._folder
        if mix:
            changed._check(mix)
        return changed

    def weights(self, seq_len: int, mix: Mapping[str, float] | None = None) -> list[float]:
        """The weight of every source in rows of `seq_len` tokens: those of `mix`, else of the plan, else by size.

        By size means by whole rows, so that a source shorter than one row is not read. Raises ConfigError (L3-DAT-202).
        """
        if mix:
            self._check(mix)
        if given := mix or self.mix:
            return [self._weight(source, given) for source in self.sources]
        return [float(source.tokens // seq_len) for source in self.sources]

    def _weight(self, source: SourceEntry, mix: Mapping[str, float]) -> float:
        """Its own weight, and its share of that of its class."""
        of_class = self.classes.get(source.name)
        own = 0.0 if source.name == of_class else mix.get(source.name, 0.0)
        if of_class is None or of_class not in mix:
            return own
        whole = sum(other.tokens for other in self.sources if self.classes.get(other.name) == of_class)
        return own + mix[of_class] * source.tokens / whole

    def _check(self, mix: Mapping[str, float]) -> None:
        self.require({"mix": mix})

    def require(self, mixes: Mapping[str, Mapping[str, float]]) -> None:
        """Raises ConfigError (L3-DAT-202) for all mixes, by where they are written, that cannot be read from here."""
        sources, problems = [source.name for source in self.sources], list[Problem]()
        known = sorted({*sources, *(self.classes[name] for name in sources if name in self.classes)})
        for where, mix in mixes.items():
            unknown = sorted(set(mix) - set(known))
            if unknown or not any(weight > 0 for weight in mix.values()):
                lacking = f"is called {unknown[0]!r}" if unknown else "has a weight above 0"
                problems.append(BAD_MIX.problem(where, lacking=lacking, known=known))
        if problems:
            raise ConfigError.of(problems)

    def paths(self, source: SourceEntry) -> list[str]:
        """Where the shards of a source lie."""
        return [str(self._folder / shard.path) for shard in source.shards]
