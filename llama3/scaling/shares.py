"""Mixes of sources as shares of training tokens: the one that a run would use, others around it, and how often each
source would be read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from llama3 import _core
from llama3.artifacts.files import canonical_json
from llama3.data.plan import TokenPlan

Mix = dict[str, float]
"""The share of each source, all together 1."""

PARTS = 100
"""Drawn shares are hundredths: finer ones no search of this kind tells apart."""


def shares_of(weights: Mapping[str, float]) -> Mix:
    """Weights as shares, sources without a weight left out; at least one must be above 0."""
    total = sum(weights.values())
    return {name: weight / total for name, weight in sorted(weights.items()) if weight > 0}


def own_mix(plan: TokenPlan, seq_len: int) -> Mix:
    """What the plan is read by in rows of `seq_len` tokens unless a phase says otherwise."""
    return shares_of(dict(zip((source.name for source in plan.sources), plan.weights(seq_len), strict=True)))


def drawn_mixes(around: Mapping[str, float], seed: int) -> Iterator[Mix]:
    """Mixes without end, each once, the same ones for a seed: from a Dirichlet distribution whose mean lies half-way
    between `around` and equal shares, and which is wide enough to come near every corner."""
    names = sorted(around)
    rng = np.random.default_rng(seed)
    alpha = np.array([1 + len(names) * around[name] for name in names])
    seen: set[tuple[int, ...]] = set()
    for _ in range(100_000):  # of two sources there are but a hundred
        parts = tuple(_apportioned(rng.dirichlet(alpha)).tolist())
        if parts not in seen:
            seen.add(parts)
            yield {name: part / PARTS for name, part in zip(names, parts, strict=True) if part}


def _apportioned(shares: np.ndarray) -> np.ndarray:
    """Hundredths by largest remainders."""
    exact = shares * PARTS
    parts = np.floor(exact).astype(int)
    parts[np.argsort(parts - exact, kind="stable")[: PARTS - parts.sum()]] += 1
    return parts


def epochs_of(mix: Mapping[str, float], plan: TokenPlan, tokens: float) -> Mix:
    """How often each source of a mix is read in so many training tokens: above 1 it is up-sampled."""
    sizes = {source.name: source.tokens for source in plan.sources}
    return {name: share * tokens / sizes[name] for name, share in mix.items()}


def mix_key(mix: Mapping[str, float]) -> str:
    """A name of the mix, the same for the same shares."""
    return _core.blake3_bytes(canonical_json({name: round(share, 6) for name, share in sorted(mix.items())}))[:8]


def told_mix(mix: Mapping[str, float]) -> str:
    """Percent of each source, the largest first."""
    ordered = sorted(mix.items(), key=lambda pair: (-pair[1], pair[0]))
    return ", ".join(f"{name} {100 * share:.3g} %" for name, share in ordered)
