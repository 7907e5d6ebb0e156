"""Freed memory is kept: to use it again takes no new pages."""

import subprocess
import sys

import pytest

CHILD = """
import resource, torch
from llama3.model.memory import keep_freed_memory

def new_pages(numbers):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    x = torch.ones(numbers)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

kept = keep_freed_memory()
first, second = new_pages(1 << 25), new_pages(1 << 24)
print(int(kept), first, second)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_freed_memory_is_used_again() -> None:
    out = subprocess.run([sys.executable, "-c", CHILD], check=True, capture_output=True, text=True).stdout
    kept, first, second = map(int, out.split())
    if not kept:
        pytest.skip("this C library has no mallopt")
    assert second < first / 10


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks glibc")
def test_what_was_kept_is_given_back():
    """In a process of its own: the setting lasts as long as the process."""
    code = """
import torch
from llama3.model.memory import give_back_freed_memory, keep_freed_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

if keep_freed_memory():
    tensors = [torch.ones(1 << 20) for _ in range(64)]
    fence = torch.ones(1)
    del tensors
    kept = resident()
    give_back_freed_memory()
    assert resident() < kept - (128 << 20), (kept, resident())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
