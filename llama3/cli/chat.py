"""`llama3 chat`: a conversation in the terminal, guarded on the way in and out."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llama3.cli.generate import (
    AuditOption,
    AuditTextsOption,
    DeviceOption,
    MaxTokensOption,
    ModelArgument,
    PpOption,
    SeedOption,
    TemperatureOption,
    TpOption,
)
from llama3.cli.output import note, require_stdout, say

if TYPE_CHECKING:
    from llama3.inference.llama import Llama
    from llama3.tokenizer.chat import Message

HELP = "/reset starts over, /exit (or Ctrl-D) leaves, Ctrl-C stops an answer"


def chat(
    model: ModelArgument,
    system: Annotated[str | None, typer.Option(help="The system message.")] = None,
    max_tokens: MaxTokensOption = 512,
    temperature: TemperatureOption = 0.6,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    tp: TpOption = 1,
    pp: PpOption = 1,
    audit: AuditOption = None,
    audit_texts: AuditTextsOption = False,
) -> None:
    """Talk to a model. Reads lines; /reset starts over, /exit leaves. What no longer fits the context is left out, the
    oldest first; a message that alone is too long is refused, and ends the program where input is no terminal.
    """
    from llama3.cli.guarding import open_policy
    from llama3.errors import DoesNotFit, GuardBlocked
    from llama3.serving.shared import Sharing, engine_of, follows, opened, serve_rank
    from llama3.tokenizer.chat import Message

    sharing = Sharing(tp, pp)
    if follows():
        serve_rank(model, device=device, sharing=sharing)
        return
    require_stdout()
    start = [Message("system", system)] if system else []
    with (
        open_policy(model, audit, audit_texts=audit_texts) as guards,
        opened(model, device=device, sharing=sharing, guard=guards) as (llama, ranks),
    ):
        engine_of(llama, ranks)
        note(HELP)
        turns: list[Message] = []
        options: dict[str, Any] = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed}
        while (line := _read()) is not None:
            if line == "/exit":
                break
            if line == "/reset":
                turns = []
                note("started over")
            elif line.startswith("/"):
                note(f"no such command; {HELP}")
            elif line.strip():
                try:
                    stream, asked = _answer(llama, start, [*turns, Message("user", line)], options)
                    turns = [*asked, Message("assistant", _show(stream))]
                except (GuardBlocked, DoesNotFit) as error:  # what was refused never becomes part of the conversation
                    if isinstance(error, DoesNotFit) and not sys.stdin.isatty():
                        raise
                    note(f"error: {error}")


def _answer(
    llama: Llama, start: list[Message], turns: list[Message], options: dict[str, Any]
) -> tuple[Iterator[str], list[Message]]:
    """The answer as it is made, and those of the turns that it answers: the last ones that fit. Raises DoesNotFit where
    not even the last one does."""
    from llama3.errors import DoesNotFit

    left_out = 0
    while True:
        try:
            stream = llama.stream([*start, *turns], **options)
            break
        except DoesNotFit:
            if len(turns) == 1:
                raise
            turns, left_out = turns[2:], left_out + 1
    if left_out:
        note(f"note: the conversation no longer fits the context: left out: its oldest turns, {left_out}")
    return stream, turns


def _show(stream: Iterator[str]) -> str:
    """Print an answer while it is made; what stood there when the user stopped it is the answer. It is stopped between
    two pieces, because ranks that share the model compute a step together or not at all."""
    from llama3.training.interrupt import StopRequest

    pieces: list[str] = []
    try:
        with StopRequest() as stop:
            for piece in stream:
                pieces.append(piece)
                say(piece, end="")
                if stop.requested:
                    note(" (stopped)")
                    break
    finally:
        if isinstance(stream, Generator):
            stream.close()
        say()
    return "".join(pieces)


def _read() -> str | None:
    """A line of the user, or None at the end; the prompt is shown only to people."""
    try:
        if sys.stdin is None:  # closed before the program began
            raise EOFError
        return input("> " if sys.stdin.isatty() else "")
    except EOFError:
        return None
