"""`llama3 cost`: what serving a model costs, here as measured and elsewhere as predicted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from llama3.cli import completion
from llama3.cli.generate import DeviceOption
from llama3.cli.options import given_options
from llama3.cli.output import JsonOption, note, print_json, print_table, say
from llama3.cli.serve import KvDtypeOption
from llama3.cost.gpus import HERE
from llama3.errors import ConfigError

TWO_GPUS = ConfigError.declare(
    "L3-SRV-065", "one kind of GPU is asked about at a time, not {given}", fix="give the command once for each"
)


def cost(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A run, a release, a checkpoint, or a shape such as llama-3.1-8b or 8b."),
    ],
    gpu: Annotated[
        list[str] | None,
        typer.Option(
            metavar="here|NAME|FILE",
            help="This machine, measured (default); or a GPU that is predicted: one that is known, or a YAML file's.",
            autocompletion=completion.gpus,
        ),
    ] = None,
    gpus: Annotated[int, typer.Option(min=1, help="GPUs that share the work.")] = 1,
    layout: Annotated[
        str | None,
        typer.Option(metavar="all|LIST", help="How they share it, TPxPP each. Default: by tensor parallelism alone."),
    ] = None,
    quantization: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="fp32, bf16 and schemes. Default: as the model is kept.",
            autocompletion=completion.schemes,
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SCHEME.OPTION=VALUE", help="An option of a scheme. Repeatable."),
    ] = None,
    batch: Annotated[str, typer.Option(metavar="LIST", help="Answers at once.")] = "1,8",
    context: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="Tokens of each context. Default: 1024, or the model's own."),
    ] = None,
    price: Annotated[
        float | None,
        typer.Option(help="Of one GPU, an hour. Default: what is known; of this machine nothing is."),
    ] = None,
    seconds: Annotated[float, typer.Option(min=0, help="How long to measure on this machine; 0: not at all.")] = 60.0,
    out: Annotated[Path | None, typer.Option(help="New directory for cost.json and a page with the plots.")] = None,
    kv_cache_dtype: KvDtypeOption = "auto",
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Tell throughput, latency, memory and price of serving a model, and the error of what is predicted."""
    from llama3.artifacts.new_directory import require_new
    from llama3.cost.answer import answer
    from llama3.cost.page import write_page
    from llama3.cost.question import read_question

    if gpu is not None and len(gpu) > 1:
        raise TWO_GPUS("--gpu", given=gpu)
    if out is not None:
        require_new(out)
    question = read_question(
        model,
        gpu=gpu[0] if gpu else HERE,
        gpus=gpus,
        layout=layout,
        quantization=quantization,
        options=given_options(overrides),
        batch=batch,
        context=context,
        price=price,
        device=device,
        seconds=seconds,
        kv_dtype=kv_cache_dtype,
    )
    report = answer(question)
    if out is not None:
        write_page(report, out)
    if json:
        print_json(report)
    else:
        show(report)
        if others := other_sizes(Path(model)):
            note(f"this is the first size of a herd; ask of the others by their folders: {', '.join(others)}")
    if out is not None:
        note(f"written: {out / 'cost.html'}, {out / 'cost.json'}")


def other_sizes(run: Path) -> list[str]:
    """The releases of a herd's other sizes, where it is a herd."""
    from llama3.artifacts.run import RunDir

    made = RunDir(run).current() if (run / "config.yaml").is_file() else {}
    if "release" not in made:
        return []
    sizes = {key: found for key, found in made.items() if key.endswith("-release")}
    return [str(run / "artifacts" / key) for key, found in sizes.items() if found.hash != made["release"].hash]


def show(report: Mapping[str, Any]) -> None:
    """What the devices offer, the points on the one that was asked for, and the error of the prediction."""
    from llama3.cost.table import device_lines, error_lines, table

    print_table(device_lines(report))
    say()
    head, rows = table(report)
    print_table(rows, head)
    say()
    for line in error_lines(report["error"]):
        say(line)
