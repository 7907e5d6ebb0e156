"""`llama3 data recut`: a corpus by other limits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llama3.cli import completion
from llama3.cli.output import JsonOption, SetOption, note, print_json, print_table, say


def recut(
    path: Annotated[Path, typer.Argument(help="A corpus, or a run that has made one.")],
    config: Annotated[
        str,
        typer.Argument(help="A config, a preset or a run with the filters.", autocompletion=completion.configs),
    ],
    overrides: SetOption = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="New folder for a corpus of the documents that stay.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Judge documents again by other limits, from what is recorded of them: no text is read to decide."""
    from llama3.artifacts import Artifact
    from llama3.data.corpus import corpus_at
    from llama3.data.cut_corpus import write_cut
    from llama3.data.judging import build_filters
    from llama3.data.recut import recut as cut_again
    from llama3.data.watching import try_out
    from llama3.preflight import load_config

    place = corpus_at(path)
    filters = load_config(config, overrides or []).config.data.filters
    try_out(filters)
    corpus = None if out is None else Artifact(place)
    cut = cut_again(place, build_filters(filters))
    figures = cut.figures()
    if out is not None and corpus is not None:
        figures["written"] = write_cut(corpus, cut, filters, out)
    if json:
        print_json(figures)
        return
    print_table([(name.replace("_", " "), f"{count:,}") for name, count in figures.items() if name != "removed"],
                ("DOCUMENTS", "COUNT"))  # fmt: skip
    if figures["removed"]:
        say()
        print_table([(reason, f"{count:,}") for reason, count in figures["removed"].items()], ("REMOVED", "COUNT"))
    if figures["would_come_back"]:
        note("the text of those that would come back is not in the corpus: llama3 data curate brings them")
