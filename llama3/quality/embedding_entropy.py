"""The stage `embedding_entropy`: how many different things a model's own answers say, beside worked examples.

The entropy of the eigenvalues of the matrix of cosine similarities, over the number of texts; its exponential is how
many texts that have nothing in common would have as much (the Vendi score: Friedman and Dieng 2023, arXiv 2210.02410).
Words may differ where meanings do not, so this sees what n-grams do not.

Legend: N texts, D width.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from llama3.artifacts import Checkpoint, Dialogs, StageOutput, stage
from llama3.artifacts.files import finite, write_json_atomic
from llama3.config.schema import Config
from llama3.evaluation.round_audit import own_and_shown
from llama3.model.device import device_of
from llama3.quality.embedding import Float32, StateEmbedder, embedded

MOST = 256
"""Texts of each kind that are embedded."""


class EmbeddingEntropyOptions(BaseModel):
    """Where the model runs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    device: str = "cpu"

    @classmethod
    def of(cls, config: Config) -> EmbeddingEntropyOptions:
        """From the whole config."""
        return cls(device=str(device_of(config.run.device)))


@stage(output="report")
def embedding_entropy(
    checkpoint: Checkpoint, dialogs: Dialogs, first: Dialogs, *, options: EmbeddingEntropyOptions, out: StageOutput
) -> None:
    """Metrics: `texts` of each kind, and the entropies of the `own` answers and of the worked examples (`shown`) in
    nats; null where there are too few to tell. `checkpoint` embeds; `first` has the worked examples."""
    own, shown = own_and_shown(dialogs, first, MOST)
    told: dict[str, float | int | None] = {"texts": len(own), "own": None, "shown": None}
    if own:
        embedder = StateEmbedder(checkpoint.path, options.device)
        rows_ND = np.concatenate(list(embedded(embedder, [*own, *shown], out.scratch)))
        told |= {"own": entropy(rows_ND[: len(own)]), "shown": entropy(rows_ND[len(own) :])}
    out.metrics |= finite(told)
    write_json_atomic(out.path / "results.json", out.metrics)


def entropy(rows_ND: Float32) -> float:
    """Of rows of length 1, in nats: 0 where all are one, log N where none has anything in common with another."""
    kernel_NN: npt.NDArray[np.float64] = rows_ND.astype(np.float64) @ rows_ND.astype(np.float64).T / len(rows_ND)
    share_N = np.linalg.eigvalsh(kernel_NN)
    share_N = share_N[share_N > 1e-12]
    return float(-(share_N * np.log(share_N)).sum())
