"""`llama3 data inspect` and `sample`: what there is."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from llama3.cli.output import JsonOption, print_json, print_table, say
from llama3.errors import LlamaError

TokenizerOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE|DIR|RUN", help="The tokenizer that made the tokens, or a run that has it."),
]


def tokenizer_at(path: Path) -> Path:
    """The tokenizer itself, or that of the run in a folder. Imports torch for a run that has none but its model's."""
    if (path / "tokenizer.json").is_file() or not (path / "artifacts").is_dir():
        return path
    for key in ("tokenizer", "adopt"):
        if (found := path / "artifacts" / key).is_dir():
            return found
    from llama3.inference.llama import find_model

    return find_model(path)


def inspect(
    path: Annotated[
        Path,
        typer.Argument(metavar="PATH", help="A corpus, token shards, a run with some, or token files of another tool."),
    ],
    tokenizer: TokenizerOption = None,
    json: JsonOption = False,
) -> None:
    """Show what there is, and check all sums that are stored with it. Exit code 1 where something is damaged."""
    from llama3.data.inspecting import inspect as look
    from llama3.tokenizer import Tokenizer

    found = look(path, None if tokenizer is None else Tokenizer.load(tokenizer_at(tokenizer)))
    if json:
        problems = [asdict(problem) for problem in found.problems]
        print_json({"ok": not problems, "problems": problems, **found.parts})
    else:
        shown = {"corpus": _show_corpus, "shards": _show_shards, "tokens": _show_tokens}
        for number, (kind, figures) in enumerate(found.parts.items()):
            say("\n" * bool(number) + f"{kind}: {figures['path']}")
            shown[kind](figures)
    if found.problems:
        raise LlamaError.of(found.problems)


def _show_corpus(figures: dict[str, Any]) -> None:
    rows = [
        (source, split, f"{cell['documents']:,}", f"{cell['bytes']:,}")
        for source, splits in figures["sources"].items()
        for split, cell in splits.items()
    ]
    print_table(rows, ("SOURCE", "SPLIT", "DOCUMENTS", "BYTES"))
    for name in ("languages", "kinds"):
        say(f"{name}: " + ", ".join(f"{value} {count:,}" for value, count in list(figures[name].items())[:12]))
    if figures["removed"]:
        say()
        print_table([(reason, f"{count:,}") for reason, count in figures["removed"].items()], ("REMOVED", "COUNT"))
    say("sums: " + ("right" if figures["verified"] else "none are stored with it"))


def _show_shards(figures: dict[str, Any]) -> None:
    rows = [
        (name, f"{source['documents']:,}", f"{source['tokens']:,}", str(source["shards"]),
         f"{figures['mix'][name]:g}" if name in figures["mix"] else "by size" if not figures["mix"] else "not read")
        for name, source in figures["sources"].items()
    ]  # fmt: skip
    print_table(rows, ("SOURCE", "DOCUMENTS", "TOKENS", "SHARDS", "WEIGHT"))
    say(f"tokenizer: {figures['tokenizer'][:12]}, {figures['vocab_size']:,} tokens")
    if figures["origins"]:
        say(f"made of: {figures['origins']['format']} files")


def _show_tokens(figures: dict[str, Any]) -> None:
    rows = [(name, f"{file['documents']:,}", f"{file['tokens']:,}") for name, file in figures["files"].items()]
    print_table(rows, (figures["format"].upper(), "DOCUMENTS", "TOKENS"))


def sample(
    path: Annotated[Path, typer.Argument(metavar="CORPUS|RUN", help="A corpus, or a run that has made one.")],
    count: Annotated[int, typer.Option(min=0, help="Documents that stayed, and documents of every reason.")] = 5,
    seed: Annotated[int, typer.Option(help="Draws them: the same ones for the same seed.")] = 1,
    source: Annotated[str | None, typer.Option(help="Documents that stayed of this source only.")] = None,
    characters: Annotated[int, typer.Option(min=0, help="So much of each text.")] = 400,
    json: JsonOption = False,
) -> None:
    """Show documents drawn from a corpus: some that stayed, and some of every reason for which others went."""
    from llama3.data.corpus import corpus_at
    from llama3.data.sampling import draw_kept, draw_removed, require_source

    place = corpus_at(path)
    require_source(place, source)
    kept = draw_kept(place, count, seed, source=source, characters=characters)
    removed = draw_removed(place, count, seed)
    if json:
        print_json({"seed": seed, "kept": kept, "removed": removed})
        return
    for row in kept:
        say(f"[{row['source']}, {row['split']}] {row['url']}  {row['bytes']:,} bytes, id {row['id']}")
        say("".join(f"    {line}\n" for line in row["text"].splitlines()))
    for reason, rows in removed.items():
        say(f"removed, {reason}:")
        for row in rows:
            score = "" if row["score"] is None or row["score"] != row["score"] else f"  {row['score']:.4g}"
            say(f"    [{row['source']}] {row['where'] or row['id']}{score}  {row['detail']}".rstrip())
