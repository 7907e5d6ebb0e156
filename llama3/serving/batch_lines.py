"""The lines of a batch: requests as JSON, in OpenAI's batch format, checked before a model is there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from llama3.errors import ConfigError, LlamaError, PluginError, Problem
from llama3.serving.chat import schema_of
from llama3.serving.chat_fields import ChatBody
from llama3.serving.fields import (
    BODY_BYTES,
    Bounded,
    CompletionBody,
    EmbeddingBody,
    OpenAIBody,
    read_fields,
)
from llama3.serving.forms import MOST_NAME
from llama3.serving.problems import BAD_FIELD, NO_MODEL, TOO_LARGE

UNREADABLE = ConfigError.declare("L3-SRV-030", "it cannot be read", why="{error}", fix="give a file of JSON lines")
NO_LINES = ConfigError.declare("L3-SRV-031", "there are no requests", fix="write one JSON object per line")
SAME_ID = ConfigError.declare(
    "L3-SRV-032", "the custom_id {id!r} is that of line {line} too", fix="give each line an id of its own"
)
NO_SCHEMAS = PluginError.declare(
    "L3-SRV-033",
    "an answer that is held to a schema needs the package llguidance",
    why="it is not installed",
    fix="pip install 'llama3[serve]'",
)
MORE = ConfigError.declare("L3-SRV-034", "and {count} more problems")

MOST_PROBLEMS = 20
"""Problems of a file that are told at once."""
LineBody = ChatBody | CompletionBody | EmbeddingBody
KINDS: dict[str, type[LineBody]] = {
    "/v1/chat/completions": ChatBody,
    "/v1/completions": CompletionBody,
    "/v1/embeddings": EmbeddingBody,
}


class LineFields(Bounded):
    """A line as it is written."""

    custom_id: Annotated[str, Field(min_length=1, max_length=MOST_NAME)]
    method: Literal["POST"]
    url: Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings"]
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class BatchLine:
    """A request of a batch."""

    id: str
    url: str
    body: LineBody


def read_lines(path: Path) -> Iterator[BatchLine]:
    """The requests of a file that was checked."""
    for _, data in _numbered(path):
        yield _parsed(data)


def check_lines(path: Path, name: str) -> int:
    """How many requests a file has for the model `name`. Raises LlamaError with what is wrong in all of its lines."""
    problems: list[Problem] = []
    first: dict[str, int] = {}  # line of each id
    count = 0
    for number, data in _numbered(path):
        try:
            line = _parsed(data)
            found = [*_problems(line, name)]
            if (before := first.setdefault(line.id, number)) != number:
                found.append(SAME_ID.problem("custom_id", id=line.id, line=before))
        except LlamaError as error:
            found = error.problems
        count += len(found)
        told = found[: MOST_PROBLEMS - len(problems)]
        problems += [replace(problem, where=f"{path}:{number}: {problem.where}") for problem in told]
    if count > len(problems):
        problems.append(MORE.problem(path, count=count - len(problems)))
    if problems:
        raise LlamaError.of(problems)
    if not first:
        raise NO_LINES(path)
    return len(first)


def _numbered(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, with their numbers from 1."""
    try:
        with path.open("rb") as file:
            yield from ((number, data) for number, data in enumerate(file, 1) if data.strip())
    except OSError as error:
        raise UNREADABLE(path, error=error) from None


def _parsed(data: bytes) -> BatchLine:
    """Raises ConfigError."""
    if len(data) > BODY_BYTES:
        raise TOO_LARGE("body", limit=BODY_BYTES)
    fields = read_fields(LineFields, data)
    try:
        body = read_fields(KINDS[fields.url], json.dumps(fields.body).encode())
    except ConfigError as error:
        raise ConfigError.of(replace(problem, where=_in_body(problem.where)) for problem in error.problems) from None
    return BatchLine(fields.custom_id, fields.url, body)


def _problems(line: BatchLine, name: str) -> Iterator[Problem]:
    """Why no answer can be given to a line that was read."""
    body = line.body
    if body.model != name:
        yield NO_MODEL.problem(_in_body("model"), model=body.model, name=name)
    if isinstance(body, OpenAIBody) and body.stream:
        yield BAD_FIELD.problem(_in_body("stream"), error="a batch is answered whole")
    if isinstance(body, ChatBody) and schema_of(body) is not None and find_spec("llguidance") is None:
        yield NO_SCHEMAS.problem(_in_body("response_format"))


def _in_body(where: str) -> str:
    return f"body.{where}".rstrip(".")
