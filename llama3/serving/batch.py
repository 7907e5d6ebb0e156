"""A batch: requests of a file, answered as the server answers them, many at once, without HTTP."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterable, Iterator

from llama3.artifacts.signals import CancelOnSignal
from llama3.errors import LlamaError
from llama3.serving.batch_lines import BatchLine
from llama3.serving.chat import chat
from llama3.serving.chat_fields import ChatBody
from llama3.serving.completions import complete
from llama3.serving.embeddings import embeddings
from llama3.serving.fields import EmbeddingBody
from llama3.serving.prepared import Json
from llama3.serving.problems import error_body, status_of
from llama3.serving.record import Record
from llama3.serving.served import Served


async def answer_all(
    served: Served, lines: Iterable[BatchLine], created: int, at_once: int, told: Callable[[Json, Record], None]
) -> None:
    """Tell the answer to each line as it is there, with its record. `at_once` lines are under way and no more are read.

    created: seconds since 1970, the time that answers bear

    Raises LlamaError where the model cannot go on: what a server would answer with a status of 500 and above; and
    KeyboardInterrupt on Ctrl-C or SIGTERM, with all that was told kept whole.
    """
    left = iter(lines)
    with CancelOnSignal():
        served.service.start()
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(at_once):
                    group.create_task(_answer_some(served, left, created, told))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            await asyncio.to_thread(served.service.stop)


async def _answer_some(
    served: Served, left: Iterator[BatchLine], created: int, told: Callable[[Json, Record], None]
) -> None:
    """Answer one line after the other, of an iterator that others take from too."""
    for line in left:
        digest = hashlib.sha256(line.id.encode())
        record = Record(digest.hexdigest()[:24], "POST", line.url, created=created)
        told(await _answer(served, record, line, seed=int.from_bytes(digest.digest()[:7])), record)


async def _answer(served: Served, record: Record, line: BatchLine, seed: int) -> Json:
    """The line of the answers."""
    error: Json | None = None
    try:
        status, body = 200, await _body(served, record, line, seed)
    except LlamaError as refused:
        status, body = status_of(refused), error_body(refused)
        if status >= 500:
            raise
        error = {"code": body["error"]["code"], "message": body["error"]["message"]}
    response = {"status_code": status, "request_id": record.id, "body": body}
    return {"id": f"batch_req_{record.id}", "custom_id": line.id, "response": response, "error": error}


async def _body(served: Served, record: Record, line: BatchLine, seed: int) -> Json:
    """What the server would answer; to a body without a seed, with this one."""
    body = line.body
    if isinstance(body, EmbeddingBody):
        return await embeddings(served, record, body)
    if body.seed is None:
        body = body.model_copy(update={"seed": seed})
    prepared = await (chat(served, record, body) if isinstance(body, ChatBody) else complete(served, record, body))
    prepared.submit()
    return await prepared.whole()
