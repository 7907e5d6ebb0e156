"""`llama3 data`: one part of the way from text to token shards at a time, each by the stage that a run has for it."""

from __future__ import annotations

from collections.abc import Sequence
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llama3.cli import completion, data_classify
from llama3.cli.data_audit import audit, skip
from llama3.cli.data_look import inspect, sample
from llama3.cli.data_mix import mix, mix_search, probe
from llama3.cli.data_recut import recut
from llama3.cli.data_shard import shard
from llama3.cli.output import JsonOption, SetOption, note, print_json, print_table, say
from llama3.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from llama3.artifacts import Artifact
    from llama3.config import Loaded
    from llama3.config.merge import Override
    from llama3.data.curating import CurateOptions, Step

NO_PLACE = ConfigError.declare("L3-DAT-232", "nothing says where the corpus is to be written", fix="give --out DIR")
NO_TEXT_FILE = ConfigError.declare("L3-DAT-233", "holds no file")
SEVERAL_KINDS = ConfigError.declare(
    "L3-DAT-234",
    "holds files of several kinds, for {readers}",
    fix="say by --as which of them reads it, or write a config with a source for each",
)
NOTHING_THERE = ConfigError.declare(
    "L3-DAT-249", "there is nothing here", why="{near}", fix="give a folder or a file of text, or a config"
)

SHARE = "give --world, how many shares there are, and --rank, which of them this is, from 0 on"
NO_SUCH_PART = ConfigError.declare("L3-DAT-270", "there is no share {rank} of {world}", fix=SHARE)
HALF_A_PART = ConfigError.declare("L3-DAT-281", "{given} is given without {missing}", fix=SHARE)
RAY_SHARES = ConfigError.declare(
    "L3-DAT-285", "--ray and --rank do not go together", fix="leave out --rank and --world: Ray shares the work out"
)

app = typer.Typer(no_args_is_help=True, help="Curate, deduplicate, tokenise, convert and look at training data.")

TextArgument = Annotated[
    str,
    typer.Argument(
        metavar="CONFIG|FOLDER",
        help="A config, a preset or a run; or a folder or a file of text.",
        autocompletion=completion.configs,
    ),
]
OutOption = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Run directory to work in; default: the config's. What is there is used again."),
]
ReaderOption = Annotated[
    str | None, typer.Option("--as", metavar="SOURCE", help="What reads a folder. Default: by its files' endings.")
]


@app.command("curate")
def curate(
    text: TextArgument,
    overrides: SetOption = None,
    out: OutOption = None,
    reader: ReaderOption = None,
    rank: Annotated[int | None, typer.Option(help="Do only this share of the work, from 0 on.")] = None,
    world: Annotated[int | None, typer.Option(help="How many shares there are.")] = None,
    ray: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Work on a Ray cluster that shares the folder: its address, or local."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Read, deduplicate and filter text: the first stage of a run, alone. With --rank and --world a share of the work,
    as a task of a job array; the same command without them then makes the corpus."""
    if rank is not None or world is not None:
        if ray is not None:
            raise RAY_SHARES("data curate")
        if rank is None or world is None:
            given, missing = ("--rank", "--world") if world is None else ("--world", "--rank")
            raise HALF_A_PART("data curate", given=given, missing=missing)
        if not 0 <= rank < world:
            raise NO_SUCH_PART("data curate", rank=rank, world=world)
        _take_share(_loaded(text, overrides or [], out, reader), out, rank, world, json=json)
        return
    loaded = _loaded(text, overrides or [], out, reader)
    if ray is not None:
        _on_ray(loaded, out, ray)
    _show(_curated(loaded, out), json=json)


@app.command("dedup")
def dedup(
    text: TextArgument,
    overrides: SetOption = None,
    out: OutOption = None,
    reader: ReaderOption = None,
    threshold: Annotated[
        float | None, typer.Option(help="Jaccard similarity of word n-grams from which the later of two goes.")
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CORPUS", help="An earlier corpus, or a run that made one: what it holds goes. Can be repeated."
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Remove exact and near duplicates of text, and nothing else: no filter, no frequent lines."""
    from llama3.config.merge import Origin

    only = [
        "data.filters=[]",
        "data.synthetic=null",
        "data.lines.enabled=false",
        "data.urls=false",
        "data.decontaminate={benchmarks: {}, tasks: false}",
    ]
    named: list[Override] = []
    if against:
        named.append((["data", "against"], dumps(against), Origin("set", "--against")))
    if threshold is not None:
        named.append((["data", "minhash", "threshold"], str(threshold), Origin("set", "--threshold")))
    _show(_curated(_loaded(text, [*only, *named, *(overrides or [])], out, reader), out), json=json)


def _loaded(text: str, overrides: Sequence[str | Override], out: Path | None, reader: str | None) -> Loaded:
    """The config that was given, or one that reads the text that was. Raises ConfigError."""
    from llama3.config.presets import presets
    from llama3.preflight import load_config, ready

    place = Path(text)
    if not place.exists() and text not in presets():
        near = did_you_mean(text, presets()) or f"no preset has that name either: there are {', '.join(presets())}"
        raise NOTHING_THERE(text, near=near)
    if not place.exists() or (place / "config.yaml").is_file() or place.suffix in (".yaml", ".yml"):
        return ready(load_config(text, overrides))
    if out is None:
        raise NO_PLACE(text)
    source = {"name": reader or _reader_of(place), "path": str(place), "source": place.absolute().name}
    return ready(load_config({"data": {"sources": [source]}}, overrides))


def _reader_of(place: Path) -> str:
    """The source that reads a file, or all files of a folder. Raises ConfigError."""
    from llama3.data.finding import find, known_endings

    known = known_endings()
    names = [path.name.lower() for path in find(place, "**/*", ()).files]
    readers = sorted({next(name for ending, name in known if file.endswith(ending)) for file in names})
    if not readers:
        raise NO_TEXT_FILE(place)
    if len(readers) > 1:
        raise SEVERAL_KINDS(place, readers=readers)
    return readers[0]


def _curated(loaded: Loaded, out: Path | None) -> Artifact:
    """The corpus, made now or found."""
    from llama3.data.curate import curate as stage
    from llama3.data.curate import facts_folder
    from llama3.data.ledger import lost_input

    for line in loaded.notes:
        note(f"note: {line}")
    facts = facts_folder(_run_of(loaded, out))
    # What is missing is told before torch is imported.
    options = _options(loaded, facts if facts.is_dir() else None)

    from llama3.execution import Executor
    from llama3.given import synthesised

    with Executor(loaded, out) as make:
        corpus = make(stage, "curate", options, synthetic=synthesised(make, loaded.config))
        make.warn(lost_input(corpus.metrics))
        if page := make.show_corpus(corpus):
            note(f"report: {page}")
    return corpus


def _take_share(loaded: Loaded, out: Path | None, rank: int, world: int, *, json: bool) -> None:
    from llama3.data.curate import ShareDone, facts_folder, forget_facts, parts_folder, take_share
    from llama3.data.curating import Curation

    run = _run_of(loaded, out)
    options, share = _options(loaded, facts_folder(run)), ShareDone({}, "")
    if _is_made(run, options):
        forget_facts(facts_folder(run))
    else:
        share = take_share(Curation(options, parts_folder(run, options)), rank, world, _last_step(loaded))
    if json:
        print_json({"path": str(run), "rank": rank, "world": world, "done": share.done, "waits_in": share.waits_in})
        return
    done = ", ".join(f"{step} {own} of {every}" for step, (own, every) in share.done.items()) or "the corpus is there"
    note(f"share {rank} of {world}: {done}")
    if share.waits_in:
        note(f"the rest waits for what other shares {share.waits_in}: then give this command again")


def _on_ray(loaded: Loaded, out: Path | None, address: str) -> None:
    from llama3.data.curate import facts_folder, forget_facts, parts_folder
    from llama3.data.on_ray import curate_on_ray

    run = _run_of(loaded, out)
    options = _options(loaded, facts_folder(run))
    if _is_made(run, options):
        forget_facts(facts_folder(run))
        return

    def advance(step: Step, done: int, every: int) -> None:
        if done == every or done % max(1, every // 20) == 0:
            note(f"{step}: {done} of {every}")

    curate_on_ray(options, parts_folder(run, options), address, advance, _last_step(loaded))


def _options(loaded: Loaded, facts: Path | None) -> CurateOptions:
    """What is asked for; `facts`: where processes put what they have worked out of the input."""
    from llama3.data.curating import CurateOptions
    from llama3.data.remembered import shared_facts

    with shared_facts(facts):
        return CurateOptions.of(loaded.config)


def _run_of(loaded: Loaded, out: Path | None) -> Path:
    """Where the corpus is made."""
    return (out or Path(loaded.config.run.dir) / loaded.config.run.name).absolute()


def _is_made(run: Path, options: CurateOptions) -> bool:
    """Whether the run has the corpus already."""
    from llama3 import _core
    from llama3.artifacts.files import canonical_json
    from llama3.artifacts.run import RunDir
    from llama3.data.curate import curate as stage

    made = RunDir(run).current().get(stage.name)
    return made is not None and made.manifest.config_hash == _core.blake3_bytes(
        canonical_json(options.model_dump(mode="json"))
    )


def _last_step(loaded: Loaded) -> Step:
    """The last one that needs no run: text that a model makes is read when that is made."""
    return "write" if loaded.config.data.synthetic is None else "read"


def _show(corpus: Artifact, *, json: bool) -> None:
    from llama3.data.corpus import SPLITS
    from llama3.data.ledger import told_benchmarks

    figures: dict[str, Any] = corpus.metrics
    if json:
        print_json({"path": str(corpus.location), **figures})
        return
    rows = []
    for stage, cells in figures["funnel"].items():
        documents, size = (sum(cell[name] for cell in cells.values()) for name in ("documents", "bytes"))
        rows.append((stage, f"{documents:,}", f"{size:,}"))
    print_table(rows, ("AFTER", "DOCUMENTS", "BYTES"))
    if figures["rejects"]:
        say()
        print_table([(reason, f"{count:,}") for reason, count in figures["rejects"].items()], ("REMOVED", "COUNT"))
    if found := told_benchmarks(figures):
        say()
        say("\n".join(found))
    if not any(figures["funnel"][split] for split in SPLITS):
        note("nothing is new: earlier corpora hold every document")
    note(f"corpus: {corpus.location}")


app.command("recut")(recut)
app.command("inspect")(inspect)
app.command("sample")(sample)
app.command("shard")(shard)
app.command("mix")(mix)
app.command("mix-search")(mix_search)
app.command("probe")(probe)
app.command("audit")(audit)
app.command("skip")(skip)
app.add_typer(data_classify.app, name="classify")
