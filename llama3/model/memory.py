"""How freed memory goes back to the system."""

from __future__ import annotations

import ctypes
import gc
import sys


def give_back_freed_memory(generation: int = 2) -> None:
    """Return to the system what the C library keeps of freed memory. Batches of many sizes leave gaps in it, which grow
    from step to step, and one stage's peak would be added to the next one's. glibc only; elsewhere nothing happens.

    generation: the oldest objects among which garbage is looked for first. Between two steps 1 is enough, and a
    hundred times as fast: all modules are older.
    """
    gc.collect(generation)
    if sys.platform.startswith("linux") and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


def set_apart_what_is_there() -> bool:
    """Let garbage be looked for among later objects only: modules are many, and stay. Whether this call did it; then
    `gc.unfreeze` is due when the work is over, so that nothing is set apart for good."""
    if gc.get_freeze_count():
        return False
    gc.collect()
    gc.freeze()
    return True
