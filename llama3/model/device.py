"""Where a model computes."""

from __future__ import annotations

import torch

from llama3.errors import ConfigError, DoesNotFit

NO_GPU = DoesNotFit.declare(
    "L3-TRN-030",
    "this machine has no CUDA device that torch can use",
    fix="use the device cpu (run.device, --device)",
)
NO_DEVICE = ConfigError.declare("L3-TRN-031", "no device is called {name!r}", fix="use one of {devices}")

DEVICES = ("auto", "cpu", "cuda")
"""What `run.device` may be."""


def device_of(name: str) -> torch.device:
    """The device that `run.device` means on this machine; "auto" is the GPU where there is one.

    Raises DoesNotFit where there is no such device, ConfigError for another name.
    """
    if name not in DEVICES:
        raise NO_DEVICE("device", name=name, devices=list(DEVICES))
    has_gpu = torch.cuda.is_available()
    if name == "cuda" and not has_gpu:
        raise NO_GPU("device")
    return torch.device("cuda" if has_gpu and name != "cpu" else "cpu")
