"""What every training stage does around the loop: report, and write the checkpoint artifact."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llama3.artifacts import StageOutput
from llama3.artifacts.files import write_json_atomic
from llama3.checkpoints.companions import stated_ids, write_companions
from llama3.checkpoints.formats import open_weights
from llama3.config.slot_types import Slot
from llama3.plugins.registry import discover
from llama3.tokenizer import Tokenizer
from llama3.training.metrics import Loggers, Reporter
from llama3.training.parallel import ParallelContext
from llama3.training.placed import PlacedModel

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


def save_checkpoint(
    folder: Path,
    model: PlacedModel,
    tokenizer: Tokenizer,
    facts: Mapping[str, Any],
    *,
    base: Path | None = None,
    without: Iterable[str] = (),
) -> None:
    """Write config.json, model.safetensors (`without` some heads), the tokenizer's files and llama3.json (`facts`) into
    `folder`. What stood beside the weights of `base`, the model that was trained on, stands there too. Every rank must
    call it; rank 0 writes."""
    source = None if base is None else open_weights(base)
    model.save(folder, without=without, extra=None if source is None else stated_ids(source, tokenizer))
    if model.context.is_main:
        if source is None:
            tokenizer.save(folder)
        else:
            write_companions(source, tokenizer, folder)
        write_json_atomic(folder / "llama3.json", dict(facts))
