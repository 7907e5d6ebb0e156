"""Conformance of sources: the same documents every time, shard by shard, in columns that curation reads. Torch-free."""

from __future__ import annotations

from typing import get_args

from llama3.data.documents import SCHEMA, DocumentBatch, Kind, Reject, ShardRef, Source
from llama3.plugins.specs import SourceSpec
from llama3.testing.conformance import Conformance


class SourceConformance(Conformance):
    """Checks of a source on whatever its `options` point at: a few small documents are enough."""

    family = "sources"

    def test_it_has_shards_and_the_same_again(self) -> None:
        shards = self._source().shards()
        assert shards, "no shards: `options` must point at something to read"
        assert all(isinstance(shard, ShardRef) for shard in shards)
        assert len(set(shards)) == len(shards), "two shards are the same"
        assert self._source().shards() == shards, "another object of the same options has other shards"

    def test_documents_have_the_columns_that_curation_reads(self) -> None:
        for batch in self._all():
            assert isinstance(batch, DocumentBatch)
            for field in SCHEMA:
                assert field.name in batch.records.schema.names, f"column {field.name} is missing"
                column = batch.records.column(field.name)
                assert column.type == field.type, f"{field.name} is {column.type}, not {field.type}"
                assert column.null_count == 0, f"{field.name} has nulls"
            assert set(batch.column("kind")) <= set(get_args(Kind)), f"kinds {sorted(set(batch.column('kind')))}"

    def test_it_gives_documents_with_their_labels(self) -> None:
        spec, shards = self.spec, self._source().shards()
        assert isinstance(spec, SourceSpec)
        labels = {label for batch in self._all() for label in batch.column("source")}
        assert labels, "not a single document"
        known = {*spec.labels, *(shard.source for shard in shards)}
        assert labels <= known, f"labels {sorted(labels - known)} are those of no shard"

    def test_what_cannot_be_read_is_a_reject_with_its_reason(self) -> None:
        for reject in (reject for batch in self._all() for reject in batch.rejects):
            assert isinstance(reject, Reject)
            assert reject.where, f"{reject}: does not say where"
            assert reject.reason, f"{reject}: does not say why"

    def test_a_shard_gives_the_same_documents_again_in_any_order(self) -> None:
        shards = self._source().shards()
        forwards = [self._read(self._source(), shard) for shard in shards]
        source = self._source()
        backwards = [self._read(source, shard) for shard in reversed(shards)][::-1]
        assert forwards == backwards, "what a shard gives depends on what was read before"

    # -- helpers ---------------------------------------------------------------------------------

    def _source(self) -> Source:
        source: Source = self.build()
        return source

    def _all(self) -> list[DocumentBatch]:
        source = self._source()
        return [batch for shard in source.shards() for batch in source.read(shard)]

    @staticmethod
    def _read(source: Source, shard: ShardRef) -> list[object]:
        """Everything of a shard, whatever the size of its batches."""
        batches = list(source.read(shard))
        rows = [row for batch in batches for row in batch.records.to_pylist()]
        return [rows, sorted((reject.where, reject.reason) for batch in batches for reject in batch.rejects)]
