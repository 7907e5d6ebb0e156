"""What authors of document filters need (hook `llama3_filters`). Torch-free. Stable: names go only with a new version
of the protocols.
"""

from __future__ import annotations

from llama3.data.documents import FEATURES, DocumentBatch, Filter, Judgement, ModelFilter
from llama3.data.text_model import TextModel

__all__ = [
    "FEATURES",
    "DocumentBatch",
    "Filter",
    "Judgement",
    "ModelFilter",
    "TextModel",
]
