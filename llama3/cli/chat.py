"""`llama3 chat`: a conversation in the terminal, guarded on the way in and out."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Annotated

import typer

from llama3.cli.generate import DeviceOption, MaxTokensOption, ModelArgument, SeedOption, TemperatureOption
from llama3.cli.output import note, require_stdout, say

HELP = "/reset starts over, /exit (or Ctrl-D) leaves, Ctrl-C stops an answer"


def chat(
    model: ModelArgument,
    system: Annotated[str | None, typer.Option(help="The system message.")] = None,
    max_tokens: MaxTokensOption = 512,
    temperature: TemperatureOption = 0.6,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
) -> None:
    """Talk to a model. Reads lines; /reset starts over, /exit leaves."""
    from llama3.cli.guarding import open_policy
    from llama3.errors import DoesNotFit, GuardBlocked
    from llama3.inference.llama import Llama
    from llama3.tokenizer.chat import Message

    require_stdout()
    start = [Message("system", system)] if system else []
    with open_policy(model) as guards:
        llama = Llama.load(model, device=device, guard=guards)
        note(HELP)
        messages = list(start)
        while (line := _read()) is not None:
            if line == "/exit":
                break
            if line == "/reset":
                messages = list(start)
                note("started over")
            elif line.startswith("/"):
                note(f"no such command; {HELP}")
            elif line.strip():
                turn = [*messages, Message("user", line)]
                try:
                    stream = llama.stream(turn, max_tokens=max_tokens, temperature=temperature, seed=seed)
                    messages = [*turn, Message("assistant", _show(stream))]
                except (GuardBlocked, DoesNotFit) as error:
                    note(f"error: {error}")  # what was refused never becomes part of the conversation


def _show(stream: Iterator[str]) -> str:
    """Print an answer while it is made; what stood there when the user stopped it is the answer."""
    pieces: list[str] = []
    try:
        for piece in stream:
            pieces.append(piece)
            say(piece, end="")
    except KeyboardInterrupt:
        note(" (stopped)")
    finally:
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
