"""`llama3 data mix`, `mix-search` and `probe`: in which shares sources are read, which shares are best, and what a new
source is worth."""

from __future__ import annotations

import json as json_
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llama3.cli.output import ConfigArgument, JsonOption, SetOption, note, print_json, print_table, say
from llama3.config.mixes import MIX_PRESETS
from llama3.errors import ConfigError

if TYPE_CHECKING:
    from llama3.artifacts import Artifact
    from llama3.config import Config, Loaded
    from llama3.data.plan import TokenPlan
    from llama3.execution import Executor

BAD_SHARES = ConfigError.declare(
    "L3-SCL-039", "{given!r} are no shares of sources", why="{why}", fix="write web=0.6,code=0.4{presets}"
)
NOT_A_PROXY = ConfigError.declare(
    "L3-SCL-040",
    "{key} cannot be another for the small models",
    why="they are trained on the run's own tokens",
    fix="set keys of {sections} by --proxy, others by --set",
)
PROXY_SECTIONS = ("model", "pretrain")

OutOption = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Run directory to work in; default: the config's. What is there is used again."),
]
SuitesOption = Annotated[
    list[str] | None,
    typer.Option("--suite", metavar="NAME", help="Measure a suite of evaluation.tasks as well. Repeatable."),
]
SeedsOption = Annotated[
    int, typer.Option(min=2, max=64, help="Trainings of each mix or arm: their scatter tells what luck is worth.")
]
EpochsOption = Annotated[float, typer.Option(min=0.01, help="How often a source may be read, at most.")]


def mix(config: ConfigArgument, overrides: SetOption = None, out: OutOption = None, json: JsonOption = False) -> None:
    """Show which share of each phase every source has, and how often it is read: the mix as a schedule over tokens."""
    loaded = _ready(config, overrides)
    from llama3.execution import Executor
    from llama3.scaling.mix_schedule import schedule_rows

    with Executor(loaded, out) as make:
        plans = {name: schedule_rows(plan, own.pretrain) for name, (own, plan) in _plans(make, loaded).items()}
    if json:
        phases = {name: {"phases": rows} for name, rows in plans.items()}
        print_json({"sizes": phases} if loaded.config.sizes else phases[""])
        return
    for name, rows in plans.items():
        if name:
            say(f"{name}:")
        print_table(_schedule(rows), ("PHASE", "FROM TOKEN", "SOURCE", "SHARE", "TOKENS", "TIMES READ BY THEN"))


def _plans(make: Executor, loaded: Loaded) -> dict[str, tuple[Config, TokenPlan]]:
    """The config and the tokens of each size of a herd, those of the one model by the name ""; made as a run makes
    them, by the keys of each size. A pruned size has the tokenizer of the one that it is cut from."""
    from llama3.checkpoints.adopt import AdoptOptions, adopt
    from llama3.data.plan import TokenPlan
    from llama3.data.vocabulary import TokenizerOptions, tokenizer
    from llama3.given import curated, tokenised
    from llama3.herd import sizes_of

    curated(make, loaded.config)  # once for all
    vocabularies: dict[str, Artifact] = {}
    plans: dict[str, tuple[Config, TokenPlan]] = {}
    for name, size in (sizes_of(loaded) or {"": loaded}).items():
        part, own = make.part(name, size) if name else make, size.config
        corpus, prune = curated(part, own), loaded.config.sizes[name].prune if name else None
        if prune is not None:
            vocabularies[name] = vocabularies[prune.of]
        elif own.model.path is not None:
            vocabularies[name] = part(adopt, "adopt", AdoptOptions.of(own))
        else:
            vocabularies[name] = part(tokenizer, "tokenizer", TokenizerOptions.of(own), corpus=corpus)
        plans[name] = own, TokenPlan.load(tokenised(part, own, corpus, vocabularies[name]).path)
    return plans


def _schedule(rows: Iterable[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    return [
        (
            str(row["phase"]),
            f"{row['from_token']:,}",
            row["source"],
            f"{100 * row['share']:.3g} %",
            f"{row['tokens']:,}",
            f"{row['epochs']:.3g}",
        )
        for row in rows
    ]


def mix_search(
    config: ConfigArgument,
    overrides: SetOption = None,
    proxy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="Override a value for the small models alone, such as model.dim=64 or pretrain.steps=200. Repeatable.",
        ),
    ] = None,
    mixes: Annotated[
        list[str] | None,
        typer.Option("--mix", metavar="SHARES", help="A mix to try, such as web=0.6,code=0.4 or llama3. Repeatable."),
    ] = None,
    candidates: Annotated[int, typer.Option(min=0, help="Mixes that are drawn around the run's own.")] = 8,
    seeds: SeedsOption = 3,
    budget: Annotated[
        float | None, typer.Option(min=0, metavar="FLOPS", help="Of all trainings together: so many mixes are drawn.")
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(metavar="SHARES", help="What each source's bits per byte count. Default: all the same."),
    ] = None,
    suites: SuitesOption = None,
    by: Annotated[
        str | None, typer.Option(metavar="NAME", help="Rank by this suite of evaluation.tasks, not by bits per byte.")
    ] = None,
    epochs: EpochsOption = 4.0,
    out: OutOption = None,
    json: JsonOption = False,
) -> None:
    """Train small models on mixes of the run's sources, rank the mixes with intervals, and write the best. Resumes."""
    given = [_shares("--mix", text, MIX_PRESETS) for text in mixes or []]
    wanted = _shares("--target", target) if target else {}
    loaded = _ready(config, overrides)
    small = _proxy(config, overrides or [], proxy or [])
    from llama3.execution import Executor
    from llama3.given import curated
    from llama3.scaling import mix_pages
    from llama3.scaling.mix_search import PAGE, RANKING, SNIPPET, MixSearch, require_searchable, search_mixes

    asked = MixSearch(given, candidates, seeds, wanted, suites or [], by, budget, epochs)
    mixed = {name: "--mix" for mix in given for name in mix}
    named = _names(suites, "--suite") | _names(by and [by], "--by")
    require_searchable(loaded.config, asked, _require(loaded.config, named, _names(wanted, "--target"), mixed))
    with Executor(loaded, out) as make:
        corpus = curated(make, make.config)
        found = search_mixes(make, make.config, _settled(make.config, small), corpus, asked)
    told = _read(found, RANKING)
    if json:
        print_json(told)
        return
    print_table(mix_pages.search_rows(told), mix_pages.SEARCH_HEAD)
    say()
    say(f"ranked by {mix_pages.objective_words(told)}")
    say(mix_pages.proxy_words(told))
    say(mix_pages.search_words(told))
    note(f"for a config: {found.location / SNIPPET}; details: {found.location / PAGE}")


def probe(
    config: ConfigArgument,
    source: Annotated[str, typer.Option(metavar="NAME", help="The new source, one of data.sources.")],
    overrides: SetOption = None,
    share: Annotated[float, typer.Option(min=0.01, max=0.99, help="Of the new source in the anneal.")] = 0.3,
    at: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Anneal the run's model after this share of its steps.")
    ] = 0.5,
    steps: Annotated[int | None, typer.Option(min=1, help="Of the anneal. Default: a tenth of the run's.")] = None,
    seeds: SeedsOption = 3,
    suites: SuitesOption = None,
    epochs: EpochsOption = 4.0,
    out: OutOption = None,
    json: JsonOption = False,
) -> None:
    """Anneal a model with and without a new source, and tell what the source is worth. Resumes."""
    loaded = _ready(config, overrides)
    from llama3.execution import Executor
    from llama3.given import curated
    from llama3.scaling import mix_pages
    from llama3.scaling.probe import FIGURES, PAGE, SourceProbe, probe_source, require_probe

    asked = SourceProbe(source, share, at, steps, seeds, suites or [], epochs)
    require_probe(loaded.config, asked, _require(loaded.config, _names(suites, "--suite"), {source: "--source"}))
    with Executor(loaded, out) as make:
        found = probe_source(make, make.config, curated(make, make.config), asked)
    told = _read(found, FIGURES)
    if json:
        print_json(told)
        return
    print_table(mix_pages.gain_cells(told["suites"]), mix_pages.GAINS_HEAD)
    say()
    print_table(mix_pages.probe_facts(told))
    say(mix_pages.probe_words(told))
    note(f"details: {found.location / PAGE}")


def _ready(config: str, overrides: list[str] | None) -> Any:
    from llama3.preflight import load_config, ready

    loaded = ready(load_config(config, overrides or []))
    for line in loaded.notes:
        note(f"note: {line}")
    return loaded


def _names(names: Iterable[str] | None, option: str) -> dict[str, str]:
    """Where each of them was given."""
    return dict.fromkeys(names or (), option)


def _require(
    config: Config, suites: dict[str, str], sources: dict[str, str], mixed: dict[str, str] | None = None
) -> set[str] | None:
    """The labels of all sources, None where they are known only when text was read. Raises ConfigError for names, by
    the option that gave them, that are known to be wrong before that; those `mixed` may be of classes too."""
    from llama3.config.crosscheck import labels_of_sources
    from llama3.config.synthesis import SYNTHETIC
    from llama3.plugins.registry import discover
    from llama3.scaling.arms import require_sources, require_suites

    require_suites(config, suites)
    read = labels_of_sources(config, discover())
    if read is None:
        return None
    labels = read | ({SYNTHETIC} if config.data.synthetic else set())
    require_sources(sources, sorted(labels))
    require_sources(mixed or {}, sorted(labels | set(config.data.classes.values())))
    return labels


def _proxy(config: str, overrides: list[str], changed: list[str]) -> Config:
    """The config of the small models. Raises ConfigError for keys that are the run's."""
    from llama3.config.merge import Origin, set_overrides
    from llama3.preflight import load_config

    rows = [
        (keys, text, Origin("set", f"--proxy {given}"))
        for given, (keys, text, _) in zip(changed, set_overrides(changed), strict=True)
    ]
    wrong = [
        given
        for given, (keys, _, _) in zip(changed, rows, strict=True)
        if keys[:1] and (keys[0] not in PROXY_SECTIONS or keys[:2] == ["model", "path"])
    ]
    if wrong:
        sections = " and ".join(PROXY_SECTIONS)
        raise ConfigError.of(
            NOT_A_PROXY.problem("--proxy", key=given.partition("=")[0], sections=sections) for given in wrong
        )
    return load_config(config, [*overrides, *rows]).config


def _settled(config: Config, proxy: Config) -> Config:
    """The small models' config with what the run's leaves to the machine settled as in the run's."""
    pretrain = proxy.pretrain
    if pretrain.precision == "auto":
        pretrain = pretrain.model_copy(update={"precision": config.pretrain.precision})
    return config.model_copy(update={"model": proxy.model, "pretrain": pretrain})


def _shares(option: str, text: str, presets: Mapping[str, Mapping[str, float]] | None = None) -> dict[str, float]:
    """Weights by source out of `web=0.6,code=0.4`, or those of a preset. Raises ConfigError (L3-SCL-039)."""
    if presets and text in presets:
        return dict(presets[text])

    def bad(why: str) -> ConfigError:
        return BAD_SHARES(option, given=text, why=why, presets=f", or {' or '.join(presets)}" if presets else "")

    names, weights = [], []
    for part in text.split(","):
        name, _, weight = part.rpartition("=")
        names.append(name.strip())
        try:
            weights.append(float(weight))
        except ValueError as error:
            raise bad(str(error)) from None
    if "" in names or not all(0 <= weight < float("inf") for weight in weights) or not any(weights):
        raise bad("each source has a weight of 0 or more, one of them above 0")
    if doubles := sorted({name for name in names if names.count(name) > 1}):
        raise bad(f"named more than once: {', '.join(doubles)}")
    return dict(zip(names, weights, strict=True))


def _read(artifact: Artifact, name: str) -> dict[str, Any]:
    told: dict[str, Any] = json_.loads(artifact.file(name).read_bytes())
    return told
