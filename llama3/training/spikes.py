"""Loss spikes: a loss far above those before it, after which training goes back and leaves out the data of these steps.

As PaLM did it by hand (Chowdhery et al. 2022, 5.1): restart from a checkpoint before the spike and skip the batches
around it. A spike is a loss above

    median + factor x max(median deviation, SMALL x median)    of the last WINDOW logged losses that were none

Which steps: a logged loss is measured before the step's update. So the update of the last good logged step is among
those that may have broken the model, and all after it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from llama3.training.ledger import data_step
from llama3.training.recovery import SPIKE, GoBack

WINDOW = 32
ENOUGH = 8
"""Losses before which nothing is a spike."""
SMALL = 0.005
"""A loss that hardly moves is none when it moves a little."""


def find_spike(
    losses: Sequence[float], loss: float, factor: float, step: int, every: int, left_out: list[int]
) -> GoBack | None:
    """What to do about the `loss` of the finished step `step`, after the good `losses`; None: nothing.

    every: steps between logged losses; left_out: data that is left out already
    """
    if len(losses) < ENOUGH or not math.isfinite(loss):
        return None
    middle = median(losses)
    spread = max(median(abs(x - middle) for x in losses), SMALL * abs(middle))
    if loss <= middle + factor * spread:
        return None
    first = max(step - 1 - every, 0)
    data = [data_step(at, left_out) for at in range(first, step)]
    error = SPIKE("training", loss=f"{loss:.4g}", median=f"{middle:.4g}", factor=f"{factor:g}")
    return GoBack("loss spike", error, first, data)


def remember(losses: list[float], loss: float) -> None:
    """Add a good loss, in place; those beyond the window go."""
    if math.isfinite(loss):
        losses.append(loss)
        del losses[:-WINDOW]
