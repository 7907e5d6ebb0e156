"""A report of costs as files: `cost.json`, and `cost.html`, one page that loads nothing, a plot for each context."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from llama3.artifacts.files import finite, write_bytes_atomic, write_json_atomic
from llama3.artifacts.new_directory import new_directory
from llama3.cost.table import device_lines, error_lines, table
from llama3.evaluation.charts import Offered, offer_chart
from llama3.evaluation.templates import style, template


def write_page(report: Mapping[str, Any], folder: Path) -> None:
    """Write both files into the new directory `folder`."""
    with new_directory(folder) as place:
        write_json_atomic(place / "cost.json", finite({"schema_version": 1, **report}))
        write_bytes_atomic(place / "cost.html", render(report).encode("utf-8", "replace"))


def render(report: Mapping[str, Any]) -> str:
    """The page."""
    head, rows = table(report)
    return template("llama3.cost", "cost.html.jinja").render(
        style=style(),
        name=report["model"]["name"],
        facts=device_lines(report),
        errors=list(error_lines(report["error"])),
        plots=list(_plots(report)),
        head=head,
        rows=rows,
    )


def _plots(report: Mapping[str, Any]) -> Iterator[tuple[str, Markup]]:
    """Title and plot of each device and context: throughput of one GPU over the time of a token, a line a format."""
    groups: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for row in report["rows"]:
        if row["fits"]:
            groups.setdefault((row["gpu"], row["context"]), []).append(row)
    for (gpu, context), rows in groups.items():
        # More than three digits would run into the label of the axis.
        unit = 1000 if max(row["tokens_per_second_per_gpu"] for row in rows) >= 1000 else 1
        offers: dict[str, list[Offered]] = {}
        for row in rows:
            offers.setdefault(_series(row), []).append(_offered(row, unit))
        label = "1,000 tokens/s of a GPU" if unit > 1 else "tokens/s of a GPU"
        # Charts escape what they show.
        yield f"{gpu}, context {context:,}", Markup(offer_chart(offers, "milliseconds per token of an answer", label))


def _series(row: Mapping[str, Any]) -> str:
    """What a line of a plot is called."""
    if row["pp"] == 1:
        return str(row["quantization"])
    micro = f", {row['microbatches']} micro-batches" if row["microbatches"] > 1 else ""
    return f"{row['quantization']}, {row['tp']} x {row['pp']}{micro}"


def _offered(row: Mapping[str, Any], unit: int) -> Offered:
    milliseconds, rate = 1000 * row["seconds_per_token"], row["tokens_per_second_per_gpu"]
    basis = "predicted" if row["measured"] is None else "measured"
    label = f"{_series(row)}, batch {row['batch']}: {milliseconds:.3g} ms, {rate:.4g} tokens/s, {basis}"
    return Offered(milliseconds, rate / unit, label, bool(row["on_front"]))
