"""Whether a run's model fits where it is to be trained, asked before any work."""

from __future__ import annotations

import torch

from llama3.checkpoints.formats import open_weights
from llama3.config.schema import Config
from llama3.errors import DoesNotFit
from llama3.model.config import ModelConfig
from llama3.model.needs import local_share, memory_here, shortage


def require_room(config: Config, device: torch.device) -> None:
    """Raises DoesNotFit, with the figures, for a model that this machine cannot hold."""
    section = config.model
    if section.path is None:
        model = ModelConfig.from_section(section, config.tokenizer.vocab_size)
    else:
        model = open_weights(section.path).config
    share, place = local_share(config), "this machine"
    if device.type == "cuda":
        there = sum(torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count()))
        place = "its GPUs together"
    else:
        there = memory_here() or 0
    if there and (problems := shortage(config, model, there, place, share)):
        raise DoesNotFit.of(problems)
