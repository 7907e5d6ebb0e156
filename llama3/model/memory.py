"""How freed memory goes back to the system."""

from __future__ import annotations

import ctypes
import gc
import sys


def give_back_freed_memory() -> None:
    """Return to the system what the C library keeps of freed memory. Batches of many sizes leave gaps in it, which grow
    from step to step, and one stage's peak would be added to the next one's. glibc only; elsewhere nothing happens.
    """
    gc.collect()
    if sys.platform.startswith("linux") and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)
