"""Embeddings: of each text the mean of the final hidden states of its tokens, scaled to length 1."""

from __future__ import annotations

import base64

from llama3.inference.readers import MeanState
from llama3.inference.sampling import Sampling
from llama3.serving.completions import admitted_ids, prompts_of
from llama3.serving.fields import EmbeddingBody
from llama3.serving.prepared import Json
from llama3.serving.record import Record
from llama3.serving.served import Served
from llama3.serving.service import Job


async def embeddings(served: Served, record: Record, body: EmbeddingBody) -> Json:
    """The body that answers a request. Raises LlamaError for what is refused, and where the server cannot go on."""
    served.check_name(body.model)
    jobs, readers = [], []
    for prompt in prompts_of(body.input):
        ids, _ = await admitted_ids(served, prompt, record, "input")
        readers.append(MeanState())
        jobs.append(Job(ids, Sampling(1, temperature=0), reader=readers[-1]))
    served.service.submit(jobs, record.tenant)
    record.prompt_tokens = sum(len(job.prompt) for job in jobs)
    try:
        for job in jobs:
            await job.next(0)
    finally:
        for job in jobs:
            served.service.cancel(job)
        record.timed([job.times for job in jobs])
    data = [
        {"object": "embedding", "index": index, "embedding": _written(reader, body.encoding_format)}
        for index, reader in enumerate(readers)
    ]
    usage = {"prompt_tokens": record.prompt_tokens, "total_tokens": record.prompt_tokens}
    return {"object": "list", "data": data, "model": served.name, "usage": usage}


def _written(reader: MeanState, encoding: str) -> str | list[float]:
    direction = reader.direction
    return base64.b64encode(direction.astype("<f4").tobytes()).decode() if encoding == "base64" else direction.tolist()
