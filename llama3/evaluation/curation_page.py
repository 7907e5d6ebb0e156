"""What became of the text that was read: figures of a corpus for `report.json`, and the page of a run that has made no
more than its corpus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import cache
from typing import Any

import jinja2
from markupsafe import Markup

from llama3.annotating.folder import ANNOTATIONS
from llama3.artifacts import Artifact
from llama3.data.before_after import read_samples
from llama3.data.corpus import DOCUMENTS, SPLITS
from llama3.data.ledger import lost_input
from llama3.data.tables import Table
from llama3.evaluation.charts import funnel_chart
from llama3.evaluation.human_check import human_check
from llama3.evaluation.templates import style, template

SHARES = ("source", "language", "kind")
"""Columns of documents whose values are counted; the classes of a mix are sources."""
MOST_VALUES = 30
"""Of a column that are told one by one."""


def curation_figures(corpus: Artifact, synthetic: Artifact | None = None) -> dict[str, Any]:
    """Documents and bytes after every step, all and by source; what went and why; the shares of sources, languages and
    kinds; samples of texts; what is known of synthetic text, and what people found in it. Raises DataError where the
    corpus or a file of annotations cannot be read."""
    metrics = corpus.metrics
    funnel: Mapping[str, Any] = metrics["funnel"]
    stages = [_left(stage, cells, funnel["read"]) for stage, cells in funnel.items()]
    kept = [row for row in stages if row["stage"] in SPLITS]
    rejects: Mapping[str, int] = metrics.get("rejects", {})
    gone = max(1, sum(rejects.values()))
    return {
        "documents": sum(row["documents"] for row in kept),
        "bytes": sum(row["bytes"] for row in kept),
        "sources": list(funnel["read"]),
        "stages": stages,
        "told": lost_input(metrics),
        "removed": [
            {"reason": reason, "count": count, "share": count / gone}
            for reason, count in sorted(rejects.items(), key=lambda item: (-item[1], item[0]))
        ],
        "shares": _shares(corpus),
        "synthetic": {} if synthetic is None else {**synthetic.metrics, "checked": _checked(synthetic)},
        "samples": read_samples(corpus.path),
    }


def _checked(synthetic: Artifact) -> dict[str, Any]:
    """What people found in the synthetic text of this run, and in its dialogs, where they looked."""
    run = synthetic.location.parents[1]
    return human_check(run) if (run / ANNOTATIONS).is_dir() else {}


def _left(stage: str, cells: Mapping[str, Mapping[str, int]], read: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    documents, size = (sum(cell[unit] for cell in cells.values()) for unit in ("documents", "bytes"))
    all_documents, all_bytes = (sum(cell[unit] for cell in read.values()) for unit in ("documents", "bytes"))
    return {
        "stage": stage,
        "documents": documents,
        "bytes": size,
        "document_share": documents / max(1, all_documents),
        "byte_share": size / max(1, all_bytes),
        "by_source": {source: cell["documents"] for source, cell in cells.items()},
    }


def _shares(corpus: Artifact) -> dict[str, list[dict[str, Any]]]:
    """Of each column its values with how many documents have them, most first; the rarest as one."""
    counts = {name: Counter[str]() for name in SHARES}
    for records in Table(corpus.path / DOCUMENTS).batches(columns=list(SHARES)):
        for name, found in counts.items():
            found.update(records.column(name).to_pylist())
    return {name: _rows(found) for name, found in counts.items() if found}


def _rows(found: Counter[str]) -> list[dict[str, Any]]:
    total = found.total()
    ordered = sorted(found.items(), key=lambda item: (-item[1], str(item[0])))
    shown, rest = ordered[:MOST_VALUES], ordered[MOST_VALUES:]
    if rest:
        shown.append((f"{len(rest)} others", sum(count for _, count in rest)))
    return [{"value": value, "documents": count, "share": count / total} for value, count in shown]


def render_curation(run: str, corpus: Artifact, synthetic: Artifact | None = None) -> str:
    """The page of a corpus that this run made: one file, styles inline, plots as SVG, no script, no link."""
    curation = curation_figures(corpus, synthetic)
    page = _template().render(
        run=run,
        curation=curation,
        style=style(),
        funnel=Markup(funnel_chart([(row["stage"], row["documents"]) for row in curation["stages"]])),
        benchmarks=corpus.metrics.get("decontamination", {}),
        lost_input=corpus.metrics.get("losses", []),
    )
    return page.encode("utf-8", "replace").decode()  # surrogates without their other half, which a file cannot hold


@cache
def _template() -> jinja2.Template:
    return template("llama3.evaluation", "curation.html.jinja")
