"""The size that is cheapest over its life: training once, and then serving every token that is asked of it.

The paper trains its smaller models far past the compute-optimal number of tokens, because they are cheaper to serve at
the same quality (1, 3.2.1). Of all models with one loss this finds the cheapest (Sardana et al. 2023, eq. 3):

    minimise  6 N D(N)  +  serve_price * 2 N * serve_tokens     where  L(N, D(N)) = loss

A served token, read or written, costs 2 N operations; `serve_price` is what one costs, where one of training costs 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from llama3.errors import ConfigError
from llama3.scaling.loss_law import LossLaw
from llama3.scaling.runs import FLOPS

NO_LAW = ConfigError.declare(
    "L3-SCL-013",
    "the forecast has no usable law of parameters and tokens",
    why="{why}",
    fix="give the study more budgets, more sizes, or a wider scale.tokens_per_parameter",
)
UNREACHABLE = ConfigError.declare(
    "L3-SCL-010",
    "no model of this law reaches a loss of {loss}",
    why="with any number of parameters and tokens it stays above {least}",
    fix="ask for a higher loss, or a smaller budget",
)
BAD_AMOUNT = ConfigError.declare("L3-SCL-011", "{name} cannot be {value}", fix="{fix}")

SERVED = 2
"""Operations of one parameter and one served token: a forward."""


@dataclass(frozen=True, slots=True)
class Lifetime:
    """A model and what it costs over its life, in operations (those of serving times their price in `cost`)."""

    parameters: float
    tokens: float
    training_flops: float
    serving_flops: float
    cost: float

    @property
    def tokens_per_parameter(self) -> float:
        """How far it is trained."""
        return self.tokens / self.parameters

    def to_json(self) -> dict[str, float]:
        """The fields as plain data."""
        return {**asdict(self), "tokens_per_parameter": self.tokens_per_parameter}


def lifetime(
    law: LossLaw, parameters: float, *, loss: float, serve_tokens: float, serve_price: float = 1.0
) -> Lifetime:
    """What a model of so many parameters costs that is trained to `loss`; infinite where it never gets there."""
    tokens = law.tokens_for(parameters, loss)
    training, serving = FLOPS * parameters * tokens, SERVED * parameters * serve_tokens
    return Lifetime(parameters, tokens, training, serving, training + serve_price * serving)


def cheapest(law: LossLaw, *, loss: float, serve_tokens: float, serve_price: float = 1.0) -> Lifetime:
    """The model of this loss that costs least over its life. With nothing to serve it is the compute-optimal one.

    Raises ConfigError for a loss that no model reaches, and for an amount below 0.
    """
    if loss <= law.floor:
        raise UNREACHABLE("loss", loss=f"{loss:.4g}", least=f"{law.floor:.4g}")
    for name, value in (("serve_tokens", serve_tokens), ("serve_price", serve_price)):
        if not 0 <= value < math.inf:
            raise BAD_AMOUNT(name, name=name, value=f"{value:g}", fix="give a number from 0 on")

    def cost(log_parameters: float) -> float:
        found = lifetime(law, math.exp(log_parameters), loss=loss, serve_tokens=serve_tokens, serve_price=serve_price)
        return found.cost

    # Below `least` parameters no number of tokens is enough. Above the compute-optimal size everything is dearer.
    least = math.log(law.A / (loss - law.floor)) / law.a
    most = math.log(compute_optimal(law, loss)[0])
    best = _lowest(cost, least, most)
    return lifetime(law, math.exp(best), loss=loss, serve_tokens=serve_tokens, serve_price=serve_price)


def compute_optimal(law: LossLaw, loss: float) -> tuple[float, float]:
    """(parameters, tokens) that reach a loss by the least training: where a of the size's term is b of the tokens'."""
    if loss <= law.floor:
        raise UNREACHABLE("loss", loss=f"{loss:.4g}", least=f"{law.floor:.4g}")
    of_size = (loss - law.floor) * law.b / (law.a + law.b)
    parameters = (law.A / of_size) ** (1 / law.a)
    return parameters, law.tokens_for(parameters, loss)


def compare(law: LossLaw, budget: float, serve_tokens: float, serve_price: float = 1.0) -> dict[str, Any]:
    """The compute-optimal model of a training budget beside the one of its loss that is cheapest over its life, and the
    share of the cost that this saves."""
    if not 0 < budget < math.inf:
        raise BAD_AMOUNT("budget", name="budget", value=f"{budget:g}", fix="give FLOPs, a number above 0")
    parameters, tokens = law.optimum(budget)
    loss = law(parameters, tokens)
    plain = lifetime(law, parameters, loss=loss, serve_tokens=serve_tokens, serve_price=serve_price)
    best = cheapest(law, loss=loss, serve_tokens=serve_tokens, serve_price=serve_price)
    return {
        "budget": budget,
        "loss": loss,
        "serve_tokens": serve_tokens,
        "serve_price": serve_price,
        "compute_optimal": plain.to_json(),
        "cheapest": best.to_json(),
        "saved": 1 - best.cost / plain.cost,
    }


def lifetime_of(
    fits: Mapping[str, Any], serve_tokens: float, *, budget: float | None = None, serve_price: float = 1.0
) -> dict[str, Any]:
    """`compare` by the law of a study (the content of its fits.json), for the loss of a training budget (default: the
    one that the study forecasts), and in `words` where that goes beyond what was measured.

    Raises ConfigError where the study has no usable law.
    """
    row = fits["loss_law"]
    if row is None or row["words"]:
        raise NO_LAW("loss_law", why="there are too few runs" if row is None else row["words"])
    law = LossLaw(**{name: row[name] for name in ("floor", "A", "B", "a", "b")})
    found = compare(law, fits["forecast"]["flops"] if budget is None else budget, serve_tokens, serve_price)
    return {**found, "words": beyond(found, fits["measured"])}


def beyond(found: Mapping[str, Any], measured: Mapping[str, Sequence[float]]) -> list[str]:
    """In what the cheapest model of `compare` lies outside of what a study measured: there the law is extrapolated."""
    names = {"parameters": "parameters", "tokens": "tokens", "tokens_per_parameter": "tokens per parameter"}
    told = []
    for name, label in names.items():
        value, (low, high) = found["cheapest"][name], measured[name]
        if not low <= value <= high:
            told.append(f"extrapolated: {value:.3g} {label}, measured were {low:.3g} to {high:.3g}")
    return told


def _lowest(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a function with one valley is lowest, by golden sections."""
    ratio = (math.sqrt(5) - 1) / 2
    while high - low > 1e-10 * max(1.0, abs(low)):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if function(left) < function(right):
            high = right
        else:
            low = left
    return (low + high) / 2
