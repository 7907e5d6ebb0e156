"""How a rank joins the process group that torchrun describes in the environment."""

from __future__ import annotations

import os
from datetime import timedelta

import torch.distributed as dist


def join(backend: str, timeout: timedelta | None = None) -> None:
    """Meet the other ranks of this attempt.

    torchrun's store outlives an attempt, with the addresses of ranks that are gone in it. So each attempt has a room of
    its own there.
    """
    store, rank, world = next(dist.rendezvous("env://"))
    if timeout is not None:
        store.set_timeout(timeout)
    room = dist.PrefixStore(f"attempt-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    dist.init_process_group(backend, store=room, rank=rank, world_size=world, timeout=timeout)
