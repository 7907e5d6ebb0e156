"""`llama3 annotate`: people compare answers and check synthetic text, on a page of this machine."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from llama3.cli.generate import DeviceOption, MaxTokensOption, SeedOption, TemperatureOption
from llama3.cli.output import JsonOption, note, print_json, print_table, say
from llama3.cli.serve import NEEDS, PACKAGES
from llama3.errors import ArtifactError, ConfigError, LlamaError

if TYPE_CHECKING:
    from llama3.annotating.items import PairItem, TextItem
    from llama3.serving.two_models import TwoModels

NO_ANNOTATOR = ConfigError.declare("L3-ANN-090", "nobody is named who annotates", fix="give --as NAME, once for each")
TWO_JOBS = ConfigError.declare("L3-ANN-091", "{options} do not go together", fix="give one command for each")
IDLE_OPTION = ConfigError.declare(
    "L3-ANN-094", "{option} plays no part here", fix="give it with {needs}, or leave it out"
)
NOT_BEGUN = ArtifactError.declare(
    "L3-ANN-093", "nobody has annotated this", why="there is no such folder", fix="llama3 annotate RUN --as NAME"
)
NO_PLACE = ConfigError.declare(
    "L3-ANN-095", "there is no folder {folder}", fix="make it, or name a file in one that is there"
)
NOT_OURS = ConfigError.declare(
    "L3-ANN-096",
    "{file} is there, and is no export",
    why="what is there would be lost",
    fix="name another file: only preferences that this command has written are written anew",
)
NEEDS_MODELS = ConfigError.declare(
    "L3-ANN-092", "a file holds prompts without answers", fix="give --model twice: two models answer them"
)

Least = Literal["significantly better", "better", "slightly better", "marginally better"]


def annotate(
    source: Annotated[
        Path, typer.Argument(metavar="RUN|FILE", help="A run, or JSON lines of prompts that two models answer.")
    ],
    annotators: Annotated[
        list[str] | None, typer.Option("--as", metavar="NAME", help="Who annotates. Repeatable.")
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Option("--model", metavar="MODEL", help="Twice: models that answer, in a file and as dialogs go on."),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Of 127.0.0.1; 0: any that is free.")] = 8100,
    figures: Annotated[bool, typer.Option("--figures", help="Print agreement, wins and errors instead.")] = False,
    most_wrong: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="With --figures: exit code 5 unless the sample is checked and errors are at most this share.",
        ),
    ] = None,
    export: Annotated[
        Path | None,
        typer.Option(metavar="FILE", dir_okay=False, help="Write the preferences in TRL's columns instead."),
    ] = None,
    least: Annotated[
        Least, typer.Option(help="Of --export: preferences that are at least this clear.")
    ] = "marginally better",
    margins: Annotated[bool, typer.Option("--margins", help="Of --export: add margins by strength (Llama 2).")] = False,
    max_tokens: MaxTokensOption = 512,
    temperature: TemperatureOption = 0.6,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Open a page on which people compare two answers of a run, edit the better one, and check synthetic text. What
    they say is written at once to RUN/annotations (of prompts.jsonl: to prompts.annotations).
    """
    from llama3.annotating.folder import ANNOTATIONS

    if figures and export is not None:
        raise TWO_JOBS("annotate", options="--figures and --export")
    if most_wrong is not None and not figures:
        raise IDLE_OPTION("annotate", option="--most-wrong", needs="--figures")
    if margins and export is None:
        raise IDLE_OPTION("annotate", option="--margins", needs="--export")
    folder = source / ANNOTATIONS if source.is_dir() else source.with_suffix(f".{ANNOTATIONS}")
    if (figures or export is not None) and not folder.is_dir():
        raise NOT_BEGUN(folder)
    if figures:
        _tell(source, folder, most_wrong, json)
    elif export is not None:
        _require_free(export, source, folder)
        _export(folder, export, least, margins, json)
    else:
        _serve(source, folder, annotators or [], models or [], port, seed,
               {"device": device, "max_tokens": max_tokens, "temperature": temperature})  # fmt: skip


def _serve(
    source: Path, folder: Path, names: list[str], models: list[str], port: int, seed: int, options: Mapping[str, Any]
) -> None:
    from llama3.annotating.folder import check_name
    from llama3.annotating.items import run_at

    annotators = [check_name(name) for name in dict.fromkeys(names)]
    if not annotators:
        raise NO_ANNOTATOR("--as")
    missing = [package for package in PACKAGES if find_spec(package) is None]
    if missing:
        raise NEEDS(packages=missing)
    if not source.is_file():
        run_at(source)
    elif not models:
        raise NEEDS_MODELS("--model")

    from llama3.serving.annotation import AnnotationServer
    from llama3.serving.annotation_desk import Desk
    from llama3.serving.server import LOOPBACK, require_ports

    require_ports(LOOPBACK[0], port, None)
    pairs, texts = ([], []) if source.is_file() else _of_run(source, seed, has_models=bool(models))
    two = _two_models(models, seed, options)
    desk = Desk(folder, annotators, seed=seed, pairs=pairs, texts=texts, models=two)
    try:
        for name in [*desk.pairs.cut_short, *desk.texts.cut_short]:
            note(f"{name}: its last line was cut short; what was there of it is in {name}.cut-short")
        if two is not None:
            _answer(desk, source, two)
        server = AnnotationServer(desk, port=port, told=lambda address: note(f"annotate at {address}/"))
        server.run()
    finally:
        desk.close()
    note("stopped")


def _of_run(source: Path, seed: int, *, has_models: bool) -> tuple[list[PairItem], list[TextItem]]:
    """Of a run what can be compared and checked. Raises ArtifactError where that is nothing."""
    from llama3.annotating.items import NOTHING, pairs_of_run, run_at, texts_of_run

    run = run_at(source)
    pairs = pairs_of_run(run, seed)
    texts = [item for _, items in texts_of_run(run).values() for item in items]
    if not pairs and not texts:
        raise NOTHING(source, keys=sorted(run.current()) or ["no artifacts"])
    return pairs, texts


def _two_models(models: list[str], seed: int, options: Mapping[str, Any]) -> TwoModels | None:
    if not models:
        return None
    from llama3.serving.two_models import TwoModels

    return TwoModels(models, seed=seed, **options)


def _answer(desk: Any, source: Path, models: TwoModels) -> None:
    """Answer what is not answered: the prompts of a file, and dialogs that were to go on when a process ended."""
    from llama3.annotating.items import read_prompts
    from llama3.errors import DataError, DoesNotFit

    known = [item.messages for item in desk.pairs.items.values()]
    prompts = read_prompts(source) if source.is_file() else []
    asked = [(messages, category, "") for messages, category in prompts if messages not in known]
    asked += [(messages, item.category, item.id) for item, messages in desk.all_to_go_on()]
    for number, (messages, category, follows) in enumerate(asked, 1):
        note(f"answering {number} of {len(asked)}")
        try:
            desk.pairs.add([models.answer(messages, category, follows)])
        except (DataError, DoesNotFit) as error:
            note(f"left out: {error}")


def _export(folder: Path, out: Path, least: str, margins: bool, json: bool) -> None:
    from llama3.annotating.exported import exported
    from llama3.annotating.folder import read_items, read_judgements
    from llama3.artifacts.files import write_bytes_atomic
    from llama3.cli.output import json_text

    found = exported(read_items(folder, "pairs"), read_judgements(folder, "pairs"), least=least, margins=margins)
    write_bytes_atomic(out, "".join(json_text(row) + "\n" for row in found.rows).encode())
    if json:
        print_json({"file": str(out), "rows": len(found.rows), "left_out": found.left_out})
        return
    say(f"{out}: {len(found.rows)} preferences")
    if found.left_out:
        print_table([(why, str(count)) for why, count in found.left_out.items()], ("LEFT OUT", "ITEMS"))


def _require_free(out: Path, source: Path, folder: Path) -> None:
    """Raises ConfigError (L3-ANN-095, 096) where preferences cannot be written, or would be written over something."""
    if not out.absolute().parent.is_dir():
        raise NO_PLACE("--export", folder=out.parent)
    read = out.resolve() == source.resolve() or folder.resolve() in out.resolve().parents
    if read or not _is_ours(out):
        raise NOT_OURS("--export", file=out)


def _is_ours(out: Path) -> bool:
    """Whether nothing is lost where preferences are written here: nothing is there, or what an export has written."""
    from llama3.tasks.rows import read_rows

    try:
        first = next(iter(read_rows(out)), {}) if out.exists() else None
    except (LlamaError, OSError, ValueError):
        return False
    return first is None or not first or {"chosen", "rejected"} <= first.keys()


def _tell(source: Path, folder: Path, most_wrong: float | None, json: bool) -> None:
    from llama3.annotating.folder import read_items, read_judgements
    from llama3.evaluation.agreement import agreement_figures, places, wins
    from llama3.evaluation.human_check import human_check, require_right

    said = read_judgements(folder, "pairs")
    checked = human_check(source) if source.is_dir() else {}
    found = {
        "agreement": agreement_figures(places(said)),
        "wins": wins(read_items(folder, "pairs"), said),
        "checked": checked,
    }
    if json:
        print_json(found)
    else:
        _show(found)
    if most_wrong is not None:
        require_right(checked, most_wrong)


def _show(found: Mapping[str, Any]) -> None:
    agreement = found["agreement"]
    rows = [("judged", name, str(count)) for name, count in agreement["judged"].items()]
    rows += [("equal sides", "all", _interval(agreement["percent"]))]
    rows += [("alpha, which is better", "all", _interval(agreement["side"]))]
    rows += [("alpha, how clearly", "all", _interval(agreement["strength"]))]
    rows += [("kappa", names, _interval(row)) for names, row in agreement["kappa"].items()]
    print_table(rows, ("AGREEMENT", "OF", "VALUE"))
    if found["wins"]:
        say()
        print_table([(row["model"], row["other"], _share(row)) for row in found["wins"]], ("MODEL", "AGAINST", "WINS"))
    if found["checked"]:
        say()
        cells = [
            (name, f"{row['checked']} of {row['sample']}", f"{100 * row['share_checked']:.1f} %", _share(row["wrong"]))
            for name, row in found["checked"].items()
        ]
        print_table(cells, ("SYNTHETIC", "CHECKED", "OF ALL", "WRONG"))


def _interval(row: Mapping[str, Any]) -> str:
    value = "-" if row["value"] is None else f"{row['value']:.2f}"
    return f"{value} [{row['low']:.2f}, {row['high']:.2f}] (n = {row['n']})"


def _share(row: Mapping[str, Any]) -> str:
    rate = "-" if row["n"] == 0 else f"{100 * row['rate']:.1f} %"
    return f"{rate} [{100 * row['low']:.1f}, {100 * row['high']:.1f}] (n = {row['n']})"
