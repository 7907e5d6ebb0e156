"""Filters at work: what they measure, judge and replace, in this order, over the batches of a curation.

Letters: D documents of a batch, E parts that are replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llama3.config.slot_types import Slot
from llama3.data.columns import HALF_A_PAIR, printable
from llama3.data.documents import (
    FEATURES,
    DocumentBatch,
    Editing,
    Edits,
    FileReading,
    Filter,
    Judgement,
    Labelling,
    Measuring,
    ModelFilter,
    Reject,
    Surveying,
)
from llama3.errors import ConfigError, PluginError, did_you_mean
from llama3.plugins.asking import ODD_RESULT, asking, what
from llama3.plugins.registry import discover

SAME_FILTER = ConfigError.declare(
    "L3-DAT-105", "filter {name!r} is listed twice", fix="write its limits into one entry"
)
FILTER_FAILED = PluginError.declare("L3-DAT-106", "{filter}.{method} failed", why="{error}")
ODD_JUDGEMENT = PluginError.declare("L3-DAT-107", "{filter}.judge gave columns of {rows} rows, of {count} documents")
ODD_MEASURES = PluginError.declare(
    "L3-DAT-262", "{filter}.measure gave {found}", why="it declares {declared}, one each of {count} documents"
)

ODD_ANSWER = PluginError.declare(
    "L3-DAT-286", "{filter}.{method} returned {found}", why="{error}", fix="return {wanted} (llama3.filters)"
)
ODD_EDITS = PluginError.declare(
    "L3-DAT-287",
    "`edits` of {filters} gave one that is no part of its document",
    why="{error}",
    fix="give bytes from the start of its text, at the borders of characters (llama3.filters.Edits)",
)
NOT_JOINED = PluginError.declare(
    "L3-DAT-271",
    "{filter} has `survey`, but not `surveyed` and `join`",
    fix="what copies of a filter find in parts of a corpus must be added up: see llama3.filters.Surveying",
)

EDITS = pa.schema(
    [
        ("id", pa.string()),
        ("filter", pa.string()),
        ("kind", pa.string()),
        ("start", pa.int64()),  # bytes of the document as it was judged
        ("end", pa.int64()),
    ]
)
NUMBERS = "biuf"
"""Kinds of arrays (numpy's letters) that are of real numbers."""
LONGEST_REASON = 200
"""Characters of a filter's reason that are kept."""
Result = TypeVar("Result")


def build_filters(slots: Sequence[Slot]) -> dict[str, Filter]:
    """The filters by name. Raises ConfigError for one that is listed twice or has wrong options, PluginError
    for one that is not made or asks for a feature that is none of FEATURES."""
    filters: dict[str, Filter] = {}
    for slot in slots:
        if slot.name in filters:
            raise SAME_FILTER("data.filters", name=slot.name)
        filter: Filter = discover().build("filters", slot.name, slot.options)
        where = f"filter {slot.name!r}"
        with asking(where, "features"):
            odd = [what(feature) for feature in filter.features if not isinstance(feature, str)]
            unknown = sorted(set(filter.features) - {*FEATURES}) if not odd else []
        if odd:
            raise ODD_RESULT(where, method="features", fault=f"of one name {odd[0]}, not text")
        if unknown:
            raise ODD_RESULT(where, method="features", fault="; ".join(map(_no_feature, unknown)))
        filters[slot.name] = filter
    return filters


def _no_feature(name: str) -> str:
    return f"there is no feature {name!r} ({did_you_mean(name, FEATURES) or 'see llama3.filters.FEATURES'})"


def stamps(filters: Mapping[str, Filter]) -> list[tuple[str, str]]:
    """What filters have read of files, by hash."""
    return [(name, filter.stamp) for name, filter in filters.items() if isinstance(filter, FileReading)]


def private_of(filters: Mapping[str, Filter]) -> frozenset[str]:
    """The filters whose finds are shown to nobody."""
    return frozenset(name for name, filter in filters.items() if getattr(filter, "private", False))


def without_model(filters: Mapping[str, Filter]) -> list[str]:
    """The filters that should judge by a model and have none."""
    return [name for name, filter in filters.items() if isinstance(filter, ModelFilter) and not filter.has_model]


def asked_of(name: str, filter: object, method: str, *given: Any) -> Any:
    """What a method of a filter answers; one that fails stops the stage, because what it would let through is
    unknown."""

    def failed(error: str) -> PluginError:
        return FILTER_FAILED(f"filter {name!r}", filter=type(filter).__name__, method=method, error=error)

    with asking(f"filter {name!r}", method, failed, spares=lambda error: False):
        return getattr(filter, method)(*given)


def _odd(name: str, filter: object, method: str, answer: object, wanted: str, error: object = "") -> PluginError:
    found = "None" if answer is None else f"a {type(answer).__name__}"
    return ODD_ANSWER(
        f"filter {name!r}", filter=type(filter).__name__, method=method, found=found, wanted=wanted, error=error
    )


def surveying(filters: Mapping[str, Filter]) -> dict[str, Surveying]:
    """The filters that look at all documents first. Raises PluginError (L3-DAT-271) for one whose copies cannot be
    joined."""
    for name, filter in filters.items():
        if hasattr(filter, "survey") and not isinstance(filter, Surveying):
            raise NOT_JOINED(f"filter {name!r}", filter=type(filter).__name__)
    return {name: filter for name, filter in filters.items() if isinstance(filter, Surveying)}


def survey(filters: Mapping[str, Surveying], batch: DocumentBatch) -> None:
    """Shows documents to filters that look at all of them first."""
    for name, filter in filters.items():
        asked_of(name, filter, "survey", batch)


def surveyed(name: str, filter: Surveying) -> Mapping[str, np.ndarray]:
    """What a filter has found in the documents that it was shown."""
    answer = asked_of(name, filter, "surveyed")
    wanted = "a mapping of names to arrays"
    if not isinstance(answer, Mapping):
        raise _odd(name, filter, "surveyed", answer, wanted)
    try:
        arrays = {str(key): np.asarray(values) for key, values in answer.items()}
    except (TypeError, ValueError) as error:
        raise _odd(name, filter, "surveyed", answer, wanted, error) from error
    if kinds := sorted({str(values.dtype) for values in arrays.values() if values.dtype.hasobject}):
        raise _odd(name, filter, "surveyed", answer, wanted, f"an array has the type {', '.join(kinds)}")
    return arrays


def labelled(filters: Mapping[str, Labelling], batch: DocumentBatch) -> DocumentBatch:
    """The batch with the languages that filters tell, and with what they measured of it."""
    for name, filter in filters.items():
        batch = with_measures({name: filter}, batch)
        languages = pa.array(_languages(name, filter, batch), pa.string())
        place = batch.records.schema.get_field_index("language")
        batch = replace(batch, records=batch.records.set_column(place, "language", languages))
    return batch


def _languages(name: str, filter: Labelling, batch: DocumentBatch) -> list[str]:
    answer = asked_of(name, filter, "languages", batch)
    wanted = f"a string for each of {len(batch)} documents"
    try:
        languages = [printable(language) for language in answer]
    except (TypeError, AttributeError) as error:
        raise _odd(name, filter, "languages", answer, wanted, error) from error
    if len(languages) != len(batch):
        raise _odd(name, filter, "languages", answer, wanted, f"it has {len(languages)}")
    return languages


def recorded(filters: Mapping[str, Filter]) -> list[str]:
    """The columns that are written beside the scores: the features that filters read, then what they measure."""
    features = [name for name in FEATURES if any(name in filter.features for filter in filters.values())]
    own = [f"{name}.{column}" for name, filter in filters.items() if isinstance(filter, Measuring)
           for column in filter.measures]  # fmt: skip
    return features + own


def measured(
    filters: Mapping[str, Filter], batch: DocumentBatch, asked: Callable[[str], object] = str
) -> DocumentBatch:
    """The batch with all FEATURES and with what the filters measure. `asked` hears each filter's name before that is
    asked."""
    batch = batch.with_features()
    for name, filter in filters.items():
        asked(name)
        batch = with_measures({name: filter}, batch)
    return batch


def with_measures(filters: Mapping[str, Any], batch: DocumentBatch) -> DocumentBatch:
    """The batch with what the filters measure beside the features it has."""
    for name, filter in filters.items():
        if not isinstance(filter, Measuring):
            continue
        names = [f"{name}.{column}" for column in filter.measures]
        if set(names) <= set(batch.records.schema.names):  # it was measured when it was read
            batch = batch.with_measures({column: np.asarray(batch.records.column(column)) for column in names})
            continue
        columns = asked_of(name, filter, "measure", batch)
        try:
            given = {column: _column(column, values, NUMBERS) for column, values in columns.items()}
            own = {f"{name}.{column}": values.astype(np.float64) for column, values in given.items()}
            found = {column: len(values) for column, values in given.items()}
        except (AttributeError, TypeError, ValueError) as error:
            raise _odd(name, filter, "measure", columns, "a mapping of names to numbers", error) from error
        if set(columns) != set(filter.measures) or set(found.values()) - {len(batch)}:
            where, declared = f"filter {name!r}", sorted(filter.measures)
            raise ODD_MEASURES(where, filter=type(filter).__name__, found=found, declared=declared, count=len(batch))
        batch = batch.with_measures(own)
    return batch


def judged(name: str, filter: Filter, batch: DocumentBatch) -> Judgement:
    """The filter's judgement of every document."""
    answer = asked_of(name, filter, "judge", batch)
    wanted = "a Judgement: for each document a finite score, True to keep it or False, and why not (a string)"
    if not isinstance(answer, Judgement):
        raise _odd(name, filter, "judge", answer, wanted)
    try:
        score_D = _column("score_D", answer.score_D, NUMBERS).astype(np.float64)
        keep_D = _column("keep_D", answer.keep_D, "b").astype(bool)
        reason_D = [printable(reason)[:LONGEST_REASON] for reason in answer.reason_D]
    except (TypeError, ValueError, AttributeError) as error:
        raise _odd(name, filter, "judge", answer, wanted, error) from error
    if (sizes := {len(column) for column in (score_D, keep_D, reason_D)}) != {len(batch)}:
        found = sorted(sizes)
        raise ODD_JUDGEMENT(f"filter {name!r}", filter=type(filter).__name__, rows=found, count=len(batch))
    unsaid_D = ~keep_D & (np.asarray(reason_D, object) == "")
    for odd_D, are in (
        (~np.isfinite(score_D), "scores are NaN or infinite"),
        (unsaid_D, "documents are not kept and have no reason"),
    ):
        if odd_D.any():
            id = batch.column("id")[int(np.argmax(odd_D))]
            fault = f"{int(odd_D.sum())} of {len(batch)} {are}, the first of document {id}"
            raise ODD_RESULT(f"filter {name!r}", method="judge", fault=fault)
    return Judgement(score_D, keep_D, reason_D)


def _column(name: str, values: Any, kinds: str) -> np.ndarray:
    """One value for each document. Raises ValueError where it has more axes, or values of another of numpy's kinds."""
    column = np.asarray(values)
    if column.ndim != 1 or (len(column) and column.dtype.kind not in kinds):
        raise ValueError(f"{name} is an array of {column.dtype} of the shape {list(column.shape)}")
    return column


def unwanted(batch: DocumentBatch, removed_D: np.ndarray, judgement: Judgement) -> Iterator[Reject]:
    """What a filter took out."""
    ids, sources = batch.column("id"), batch.column("source")
    for d in map(int, np.flatnonzero(removed_D)):
        yield Reject("", judgement.reason_D[d], "", sources[d], ids[d], float(judgement.score_D[d]))


def edits_of(name: str, filter: Editing, batch: DocumentBatch) -> Edits:
    """What the filter wants replaced in these documents."""
    answer = asked_of(name, filter, "edits", batch)
    wanted = "Edits, with whole numbers for places and strings for kinds and texts"
    if not isinstance(answer, Edits):
        raise _odd(name, filter, "edits", answer, wanted)
    try:
        document_E, start_E, end_E = (
            np.asarray(places, np.int64) for places in (answer.document_E, answer.start_E, answer.end_E)
        )
        kinds = [printable(kind) for kind in answer.kind_E]
        edits = Edits(document_E, start_E, end_E, kinds, list(answer.text_E))
        if any(printable(text) != text for text in edits.text_E):
            raise ValueError(f"of a text {HALF_A_PAIR}")
    except (TypeError, ValueError, AttributeError) as error:
        raise _odd(name, filter, "edits", answer, wanted, error) from error
    if len(sizes := {len(column) for column in (document_E, start_E, end_E, kinds, edits.text_E)}) > 1:
        raise _odd(name, filter, "edits", answer, wanted, f"its columns have {sorted(sizes)} rows")
    return edits


def editing(filters: Mapping[str, Filter]) -> dict[str, Editing]:
    """The filters that replace parts of documents."""
    return {name: filter for name, filter in filters.items() if isinstance(filter, Editing)}


class Editor:
    """Replaces what filters say in documents that stay, and writes down what; into no file where none may."""

    def __init__(self, path: Path | None) -> None:
        self._writer = pq.ParquetWriter(path, EDITS, compression="zstd") if path is not None else None
        self.counts: dict[str, int] = {}

    def __enter__(self) -> Editor:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._writer is not None:
            self._writer.close()

    @property
    def active(self) -> bool:
        return self._writer is not None

    def edit(self, batch: DocumentBatch, edits: Mapping[str, Edits]) -> DocumentBatch:
        """The documents as the filters want them; where two want the same part, the longer one of the first."""
        try:
            for name, some in edits.items():
                self._record(name, some, batch)
            return batch.edited(Edits.all(list(edits.values())))
        except (ValueError, IndexError, OverflowError) as error:
            raise ODD_EDITS("data.filters", filters=sorted(edits), error=error) from error

    def _record(self, name: str, edits: Edits, batch: DocumentBatch) -> None:
        if self._writer is None or not len(edits):
            return
        for kind in edits.kind_E:
            key = f"{name}.{kind}"
            self.counts[key] = self.counts.get(key, 0) + 1
        ids = batch.records.column("id").take(pa.array(edits.document_E))
        columns = [ids, pa.array([name] * len(edits), pa.string()), pa.array(edits.kind_E, pa.string())]
        places = [pa.array(edits.start_E), pa.array(edits.end_E)]
        self._writer.write_batch(pa.RecordBatch.from_arrays([*columns, *places], schema=EDITS))
