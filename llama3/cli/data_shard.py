"""`llama3 data shard`: text to token shards, and token shards from and to the files of other tools."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llama3.cli.data_look import TokenizerOption, tokenizer_at
from llama3.cli.output import JsonOption, note, print_json, print_table
from llama3.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from llama3.artifacts import Artifact
    from llama3.artifacts.run import RunDir
    from llama3.config.token_files import TokenFormat
    from llama3.tokenizer import Tokenizer

NO_FORMAT = ConfigError.declare(
    "L3-DAT-235", "{given!r} is no format of token files", why="{near}", fix="give one of {known}"
)
NO_TOKENIZER = ConfigError.declare(
    "L3-DAT-236", "nothing says which tokenizer is meant", fix="give --tokenizer FILE, or a run that has one"
)
BOTH_WAYS = ConfigError.declare(
    "L3-DAT-237", "--from and --to together", fix="give one, and the other in a second command on its result"
)
IDLE = ConfigError.declare("L3-DAT-283", "{option} plays no part here", why="{why}", fix="take it out")
SEVERAL = ConfigError.declare("L3-DAT-238", "{count} paths, where one is read", fix="several only go with --from")

FORMATS: tuple[TokenFormat, ...] = ("megatron", "datatrove")


def shard(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="IN...", help="A corpus or a run; with --from token files; with --to token shards."),
    ],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Run directory to work in; with --to a directory that is not there yet.")
    ],
    tokenizer: TokenizerOption = None,
    from_: Annotated[
        str | None, typer.Option("--from", metavar="|".join(FORMATS), help="IN are token files of this kind.")
    ] = None,
    to: Annotated[
        str | None, typer.Option("--to", metavar="|".join(FORMATS), help="Write the shards IN as files of this kind.")
    ] = None,
    as_is: Annotated[bool, typer.Option("--as-is", help="With --from: add no BOS and EOS to documents.")] = False,
    json: JsonOption = False,
) -> None:
    """Write the documents of a corpus as token shards, or convert such shards from and to files of other tools."""
    if from_ is not None and to is not None:
        raise BOTH_WAYS("data shard")
    if as_is and from_ is None:
        raise IDLE("--as-is", option="--as-is", why="it is about token files that are read, with --from")
    if tokenizer is not None and to is not None:
        raise IDLE("--tokenizer", option="--tokenizer", why="--to writes the tokens as they are")
    if from_ is None and len(paths) > 1:
        raise SEVERAL("data shard", count=len(paths))
    if to is not None:
        _export(paths[0], _format("--to", to), out, json=json)
        return
    if from_ is not None:
        made = _imported(paths, _format("--from", from_), out, tokenizer, complete=not as_is)
    else:
        made = _sharded(paths[0], out, tokenizer)
    if json:
        print_json({"path": str(made.location), **made.metrics})
        return
    _table(made.metrics["sources"], "SOURCE")
    note(f"shards: {made.location}")


def _format(option: str, given: str) -> TokenFormat:
    for format in FORMATS:
        if format == given:
            return format
    raise NO_FORMAT(option, given=given, near=did_you_mean(given, FORMATS), known=", ".join(FORMATS))


def _table(sources: dict[str, Any], head: str) -> None:
    rows = [(name, f"{found['documents']:,}", f"{found['tokens']:,}") for name, found in sources.items()]
    print_table(rows, (head, "DOCUMENTS", "TOKENS"))


def _export(path: Path, format: TokenFormat, out: Path, *, json: bool) -> None:
    from llama3.artifacts.progress import Display
    from llama3.data.exported import export_tokens

    written = export_tokens(path, format, out, Display())
    if json:
        print_json({"path": str(out), "format": format, "files": written})
        return
    _table(written, format.upper())
    note(f"{format} files: {out}")


def _imported(paths: list[Path], format: TokenFormat, out: Path, tokenizer: Path | None, *, complete: bool) -> Artifact:
    from llama3.artifacts.run import RunDir
    from llama3.data.imported import ImportOptions, imported
    from llama3.tokenizer import Tokenizer

    if tokenizer is None:
        raise NO_TOKENIZER("--tokenizer")
    tokenizer = tokenizer_at(tokenizer)
    vocabulary = Tokenizer.load(tokenizer)
    options = ImportOptions.of(paths, format, vocabulary, complete=complete)
    with RunDir(out) as run:
        return run.execute(imported, {"tokenizer": _tokenizer(run, tokenizer, vocabulary)}, options, "shard")


def _sharded(path: Path, out: Path, tokenizer: Path | None) -> Artifact:
    from llama3.artifacts import Artifact
    from llama3.artifacts.run import RunDir
    from llama3.data.corpus import corpus_at
    from llama3.data.shards import ShardOptions
    from llama3.data.shards import shard as stage
    from llama3.tokenizer import Tokenizer

    corpus = Artifact(corpus_at(path)).expect("corpus")
    theirs = path / "artifacts" / "tokenizer"
    if tokenizer is None and not theirs.is_dir():
        raise NO_TOKENIZER(path)
    tokenizer = None if tokenizer is None else tokenizer_at(tokenizer)
    vocabulary = None if tokenizer is None else Tokenizer.load(tokenizer)
    with RunDir(out) as run:
        known = Artifact(theirs) if tokenizer is None else _tokenizer(run, tokenizer, vocabulary)
        return run.execute(stage, {"corpus": corpus, "tokenizer": known}, ShardOptions(), "shard")


def _tokenizer(run: RunDir, path: Path | None, vocabulary: Tokenizer | None) -> Artifact:
    """The tokenizer as an artifact of the run."""
    from llama3.config.schema import TokenizerSection
    from llama3.data.vocabulary import TokenizerOptions
    from llama3.data.vocabulary import tokenizer as stage

    assert vocabulary is not None
    options = TokenizerOptions(section=TokenizerSection(path=str(path)), file_blake3=vocabulary.hash)
    return run.execute(stage, {}, options, "tokenizer")
