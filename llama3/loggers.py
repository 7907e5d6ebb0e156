"""What authors of metric loggers need (hook `llama3_loggers`). Torch-free. Stable: names go only with a new version of
the protocols.
"""

from __future__ import annotations

from llama3.artifacts.files import append_json_line
from llama3.artifacts.logbook import artifact_now, key_now
from llama3.training.metrics import Logger, Sample

__all__ = [
    "Logger",
    "Sample",
    "append_json_line",
    "artifact_now",
    "key_now",
]
