"""Which mix of the run's own sources is best: small models on many mixes, ranked with intervals (paper 3.1.2).

    shards ──> pretrain (a mix, a seed) ──> evaluate: bits per byte of each source ──> mix_search: the ranking

The arms are the mix that the run would use, those that were given, and drawn ones around them, as many as the budget
allows. Arms of a seed share the weights that they start from; the objective is a mean over sources, so that the
largest source does not win by its size alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict

from llama3.artifacts import Artifact, StageOutput, stage
from llama3.artifacts.files import finite, write_json_atomic
from llama3.config.phases import phases_of
from llama3.config.schema import Config, PhaseSection, PretrainSection
from llama3.data.imported import sharded
from llama3.data.plan import TokenPlan
from llama3.data.vocabulary import TokenizerOptions, tokenizer
from llama3.errors import ConfigError, Problem
from llama3.model.config import ModelConfig
from llama3.scaling.arms import bits_suite, measuring, require_sources, run_key, too_often, trained_and_measured
from llama3.scaling.mix_pages import render_search
from llama3.scaling.paired import draw, gain_rows, paired_scores
from llama3.scaling.runs import FLOPS
from llama3.scaling.shares import Mix, drawn_mixes, epochs_of, mix_key, own_mix, shares_of, told_mix
from llama3.scaling.study import Make
from llama3.tokenizer import Tokenizer
from llama3.training.pretrain import PretrainOptions, pretrain

OVER_BUDGET = ConfigError.declare(
    "L3-SCL-035",
    "the budget pays for {runs} trainings, the mixes that are given need {needed}",
    why="each of {seeds} seeds of a mix is {flops} FLOPs: {parameters} parameters on {tokens} tokens",
    fix="raise --budget, give fewer mixes, or make the proxies smaller (--proxy pretrain.steps=..., model.preset=...)",
)
ONE_MIX = ConfigError.declare(
    "L3-SCL-036",
    "there is one mix, and nothing to compare it with",
    why="{why}",
    fix="raise --budget, --candidates or --epochs, or give another --mix",
)

ONE_SOURCE = ConfigError.declare(
    "L3-SCL-042",
    "all mixes of one source are the same",
    why="{labels} is all that is read",
    fix="add a source to data.sources, or give a part of this one a label of its own (`source`)",
)
FINISHED = ConfigError.declare(
    "L3-SCL-041",
    "small models are trained anew, and this one is finished",
    why="model.path is {path}",
    fix="take model.path out: a model's shape stands in model, that of small ones in --proxy",
)

RANKING, SNIPPET, PAGE = "mixes.json", "mix.yaml", "mixes.html"
OWN = "own"
"""What the mix that the run would use is called; it is what others are compared with."""


@dataclass(frozen=True, slots=True)
class MixSearch:
    """What is asked for."""

    given: Sequence[Mapping[str, float]] = ()
    drawn: int = 8
    seeds: int = 3
    target: Mapping[str, float] = field(default_factory=dict)
    """What each source's bits per byte count; none: all the same."""
    suites: Sequence[str] = ()
    by: str | None = None
    """The suite that ranks in place of bits per byte."""
    budget: float | None = None
    epochs: float = 4.0
    """How often a source may be read at most (Muennighoff et al. 2023: up to four times costs next to nothing)."""


class RankingOptions(BaseModel):
    """What was trained, and what ranks it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mixes: dict[str, Mix]
    seeds: int
    objective: dict[str, float]
    """The suites that count, and by how much."""
    epochs: dict[str, dict[str, float]]
    """How often the whole run would read each source of a mix."""
    proxy: dict[str, float]
    seed: int


def require_searchable(config: Config, asked: MixSearch, labels: set[str] | None) -> None:
    """Raises ConfigError for what no corpus could mend: a model that is finished, and nothing to compare with. `labels`
    of all sources; None where they are known only when text was read."""
    if config.model.path is not None:
        raise FINISHED("model.path", path=config.model.path)
    if not asked.given and not asked.drawn:
        raise ONE_MIX("mix-search", why="none more was asked for")
    if labels is not None and len(labels) < 2:
        raise ONE_SOURCE("data.sources", labels=", ".join(sorted(labels)))


def search_mixes(make: Make, config: Config, proxy: Config, corpus: Artifact, asked: MixSearch) -> Artifact:
    """The ranking. `config` is the run, `proxy` the same with the model and the training of the small ones.

    Raises ConfigError and DataError, before anything is trained, for sources that are not there, mixes that read a
    source too often, and a budget that does not pay for them.
    """
    vocabulary = make(tokenizer, "tokenizer", TokenizerOptions.of(config), corpus=corpus)
    shards = sharded(make, config, corpus, vocabulary)
    inputs, plan = {"shards": shards, "tokenizer": vocabulary}, TokenPlan.load(shards.path)
    sources = sorted(corpus.metrics["funnel"]["train"])
    require_sources(dict.fromkeys(asked.target, "--target"), sources)
    measured = measuring(config, corpus, [*asked.suites, *([asked.by] if asked.by else [])])
    size = _size(proxy, Tokenizer.load(vocabulary.path).vocab_size)
    mixes = chosen_mixes(plan, config, size, asked)
    objective = _objective(asked, sources)

    def train(name: str, key: str, seed: int) -> Artifact:
        return make(pretrain, run_key(key, seed), _training(proxy, mixes[name], seed), **inputs)

    arms = {name: f"mix-{mix_key(mix)}" for name, mix in mixes.items()}
    reports = trained_and_measured(make, arms, asked.seeds, train, measured, corpus, "mixes")
    options = RankingOptions(
        mixes=mixes,
        seeds=asked.seeds,
        objective=objective,
        epochs={name: epochs_of(mix, plan, run_tokens(config.pretrain)) for name, mix in mixes.items()},
        proxy=size,
        seed=config.run.seed,
    )
    roles = {f"{name}-{seed + 1}": report for name, rows in reports.items() for seed, report in enumerate(rows)}
    return make(rank_mixes, "mix-search", options, **roles)


def chosen_mixes(plan: TokenPlan, config: Config, size: Mapping[str, float], asked: MixSearch) -> dict[str, Mix]:
    """The arms by name: the run's own mix, those that were given, and drawn ones, each once."""
    known = {*(source.name for source in plan.sources), *plan.classes.values()}
    require_sources({name: "--mix" for mix in asked.given for name in mix}, sorted(known))
    given = [own_mix(plan.with_mix(mix), config.pretrain.seq_len) for mix in asked.given]
    own, tokens = own_mix(plan, config.pretrain.seq_len), run_tokens(config.pretrain)
    mixes = {mix_key(mix): mix for mix in [own, *given]}
    names = [OWN, *(f"given-{number}" for number in range(1, len(mixes)))]
    wrong: list[Problem] = []
    for mix in list(mixes.values())[1:]:
        wrong += too_often(epochs_of(mix, plan, tokens), asked.epochs, told_mix(mix), "--mix")
    if wrong:
        raise ConfigError.of(wrong)
    room = _room(size, asked, len(mixes))
    fitting = (
        mix
        for mix in drawn_mixes(own, config.run.seed)
        if mix_key(mix) not in mixes and not too_often(epochs_of(mix, plan, tokens), asked.epochs, "", "")
    )
    for number, mix in enumerate(islice(fitting, min(room, asked.drawn)), 1):
        mixes[mix_key(mix)] = mix
        names.append(f"drawn-{number}")
    if len(mixes) < 2:
        told = f"no other of {len(plan.sources)} sources reads none over {asked.epochs:g} times"
        raise ONE_MIX(
            "mix-search", why="none more was asked for, or is paid for" if room < 1 or not asked.drawn else told
        )
    return dict(zip(names, mixes.values(), strict=True))


def _room(size: Mapping[str, float], asked: MixSearch, given: int) -> int:
    """How many more mixes the budget pays for. Raises ConfigError (L3-SCL-035) where it does not pay for the given."""
    if asked.budget is None:
        return asked.drawn
    payable = int(asked.budget // (size["flops"] * asked.seeds))
    if payable < given:
        raise OVER_BUDGET(
            "--budget",
            runs=int(asked.budget // size["flops"]),
            needed=given * asked.seeds,
            seeds=asked.seeds,
            flops=f"{size['flops']:.3g}",
            parameters=f"{size['parameters']:,.0f}",
            tokens=f"{size['tokens']:,.0f}",
        )
    return payable - given


def _size(proxy: Config, vocab_size: int) -> dict[str, float]:
    """Of one training."""
    section = proxy.pretrain
    parameters = ModelConfig.from_section(proxy.model, vocab_size).num_params()
    tokens = section.steps * section.batch * section.seq_len
    return {"parameters": parameters, "tokens": tokens, "flops": float(FLOPS * parameters * tokens)}


def run_tokens(section: PretrainSection) -> int:
    """Training tokens of all phases."""
    return sum(phase.steps * phase.batch * phase.seq_len for phase in phases_of(section))


def _training(proxy: Config, mix: Mix, seed: int) -> PretrainOptions:
    """One phase of the mix along the curve of `pretrain`."""
    section = proxy.pretrain.model_copy(update={"phases": [PhaseSection(mix=mix)], "gate": None})
    run = proxy.run.model_copy(update={"seed": proxy.run.seed + seed})
    return PretrainOptions.of(proxy.model_copy(update={"pretrain": section, "run": run}))


def _objective(asked: MixSearch, sources: Sequence[str]) -> dict[str, float]:
    if asked.by:
        return {asked.by: 1.0}
    shares = shares_of(asked.target) if asked.target else dict.fromkeys(sources, 1 / len(sources))
    return {bits_suite(source): share for source, share in shares.items()}


@stage(output="report")
def rank_mixes(*, options: RankingOptions, out: StageOutput, **reports: Artifact) -> None:
    """Rank the arms: `mixes.json`, the best of them as `data.mix` in `mix.yaml`, and a page."""
    names = list(options.mixes)
    suites = paired_scores([[reports[f"{name}-{seed + 1}"] for seed in range(options.seeds)] for name in names])
    drawn = draw(suites, options.objective, options.seed)
    chances, own = drawn.best(), names.index(OWN)
    order = sorted(range(len(names)), key=lambda arm: drawn.value_C[arm] * (1 if drawn.cost else -1))
    rows = []
    for rank, arm in enumerate(order, 1):
        gain, ends = drawn.gain(arm, own, looks=len(names) - 1)
        rows.append(
            {
                "rank": rank,
                "name": names[arm],
                "mix": options.mixes[names[arm]],
                "epochs": options.epochs[names[arm]],
                "value": float(drawn.value_C[arm]),
                "gain": gain,
                "interval": list(ends) if arm != own else None,
                "best": float(chances[arm]),
                "suites": list(gain_rows(suites, arm, own, options.seed)) if arm != own else [],
            }
        )
    told: dict[str, Any] = finite(
        {
            "objective": options.objective,
            "better": "lower" if drawn.cost else "higher",
            "seeds": options.seeds,
            "proxy": options.proxy,
            "own": {name: float(suite.figures_CS[own].mean()) for name, suite in suites.items()},
            "mixes": rows,
            "chosen": chosen(rows),
        }
    )
    write_json_atomic(out.path / RANKING, told)
    (out.path / SNIPPET).write_text(snippet(told), encoding="utf-8")
    (out.path / PAGE).write_text(render_search(told), encoding="utf-8")
    out.metrics |= {"chosen": told["chosen"], "mixes": len(rows), "seeds": options.seeds}


def chosen(rows: Sequence[Mapping[str, Any]]) -> str:
    """The name of the mix to use: the best one where it is told apart from the run's own, else the run's own."""
    best = rows[0]
    ends = best["interval"]
    return str(best["name"]) if ends is not None and ends[0] > 0 else OWN


def snippet(told: Mapping[str, Any]) -> str:
    """The chosen mix as it stands in a config."""
    row = next(row for row in told["mixes"] if row["name"] == told["chosen"])
    best = told["mixes"][0]
    words = f"# {row['name']}: rank {row['rank']} of {len(told['mixes'])} mixes, {told['seeds']} seeds each.\n"
    if row is not best:
        words += f"# {best['name']} came first ({told_mix(best['mix'])}), but is not told apart from it.\n"
    shares = {name: round(share, 6) for name, share in row["mix"].items()}
    return words + yaml.safe_dump({"data": {"mix": shares}}, sort_keys=True)
