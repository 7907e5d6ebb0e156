"""`llama3 tokens`: the tokens of dialogs, and which of them a model learns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llama3.cli.generate import ModelArgument
from llama3.cli.output import require_stdout
from llama3.errors import ConfigError, DataError

if TYPE_CHECKING:
    from rich.console import Console

    from llama3.tasks.user_rows import Kinds
    from llama3.tokenizer import Rendered, Tokenizer

DATA_OR_MESSAGE = ConfigError.declare(
    "L3-CLI-030", "it shows either the rows of a file or one message", fix="give one of --data and --message"
)
STYLES = {"target": "bold green", "format": "dim cyan", "prompt": "default"}
LEGEND = {
    "target": "learnt: what the assistant wrote and the token that ends it",
    "format": "headers, ends of messages and other words of the template",
    "prompt": "contents of the other messages, and of all in a prompt",
}
_BETWEEN = "|"


def tokens(
    model: ModelArgument,
    data: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Rows, as post_training.data takes them or a run writes them."),
    ] = None,
    message: Annotated[str | None, typer.Option(help="What a user says, as the prompt of an answer.")] = None,
    limit: Annotated[int, typer.Option(min=0, help="Dialogs to show. All are counted.")] = 3,
) -> None:
    """Show dialogs token by token: what is learnt, what the chat template writes, what is given."""
    from rich.text import Text

    from llama3.artifacts.progress import PatientConsole
    from llama3.posttraining.examples import rendered_dialog

    require_stdout()
    if (data is None) == (message is None):
        raise DATA_OR_MESSAGE("llama3 tokens")
    tokenizer = _tokenizer(Path(model))
    console = PatientConsole(highlight=False, soft_wrap=True)
    counts: Counter[str] = Counter()
    without = 0
    said = [{"role": "user", "content": message}]
    shown = (
        [rendered_dialog(tokenizer, said, "message", generation_prompt=True)]
        if data is None
        else _dialogs(tokenizer, data)
    )
    for number, rendered in enumerate(shown, 1):
        counts.update(_kinds(rendered))
        without += not rendered.is_target.any()
        if number <= limit:
            console.print(f"dialog {number}")
            _show(console, tokenizer, rendered)
    for kind, meaning in LEGEND.items():
        share = counts[kind] / max(counts.total(), 1)
        console.print(Text(f"{kind:7}{counts[kind]:10,} tokens {share:6.1%}  {meaning}", STYLES[kind]))
    if data is not None and without:
        console.print(f"{without} dialogs have no target: nothing is learnt from them")


def _tokenizer(path: Path) -> Tokenizer:
    """Of a directory or file that holds one, else of the model that a run made."""
    from llama3.artifacts.artifact import artifact_around
    from llama3.checkpoints.formats import load_tokenizer
    from llama3.checkpoints.layouts import holds_model
    from llama3.inference.llama import find_model
    from llama3.tokenizer import Tokenizer

    alone = path.is_file() and not holds_model(path)
    artifact_around(path)
    if alone or (path / "tokenizer.json").is_file() or (path / "tokenizer.model").is_file():
        return Tokenizer.load(path)
    return load_tokenizer(find_model(path))


def _dialogs(tokenizer: Tokenizer, path: Path) -> Iterator[Rendered]:
    """The dialogs of a file, in every shape that `post_training.data` takes or a run writes. Raises DataError naming
    the row."""
    from llama3.posttraining.examples import rendered_dialog
    from llama3.tasks.data_kind import written_kinds
    from llama3.tasks.user_files import rows_of

    kinds = written_kinds()
    for number, row in rows_of(path):
        where = f"{path.name}:{number}"
        if isinstance(row, DataError):
            raise row
        messages = _messages(kinds, row, where)
        asks = "messages" not in row and messages[-1]["role"] != "assistant"
        yield rendered_dialog(tokenizer, messages, where, generation_prompt=asks)


def _messages(kinds: Kinds, row: Mapping[str, Any], where: str) -> Sequence[Mapping[str, Any]]:
    """The messages of a row, with the (best) answer where it stands apart."""
    from llama3.tasks.user_rows import parse_row, read_messages

    apart = next((row[name] for name in ("edited", "chosen", "completion") if isinstance(row.get(name), str)), None)
    if "messages" in row and (apart is not None or "chosen" not in row):
        messages, answers = read_messages(row["messages"], f"{where}: messages"), [apart] if apart is not None else []
    else:
        parsed = parse_row(kinds, row, where)
        messages, answers = [*parsed.prompt], list(parsed.answers[:1])
    return [*messages, *({"role": "assistant", "content": answer} for answer in answers)]


def _kinds(rendered: Rendered) -> list[str]:
    pairs = zip(rendered.is_target.tolist(), rendered.is_format.tolist(), strict=True)
    return ["target" if target else "format" if is_format else "prompt" for target, is_format in pairs]


def _show(console: Console, tokenizer: Tokenizer, rendered: Rendered) -> None:
    """One line for each run of tokens of one kind; the kind is written out, so that it is seen without colours."""
    from rich.text import Text

    labelled = zip(_kinds(rendered), rendered.ids.tolist(), strict=True)
    for kind, run in groupby(labelled, key=lambda pair: pair[0]):
        line = Text().append(f"  {kind:7}", "dim")
        for position, (_, id) in enumerate(run):
            line.append(_BETWEEN if position else "", "dim")
            line.append(_text(tokenizer, id), STYLES[kind])
        console.print(line)


def _text(tokenizer: Tokenizer, id: int) -> str:
    r"""A token on one line: \n for a line break, \xNN for a byte of a longer character."""
    text = tokenizer.decode_bytes([id]).decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
