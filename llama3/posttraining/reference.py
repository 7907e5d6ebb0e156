"""Reference log-probs kept on disk, so that no reference model is in memory while the policy trains.

A log-prob is found by content: the identity of the model, the tokens from the root to the answer's end, and which of
the answer's tokens are targets. Another model, prompt or answer is another key, never a wrong hit.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from llama3.errors import CheckpointError, Problem
from llama3.model.batch import Batch
from llama3.training.algorithm import Scorer

_FORMAT = "llama3-reference-1"


class CachedReference:
    """A `Scorer` that computes each answer once. `scorer` is called (and its model loaded) at the first miss only.

    `any_rank` says whether a miss is one on any rank: a model that ranks share is asked by all of them or by none.

    Opening a file that was made with another model raises CheckpointError (L3-REF-001); a damaged one L3-REF-002.
    """

    def __init__(
        self, path: Path, model: str, scorer: Callable[[], Scorer], any_rank: Callable[[bool], bool] = bool
    ) -> None:
        self._path, self._model, self._make_scorer, self._any_rank = path, model, scorer, any_rank
        self._scorer: Scorer | None = None
        self._logps: dict[bytes, Tensor] = _read(path, model) if path.exists() else {}

    def logps(self, batch: Batch) -> Tensor:
        """Log-probs (M,) of the targets, fp32, on the batch's device."""
        keys = {segment: self._key(batch, segment) for segment in batch.segment_M.unique().tolist()}
        if self._any_rank(any(key not in self._logps for key in keys.values())):
            self._scorer = self._scorer or self._make_scorer()
            logps_M = self._scorer.logps(batch).float().cpu()
            segment_M = batch.segment_M.cpu()
            self._logps |= {key: logps_M[segment_M == segment].clone() for segment, key in keys.items()}
        # Segments in packed order are targets in packed order: targets rise with the tokens.
        return torch.cat([self._logps[key] for key in keys.values()]).to(batch.tokens_T.device)

    def save(self) -> None:
        """Write everything known so far beside the old file, then take its place; the scorer is let go."""
        keys = sorted(self._logps)
        rows = [self._logps[key] for key in keys]
        tensors = {
            "keys": torch.from_numpy(np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(-1, 32).copy()),
            "ends": torch.tensor([len(row) for row in rows]).cumsum(0),
            "logps": torch.cat(rows) if rows else torch.empty(0),
        }
        temporary = self._path.with_name(f"{self._path.name}.tmp-{secrets.token_hex(4)}")
        save_file(tensors, temporary, {"format": _FORMAT, "model": self._model})
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, self._path)
        self._scorer = None

    def _key(self, batch: Batch, segment: int) -> bytes:
        digest = hashlib.blake2b(self._model.encode(), digest_size=32)
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


def _read(path: Path, model: str) -> dict[bytes, Tensor]:
    fix = "remove the file: it is computed anew"
    try:
        with safe_open(path, framework="pt") as file:
            facts = file.metadata() or {}
            keys, ends, logps = (file.get_tensor(name) for name in ("keys", "ends", "logps"))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            Problem("L3-REF-002", str(path), "the reference log-probs cannot be read", str(error), fix)
        ) from error
    if (facts.get("format"), facts.get("model")) != (_FORMAT, model):
        why = f"they belong to {facts.get('model')}, not to {model}"
        raise CheckpointError(Problem("L3-REF-001", str(path), "reference log-probs of another model", why, fix))
    starts = torch.cat([ends.new_zeros(1), ends[:-1]]) if len(ends) else ends
    return {
        key.numpy().tobytes(): logps[start:end].clone()
        for key, start, end in zip(keys, starts.tolist(), ends.tolist(), strict=True)
    }
