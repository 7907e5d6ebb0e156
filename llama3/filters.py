"""What authors of document filters need (hook `llama3_filters`). Torch-free. Stable: names go only with a new version
of the protocols.
"""

from __future__ import annotations

from llama3.data.documents import (
    FEATURES,
    DocumentBatch,
    Editing,
    Edits,
    FileReading,
    Filter,
    Judgement,
    Labelling,
    Measuring,
    ModelFilter,
    Surveying,
)
from llama3.data.encoders import encoder_hash, load_encoder, token_batches
from llama3.data.lists import Phrases, WordDistribution, read_lists
from llama3.data.text_lines import LineFacts, citation_spans, line_repetition
from llama3.data.text_model import TextModel
from llama3.data.urls import normalised_url

__all__ = [
    "FEATURES",
    "DocumentBatch",
    "Editing",
    "Edits",
    "FileReading",
    "Filter",
    "Judgement",
    "Labelling",
    "LineFacts",
    "Measuring",
    "ModelFilter",
    "Phrases",
    "Surveying",
    "TextModel",
    "WordDistribution",
    "citation_spans",
    "encoder_hash",
    "line_repetition",
    "load_encoder",
    "normalised_url",
    "read_lists",
    "token_batches",
]
