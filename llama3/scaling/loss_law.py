"""The loss of N parameters after D tokens, L = floor + A / N^a + B / D^b (Hoffmann et al. 2022, approach 3): a
cross-check of the IsoFLOP curves, and what prices a model that is trained past its optimum.

All runs fit it at once: Huber loss of log L - log L_run with delta 1e-3, from many starts. It is solved by
Levenberg-Marquardt steps over Huber weights, all starts (and all draws of the bootstrap) in one array.

Legend: S fits at once, n runs, 5 parameters (log floor, log A, log B, a, b).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import asdict, dataclass

import numpy as np

from llama3.scaling.isoflop import Noise
from llama3.scaling.runs import FLOPS

DELTA = 1e-3
PARAMETERS = 5
ITERATIONS = 300
SETTLED = 1e-9
"""A step that lowers a fit's cost by less than this share of it lowers it no more."""
EXPONENTS = (0.02, 2.5)
"""Within which a and b are looked for: beyond them a term is a constant, or gone."""


@dataclass(frozen=True, slots=True)
class LossLaw:
    """L(N, D) = floor + A / N^a + B / D^b."""

    floor: float
    A: float
    B: float
    a: float
    b: float

    def __call__(self, parameters: float, tokens: float) -> float:
        """The loss."""
        return self.floor + self.A * parameters**-self.a + self.B * tokens**-self.b

    @property
    def token_exponent(self) -> float:
        """The exponent of compute-optimal tokens in FLOPs, as `PowerLaw.exponent` of the IsoFLOP optima."""
        return self.a / (self.a + self.b)

    def optimum(self, flops: float) -> tuple[float, float]:
        """(parameters, tokens) that lose least at a budget."""
        scale = (self.a * self.A / (self.b * self.B)) ** (1 / (self.a + self.b))
        parameters = scale * (flops / FLOPS) ** (self.b / (self.a + self.b))
        return parameters, flops / (FLOPS * parameters)

    def tokens_for(self, parameters: float, loss: float) -> float:
        """Training tokens with which so many parameters reach a loss; infinite where they never do."""
        left = loss - self.floor - self.A * parameters**-self.a
        return (self.B / left) ** (1 / self.b) if left > 0 else math.inf

    @property
    def at_edge(self) -> bool:
        """Whether an exponent lies at an end of where it is looked for: the runs do not tell the two terms apart."""
        low, high = EXPONENTS
        return not all(low * 1.001 < exponent < high * 0.999 for exponent in (self.a, self.b))

    def to_json(self) -> dict[str, float]:
        """The fields as plain data."""
        return asdict(self)


def fit_law(parameters_n: np.ndarray, tokens_n: np.ndarray, loss_n: np.ndarray) -> LossLaw:
    """The law nearest to the runs. Needs more runs than it has parameters to be worth anything."""
    low = float(loss_n.min())
    starts = [
        _started(parameters_n, tokens_n, low * share, (float(loss_n.max()) - low * share) / 2, a, b)
        for share, a, b in itertools.product((0.2, 0.5, 0.8, 0.95), (0.2, 0.4, 0.8), (0.2, 0.4, 0.8))
    ]
    logs_Sn = np.broadcast_to(np.log(loss_n), (len(starts), len(loss_n)))
    found_S5, cost_S = _solve(np.array(starts), np.log(parameters_n), np.log(tokens_n), logs_Sn)
    return _law(found_S5[int(np.argmin(cost_S))])


def redraw_law(
    law: LossLaw,
    parameters_n: np.ndarray,
    tokens_n: np.ndarray,
    loss_n: np.ndarray,
    rng: np.random.Generator,
    draws: int,
) -> list[LossLaw]:
    """Laws of losses drawn anew around `law`, by a parametric bootstrap as in llama3.scaling.isoflop; none where no run
    is left over to tell the scatter by."""
    fitted_n = np.log([law(n, d) for n, d in zip(parameters_n, tokens_n, strict=True)])
    noise = Noise.around([np.log(loss_n) - fitted_n], PARAMETERS)
    if noise is None:
        return []
    logs_Sn = fitted_n + noise.draw(rng, len(loss_n), draws).T
    start = [math.log(law.floor), math.log(law.A), math.log(law.B), law.a, law.b]
    found_S5, _ = _solve(np.tile(start, (draws, 1)), np.log(parameters_n), np.log(tokens_n), logs_Sn)
    return [_law(row) for row in found_S5]


def _started(
    parameters_n: np.ndarray, tokens_n: np.ndarray, floor: float, part: float, a: float, b: float
) -> list[float]:
    """A start whose two terms are `part` each at the smallest run."""
    log_a = math.log(part) + a * math.log(parameters_n.min())
    log_b = math.log(part) + b * math.log(tokens_n.min())
    return [math.log(floor), log_a, log_b, a, b]


def _law(row_5: np.ndarray) -> LossLaw:
    e, log_a, log_b, a, b = map(float, row_5)
    return LossLaw(math.exp(e), math.exp(log_a), math.exp(log_b), a, b)


def _solve(
    theta_S5: np.ndarray, log_n: np.ndarray, log_d: np.ndarray, logs_Sn: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Levenberg-Marquardt over Huber weights: a step that makes a fit better is taken and its damping lowered, else
    raised. Returns the fits and what each costs."""
    damping_S = np.full(len(theta_S5), 1e-2)
    residual_Sn, jacobian_Sn5 = _residuals(theta_S5, log_n, log_d, logs_Sn)
    cost_S = _huber(residual_Sn)
    for _ in range(ITERATIONS):
        weight_Sn = np.minimum(1.0, DELTA / np.maximum(np.abs(residual_Sn), 1e-300))
        normal_S55 = np.einsum("sni,sn,snj->sij", jacobian_Sn5, weight_Sn, jacobian_Sn5)
        gradient_S5 = np.einsum("sni,sn->si", jacobian_Sn5, weight_Sn * residual_Sn)
        diagonal_S5 = np.einsum("sii->si", normal_S55)
        damped = normal_S55 + np.eye(PARAMETERS) * (damping_S[:, None] * diagonal_S5 + 1e-12)[:, None, :]
        step_S5 = np.linalg.solve(damped, gradient_S5[..., None])[..., 0]
        tried_S5 = theta_S5 - np.clip(step_S5, -1.0, 1.0)
        tried_S5[:, 3:] = np.clip(tried_S5[:, 3:], *EXPONENTS)
        tried_Sn, tried_Sn5 = _residuals(tried_S5, log_n, log_d, logs_Sn)
        tried_cost_S = _huber(tried_Sn)
        better_S = tried_cost_S < cost_S
        if ((cost_S - tried_cost_S)[better_S] <= SETTLED * cost_S[better_S]).all() and (damping_S >= 1.0)[
            ~better_S
        ].all():
            break
        theta_S5 = np.where(better_S[:, None], tried_S5, theta_S5)
        residual_Sn = np.where(better_S[:, None], tried_Sn, residual_Sn)
        jacobian_Sn5 = np.where(better_S[:, None, None], tried_Sn5, jacobian_Sn5)
        cost_S = np.where(better_S, tried_cost_S, cost_S)
        damping_S = np.clip(np.where(better_S, damping_S / 3, damping_S * 4), 1e-9, 1e9)
    return theta_S5, cost_S


def _residuals(
    theta_S5: np.ndarray, log_n: np.ndarray, log_d: np.ndarray, logs_Sn: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """log L - log L_run [S, n], and its derivative by the parameters [S, n, 5]."""
    e, log_a, log_b, a, b = theta_S5.T[:, :, None]
    with np.errstate(over="ignore"):
        terms = [np.broadcast_to(np.exp(e), logs_Sn.shape), np.exp(log_a - a * log_n), np.exp(log_b - b * log_d)]
    total_Sn = terms[0] + terms[1] + terms[2]
    shares = [term / total_Sn for term in terms]
    jacobian_Sn5 = np.stack([*shares, -log_n * shares[1], -log_d * shares[2]], -1)
    return np.log(total_Sn) - logs_Sn, jacobian_Sn5


def _huber(residual_Sn: np.ndarray) -> np.ndarray:
    size_Sn = np.abs(residual_Sn)
    cost_Sn = np.where(size_Sn <= DELTA, size_Sn**2 / 2, DELTA * (size_Sn - DELTA / 2))
    return np.nan_to_num(cost_Sn, nan=1e300, posinf=1e300).sum(1)
