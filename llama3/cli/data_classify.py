"""`llama3 data classify`: label documents by a served model, train a classifier on labelled rows, measure one, and part
a corpus by one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from llama3.cli.options import given_options
from llama3.cli.output import JsonOption, note, print_json, print_table, say
from llama3.errors import ConfigError

TWO_WORDS = ConfigError.declare("L3-CLS-050", "{given!r} are no two words", fix="write {option} yes,no")

app = typer.Typer(no_args_is_help=True, help="Classifiers of documents: labels, training, and what one is worth.")

RowsArgument = Annotated[Path, typer.Argument(metavar="ROWS", help="A .jsonl of {text, label}.")]


@app.command("train")
def train(
    rows: RowsArgument,
    out: Annotated[Path, typer.Option(metavar="DIR", help="A folder that is not there yet.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="OPTION=VALUE", help="dim, epochs, lr, ngrams, held_out, ... Repeatable."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Train a fastText classifier, for the filters `quality` and `language`, and write it with its card."""
    from pydantic import ValidationError

    from llama3.classifying.training import TextModelTraining, train_text_model
    from llama3.plugins.options import problems_of

    try:
        asked = TextModelTraining.model_validate(given_options(overrides))
    except ValidationError as error:
        raise ConfigError.of(problems_of(error, TextModelTraining, lambda loc: "--set")) from error
    _show(train_text_model(rows, out, asked), json=json)
    note(f"model: {out}")


@app.command("card")
def card(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A .bin or .ftz, or a folder that `train` wrote.")],
    rows: RowsArgument,
    json: JsonOption = False,
) -> None:
    """Measure a classifier on labelled rows: accuracy, and of each label AUC and what thresholds keep."""
    from llama3.classifying.rows import read_labelled_texts
    from llama3.classifying.training import card_of
    from llama3.data.text_model import TextModel

    _show(card_of(TextModel(model), read_labelled_texts(rows)), json=json)


@app.command("label")
def label(
    corpus: Annotated[Path, typer.Argument(metavar="CORPUS", help="A corpus, or a run with one.")],
    question: Annotated[str, typer.Option(help="What is asked about each document.")],
    url: Annotated[str, typer.Option(help="Of an OpenAI-compatible server that gives log-probabilities.")],
    out: Annotated[Path, typer.Option(metavar="ROWS", help="A .jsonl; rows that are there are kept.")],
    served: Annotated[str | None, typer.Option(metavar="NAME", help="The model, where it serves several.")] = None,
    words: Annotated[str, typer.Option(help="The two answers; the first one is what is looked for.")] = "yes,no",
    labels: Annotated[str | None, typer.Option(help="What rows call them. Default: the answers.")] = None,
    count: Annotated[int, typer.Option(min=1, help="Documents that are drawn.")] = 1000,
    characters: Annotated[int, typer.Option(min=1, help="Of each document are shown and kept.")] = 4000,
    source: Annotated[str | None, typer.Option(metavar="NAME", help="Documents of this source only.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the drawing.")] = 1,
    json: JsonOption = False,
) -> None:
    """Ask a served model about documents: rows to train a classifier on. Goes on where it was stopped."""
    from collections import Counter

    from llama3.classifying.labelling import label_documents
    from llama3.data.corpus import corpus_at
    from llama3.evaluation.served_judge import ServedModel

    answers = _two("--words", words)
    model = ServedModel(url, served, question, answers)
    rows = label_documents(
        corpus_at(corpus),
        out,
        model,
        count=count,
        seed=seed,
        characters=characters,
        labels=_two("--labels", labels) if labels else answers,
        source=source,
    )
    counts = Counter(row.get("label", "not told") for row in rows)
    if json:
        print_json({"path": str(out), "asked": counts.total(), "labels": dict(counts)})
        return
    print_table([(name, f"{n:,}") for name, n in sorted(counts.items())], ("LABEL", "DOCUMENTS"))
    note(f"rows: {out}")


@app.command("part")
def part(
    corpus: Annotated[Path, typer.Argument(metavar="CORPUS", help="A corpus, or a run with one.")],
    model: Annotated[Path, typer.Option(metavar="MODEL", help="A .bin or .ftz, or a folder that `train` wrote.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="A folder that is not there yet.")],
    least: Annotated[
        float, typer.Option("--min", min=0, max=1, help="Probability of the likeliest label, at least; else: unsure.")
    ] = 0.5,
    json: JsonOption = False,
) -> None:
    """Part a corpus by what a classifier takes its documents for: sources, each with a weight of its own."""
    from llama3.classifying.parting import part_corpus
    from llama3.data.corpus import corpus_at
    from llama3.data.text_model import TextModel

    _show_parts(out, part_corpus(corpus_at(corpus), TextModel(model), out, least), json=json)


@app.command("rank")
def rank(
    corpus: Annotated[Path, typer.Argument(metavar="CORPUS", help="A corpus, or a run with one.")],
    model: Annotated[Path, typer.Option(metavar="MODEL", help="A .bin or .ftz, or a folder that `train` wrote.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="A folder that is not there yet.")],
    label: Annotated[str, typer.Option(help="The label whose probability ranks.")] = "yes",
    share: Annotated[float, typer.Option(min=0.001, max=1, help="Of each language, kept.")] = 0.5,
    languages: Annotated[
        Path | None, typer.Option(metavar="MODEL", help="What tells the languages. Default: the sources.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Keep the best documents of each language by a classifier, so that none is measured by another's best."""
    from llama3.classifying.parting import rank_corpus
    from llama3.data.corpus import corpus_at
    from llama3.data.text_model import TextModel

    told = TextModel(languages, 1000) if languages else None
    counts = rank_corpus(corpus_at(corpus), TextModel(model), out, label, share, told)
    _show_parts(out, counts, json=json)


def _two(option: str, given: str) -> tuple[str, str]:
    words = [word.strip() for word in given.split(",")]
    if len(words) != 2 or not all(words) or words[0] == words[1]:
        raise TWO_WORDS(option, given=given, option=option)
    return words[0], words[1]


def _show_parts(out: Path, counts: dict[str, dict[str, int]], *, json: bool) -> None:
    from llama3.classifying.parting import SNIPPET

    if json:
        print_json({"path": str(out), "parts": counts})
        return
    rows = [(name, f"{cell['documents']:,}", f"{cell['bytes']:,}") for name, cell in counts.items()]
    print_table(rows, ("SOURCE", "DOCUMENTS", "BYTES"))
    note(f"for a config: {out / SNIPPET}")


def _show(found: dict[str, Any], *, json: bool) -> None:
    if json:
        print_json(found)
        return
    from llama3.classifying.training import KEPT_HEAD, LABELS_HEAD, accuracy_words, kept_rows, label_rows

    print_table(label_rows(found), LABELS_HEAD)
    say()
    print_table(kept_rows(found), KEPT_HEAD)
    say()
    say(f"right: {accuracy_words(found)}")
