"""The phases of pretraining with all that they take from `pretrain` filled in, and what of them is refused (paper 3.4).

Steps and rows are counted through all phases, so that each step and each row is known by a number alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from llama3.config.schema import Curve, PhaseSection, PretrainSection
from llama3.config.yaml import Path
from llama3.errors import ConfigError, Problem

LONG_ROWS = ConfigError.declare(
    "L3-CFG-031",
    "rows of {row} tokens are longer than model.max_seq_len = {most}",
    fix="lower one or raise the other",
)
UNEVEN_ROWS = ConfigError.declare(
    "L3-CFG-037",
    "rows of {row} tokens do not fill rows of {longer}",
    why="all phases read the windows of the longest rows",
    fix="make each seq_len a multiple of the next shorter one",
)
EARLY_MEAN = ConfigError.declare(
    "L3-CFG-038", "only the last phase ends in a mean of checkpoints", fix="give it to the last phase"
)
NO_RATE = ConfigError.declare(
    "L3-CFG-039", "the learning rate has reached 0 before this phase", fix="give the phase an lr"
)


@dataclass(frozen=True, slots=True)
class Phase:
    """`steps` steps from the 0-based `first_step` on, which read `batch` rows each, from `first_row` on."""

    first_step: int
    steps: int
    first_row: int
    batch: int
    seq_len: int
    given: PhaseSection
    """As written."""

    @property
    def starts_curve(self) -> bool:
        """Whether the learning rate follows a curve of its own from here on."""
        rates = (self.given.lr, self.given.final_lr, self.given.warmup, self.given.schedule)
        return self.first_step == 0 or any(rate is not None for rate in rates)


def phases_of(section: PretrainSection) -> list[Phase]:
    """The phases in order."""
    phases: list[Phase] = []
    step = row = 0
    for given in section.phases:
        batch, seq_len = given.batch or section.batch, given.seq_len or section.seq_len
        tokens = given.tokens
        steps = given.steps or section.steps if tokens is None else -(-tokens // (batch * seq_len))
        phases.append(Phase(step, steps, row, batch, seq_len, given))
        step, row = step + steps, row + steps * batch
    return phases


def own_lengths(section: PretrainSection, where: str) -> Iterator[str]:
    """That `pretrain.steps`, which was given at `where`, is not the length of phases that have their own."""
    own = [f"pretrain.phases.{i}" for i, phase in enumerate(section.phases) if phase.steps or phase.tokens]
    if own:
        yield f"{where}: pretrain.steps is not the length of {', '.join(own)}, which have their own"


def rows_of(phases: Sequence[Phase], step: int) -> range:
    """The rows of a step over all ranks: a pure function of the step."""
    phase = next(phase for phase in reversed(phases) if phase.first_step <= step)
    first = phase.first_row + (step - phase.first_step) * phase.batch
    return range(first, first + phase.batch)


def curve_of(section: PretrainSection, phase: Phase) -> tuple[Curve, float]:
    """How the rate falls in a phase that starts a curve, and where to, as a share of the peak."""
    curve = phase.given.schedule or section.schedule
    final = section.final_lr if phase.given.final_lr is None else phase.given.final_lr
    return curve, 1.0 if curve == "constant" else final


def phase_problems(section: PretrainSection, longest: int | None, place: Callable[[Path], str]) -> Iterator[Problem]:
    """Rows longer than `longest` or that do not fill longer rows, a rate that would stay 0, a mean before the end."""
    phases = phases_of(section)
    lengths = sorted({phase.seq_len for phase in phases})
    longer = {below: length for below, length in pairwise(lengths) if length % below}
    end = 1.0
    for i, phase in enumerate(phases):
        path: Path = ("pretrain", "phases", i)
        rows = place((*path, "seq_len") if phase.given.seq_len else ("pretrain", "seq_len"))
        if longest is not None and phase.seq_len > longest:
            yield LONG_ROWS.problem(rows, row=phase.seq_len, most=longest)
        if phase.seq_len in longer:
            yield UNEVEN_ROWS.problem(rows, row=phase.seq_len, longer=longer[phase.seq_len])
        if phase.given.average_last and i + 1 < len(phases):
            yield EARLY_MEAN.problem(place((*path, "average_last")))
        if i and phase.starts_curve and phase.given.lr is None and end == 0:
            yield NO_RATE.problem(place(path))
        end = curve_of(section, phase)[1] if phase.starts_curve else end
