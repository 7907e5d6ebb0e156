"""What authors of document filters need (hook `llama3_filters`). Torch-free. Stable: names go only with a new version
of the protocols.
"""

from __future__ import annotations

from llama3.data.documents import FEATURES, DocumentBatch, Filter, Judgement

__all__ = [
    "FEATURES",
    "DocumentBatch",
    "Filter",
    "Judgement",
]
