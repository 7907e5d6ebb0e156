"""What a new source is worth: the annealing probe (paper 3.1.3).

    model, half trained ──┬─> the learning rate falls in a line to 0 on the run's mix            (control)
                          └─> the same with 30 % of the new source, and 70 % of the run's mix    (probe)

The model is one of the run's own, trained without the source on a part of its steps, or the one in `model.path`. Both
arms begin at its weights with a new optimizer. Seeds differ in the order of data.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from llama3.artifacts import Artifact, StageOutput, stage
from llama3.artifacts.files import finite, write_json_atomic
from llama3.checkpoints.adopt import AdoptOptions, adopt
from llama3.config.phases import phases_of
from llama3.config.schema import Config, PhaseSection
from llama3.data.imported import sharded
from llama3.data.plan import TokenPlan
from llama3.data.vocabulary import TokenizerOptions, tokenizer
from llama3.errors import ConfigError
from llama3.scaling.arms import measuring, require_sources, run_key, too_often, trained_and_measured
from llama3.scaling.mix_pages import render_probe
from llama3.scaling.paired import gain_rows, paired_scores
from llama3.scaling.shares import Mix, epochs_of, mix_key, own_mix, shares_of, told_mix
from llama3.scaling.study import Make
from llama3.training.pretrain import PartOptions, PretrainOptions, pretrain
from llama3.training.schedule import Schedule

NOTHING_ELSE = ConfigError.declare(
    "L3-SCL-037", "{source!r} is all that the run would train on", fix="add other sources to data.sources"
)
FEW_STEPS = ConfigError.declare(
    "L3-SCL-038", "{share} of {steps} steps is none, or all of them", fix="raise pretrain.steps, or change --at"
)

FIGURES, PAGE = "probe.json", "probe.html"
ARMS = ("control", "probe")


@dataclass(frozen=True, slots=True)
class SourceProbe:
    """What is asked for."""

    source: str
    share: float = 0.3
    at: float = 0.5
    """After which share of the run's steps its model is annealed."""
    steps: int | None = None
    """Of the anneal; None: a tenth of the run's."""
    seeds: int = 3
    suites: Sequence[str] = ()
    epochs: float = 4.0


class ProbeOptions(BaseModel):
    """What was trained."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    share: float
    base: str
    steps: int
    tokens: int
    lr: float
    control: Mix
    probe: Mix
    epochs: float
    seeds: int
    seed: int


def require_probe(config: Config, asked: SourceProbe, labels: Collection[str] | None) -> None:
    """Raises ConfigError for what no corpus could mend: a share of the steps that is none or all of them, and a run of
    this source alone. `labels`: of all sources; None where nobody knows them yet."""
    _before(config, asked.at, {})
    mix, classes = config.data.mix, config.data.classes
    weighed = {name for name, weight in mix.items() if weight > 0}
    read = {label for label in labels or () if not mix or weighed & {label, classes.get(label)}}
    if read == {asked.source}:
        raise NOTHING_ELSE("--source", source=asked.source)


def probe_source(make: Make, config: Config, corpus: Artifact, asked: SourceProbe) -> Artifact:
    """The gains of a source. Raises ConfigError and DataError, before anything is trained, for a source or suite that
    is not there, a run of this source alone, and an anneal that reads it too often."""
    adopted = make(adopt, "adopt", AdoptOptions.of(config)) if config.model.path else None
    vocabulary = adopted or make(tokenizer, "tokenizer", TokenizerOptions.of(config), corpus=corpus)
    shards = sharded(make, config, corpus, vocabulary)
    plan = TokenPlan.load(shards.path)
    require_sources({asked.source: "--source"}, [source.name for source in plan.sources])
    others = {name: share for name, share in own_mix(plan, config.pretrain.seq_len).items() if name != asked.source}
    if not others:
        raise NOTHING_ELSE("--source", source=asked.source)
    control = shares_of(others)
    probe = {name: (1 - asked.share) * share for name, share in control.items()} | {asked.source: asked.share}
    before, lr, words = _before(config, asked.at, control)
    steps = asked.steps or max(1, round(sum(phase.steps for phase in phases_of(config.pretrain)) / 10))
    tokens = steps * config.pretrain.batch * config.pretrain.seq_len
    epochs = {asked.source: epochs_of(probe, plan, tokens)[asked.source]}
    if wrong := too_often(epochs, asked.epochs, f"{asked.share:g} of {tokens:,} tokens", "--source"):
        raise ConfigError.of(wrong)
    measured = measuring(config, corpus, asked.suites)

    inputs = {"shards": shards, "tokenizer": vocabulary}
    base = adopted or make(pretrain, f"probe-base-{mix_key(control)}", _base(config, before), **inputs)
    mixes = dict(zip(ARMS, (control, probe), strict=True))

    def train(name: str, key: str, seed: int) -> Artifact:
        options = _anneal(config, before, steps, lr, mixes[name], seed)
        return make(pretrain, run_key(key, seed), options, checkpoint=base, **inputs)

    arms = {name: f"probe-{mix_key(mix)}" for name, mix in mixes.items()}
    reports = trained_and_measured(make, arms, asked.seeds, train, measured, corpus, "probe")
    options = ProbeOptions(
        source=asked.source,
        share=asked.share,
        base=words if adopted is None else str(config.model.path),
        steps=steps,
        tokens=tokens,
        lr=lr,
        control=control,
        probe=probe,
        epochs=epochs[asked.source],
        seeds=asked.seeds,
        seed=config.run.seed,
    )
    roles = {f"{name}-{seed + 1}": report for name, rows in reports.items() for seed, report in enumerate(rows)}
    return make(probe_gain, "probe", options, **roles)


def _before(config: Config, at: float, mix: Mix) -> tuple[PhaseSection, float, str]:
    """The phase that the base is trained in, the rate that it ends at, and both in words. It falls along the run's
    curve to the rate that the whole run would have there; a model that is adopted begins at the run's peak."""
    section = config.pretrain
    if config.model.path is not None:
        return PhaseSection(steps=1, mix=mix), section.lr, ""
    total = sum(phase.steps for phase in phases_of(section))
    steps = round(at * total)
    if not 0 < steps < total:
        raise FEW_STEPS("--at", share=f"{at:g}", steps=total)
    lr = Schedule.of(section).lr(steps - 1)
    constant = section.schedule == "constant"
    phase = PhaseSection(steps=steps, mix=mix, final_lr=None if constant else min(1.0, lr / section.lr))
    return phase, lr, f"{steps:,} of the run's {total:,} steps on {told_mix(mix)}"


def _base(config: Config, before: PhaseSection) -> PretrainOptions:
    section = config.pretrain.model_copy(update={"phases": [before]})
    return PretrainOptions.of(config.model_copy(update={"pretrain": section}))


def _anneal(config: Config, before: PhaseSection, steps: int, lr: float, mix: Mix, seed: int) -> PretrainOptions:
    """The rate falls in a line from `lr` to 0."""
    phase = PhaseSection(steps=steps, mix=mix, lr=lr, final_lr=0, warmup=0, schedule="linear")
    run = config.run.model_copy(update={"seed": config.run.seed + seed})
    part = PartOptions(reads=1, trains=1, window=1)
    return PretrainOptions.of_part(config.model_copy(update={"run": run}), [before, phase], part)


@stage(output="report")
def probe_gain(*, options: ProbeOptions, out: StageOutput, **reports: Artifact) -> None:
    """Compare the two arms: `probe.json` and a page."""
    suites = paired_scores([[reports[f"{arm}-{seed + 1}"] for seed in range(options.seeds)] for arm in ARMS])
    rows = list(gain_rows(suites, arm=1, reference=0, seed=options.seed))
    told: dict[str, Any] = finite({**options.model_dump(mode="json"), "suites": rows})
    write_json_atomic(out.path / FIGURES, told)
    (out.path / PAGE).write_text(render_probe(told), encoding="utf-8")
    out.metrics |= {"source": options.source, "gains": {row["suite"]: row["gain"] for row in rows}}
