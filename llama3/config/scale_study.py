"""A study of scaling laws: `scale`. Torch-free."""

from __future__ import annotations

import itertools
from typing import Annotated, Self

from pydantic import Field, model_validator

from llama3.config.section import Section
from llama3.config.slot_types import EvaluatorSlot, SuiteSlot


class ScaleSection(Section):
    """A study of scaling laws (paper 3.2.1): at each budget of compute several small models, the larger the fewer
    tokens. A run costs 6 x parameters x tokens FLOPs. It has one phase: warm-up, then a cosine to a tenth of its peak;
    what else a run needs it takes from `pretrain`, and its shape from `model`, made wider and narrower."""

    budgets: list[Annotated[float, Field(gt=0)]] = Field(
        min_length=3, description="training FLOPs of each run of a budget, rising"
    )
    sizes: int = Field(5, ge=3, le=64, description="models per budget, as far as widths differ")
    tokens_per_parameter: tuple[float, float] = Field(
        (4.0, 100.0), description="the fewest and the most training tokens per parameter, between which sizes lie"
    )
    batches: list[Annotated[int, Field(ge=1, le=1 << 24)]] | None = Field(
        None, description="rows per step at each budget (default: pretrain.batch)"
    )
    lr_power: float = Field(
        0.12,
        ge=0,
        le=1,
        description="the peak learning rate falls as parameters to this power; pretrain.lr is that of `model`",
    )
    seeds: int = Field(1, ge=1, le=64, description="runs of each size, which differ in weights and order of data")
    epochs: float = Field(1.0, gt=0, description="how often a run may read the corpus")
    loss: EvaluatorSlot = Field(
        default_factory=lambda: SuiteSlot(name="bits_per_byte"), description="what gives bits_per_byte, the loss"
    )
    benchmark: EvaluatorSlot = Field(
        default_factory=lambda: SuiteSlot(name="multiple_choice"),
        description="what is forecast: a suite that gives accuracy, chance and nll_per_character",
    )
    trained: list[str] = Field(
        default_factory=list, description="further models, by their paths, that tell how accuracy follows from NLL"
    )
    target: float | None = Field(
        None, gt=0, description="FLOPs that are forecast (default: ten times the largest budget)"
    )

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if any(b <= a for a, b in itertools.pairwise(self.budgets)):
            raise ValueError("the budgets must rise")
        least, most = self.tokens_per_parameter
        if not 0 < least < most:
            raise ValueError("tokens_per_parameter: the fewest must be above 0 and below the most")
        if self.batches is not None and len(self.batches) != len(self.budgets):
            raise ValueError(f"{len(self.batches)} batches for {len(self.budgets)} budgets: give one each")
        return self
