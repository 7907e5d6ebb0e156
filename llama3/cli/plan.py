"""`llama3 plan`: what training costs, before it is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from llama3.cli import completion
from llama3.cli.output import JsonOption, SetOption, note, print_json, print_table, say
from llama3.errors import ConfigError, DoesNotFit, LlamaError, Problem

if TYPE_CHECKING:
    from llama3.config import Loaded
    from llama3.scaling.asked import PlanQuestion
    from llama3.scaling.planner import Predicted

T = TypeVar("T")

NO_QUESTION = ConfigError.declare(
    "L3-PLN-015",
    "is an artifact",
    fix="of a study's forecast ask --serve-tokens N; else give a shape, a config or a run",
)
NO_FOLDER = ConfigError.declare(
    "L3-PLN-016", "there is no folder {folder}", fix="make it, or name a file in one that is there"
)
NO_PICTURE = ConfigError.declare(
    "L3-PLN-019",
    "{file} is there, and is no picture",
    why="what is there would be lost",
    fix="name another file: only an SVG is written anew",
)
NO_FORECAST = ConfigError.declare(
    "L3-PLN-014",
    "is not the forecast of a study",
    why="--serve-tokens asks its law what each size costs",
    fix="llama3 scale CONFIG makes one, and says where it is",
)


OTHER_QUESTION = ConfigError.declare("L3-PLN-017", "says nothing of {asked}", fix="leave it out, or {instead}")

_OF_A_SHAPE = frozenset({"gpus", "gpu", "seq_len", "batch_tokens", "tokens", "price", "strategy"})
_SHAPE, _EXPLAINED, _CONFIG, _FORECAST = "a shape", "--explain", "a config or a run", "a forecast"
_OPTIONS: dict[str, tuple[frozenset[str], str]] = {
    _SHAPE: (_OF_A_SHAPE | {"top", "layout", "schedule"}, "give a config: llama3 plan my.yaml"),
    _EXPLAINED: (_OF_A_SHAPE | {"explain"}, "leave out --explain"),
    _CONFIG: (frozenset({"overrides", "probe"}), "change the config by --set, or ask of a shape: llama3 plan 8b"),
    _FORECAST: (frozenset({"serve_tokens"}), "leave out --serve-tokens"),
}
"""Of each kind of question the options that change its answer, and what to do where another one is meant."""


def plan(
    context: typer.Context,
    what: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|CONFIG|RUN|FORECAST",
            help="A shape such as 405b, to find its fastest layouts on GPUs; a config or a run, to see its phases "
            "and whether this machine holds it; with --serve-tokens the forecast of a study (llama3 scale).",
        ),
    ],
    overrides: SetOption = None,
    gpus: Annotated[int, typer.Option(help="GPUs in all.")] = 8,
    gpu: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="A known GPU, or a YAML file's.", autocompletion=completion.gpus)
    ] = "h100",
    seq_len: Annotated[int | None, typer.Option(help="Tokens of a row. Default: 8192, or the model's own.")] = None,
    batch_tokens: Annotated[
        float | None, typer.Option(help="Tokens of a step over all GPUs. Default: 16,777,216, as the paper's.")
    ] = None,
    tokens: Annotated[float, typer.Option(help="Tokens of the whole training, for days and cost.")] = 15.6e12,
    price: Annotated[float | None, typer.Option(help="Of one GPU, an hour. Default: what is known.")] = None,
    strategy: Annotated[
        list[str] | None,
        typer.Option(metavar="AXIS=NAME", help="What supplies an axis, in place of its own. Repeatable."),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Layouts to show.")] = 10,
    layout: Annotated[
        str | None, typer.Option(metavar="TP,CP,PP,DP", help="Show the ways to run this one layout only.")
    ] = None,
    explain: Annotated[
        str | None,
        typer.Option(
            metavar="TP,CP,PP,DP|refused", help="Say why a layout is illegal or slow, or why each refused is."
        ),
    ] = None,
    schedule: Annotated[
        Path | None, typer.Option(metavar="FILE.svg", help="Draw the fastest pipeline: as text here, as SVG there.")
    ] = None,
    probe: Annotated[bool, typer.Option(help="Of a config: measure a step where the run has not.")] = True,
    serve_tokens: Annotated[
        float | None,
        typer.Option(
            min=0, help="Of a forecast: tokens that the model will serve. Which size is cheapest over its life?"
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Rank the layouts of a training by predicted step time; or tell what a run will do and whether it fits here."""
    from llama3.artifacts.artifact import MANIFEST

    if serve_tokens is not None:
        told_with(idle_options(context, _FORECAST), lambda: None)
        plan_lifetime(Path(what), serve_tokens, json=json)
        return
    from llama3.config.presets import presets
    from llama3.model.config import named_shape

    shape = named_shape(what)
    if shape is None and (Path(what).exists() or what in presets()):
        if (Path(what) / MANIFEST).is_file():
            raise NO_QUESTION(what)
        from llama3.preflight import load_config

        loaded = told_with(idle_options(context, _CONFIG), lambda: load_config(what, overrides or ()))
        plan_run(loaded, probe=probe, json=json)
        return
    from llama3.scaling.asked import read_question

    idle = [] if shape is None else idle_options(context, _SHAPE if explain is None else _EXPLAINED)
    if schedule is not None and not schedule.absolute().parent.is_dir():
        idle.append(NO_FOLDER.problem("--schedule", folder=schedule.parent))
    if schedule is not None and schedule.exists() and not _is_picture(schedule):
        idle.append(NO_PICTURE.problem("--schedule", file=schedule))
    question = told_with(
        idle,
        lambda: read_question(
            what,
            gpus=gpus,
            gpu=gpu,
            seq_len=seq_len,
            batch_tokens=batch_tokens,
            tokens=tokens,
            price=price,
            strategies=strategy or (),
            layout=layout,
            explain=explain,
        ),
    )
    if explain is not None:
        explain_layouts(question, json=json)
    else:
        rank(question, top=top, schedule=schedule, json=json)


def idle_options(context: typer.Context, asked: str) -> list[Problem]:
    """The options that were given and would change nothing of the answer to such a question."""
    applying, instead = _OPTIONS[asked]
    sources = {name: context.get_parameter_source(name) for name in context.params.keys() - applying - {"what", "json"}}
    given = sorted(name for name, source in sources.items() if source is not None and source.name != "DEFAULT")
    return [OTHER_QUESTION.problem(_written(context, name), asked=asked, instead=instead) for name in given]


def _written(context: typer.Context, name: str) -> str:
    """An option as it is written: of a switch the side that was chosen."""
    option = next(one for one in context.command.params if one.name == name)
    return (option.opts if context.params[name] is not False else option.secondary_opts)[0]


def told_with(problems: list[Problem], work: Callable[[], T]) -> T:
    """What `work` gives. Raises `problems`, if there are any, together with those that it raises."""
    try:
        found = work()
    except LlamaError as error:
        if not problems:
            raise
        raise ConfigError.of([*problems, *error.problems]) from error
    if problems:
        raise ConfigError.of(problems)
    return found


def plan_lifetime(folder: Path, serve_tokens: float, *, json: bool) -> None:
    """The size that is cheapest over its life, by the laws of a study. Raises ConfigError for what is no forecast."""
    from llama3.artifacts.artifact import MANIFEST, Artifact
    from llama3.cli.scale import show_lifetime
    from llama3.scaling.fits import read_fits
    from llama3.scaling.lifetime import lifetime_of

    if not (folder / MANIFEST).is_file():
        raise NO_FORECAST(folder)
    found = lifetime_of(read_fits(Artifact(folder)), serve_tokens)
    if json:
        print_json(found)
    else:
        show_lifetime(found)


def rank(question: PlanQuestion, *, top: int, schedule: Path | None, json: bool) -> None:
    """The fastest layouts, or the ways to run one. Raises DoesNotFit where none fits."""
    from llama3.scaling.layouts import problems_of, ways_of
    from llama3.scaling.plan_table import HEAD, as_data, table, work_lines
    from llama3.scaling.planner import none_fits, plan, predictions

    work, dims = question.work, question.layout
    if dims is None:
        found = plan(work)
    else:
        if problems := problems_of(work, dims):
            raise ConfigError.of(problems)
        every = predictions(work, ways_of(work, dims))
        found = sorted((one for one in every if one.fits), key=lambda one: one.seconds)
    if not found:
        raise none_fits(work, dims)
    drawn = None if schedule is None else draw(found[0], schedule, quiet=json)
    if json:
        print_json(
            {
                "model": work.name,
                "gpu": {"name": work.gpu_name, **work.gpu.model_dump()},
                "gpus": work.gpus,
                "seq_len": work.seq_len,
                "batch": work.batch,
                "tokens": work.tokens,
                "price": work.price,
                "layouts": [{"rank": place, **as_data(one)} for place, one in enumerate(found, start=1)],
                "schedule": drawn,
            }
        )
        return
    print_table(work_lines(work))
    say()
    print_table(table(found, top), HEAD)
    if len(found) > top:
        kind = "layouts" if dims is None else "ways"
        say(f"... and {len(found) - top} slower {kind} that fit (--top)")


def draw(one: Predicted, file: Path, *, quiet: bool) -> str | None:
    """The schedule of a layout with a pipeline: text on stdout, a picture in the file."""
    from llama3.artifacts.files import write_bytes_atomic
    from llama3.scaling.drawing import placed, svg, text, waiting
    from llama3.scaling.plan_table import layout_text
    from llama3.training.parallel import turned

    options = one.way.options.get("pp")
    strategy = None if options is None else one.work.strategy("pp", options)
    turns = [] if strategy is None else turned("pp", strategy, one.dims, one.way.step)
    if not turns:
        note(f"{layout_text(one.dims)} has no pipeline to draw")
        return None
    rows = placed(turns)
    title = f"{layout_text(one.dims)}: {one.way.step.microbatches} microbatches, bubble {waiting(rows):.1%}"
    write_bytes_atomic(file, svg(rows, title).encode())
    if not quiet:
        say(title)
        for line in text(rows):
            say(line)
        say()
    note(f"written: {file}")
    return str(file)


def explain_layouts(question: PlanQuestion, *, json: bool) -> None:
    """Why one layout is refused or slow; without one, why each that is refused is."""
    from llama3.scaling.plan_table import as_data, explained, refused_lines
    from llama3.scaling.planner import best_way, plan, refusals, shortage

    work, dims = question.work, question.explained
    if dims is None:
        refused = list(refusals(work))
        if json:
            rows: list[dict[str, Any]] = [
                {"layout": asdict(one), "problems": [asdict(problem) for problem in problems]}
                for one, problems in refused
            ]
            print_json({"refused": rows})
        else:
            print_table(refused_lines(work, refused), ("TP,CP,PP,DP", "WHY"))
        return
    from llama3.scaling.layouts import problems_of

    problems = problems_of(work, dims)
    if problems:
        if json:
            print_json({"layout": asdict(dims), "problems": [asdict(problem) for problem in problems]})
        else:
            print_table([("refused", str(problem)) for problem in problems])
        return
    found, ranked = best_way(work, dims), plan(work)
    assert found is not None, "a legal layout has a way"
    short = shortage(found)
    best = ranked[0] if ranked else None
    told = [] if short is None else [short]
    place = next((place for place, one in enumerate(ranked, start=1) if one.dims == dims), None)
    if json:
        print_json({**as_data(found), "rank": place, "of": len(ranked), "problems": [asdict(one) for one in told]})
        return
    print_table(list(explained(found, told, None if best is None or best.dims == dims else best)))
    if place is not None and best is not None:
        say(
            f"number {place} of {len(ranked)} layouts that fit, {found.seconds / best.seconds - 1:.1%} behind the first"
        )


def plan_run(loaded: Loaded, *, probe: bool, json: bool) -> None:
    """What a run will do; of a herd what each size will. Exit code 3 where this machine does not hold it."""
    if loaded.config.sizes:
        plan_herd(loaded, probe=probe, json=json)
        return
    from llama3.scaling.run_plan import PHASE_HEAD, RunPlan, lines, phase_rows, report_of

    report = report_of(RunPlan.of(loaded), with_probe=probe)
    if json:
        print_json(report)
    else:
        for text in loaded.notes:
            note(f"note: {text}")
        print_table(list(phase_rows(report)), PHASE_HEAD)
        say()
        print_table(list(lines(report)))
    if report["problems"]:
        raise DoesNotFit.of(Problem.of_row(row) for row in report["problems"])


def plan_herd(loaded: Loaded, *, probe: bool, json: bool) -> None:
    """What each size of a herd will do, and the sums. Exit code 3 where this machine does not hold one."""
    from llama3.cli.herd_plan import HERD_HEAD, herd_report, herd_rows
    from llama3.scaling.run_plan import PHASE_HEAD, lines, phase_rows

    report = herd_report(loaded, with_probe=probe)
    if json:
        print_json(report)
    else:
        print_table(list(herd_rows(report)), HERD_HEAD)
        for name, found in report["sizes"].items():
            if found["phases"]:
                say(f"\n{name}")
                print_table(list(phase_rows(found)), PHASE_HEAD)
                print_table(list(lines(found)))
    if report["problems"]:
        raise DoesNotFit.of(Problem.of_row(row) for row in report["problems"])


def _is_picture(file: Path) -> bool:
    """Whether it begins as one."""
    try:
        with file.open("rb") as there:
            return there.read(4) == b"<svg"
    except OSError:
        return False
