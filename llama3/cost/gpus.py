"""What devices offer: those of gpus.yaml, and those of a file of the user's. Torch-free."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from llama3.config.yaml import parse
from llama3.errors import ConfigError, did_you_mean
from llama3.plugins.options import Loc, problems_of

NO_GPU = ConfigError.declare(
    "L3-CST-001",
    "no GPU is called {name!r}",
    why="{near}",
    fix="choose here or one of {known}, or give a YAML file that describes one (docs/cost.md)",
)
NOT_ONE = ConfigError.declare(
    "L3-CST-002", "describes {count} GPUs", fix="write one entry: the GPU's name, and below it what it offers"
)

TAKEN = ConfigError.declare("L3-CST-014", "a GPU is called `here`", fix="call it something else: that is this machine")

HERE = "here"
"""The name of this machine."""
FactorType = Literal["fp32", "bf16", "fp8", "int8"]
"""What matrices are multiplied in."""
Amount = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Gpu(BaseModel):
    """What one device offers; units as in gpus.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    memory: Amount = Field(description="bytes")
    bandwidth: Amount = Field(description="bytes a second between memory and processor")
    flops: dict[FactorType, Amount] = Field(description="operations a second of dense products; bf16 at least")
    link: Amount | None = Field(None, description="bytes a second between GPUs, both directions together")
    node: int = Field(8, ge=1, description="GPUs that `link` joins")
    network: Amount | None = Field(None, description="bytes a second of each GPU to other nodes, one direction")
    launch: float = Field(0.0, ge=0, allow_inf_nan=False, description="seconds from one kernel to the next")
    price: float | None = Field(None, ge=0, allow_inf_nan=False, description="money an hour")

    @field_validator("flops")
    @classmethod
    def _has_bf16(cls, flops: dict[FactorType, float]) -> dict[FactorType, float]:
        if "bf16" not in flops:
            raise ValueError("needs bf16, which every other type falls back to")
        return flops

    def rate(self, factors: FactorType) -> float:
        """Operations a second of products of this type; where it has none of its own, those of bf16."""
        return self.flops.get(factors, self.flops["bf16"])


@cache
def known_gpus() -> dict[str, Gpu]:
    """Those of gpus.yaml by name."""
    return _read((files("llama3.cost") / "gpus.yaml").read_text(encoding="utf-8"), "gpus.yaml")


def find_gpu(name: str) -> tuple[str, Gpu]:
    """The GPU of this name, or the one that the file of this name describes; its name.

    Raises ConfigError where there is neither, or the file does not describe one.
    """
    known = known_gpus()
    if name in known:
        return name, known[name]
    if not Path(name).is_file():
        raise NO_GPU("--gpu", name=name, near=did_you_mean(name, [HERE, *known]), known=list(known))
    described = _read(Path(name).read_text(encoding="utf-8", errors="replace"), name)
    if len(described) != 1:
        raise NOT_ONE(name, count=len(described))
    if HERE in described:
        raise TAKEN(name)
    return next(iter(described.items()))


def _read(text: str, source: str) -> dict[str, Gpu]:
    parsed = parse(text, source)
    entries = parsed.data if isinstance(parsed.data, dict) else {}

    def place(loc: Loc) -> str:
        known = (loc[:end] for end in range(len(loc), -1, -1) if loc[:end] in parsed.marks)
        return f"{source}:{parsed.marks[next(known)]}"

    problems = []
    gpus = {}
    for name, entry in entries.items():
        try:
            gpus[name] = Gpu.model_validate(entry)
        except ValidationError as error:
            problems += problems_of(error, Gpu, place, (name,))
    if problems:
        raise ConfigError.of(problems)
    return gpus
