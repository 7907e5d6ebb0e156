"""What a frozen model says of given answers, kept on disk, so that it need not be in memory while the policy trains.

An entry is found by content: the identity of the model, what was asked, the tokens from the root to the answer's end,
and which of the answer's tokens are targets. Another model, prompt or answer is another key, never a wrong hit. Each
computation leaves one file in the folder, so that a killed run goes on with all it knew.

Legend: M targets, k likeliest tokens.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from llama3.checkpoints.weights import save_tensors
from llama3.errors import CheckpointError
from llama3.model.batch import Batch
from llama3.training.algorithm import Scorer
from llama3.training.parallel import ParallelContext

OTHER_MODEL = CheckpointError.declare(
    "L3-REF-001",
    "scores of another frozen model",
    why="they belong to {found}, not to {model}",
    fix="remove the file: it is computed anew",
)
UNREADABLE = CheckpointError.declare(
    "L3-REF-002",
    "the scores of a frozen model cannot be read",
    why="{error}",
    fix="remove the file: it is computed anew",
)

_FORMAT = "llama3-scores-1"
Row = tuple[Tensor, ...]
"""The values of one answer's targets, by column."""


class CachedScorer:
    """A `Scorer` that computes each answer once. `make` gives the scorer (and loads its model) at the first miss only.

    Where a batch has a miss on any rank, every rank computes, because a sharded model runs on all of them together.
    Opening a file that was made with another model raises CheckpointError (L3-REF-001); a damaged one L3-REF-002.
    """

    def __init__(self, folder: Path, model: str, make: Callable[[], Scorer], context: ParallelContext) -> None:
        self._folder, self._model, self._make, self._context = folder, model, make, context
        self._scorer: Scorer | None = None
        self._rows: dict[bytes, Row] = {}
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(folder.glob("*.safetensors")):
            self._rows |= _read(path, model)

    def logps(self, batch: Batch) -> Tensor:
        """Log-probs (M,) of the targets, fp32, on the batch's device."""
        (logps_M,) = self._ask("logps", batch, lambda scorer: (scorer.logps(batch),), (torch.empty(0),))
        return logps_M

    def top(self, batch: Batch, k: int) -> tuple[Tensor, Tensor]:
        """The k likeliest tokens at each target and their log-probs: int64[M, k], fp32[M, k]."""
        nothing = (torch.empty(0, k, dtype=torch.int64), torch.empty(0, k))
        ids_Mk, logps_Mk = self._ask(f"top {k}", batch, lambda scorer: scorer.top(batch, k), nothing)
        return ids_Mk, logps_Mk

    def close(self) -> None:
        """Let go of the model; another miss loads it again."""
        self._scorer = None

    def _ask(self, question: str, batch: Batch, compute: Callable[[Scorer], Row], nothing: Row) -> Row:
        keys = {segment: self._key(question, batch, segment) for segment in batch.segment_M.unique().tolist()}
        missing = [segment for segment, key in keys.items() if key not in self._rows]
        if self._context.reduce([len(missing)], "max", "world") != [0]:
            self._scorer = self._scorer or self._make()
            columns = [column.cpu() for column in compute(self._scorer)]
            segment_M = batch.segment_M.cpu()
            self._keep({keys[s]: tuple(column[segment_M == s].clone() for column in columns) for s in missing})
        # Segments in packed order are targets in packed order: targets rise with the tokens.
        rows = [nothing, *(self._rows[key] for key in keys.values())]
        return tuple(torch.cat(column).to(batch.tokens_T.device) for column in zip(*rows, strict=True))

    def _keep(self, rows: dict[bytes, Row]) -> None:
        """Remember rows, in a file too that appears as a whole."""
        if not rows:
            return
        self._rows |= rows
        keys = np.frombuffer(b"".join(rows), dtype=np.uint8).reshape(-1, 32)
        tensors = {
            "keys": torch.from_numpy(keys.copy()),
            "ends": torch.tensor([len(row[0]) for row in rows.values()]).cumsum(0),
            **{f"column{i}": torch.cat(column) for i, column in enumerate(zip(*rows.values(), strict=True))},
        }
        path = self._folder / f"{hashlib.blake2b(keys.tobytes(), digest_size=16).hexdigest()}.safetensors"
        temporary = path.with_name(f"{path.name}.tmp-{secrets.token_hex(4)}")
        save_tensors(tensors, temporary, {"format": _FORMAT, "model": self._model})
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)

    def _key(self, question: str, batch: Batch, segment: int) -> bytes:
        digest = hashlib.blake2b(f"{self._model} {question}".encode(), digest_size=32)
        path = [segment]
        while (parent := int(batch.parents_S[path[-1]])) >= 0:
            path.append(parent)
        for part in reversed(path):
            start, end = batch.starts_S1[part : part + 2].tolist()
            digest.update(b"segment" + batch.tokens_T[start:end].cpu().numpy().astype("<i8").tobytes())
        start = int(batch.starts_S1[segment])
        targets = batch.targets_M[batch.segment_M == segment].cpu().numpy() - start
        digest.update(b"targets" + targets.astype("<i8").tobytes())
        return digest.digest()


def _read(path: Path, model: str) -> dict[bytes, Row]:
    try:
        with safe_open(path, framework="pt") as file:
            facts = file.metadata() or {}
            names = sorted(name for name in file.keys() if name.startswith("column"))  # noqa: SIM118
            keys, ends, *columns = (file.get_tensor(name) for name in ("keys", "ends", *names))
    except (SafetensorError, OSError) as error:
        raise UNREADABLE(path, error=error) from error
    if (facts.get("format"), facts.get("model")) != (_FORMAT, model):
        raise OTHER_MODEL(path, found=facts.get("model"), model=model)
    return {
        key.numpy().tobytes(): tuple(column[start:end].clone() for column in columns)
        for key, start, end in zip(keys, _starts(ends.tolist()), ends.tolist(), strict=True)
    }


def _starts(ends: Sequence[int]) -> Sequence[int]:
    return [0, *ends[:-1]]
