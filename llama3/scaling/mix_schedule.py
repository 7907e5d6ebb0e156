"""The mix as a schedule over consumed tokens: what the phases of a run read of each source (paper 3.1.2)."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from llama3.config.phases import phases_of
from llama3.config.schema import PretrainSection
from llama3.data.plan import TokenPlan
from llama3.scaling.shares import shares_of


def schedule_rows(plan: TokenPlan, section: PretrainSection) -> list[dict[str, Any]]:
    """A row per phase and source: {phase, from_token, source, share, tokens, epochs}; `tokens` are those of the phase,
    `epochs` how often the source has been read when it ends. More than 1 is up-sampling, a share below that by size
    is down-sampling."""
    rows: list[dict[str, Any]] = []
    read: defaultdict[str, float] = defaultdict(float)
    before = 0
    for number, phase in enumerate(phases_of(section), 1):
        names = [source.name for source in plan.sources]
        weights = plan.weights(phase.seq_len, phase.given.mix)
        tokens = phase.steps * phase.batch * phase.seq_len
        for name, share in shares_of(dict(zip(names, weights, strict=True))).items():
            read[name] += share * tokens
            size = next(source.tokens for source in plan.sources if source.name == name)
            cell = {"phase": number, "from_token": before, "source": name, "share": share}
            rows.append({**cell, "tokens": round(share * tokens), "epochs": read[name] / size})
        before += tokens
    return rows
