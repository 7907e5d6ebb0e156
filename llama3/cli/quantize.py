"""`llama3 quantize`: a model with fewer bits, and what that did to it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from llama3.cli import completion
from llama3.cli.generate import DeviceOption, SeedOption
from llama3.cli.options import PluginOptions, given_options, plugin_name
from llama3.cli.output import JsonOption, json_text, print_json, print_table, say


def quantize(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A model of any layout, a release, or a run.")],
    out: Annotated[Path, typer.Argument(help="Directory to write; it must be empty or not there.")],
    scheme: Annotated[
        str, typer.Option(help="See: llama3 plugins list --family quantization.", autocompletion=completion.schemes)
    ],
    overrides: PluginOptions = None,
    ablate: Annotated[
        bool, typer.Option("--ablate", help="Compare also with each combination of the scheme's switches off.")
    ] = False,
    prompts: Annotated[int, typer.Option(min=0, help="Prompts that both models are compared on; 0: none.")] = 32,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 64,
    data: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Rows with prompts; default: our own tasks.")
    ] = None,
    reward_model: Annotated[Path | None, typer.Option(help="A reward model that scores the answers of both.")] = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Write a quantized copy of a model; tell its size, the error of each layer, and how its answers moved."""
    options = given_options(overrides)

    from llama3.config.slot_types import Slot
    from llama3.release.quantized_copy import Comparison, quantize_to

    slot = Slot.model_validate({**options, "name": plugin_name("quantization", scheme)})
    asked = Comparison(prompts, max_tokens, seed, data, reward_model, ablate)
    report = quantize_to(model, out, slot, asked, device)
    if json:
        print_json({"path": out, **report})
    else:
        show(out, report)


def show(out: Path, report: dict[str, Any]) -> None:
    """What changed, the error of each layer, and how the answers moved."""
    from llama3.model.needs import size

    bytes_of = lambda name: f"{size(report[name])}, {size(report[f'{name}_bf16'])} in bfloat16"
    print_table(
        [
            ("quantized", f"{report['matrices']} matrices: {_kinds(row['name'] for row in report['tensors'])}"),
            ("as they were", _kinds(report["skipped"])),
            ("their bytes", bytes_of("bytes")),
            ("all weights", bytes_of("model_bytes")),
            ("written", f"{out}, read back and compared"),
        ]
    )
    say()
    print_table(
        [
            (str(row["layer"]), f"{row['mean_relative_error']:.4f}", f"{row['max_abs_error']:.2g}")
            for row in report["layers"]
        ],
        ("LAYER", "RELATIVE ERROR", "LARGEST"),
    )
    if "answers" in report:
        say()
        rows = [(report["options"], report["answers"]), *((row["options"], row) for row in report["ablation"])]
        print_table(
            [line for options, found in rows for line in _moved(options, found)],
            ("OPTIONS", "FIGURE", "BEFORE", "AFTER", "KS", "WASSERSTEIN", "SAME TOP TOKEN"),
        )


def _kinds(names: Any) -> str:
    """Names of matrices by kind, layers counted: "ffn.down x 28"."""
    counts = Counter(name.split(".", 2)[-1] if name.startswith("layers.") else name for name in names)
    return ", ".join(f"{kind} x {count}" for kind, count in sorted(counts.items()))


def _moved(options: dict[str, Any], found: dict[str, Any]) -> list[tuple[str, ...]]:
    told = ", ".join(f"{name}={json_text(value)}" for name, value in options.items()) or "none"
    figures = {"log-prob of an answer's token": "logp", "reward of own answers": "reward"}
    return [
        (
            told,
            name,
            f"{found[key]['before']:.4f}",
            f"{found[key]['after']:.4f}",
            f"{found[key]['ks']:.3f}",
            f"{found[key]['wasserstein']:.4f}",
            f"{found['top1_agreement']:.1%}",
        )
        for name, key in figures.items()
        if key in found
    ]
