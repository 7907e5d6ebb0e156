"""How an engine is told to compute by those who serve with it: names that the command line knows without torch."""

from __future__ import annotations

from typing import Literal

Speculative = Literal["off", "prompt_lookup"]
"""How tokens are guessed; answers stay the same (llama3.inference.speculation)."""

KvDtype = Literal["auto", "int8", "fp8"]
"""What the KV cache holds: numbers of the precision of computation, or codes of a byte (llama3.inference.kv_codes)."""
