"""Freed memory goes back to the system."""

import subprocess
import sys

import pytest

CODE = """
import torch
from llama3.model.memory import give_back_freed_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

tensors = [torch.ones(1 << 14) for _ in range(4096)]  # too small to be given back one by one
fence = torch.ones(1 << 10)
del tensors[::2]
kept = resident()
give_back_freed_memory()
assert resident() < kept - (100 << 20), (kept, resident())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks glibc")
def test_what_was_kept_is_given_back():
    """In a process of its own, whose heap holds nothing else."""
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
