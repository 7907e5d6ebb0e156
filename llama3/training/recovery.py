"""Going back without a restart: what makes a loop return to a checkpoint, and when it gives up."""

from __future__ import annotations

from collections.abc import Sequence

from llama3.errors import LlamaError

BIT_FLIP = LlamaError.declare(
    "L3-TRN-050",
    "the memory of rank {ranks} no longer holds what was computed",
    why="bits of weights or moments have changed, or an update came out differently than on ranks with the same part",
    fix="where one rank is named again and again, take its machine out; the last checkpoint is good",
)
TOO_OFTEN = LlamaError.declare(
    "L3-TRN-051",
    "went back to a checkpoint {times} times: {why}",
    fix="where one rank is named again and again, take its machine out; else lower lr or look at the data left out",
)
SPIKE = LlamaError.declare(
    "L3-TRN-052",
    "the loss is {loss} after a median of {median}",
    why="that is over {factor} times the median deviation above it",
    fix="the data of the last steps is left out; see llama3 ledger",
)
NO_WAY_BACK = LlamaError.declare(
    "L3-TRN-053",
    "cannot go back: {why}",
    why="there is no checkpoint of step {step} or before",
    fix="lower checkpoint_every, and run the same command again",
)
ASKED = LlamaError.declare(
    "L3-TRN-056", "the data of {count} steps is left out: {why}", fix="see llama3 ledger for its documents"
)

MOST = 5
"""Times that a stage goes back before it gives up."""


class GoBack(Exception):  # noqa: N818 - not an error: an order to the loop
    """Raised on all ranks together: go on from a checkpoint of step `at_most` or before (None: the newest), without the
    data of the steps `left_out`."""

    def __init__(self, cause: str, error: LlamaError, at_most: int | None = None, left_out: Sequence[int] = ()) -> None:
        super().__init__(str(error))
        self.cause, self.error, self.at_most, self.left_out = cause, error, at_most, list(left_out)
