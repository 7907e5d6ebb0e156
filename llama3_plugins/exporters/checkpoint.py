"""What every exporter begins with: the model and its tokenizer, refused where no layout has a place for them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from llama3.errors import CheckpointError
from llama3.exporters import CONFIG_FILE, Tokenizer

if TYPE_CHECKING:
    from llama3.exporters import Transformer

QUANTIZED = CheckpointError.declare(
    "L3-EXP-001",
    "a quantized checkpoint is not exported",
    fix="export the checkpoint it was made of, or convert this one with --to compressed-tensors or fbgemm_fp8",
)
MANY_TOKENS = CheckpointError.declare(
    "L3-EXP-002",
    "the tokenizer has {tokens} tokens, the model only {rows}",
    fix="use the model's own tokenizer",
)
SCALAR_HEAD = CheckpointError.declare(
    "L3-EXP-003", "has {heads}, for which this layout has no place", fix="export it with --to hf"
)

NOT_LOADED = CheckpointError.declare(
    "L3-EXP-007", "{runtime} cannot load what was written", why="{error}", fix="export it again"
)


def read_checkpoint(checkpoint: Path) -> tuple[Transformer, Tokenizer]:
    """The model in float32 and its tokenizer, from any layout. Raises CheckpointError."""
    from llama3.exporters import is_quantized, load_model, load_tokenizer

    if is_quantized(checkpoint):
        raise QUANTIZED(checkpoint)
    tokenizer, model = load_tokenizer(checkpoint), load_model(checkpoint)
    if tokenizer.vocab_size > model.config.vocab_size:
        raise MANY_TOKENS(checkpoint, tokens=tokenizer.vocab_size, rows=model.config.vocab_size)
    return model, tokenizer


def read_language_model(checkpoint: Path) -> tuple[Transformer, Tokenizer]:
    """As `read_checkpoint`, for layouts that hold nothing but a language model: frozen, without scalar heads."""
    model, tokenizer = read_checkpoint(checkpoint)
    heads = [name for name in ("value_head", "score_head") if getattr(model, name) is not None]
    if heads:
        raise SCALAR_HEAD(checkpoint, heads=" and ".join(heads))
    return model.requires_grad_(False), tokenizer


def write_beside(folder: Path, checkpoint: Path, model: Transformer, tokenizer: Tokenizer) -> None:
    """What a graph of the model at `checkpoint` needs beside it: config.json, the tokenizer's files, and the probe."""
    from llama3.exporters import (
        make_probe,
        open_weights,
        stated_ids,
        write_companions,
        write_json_atomic,
        write_probe,
    )

    source = open_weights(checkpoint)
    write_json_atomic(folder / CONFIG_FILE, {**model.config.to_hf(), **stated_ids(source, tokenizer)})
    write_companions(source, tokenizer, folder)
    write_probe(folder, make_probe(model))


def written(folder: Path) -> tuple[str, ...]:
    """Every file below `folder`, for the manifest."""
    return tuple(sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()))
