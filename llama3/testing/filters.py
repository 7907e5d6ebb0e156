"""Conformance of document filters: a judgement per document that depends on nothing but that document. Torch-free."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from llama3.data.documents import FEATURES, DocumentBatch, Editing, Filter, Judgement, Kind
from llama3.data.judging import survey, surveying, with_measures
from llama3.testing.conformance import Conformance
from llama3.testing.toy_texts import CODE, PROSE


class FilterConformance(Conformance):
    """Checks of a filter on a few documents of both kinds; it sees the statistics that it declares, no other, and
    what it measures itself."""

    family = "filters"

    def test_it_declares_statistics_that_exist(self) -> None:
        unknown = set(self._filter().features) - set(FEATURES)
        assert not unknown, f"no such statistics: {', '.join(sorted(unknown))}"

    def test_every_document_is_judged(self) -> None:
        batch = self._documents()
        judged = self._judge(batch)
        sizes = {len(judged.score_D), len(judged.keep_D), len(judged.reason_D)}
        assert sizes == {len(batch)}, f"{len(batch)} documents, judgements of {sorted(sizes)}"
        assert np.asarray(judged.keep_D).dtype == np.bool_, "keep_D is no array of booleans"
        assert np.isfinite(np.asarray(judged.score_D, np.float64)).all(), "a score is not finite"

    def test_reasons_belong_to_what_is_left_out(self) -> None:
        judged = self._judge(self._documents())
        for keep, reason in zip(judged.keep_D, judged.reason_D, strict=True):
            assert isinstance(reason, str)
            assert bool(keep) == (reason == ""), f"kept: {bool(keep)}, reason: {reason!r}"

    def test_a_judgement_does_not_depend_on_the_other_documents(self) -> None:
        batch = self._documents()
        together = self._judge(batch)
        for place in range(len(batch)):
            alone = self._judge(batch.take(np.arange(len(batch)) == place))
            assert alone.keep_D[0] == together.keep_D[place], f"document {place}: kept by itself or among others only"
            np.testing.assert_allclose(alone.score_D[0], together.score_D[place], rtol=1e-9)

    def test_edits_are_parts_of_their_documents(self) -> None:
        filter_ = self._filter()
        if isinstance(filter_, Editing):
            batch = self._measured(filter_, self._documents())
            edits = filter_.edits(batch)
            assert len(edits.kind_E) == len(edits.text_E) == len(edits), "kinds or texts are not one for each edit"
            assert len(batch.edited(edits)) == len(batch)

    def test_no_documents_are_a_batch_too(self) -> None:
        batch = self._documents()
        assert len(self._judge(batch.take(np.zeros(len(batch), bool))).score_D) == 0

    def test_the_documents_stay_as_they_are(self) -> None:
        batch = self._documents()
        self._judge(batch)
        assert batch.records.equals(self._documents().records), "the filter changed its batch"

    # -- helpers ---------------------------------------------------------------------------------

    def _filter(self) -> Filter:
        filter_: Filter = self.build()
        return filter_

    def _measured(self, filter_: Filter, batch: DocumentBatch) -> DocumentBatch:
        """The batch with what the filter measures, once it has seen all documents."""
        looking = surveying({self.plugin: filter_})
        survey(looking, self._documents())
        return with_measures({self.plugin: filter_}, batch)

    def _judge(self, batch: DocumentBatch) -> Judgement:
        filter_ = self._filter()
        judged = filter_.judge(self._measured(filter_, batch))
        assert isinstance(judged, Judgement), f"judge returned {type(judged).__name__}"
        return judged

    def _documents(self) -> DocumentBatch:
        texts = [*PROSE, *CODE]
        urls = [f"toy:{number}" for number in range(len(texts))]
        kinds: list[Kind] = [*["prose"] * len(PROSE), *["code"] * len(CODE)]  # type: ignore[list-item]
        batch = DocumentBatch.of(texts, source="toy", urls=urls, language="en", kind=kinds).with_features()
        declared = self._filter().features
        return replace(batch, features={name: batch.features[name] for name in sorted(declared & {*FEATURES})})
