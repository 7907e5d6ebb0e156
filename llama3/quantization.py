"""What authors of quantization schemes need (hook `llama3_quantization_schemes`). Stable: names go only with a new
version of the protocols.
"""

from __future__ import annotations

from llama3.checkpoints.scheme import Parts, QuantizationScheme
from llama3.errors import Problem
from llama3.model.config import ModelConfig
from llama3.model.ops import Matrix, is_for_core, multiply, product_dtype

__all__ = [
    "Matrix",
    "ModelConfig",
    "Parts",
    "Problem",
    "QuantizationScheme",
    "is_for_core",
    "multiply",
    "product_dtype",
]
