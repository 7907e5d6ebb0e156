"""`llama3 scale`: scaling laws from small models, and what they say of large ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llama3.cli import completion
from llama3.cli.output import JsonOption, SetOption, note, print_json, print_table, say
from llama3.errors import ConfigError

if TYPE_CHECKING:
    from llama3.artifacts import Artifact

NO_PRICE = ConfigError.declare(
    "L3-SCL-012", "{name!r} has no price", fix="describe one with a price in a YAML file (docs/cost.md)"
)
HOUR = 3600.0


def scale(
    config: Annotated[
        str,
        typer.Argument(
            metavar="CONFIG|FORECAST",
            help="A file, the name of a preset, or a run; or a finished study's artifact, which is only shown.",
            autocompletion=completion.configs,
        ),
    ],
    overrides: SetOption = None,
    serve_tokens: Annotated[
        float | None,
        typer.Option(min=0, help="Tokens that the model will serve: which size is cheapest over its life?"),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(help="Training FLOPs whose loss that model must reach. Default: the budget that is forecast."),
    ] = None,
    gpu: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE", help="In money on this GPU, too (see llama3 cost).", autocompletion=completion.gpus
        ),
    ] = None,
    train_utilisation: Annotated[
        float, typer.Option(min=0.001, max=1, help="Share of the peak FLOPs that training gets.")
    ] = 0.4,
    serve_utilisation: Annotated[
        float, typer.Option(min=0.001, max=1, help="Share of the peak FLOPs that serving gets.")
    ] = 0.4,
    json: JsonOption = False,
) -> None:
    """Run a study of scaling laws: small models at several budgets, the laws through them, and a forecast. Resumes."""
    from llama3.artifacts.artifact import MANIFEST, Artifact

    price = None if gpu is None else _price(gpu)
    place = Path(config)
    found = Artifact(place) if (place / MANIFEST).is_file() else _study(config, overrides)

    from llama3.scaling.fits import read_fits
    from llama3.scaling.lifetime import lifetime_of

    fits = read_fits(found)
    report: dict[str, Any] = dict(fits)
    if serve_tokens is not None:
        # What an operation costs goes inversely with the share of the peak that it gets.
        ratio = train_utilisation / serve_utilisation
        report["lifetime"] = lifetime_of(fits, serve_tokens, budget=budget, serve_price=ratio)
        if price is not None:
            report["lifetime"]["money"] = _money(report["lifetime"], price / train_utilisation)
    if json:
        print_json(report)
        return
    show(report)
    note(f"details: {found.location / 'forecast.html'}")


def _study(config: str, overrides: list[str] | None) -> Artifact:
    """The forecast of a config's study, made now or found."""
    from llama3.preflight import load_config, ready
    from llama3.scaling.preflight import require_sound

    loaded = ready(load_config(config, overrides or []))
    for line in [*loaded.notes, *require_sound(loaded)]:
        note(f"note: {line}")

    from llama3.execution import Executor  # after the checks: this imports torch
    from llama3.recipe import curated
    from llama3.scaling.study import study

    with Executor(loaded) as make:
        return study(make, make.config, curated(make, make.config))


def _price(gpu: str) -> float:
    """Money per operation at peak in bf16."""
    from llama3.cost.gpus import find_gpu

    name, found = find_gpu(gpu)
    if found.price is None:
        raise NO_PRICE("--gpu", name=name)
    return found.price / HOUR / found.rate("bf16")


def _money(lifetime: Mapping[str, Any], price: float) -> dict[str, float]:
    """What both models cost over their lives; `cost` counts operations at the price of training's."""
    return {name: lifetime[name]["cost"] * price for name in ("compute_optimal", "cheapest")}


def show(report: Mapping[str, Any]) -> None:
    """The budgets, the laws, the error of leaving out the largest budget, and the cheapest size."""
    from llama3.scaling import table

    print_table(table.budget_rows(report), table.BUDGETS_HEAD)
    say()
    print_table(table.law_rows(report))
    say()
    say(table.left_out_words(report))
    if report["left_out"]:
        print_table(table.left_out_rows(report), table.LEFT_OUT_HEAD)
    if "lifetime" in report:
        say()
        show_lifetime(report["lifetime"])


def show_lifetime(found: Mapping[str, Any]) -> None:
    """The compute-optimal model beside the one that is cheapest over its life."""
    from llama3.scaling import table

    say(
        f"a loss of {found['loss']:.4g}, that of {found['budget']:.3g} FLOPs, and "
        f"{table.figure(found['serve_tokens'])} tokens served:"
    )
    print_table(table.lifetime_rows(found), table.LIFETIME_HEAD)
    say(f"saved: {table.percent(found['saved'])}")
    for line in found["words"]:
        say(line)
    if "money" in found:
        money = found["money"]
        say(f"money: {money['compute_optimal']:,.2f} against {money['cheapest']:,.2f}")
