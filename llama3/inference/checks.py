"""What an engine refuses before it computes anything: prompts that are wrong or never fit, a cache without memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from llama3.errors import ConfigError, DoesNotFit
from llama3.inference.sampling import Sampling
from llama3.model.needs import memory_here, size

NO_TOKENS = ConfigError.declare("L3-GEN-003", "has no tokens", fix="give the ids of a begin-of-text token and the text")
OTHER_TOKENS = ConfigError.declare(
    "L3-GEN-004",
    "has tokens outside the model's vocabulary of {size}",
    fix="encode it with this model's tokenizer",
)
NO_ROOM = DoesNotFit.declare(
    "L3-GEN-005",
    "{tokens} tokens and an answer of up to {answer} do not fit",
    why="the cache holds at most {limit} tokens of one sequence",
    fix="shorten the prompt or lower max_tokens",
)

NO_CACHE = DoesNotFit.declare(
    "L3-GEN-015",
    "the cache of a context of {tokens} tokens needs {needed} of memory, {place} has {there}",
    fix="lower max_position_embeddings in the model's config.json, or use a machine with more memory",
)


def check_prompts(prompts: Sequence[npt.ArrayLike], sampling: Sampling, vocab_size: int, limit: int) -> None:
    """Raises ConfigError for prompts without tokens and for tokens outside the vocabulary, DoesNotFit for prompts
    of which the cache, which has room for `limit` tokens, would have to hold more."""
    arrays = [np.asarray(prompt, dtype=np.int64) for prompt in prompts]
    known = all(0 <= token < vocab_size for token, _ in sampling.logit_bias)
    problems = [] if known else [OTHER_TOKENS.problem("logit_bias", size=vocab_size)]
    for index, ids in enumerate(arrays):
        if ids.ndim != 1 or len(ids) == 0:
            problems.append(NO_TOKENS.problem(f"prompt {index}"))
        elif ids.min() < 0 or ids.max() >= vocab_size:
            problems.append(OTHER_TOKENS.problem(f"prompt {index}", size=vocab_size))
    if problems:
        raise ConfigError.of(problems)
    too_long = [
        NO_ROOM.problem(f"prompt {index}", tokens=len(ids), answer=sampling.max_tokens, limit=limit)
        for index, ids in enumerate(arrays)
        if longest_kept(ids, sampling) > limit
    ]
    if too_long:
        raise DoesNotFit.of(too_long)


def longest_kept(prompt: npt.NDArray[Any], sampling: Sampling) -> int:
    """Tokens of a prompt and an answer that the cache has to hold at most: nothing is computed from the last one."""
    return len(prompt) + sampling.max_tokens - 1


def require_memory(blocks: int, block_size: int, block_bytes: int, rows: int, device: torch.device) -> None:
    """Raises DoesNotFit where no memory holds so many blocks and their table, or where they cannot be numbered."""
    needed = blocks * (block_bytes + 4 * rows)
    place, there = "this machine", memory_here() or needed
    if device.type == "cuda":
        place, there = "its GPU", torch.cuda.get_device_properties(device).total_memory
    if needed > there or blocks * max(block_size, rows) >= 1 << 31:
        tokens = f"{blocks * block_size:,}"
        raise NO_CACHE("the model", tokens=tokens, needed=size(needed), place=place, there=size(there))
