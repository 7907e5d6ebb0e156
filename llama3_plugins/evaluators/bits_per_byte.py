"""Bits per byte of the held-out documents: the loss of a language model, whatever its tokenizer.

Of each document its beginning is scored, or all of it. Where that is the same as of one before it (a license's header),
its next piece is; a document without a piece of its own is left out, so that no item counts twice.

A document is scored in windows of the model's context that overlap by half, so that every byte but those of the
first window is predicted from at least half a context. Bits are summed over all tokens of the documents (the end
of a document is not text and is not scored) and divided by their UTF-8 bytes. Where the tokenizer begins no text
with BOS, nothing predicts a document's first token: neither its bits nor its bytes count.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator

import numpy as np
import torch

from llama3.errors import DataError
from llama3.evaluators import Batch, Llama, Result, Segment, Subject, Tree, score, texts
from llama3_plugins.evaluators.options import BitsPerByteOptions

NO_TEXT = DataError.declare(
    "L3-EVL-042", "no document is held out to measure on", fix="add documents to data.sources, or raise data.held_out"
)

BATCH_TOKENS = 8192
"""Tokens scored at once."""


class BitsPerByte:
    """Result: `bits_per_byte`, and the `bytes` and `tokens` it was measured on; one sample per document, whose score
    is its bits and whose weight is its bytes."""

    def __init__(self, options: BitsPerByteOptions) -> None:
        self.options = options

    def run(self, subject: Subject, limit: int, seed: int) -> Result:
        asked = self.options
        chosen = texts(subject.corpus, "held_out", asked.max_bytes, asked.document_bytes, asked.source)
        documents = list(dict.fromkeys(chosen))
        if not documents:
            raise NO_TEXT("bits_per_byte")
        tokenizer, context = subject.model.tokenizer, subject.model.config.max_seq_len
        ids = [tokenizer.encode(data.decode(), bos=True) for data in documents]
        pieces = [windows(tokens, context) for tokens in ids]
        nats = iter(_nats(subject.model, [piece for of_document in pieces for piece in of_document]))
        bits = [math.fsum(next(nats) for _ in of_document) / math.log(2) for of_document in pieces]
        sizes = [len(tokenizer.decode_bytes(tokens[1:])) for tokens in ids]
        tokens = sum(int(targets.sum()) for of_document in pieces for _, targets in of_document)
        samples = [
            {"id": hashlib.sha256(data).hexdigest()[:16], "score": score, "weight": size}
            for data, score, size in zip(documents, bits, sizes, strict=True)
        ]
        metrics = {"bits_per_byte": math.fsum(bits) / sum(sizes), "bytes": sum(sizes), "tokens": tokens}
        return Result(metrics, samples, better="lower")


def windows(ids: np.ndarray, context: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Cut the tokens of a document into (tokens, is_target) windows that score each token but the first once."""
    step = max(1, context // 2)
    found = [(ids[:context], np.arange(min(len(ids), context)) > 0)]
    for start in range(step, max(0, len(ids) - context) + step, step) if len(ids) > context else ():
        piece = ids[start : start + context]
        found.append((piece, np.arange(len(piece)) >= context - step))
    return [(piece, is_target) for piece, is_target in found if is_target.any()]


def _nats(model: Llama, pieces: list[tuple[np.ndarray, np.ndarray]]) -> Iterator[float]:
    """Negative log-likelihood of each piece's targets."""
    whole = Batch.of_trees([Tree([Segment(tokens, is_target=is_target)]) for tokens, is_target in pieces])
    with torch.no_grad():
        for part in whole.split(-(-whole.num_tokens // BATCH_TOKENS)):
            logps_M = score(model.transformer, part, {"logps"}).logps_M.double()
            yield from (-part.sum_by_segment(logps_M)).tolist()
