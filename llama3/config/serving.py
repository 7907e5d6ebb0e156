"""How an engine is told to compute by those who serve with it: names that the command line knows without torch."""

from __future__ import annotations

from typing import Literal

Speculative = Literal["off", "prompt_lookup"]
"""How tokens are guessed; answers stay the same (llama3.inference.speculation)."""
