"""More of the built-in capability recipes: tools, long context, languages, steerability."""

from __future__ import annotations

from llama3.plugins import CapabilitySpec

MORE: tuple[CapabilitySpec, ...] = ()
