"""Tells that a disk, a quota or the file limit is full, whoever wrote. Torch-free."""

from __future__ import annotations

import errno
import os
import re

from llama3.errors import said_by

_FULL = re.compile(
    r"No space left on device|Disk quota exceeded|File too large \(os error|\d+ requested and \d+ written"
)


def why_full(error: BaseException | None) -> str:
    """What is full, of an error that `is_disk_full`, in words."""
    while error is not None:
        if (isinstance(error, OSError) and error.errno == errno.EFBIG) or os.strerror(errno.EFBIG) in said_by(error):
            return "a file would be larger than this process may write (ulimit -f)"
        error = error.__cause__ or error.__context__
    return "no space left on the device"


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error, or one that it was raised from, says that the disk, the quota or the file limit is
    full.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return True
        if _FULL.search(said_by(error)):  # libraries that lose the number (Arrow, safetensors, NumPy)
            return True
        error = error.__cause__ or error.__context__
    return False
