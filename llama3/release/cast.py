"""The stage `cast`: the final weights in the precision of the release, before anything is measured, so that what is
evaluated, audited and quantized are the numbers that users get."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from llama3.artifacts import Checkpoint, StageOutput, stage
from llama3.artifacts.files import write_json_atomic
from llama3.checkpoints.convert import DTYPES, open_model, write_hf
from llama3.checkpoints.load import load_model
from llama3.config.schema import Config, Precision
from llama3.release.probe import compare, make_probe


class CastOptions(BaseModel):
    """Options of the stage."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    precision: Precision

    @classmethod
    def of(cls, config: Config) -> CastOptions:
        """From the whole config."""
        return cls(precision=config.release.precision)


@stage(output="checkpoint")
def cast(checkpoint: Checkpoint, *, options: CastOptions, out: StageOutput) -> None:
    """Write the checkpoint with every weight rounded once, tensor by tensor.

    Metrics: `rounding`, the largest change of a probe log-probability in nats. Raises CheckpointError where a weight
    is too large for the precision.
    """
    folder = checkpoint.path
    source, tokenizer = open_model(folder)
    write_hf(source, tokenizer, out.path, DTYPES[options.precision])
    write_json_atomic(out.path / "llama3.json", {"stage": "cast", "precision": options.precision})
    exact = make_probe(load_model(folder))
    out.metrics |= {"precision": options.precision, "rounding": compare(load_model(out.path), exact)}
