"""The token shards that a model was pre-trained on, found by its lineage."""

from __future__ import annotations

from pathlib import Path

from llama3.artifacts.lineage import each_once, trace
from llama3.data.plan import TokenPlan
from llama3.errors import ArtifactError


def shards_of(model: Path) -> TokenPlan | None:
    """The plan of the shards nearest to a model among what it was made from; None where its lineage names none, is
    broken there, or is not known: of a model from elsewhere nobody here knows what it has read."""
    try:
        nodes = trace(model)
    except ArtifactError:
        return None
    for node in each_once(nodes):
        if node.manifest is not None and node.manifest.type == "shards" and node.state == "ok" and node.path:
            return TokenPlan.load(node.path)
    return None
