"""What every training stage does around the loop: report, and write the checkpoint artifact."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.distributed.tensor import DTensor

from llama3.artifacts import StageOutput
from llama3.artifacts.files import write_json_atomic
from llama3.checkpoints.weights import save_model
from llama3.config.schema import LoRASection, Slot
from llama3.model.config import ModelConfig
from llama3.model.lora import add_lora
from llama3.model.transformer import Transformer
from llama3.plugins.registry import discover
from llama3.tokenizer import Tokenizer
from llama3.training.metrics import Loggers, Reporter
from llama3.training.parallel import ParallelContext
from llama3.training.state import whole

SHOWN = {"loss": "loss", "reward": "reward", "objective/kl": "kl", "kl": "kl", "tokens_per_second": "tokens/s"}
"""Metrics shown beside the progress bar, and how they are called there."""


@contextmanager
def reporting(
    stage: str, logging: Sequence[Slot], out: StageOutput, steps: int, context: ParallelContext
) -> Iterator[Reporter]:
    """A reporter that tells the configured loggers, observer plugins and the progress display; rank 0 only.

    Loggers write into `out.logs`, the run directory; a stage that runs outside a run has none.
    """
    if not context.is_main:
        yield Reporter(stage)
        return
    registry = discover()
    chosen = logging if out.logs is not None else ()
    loggers = Loggers([(slot.name, registry.build("loggers", slot.name, slot.options)) for slot in chosen])
    if out.logs is not None:
        loggers.open(out.logs, stage)
    with out.progress(stage, steps) as task:

        def advance(done: int, metrics: Mapping[str, float]) -> None:
            task.advance(done, **{label: metrics[name] for name, label in SHOWN.items() if name in metrics})

        try:
            yield Reporter(stage, loggers, registry.observers, advance)
        finally:
            loggers.close()


def save_checkpoint(folder: Path, model: Transformer, tokenizer: Tokenizer, facts: Mapping[str, Any]) -> None:
    """Write config.json, model.safetensors, the tokenizer's files and llama3.json (`facts`) into `folder`."""
    save_model(model, folder)
    tokenizer.save(folder)
    write_json_atomic(folder / "llama3.json", dict(facts))


def whole_model(
    model: Transformer, config: ModelConfig, context: ParallelContext, lora: LoRASection | None = None
) -> Transformer | None:
    """The model as one process would hold it, on rank 0; None on the others. Every rank must call it.

    lora: the options of the adapters that stand in the model
    """
    if not any(isinstance(parameter, DTensor) for parameter in model.parameters()):
        return model if context.is_main else None
    tensors = whole({name: parameter.data for name, parameter in model.named_parameters()}, keep=context.is_main)
    if not context.is_main:
        return None
    heads = {name: getattr(model, name) is not None for name in ("value_head", "score_head")}
    gathered = Transformer(config, **heads)
    if lora is not None:
        add_lora(gathered, lora, seed=0)
    gathered.load_state_dict(tensors, strict=not config.tied)
    return gathered
