"""Weights of sources or classes, and those of Llama 3's classes by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

LLAMA3_MIX: Mapping[str, float] = {"general": 50, "reasoning": 25, "code": 17, "multilingual": 8}
"""Percent of tokens of Llama 3's classes of text (paper 3.1.2)."""


MIX_PRESETS: Mapping[str, Mapping[str, float]] = {"llama3": LLAMA3_MIX}


def _preset_mix(value: Any) -> Any:
    return dict(MIX_PRESETS[value]) if isinstance(value, str) and value in MIX_PRESETS else value


Mix = Annotated[
    dict[str, float], BeforeValidator(_preset_mix, json_schema_input_type=dict[str, float] | Literal["llama3"])
]
"""Weights by source or class. `llama3` is short for those of Llama 3's four classes."""
