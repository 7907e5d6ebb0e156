"""Compiles Triton kernels for GPUs that are not here: a program for a process without Triton's interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ABSENT = """
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

class Absent:  # a GPU that is only compiled for; its number is its compute capability
    get_current_target = lambda self: GPUTarget("cuda", capability, 32)
    get_current_device = lambda self: capability
    get_current_stream = lambda self, device: 0

driver.set_active(Absent())
made, run = [], JITFunction.run
JITFunction.run = lambda self, *args, **options: made.append(run(self, *args, **(options | {"warmup": True})))
"""


def output_of(program: str, folder: Path) -> str:
    """What a program prints that runs after `ABSENT`, with its compiled kernels in `folder`."""
    environ = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ABSENT + program],
        env=environ | {"TRITON_CACHE_DIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
