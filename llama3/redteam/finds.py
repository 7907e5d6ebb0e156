"""What a red team found, as rows of the next round: attacks that violated behind all guards, with their twins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llama3.evaluation.safety_rows import SafetyPrompt


def finds(attempts: Sequence[Mapping[str, Any]], rows: Sequence[SafetyPrompt]) -> list[dict[str, Any]]:
    """Rows of llama3.evaluation.safety_rows, the `answer` and the probability that it `violates` beside each find.

    The borderline twin of a find's seed comes once, so that whoever learns to refuse the finds learns beside it what
    only sounds like them.
    """
    found = list(_distinct(attempts))
    seeds = {row.id: row for row in rows}
    twins = {row.carried.get("twin", ""): row for row in rows if row.kind == "borderline"}
    told, brought = [], {}
    for attempt in found:
        seed = seeds[attempt["seed"]]
        twin = seeds.get(seed.carried.get("twin", ""), twins.get(seed.id))
        told.append(_find(attempt, twin))
        if twin is not None and twin.kind == "borderline" and twin.id not in brought:
            brought[twin.id] = {**twin.to_json(), "twin": told[-1]["id"]}
    return [*told, *brought.values()]


def _distinct(attempts: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Those that violated, each conversation once."""
    seen = set()
    for attempt in attempts:
        key = repr(attempt["turns"])
        if attempt["outcome"] == "violates" and key not in seen:
            seen.add(key)
            yield attempt


def _find(attempt: Mapping[str, Any], twin: SafetyPrompt | None) -> dict[str, Any]:
    return {
        "id": f"find-{attempt['n']}-{attempt['seed']}",
        "kind": "adversarial",
        "lang": attempt["lang"],
        "category": attempt["category"],
        "turns": attempt["turns"],
        **({} if twin is None else {"twin": twin.id}),
        "attack": attempt["attack"],
        "source": "redteam",
        "styles": attempt["styles"],
        "answer": attempt["answer"],
        "violates": attempt["violates"],
    }
