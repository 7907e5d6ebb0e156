"""The phases of pretraining with all that they take from `pretrain` filled in, and what of them is refused (paper 3.4).

Steps and rows are counted through all phases, so that each step and each row is known by a number alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from llama3.config.schema import Curve, ModelSection, PhaseSection, PretrainSection, RopeScalingSection
from llama3.config.yaml import Path
from llama3.errors import ConfigError, Problem

LONG_ROWS = ConfigError.declare(
    "L3-CFG-031",
    "rows of {row} tokens are longer than model.max_seq_len = {most}",
    fix="lower one or raise the other",
)
UNEVEN_ROWS = ConfigError.declare(
    "L3-CFG-037",
    "rows of {lengths} tokens together fill only windows of {window}",
    why="phases read windows that rows of every length fill, so that no token comes twice",
    fix="choose lengths that divide each other, or have a small common multiple",
)
EARLY_MEAN = ConfigError.declare(
    "L3-CFG-038", "only the last phase ends in a mean of checkpoints", fix="give it to the last phase"
)
NO_RATE = ConfigError.declare(
    "L3-CFG-039", "the learning rate has reached 0 before this phase", fix="give the phase an lr"
)
NO_BASE = ConfigError.declare(
    "L3-CTX-001",
    "there is no model yet whose context this phase could extend",
    fix="put a phase before it ({{}} is one), or name a model in model.path",
)
NOT_LONGER = ConfigError.declare(
    "L3-CTX-002",
    "the contexts {lengths} do not rise from {before}",
    fix="let each be longer than the one before; extend.to is the last",
)

WIDEST = 64
"""Windows may be so many times as long as the longest row."""


@dataclass(frozen=True, slots=True)
class Phase:
    """`steps` steps from the 0-based `first_step` on, which read `batch` rows each, from `first_row` on."""

    first_step: int
    steps: int
    first_row: int
    batch: int
    seq_len: int
    given: PhaseSection
    """As written; of long-context stages what was written once for all, cut into stages."""
    opens_part: bool
    """Whether it begins with a new optimizer, on the model that the phases before it ended in."""
    number: int = 0
    """Its place among the phases as they are written."""

    @property
    def starts_curve(self) -> bool:
        """Whether the learning rate follows a curve of its own from here on."""
        rates = (self.given.lr, self.given.final_lr, self.given.warmup, self.given.schedule)
        return self.first_step == 0 or self.opens_part or any(rate is not None for rate in rates)

    @property
    def spelt_out(self) -> PhaseSection:
        """As it would be written if it took nothing from elsewhere."""
        length = {"steps": self.steps, "tokens": None, "batch": self.batch, "seq_len": self.seq_len}
        return self.given.model_copy(update=length)


def phases_of(section: PretrainSection) -> list[Phase]:
    """The phases in order, long-context stages each as a phase of its own."""
    phases: list[Phase] = []
    context = 0  # that the parts before ended in; 0 in the first one
    after_gate, of_a_step = False, section.batch * section.seq_len
    for number, given in _stages(section):
        opens = given.opens_part or after_gate
        seq_len = given.seq_len or context or section.seq_len
        context = max(context, seq_len) if opens else context
        batch = given.batch or (max(1, of_a_step // seq_len) if context else section.batch)
        of_a_step = batch * seq_len if given.batch or not context else of_a_step
        steps = given.steps or section.steps if given.tokens is None else -(-given.tokens // (batch * seq_len))
        step, row = (phases[-1].first_step + phases[-1].steps, _end_row(phases[-1])) if phases else (0, 0)
        phases.append(Phase(step, steps, row, batch, seq_len, given, opens, number))
        after_gate = given.gated
    return phases


def _end_row(phase: Phase) -> int:
    return phase.first_row + phase.steps * phase.batch


def _stages(section: PretrainSection) -> Iterator[tuple[int, PhaseSection]]:
    """The phases as written, each with its number, and long-context stages one by one."""
    before = section.seq_len
    for number, given in enumerate(section.phases):
        if given.extend is None:
            before = given.seq_len or before
            yield number, given
            continue
        lengths = stage_lengths(section, number)
        share = {
            "tokens": None if given.tokens is None else -(-given.tokens // len(lengths)),
            "steps": None if given.tokens is not None else -(-(given.steps or section.steps) // len(lengths)),
        }
        for length in lengths:
            scaling = given.rope_scaling
            if scaling is None and given.rope_theta is None:
                scaling = RopeScalingSection(factor=max(1.0, length / before), original_max_position=before)
            stage = {"extend": None, "seq_len": length, "gated": True, "rope_scaling": scaling}
            yield number, given.model_copy(update={**share, **stage})
        before = lengths[-1]


def start_of(section: PretrainSection, number: int) -> int:
    """The context that the phase with this number, as written, begins at: of the phase before it."""
    if not number:
        return section.seq_len
    before = section.phases[number - 1]
    return before.seq_len or (stage_lengths(section, number - 1)[-1] if before.extend else section.seq_len)


def stage_lengths(section: PretrainSection, number: int) -> list[int]:
    """The contexts of the long-context stages of a phase, as given, or else 1.5, 2, 3, 4, 6 ... times the one before
    them, those nearest to a constant factor. (The paper tells that there are six, from 8K to 128K, not which.)"""
    extend, start = section.phases[number].extend, start_of(section, number)
    assert extend is not None
    if extend.lengths:
        return list(extend.lengths)
    halves = start if start % 2 else start // 2
    doublings = range(64)
    offered = {length << k for k in doublings for length in (start, 3 * halves if halves != start else start)}
    between = sorted(length for length in offered if start < length < extend.to)
    wanted = [start * (extend.to / start) ** (n / extend.stages) for n in range(1, extend.stages)]
    chosen = {min(between, key=lambda length: abs(math.log(length / goal))) for goal in wanted if between}
    return [*sorted(chosen), extend.to]


def parts_of(section: PretrainSection) -> list[list[Phase]]:
    """The phases in parts, each of which begins with a new optimizer. The first part is the pretraining before any
    long-context stage; it is empty where there is nothing before."""
    parts: list[list[Phase]] = [[]]
    for phase in phases_of(section):
        if phase.opens_part:
            parts.append([])
        parts[-1].append(phase)
    return parts


def own_lengths(section: PretrainSection, where: str) -> Iterator[str]:
    """That `pretrain.steps`, which was given at `where`, is not the length of phases that have their own."""
    own = [f"pretrain.phases.{i}" for i, phase in enumerate(section.phases) if phase.steps or phase.tokens]
    if own:
        yield f"{where}: pretrain.steps is not the length of {', '.join(own)}, which have their own"


def unused_steps(section: PretrainSection, where: str) -> Iterator[str]:
    """That the `pretrain.steps` of a file is the length of no phase, where the phases do not add up to it either."""
    total = sum(phase.steps for phase in phases_of(section))
    if total != section.steps and all(phase.steps or phase.tokens for phase in section.phases):
        own = f"every phase has its own length: {total:,} steps are trained"
        yield f"{where}: pretrain.steps is {section.steps:,}, {own}"


def rows_of(phases: Sequence[Phase], step: int) -> range:
    """The rows of a step over all ranks: a pure function of the step."""
    phase = next(phase for phase in reversed(phases) if phase.first_step <= step)
    first = phase.first_row + (step - phase.first_step) * phase.batch
    return range(first, first + phase.batch)


def window_of(phases: Sequence[Phase]) -> int:
    """The fewest tokens that rows of all phases fill."""
    return math.lcm(*(phase.seq_len for phase in phases))


def curve_of(section: PretrainSection, phase: Phase) -> tuple[Curve, float]:
    """How the rate falls in a phase that starts a curve, and where to, as a share of the peak. In a gated phase, which
    may be trained again, it stays as it is unless the phase says otherwise."""
    given = phase.given
    stays = given.gated and given.schedule is None and given.final_lr is None
    curve = "constant" if stays else given.schedule or section.schedule
    final = section.final_lr if given.final_lr is None else given.final_lr
    return curve, 1.0 if curve == "constant" else final


def phase_problems(section: PretrainSection, place: Callable[[Path], str]) -> Iterator[Problem]:
    """What is wrong with phases of whatever model: contexts that do not rise, lengths with no window in common, a rate
    that would stay 0, a mean before the end."""
    wrong = list(falling(section, place))
    yield from wrong
    if wrong:
        return  # what follows from such lengths is worth nothing
    parts = parts_of(section)
    for stream in (parts[0], [phase for part in parts[1:] for phase in part]):
        lengths = sorted({phase.seq_len for phase in stream})
        if lengths and window_of(stream) > WIDEST * lengths[-1]:
            where = place(("pretrain", "phases", stream[-1].number))
            yield UNEVEN_ROWS.problem(where, lengths=lengths, window=window_of(stream))
    phases, end = phases_of(section), 1.0
    for i, phase in enumerate(phases):
        path: Path = ("pretrain", "phases", phase.number)
        if phase.given.average_last and i + 1 < len(phases):
            yield EARLY_MEAN.problem(place((*path, "average_last")))
        if i and phase.starts_curve and phase.given.lr is None and end == 0:
            yield NO_RATE.problem(place(path))
        end = curve_of(section, phase)[1] if phase.starts_curve else end


def base_problems(section: PretrainSection, model: ModelSection, place: Callable[[Path], str]) -> Iterator[Problem]:
    """What is wrong with the phases of this model: rows that are longer than its context before any stage makes it
    longer, stages without a model (one in model.path is there before all phases)."""
    if any(falling(section, place)):
        return
    first, longest = parts_of(section)[0], model.max_seq_len
    if not first and model.path is None:
        yield NO_BASE.problem(place(("pretrain", "phases", 0)))
    for phase in first:
        if longest is not None and phase.seq_len > longest:
            written: Path = ("pretrain", "phases", phase.number) if phase.given.seq_len else ("pretrain",)
            yield LONG_ROWS.problem(place((*written, "seq_len")), row=phase.seq_len, most=longest)


def falling(section: PretrainSection, place: Callable[[Path], str]) -> Iterator[Problem]:
    """Stages whose contexts do not rise."""
    for number, given in enumerate(section.phases):
        before = start_of(section, number)
        lengths = stage_lengths(section, number) if given.extend else [given.seq_len or before]
        rising = all(a < b for a, b in zip([before, *lengths], lengths, strict=False))
        last = given.extend.to if given.extend else lengths[-1]
        if given.extend and not (rising and lengths[-1] == last):
            where = place(("pretrain", "phases", number, "extend"))
            yield NOT_LONGER.problem(where, lengths=lengths, before=before)
