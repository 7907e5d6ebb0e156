"""What a training does about interruptions, hangs and faults of the machine, as a config asks for it."""

from __future__ import annotations

from pydantic import Field

from llama3.config.section import Section


class ReliabilitySection(Section):
    """How a run finds out by itself that it hangs or computes nonsense. Changes nothing of what is made."""

    hang_seconds: float = Field(
        600, ge=0, description="a step that takes longer, and 10 times the longest so far, ends the process; 0: none"
    )
    hash_every: int = Field(
        100, ge=0, description="updates between two comparisons of weights and moments with what they were; 0: none"
    )
