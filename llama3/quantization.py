"""What authors of quantization schemes need (hook `llama3_quantization_schemes`). Stable: names go only with a new
version of the protocols.
"""

from __future__ import annotations

from llama3.checkpoints.quantized import Parts, QuantizationScheme
from llama3.errors import Problem
from llama3.model.config import ModelConfig

__all__ = [
    "ModelConfig",
    "Parts",
    "Problem",
    "QuantizationScheme",
]
