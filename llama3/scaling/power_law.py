"""Power laws y = A x^alpha, and the compute-optimal tokens that the paper states as one (3.2.1)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from llama3.scaling.runs import FLOPS


@dataclass(frozen=True, slots=True)
class PowerLaw:
    """y = exp(log_factor) * x^exponent. Numbers or arrays alike."""

    log_factor: Any
    exponent: Any

    @classmethod
    def through(cls, x_B: np.ndarray, log_y_BR: np.ndarray) -> PowerLaw:
        """Least squares in logarithms. x: [B]; ln(y): [B], or [B, R] for R laws at once."""
        logs_B = np.log(x_B)
        design_B2 = np.stack([np.ones_like(logs_B), logs_B], 1)
        found, *_ = np.linalg.lstsq(design_B2, log_y_BR, rcond=None)
        return cls(found[0], found[1])

    @property
    def factor(self) -> float:
        """A; infinite where a float cannot hold it."""
        with np.errstate(over="ignore"):
            return float(np.exp(self.log_factor))

    def __call__(self, x: float) -> Any:
        """y at x; infinite where a float cannot hold it."""
        with np.errstate(over="ignore"):
            return np.exp(self.log_factor + self.exponent * math.log(x))


PAPER = PowerLaw(math.log(0.299), 0.537)
"""Compute-optimal training tokens of FLOPs, as the legend of the paper's figure 3 prints it: 16.3T tokens at 3.8e25,
where the text says 16.55T. The rounded pair of the text, 0.29 and 0.53, gives 10.5T."""


def optimal_size(law: PowerLaw, flops: float) -> tuple[float, float]:
    """(parameters, tokens) of the compute-optimal model at a budget, by a law of its tokens."""
    tokens = float(law(flops))
    return flops / (FLOPS * tokens), tokens
