"""The stage `adopt`: a released model of any layout becomes a checkpoint of this run, in Hugging Face's layout.

Its precision stays what it was: bfloat16 and float16 are kept, a quantized model becomes the float32 numbers that its
codes stand for, so that nothing is lost before training starts.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from llama3 import _core
from llama3.artifacts import StageOutput, stage
from llama3.artifacts.artifact import artifact_around
from llama3.checkpoints.companions import NOT_A_FILE, TEMPLATES
from llama3.checkpoints.convert import facts_of, open_model, write_hf, write_terms
from llama3.checkpoints.layouts import layout_of
from llama3.checkpoints.license import terms_of
from llama3.config.schema import Config
from llama3.errors import ConfigError
from llama3.foreign import UnusableFile, checked

NO_MODEL_NAMED = ConfigError.declare(
    "L3-ADO-001",
    "no model to adopt is named",
    fix="set model.path to a Hugging Face directory, a Meta directory or a .gguf file",
)

_READ = (".safetensors", ".json", ".jinja", ".model", ".pth")
_OURS = ("manifest.json",)


class AdoptOptions(BaseModel):
    """The model, and a hash of what is read of it: the same content elsewhere is the same request."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(exclude=True)
    blake3: str

    @classmethod
    def of(cls, config: Config) -> AdoptOptions:
        """From the whole config. Raises ConfigError without `model.path`, CheckpointError where no model is there."""
        path = config.model.path
        if path is None:
            raise NO_MODEL_NAMED("model.path")
        return cls.at(path)

    @classmethod
    def at(cls, path: str) -> AdoptOptions:
        """Of a model there. Raises CheckpointError where none is,
        ArtifactError where a stage made it and it is damaged."""
        artifact_around(path)
        return cls(path=path, blake3=content_hash(Path(path)))


def content_hash(path: Path) -> str:
    """blake3 (hex) of all files of a model that decide what it is."""
    layout_of(path)
    if path.is_file():
        return _core.blake3_file(str(path))
    files = {file for file in path.iterdir() if file.suffix in _READ and file.name not in _OURS}
    files |= {*terms_of(path), *path.glob(f"{TEMPLATES}/*.jinja")}
    rows = [f"{file.relative_to(path)} {_core.blake3_file(str(_real(file)))}" for file in sorted(files)]
    return _core.blake3_bytes("\n".join(rows).encode())


def _real(file: Path) -> Path:
    """Raises CheckpointError for a device, a pipe, and a link that leads out of the model's folder."""
    try:
        return checked(file)
    except (OSError, UnusableFile) as error:
        raise NOT_A_FILE(file, reason=error) from error


@stage(output="checkpoint")
def adopt(*, options: AdoptOptions, out: StageOutput) -> None:
    """Write the model at `options.path` as a checkpoint.

    Raises CheckpointError (another architecture, damage, numbers that are not finite, a tokenizer with more tokens
    than the model) and DataError (no tokenizer, or a kind that is not known).
    """
    source, tokenizer = open_model(options.path)
    write_hf(source, tokenizer, out.path, source.dtype)
    facts = {"stage": "adopt", **facts_of(source), "blake3": options.blake3}
    write_terms(source, out.path, facts)
    out.metrics |= {**facts, "parameters": source.config.num_params(), "vocab_size": source.config.vocab_size,
                    "tokenizer_hash": tokenizer.hash}  # fmt: skip
