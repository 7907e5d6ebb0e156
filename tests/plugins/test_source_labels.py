"""What a source promises as its labels is checked: in its spec when it is found, in its documents as they are read."""

from __future__ import annotations

import pytest

from llama3.config.crosscheck import labels_of
from llama3.config.slot_types import Slot
from llama3.data.curating import guarded
from llama3.errors import DataError
from llama3.sources import Collector, ShardRef

PLUGIN = """
from llama3.plugins import SourceSpec, hookimpl

@hookimpl
def llama3_sources():
    return [SourceSpec(name="diary", factory="diary_source:Diary", labels={labels!r})]
"""


class Diary:
    def shards(self):
        return [ShardRef("diary", "here")]

    def read(self, shard):
        for label in ("morning", "evening"):
            collector = Collector(label)
            yield from collector.add(f"A whole {label} went by, and nobody wrote a word about it.", label)
            yield from collector.rest()


@pytest.mark.parametrize("labels", ["morning", ("morning", ""), ("morning", 3), ("morning", "morning"), None])
def test_labels_that_are_none_break_the_plugin(site, labels):
    site.add("diary", PLUGIN.format(labels=labels))
    registry = site.registry()
    assert "diary" not in registry.names("sources")
    (broken,) = registry.broken
    assert "diary: bad labels" in broken.error


def test_documents_with_other_labels_than_promised_fail_their_shard(site):
    site.add("diary", PLUGIN.format(labels=("morning", "noon")))
    promised = labels_of(Slot(name="diary"), site.registry())
    assert promised == {"morning", "noon"}
    diary = Diary()
    (shard,) = diary.shards()
    read = guarded(diary, shard, promised)
    assert next(read).column("source") == ["morning"]
    with pytest.raises(DataError, match=r"Diary gave documents with labels that it does not promise: evening"):
        next(read)
    assert len(list(guarded(diary, shard, {"morning", "evening"}))) == 2
    assert len(list(guarded(diary, shard))) == 2, "a source that promises nothing keeps it"
