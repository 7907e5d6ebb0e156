"""Where a model computes."""

from __future__ import annotations

import torch

from llama3.errors import ConfigError, DoesNotFit, Problem

DEVICES = ("auto", "cpu", "cuda")
"""What `run.device` may be."""


def device_of(name: str) -> torch.device:
    """The device that `run.device` means on this machine; "auto" is the GPU where there is one.

    Raises DoesNotFit where there is no such device, ConfigError for another name.
    """
    if name not in DEVICES:
        what = f"no device is called {name!r}"
        raise ConfigError(Problem("L3-TRN-031", "device", what, fix=f"use one of {', '.join(DEVICES)}"))
    has_gpu = torch.cuda.is_available()
    if name == "cuda" and not has_gpu:
        what = "this machine has no CUDA device that torch can use"
        raise DoesNotFit(Problem("L3-TRN-030", "device", what, fix="use the device cpu (run.device, --device)"))
    return torch.device("cuda" if has_gpu and name != "cpu" else "cpu")
