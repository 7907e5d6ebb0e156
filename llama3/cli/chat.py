"""`llama3 chat`: a conversation in the terminal, guarded on the way in and out."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from llama3.cli.generate import MaxTokensOption, ModelArgument, SeedOption, TemperatureOption
from llama3.cli.output import note

if TYPE_CHECKING:
    from llama3.inference.llama import Llama
    from llama3.safety.engine import PolicyEngine
    from llama3.tokenizer.chat import Message

HELP = "/reset starts over, /exit (or Ctrl-D) leaves, Ctrl-C stops an answer"


def chat(
    model: ModelArgument,
    system: Annotated[str | None, typer.Option(help="The system message.")] = None,
    max_tokens: MaxTokensOption = 256,
    temperature: TemperatureOption = 0.7,
    seed: SeedOption = 0,
) -> None:
    """Talk to a model. Reads lines; /reset starts over, /exit leaves."""
    import llama3
    from llama3.cli.guarding import open_policy
    from llama3.errors import GuardBlocked
    from llama3.tokenizer.chat import Message

    start = [Message("system", system)] if system else []
    with open_policy(model) as guards:
        llama = llama3.load(model)
        note(HELP)
        messages = list(start)
        while (line := _read()) is not None:
            if line == "/exit":
                break
            if line == "/reset":
                messages = list(start)
                note("started over")
                continue
            if line.startswith("/"):
                note(f"no such command; {HELP}")
                continue
            if not line.strip():
                continue
            turn = [*messages, Message("user", line)]
            try:
                answer = _answer(llama, guards, turn, max_tokens=max_tokens, temperature=temperature, seed=seed)
            except GuardBlocked as error:
                note(f"refused: {error}")
                continue  # the refused turn never becomes part of the conversation
            messages = [*turn, Message("assistant", answer)]


def _answer(
    llama: Llama, guards: PolicyEngine, messages: list[Message], *, max_tokens: int, temperature: float, seed: int
) -> str:
    """Print the answer while it is made; what was printed when the user stopped it is the answer."""
    from llama3.safety.guard import Turn

    trace = [Turn(message.role, message.content) for message in messages[:-1]]
    guards.decide("input", messages[-1].content, trace).raise_if_blocked()
    pieces: list[str] = []
    stream = llama.stream(messages, max_tokens=max_tokens, temperature=temperature, seed=seed)
    try:
        for piece in guards.guard_stream(stream):
            pieces.append(piece)
            sys.stdout.write(piece)
            sys.stdout.flush()
    except KeyboardInterrupt:
        note(" (stopped)")
    sys.stdout.write("\n")
    return "".join(pieces)


def _read() -> str | None:
    """A line of the user, or None at the end; the prompt is shown only to people."""
    try:
        return input("> " if sys.stdin.isatty() else "")
    except EOFError:
        return None
