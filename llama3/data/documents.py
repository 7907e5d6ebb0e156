"""Documents in columns, and the protocols of what reads them (`Source`) and judges them (`Filter`).

Letters: D documents of a batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa

from llama3 import _core
from llama3.data.columns import HALF_A_PAIR, HAS_NUL, SURROGATE, printable, text_column

Kind = Literal["prose", "code", "made"]
"""Rules for found text fit one of the first two; what a program made on purpose is judged by none of them."""

FEATURES: tuple[str, ...] = _core.TEXT_STATISTICS
"""What the analysis pass knows of every document; a filter declares the ones that it reads."""

SCHEMA = pa.schema(
    [
        ("text", pa.large_string()),
        ("id", pa.string()),  # hex of 128 bits of blake3 of the normalised text
        ("source", pa.string()),  # label that the mix weights
        ("url", pa.string()),  # where the document was found: URL, path, or path:line
        ("language", pa.string()),  # language tag, or the programming language; "und" where unknown
        ("date", pa.string()),  # as the source tells it; "" where unknown
        ("kind", pa.string()),  # a Kind
        ("origin", pa.string()),  # documents cut from one origin fall on one side of the held-out split
    ]
)


@dataclass(frozen=True, slots=True)
class Reject:
    """A record that never became a document, or a document that was taken out, and why."""

    where: str
    reason: str
    detail: str = ""
    source: str = ""
    id: str = ""
    score: float = float("nan")


@dataclass(frozen=True)
class DocumentBatch:
    """D documents as Arrow columns (at least those of SCHEMA), and what the analysis pass found in them."""

    records: pa.RecordBatch
    rejects: tuple[Reject, ...] = ()
    """Records that the source could not read, met on the way to these documents."""
    features: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Name (of FEATURES) to float64 [D]."""
    lines: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Columns of the lines that are not blank, as `LineFacts` shows them; none before the analysis pass."""

    @classmethod
    def of(
        cls,
        texts: Sequence[str] | pa.Array,
        *,
        source: str,
        urls: Sequence[str],
        language: str | Sequence[str] = "und",
        dates: Sequence[str] | None = None,
        kind: Kind | Sequence[Kind] = "prose",
        origins: Sequence[str] | None = None,
        rejects: Sequence[Reject] = (),
    ) -> DocumentBatch:
        """A batch with ids; without `origins` each document is its own. Of a list of texts, one that holds half of a
        surrogate pair or a NUL character is rejected; in the other columns such halves are written out."""

        def spread(value: str | Sequence[str]) -> list[str]:
            return [printable(value)] * count if isinstance(value, str) else list(map(printable, value))

        texts = texts if isinstance(texts, pa.Array | pa.ChunkedArray) else list(texts)
        count = len(texts)
        given = [spread(column) for column in (source, urls, language, dates or "", kind, origins or "")]
        rejects = list(rejects)
        if broken := _broken(texts):
            rejects += [Reject(given[1][n], *why, given[0][n]) for n, why in broken.items()]
            texts = [text for n, text in enumerate(texts) if n not in broken]
            given = [[value for n, value in enumerate(column) if n not in broken] for column in given]
        text = text_column(texts)
        ids = hex_ids(_core.text_ids(*text_buffers(text)))
        labels, addresses, languages, days, kinds, names = given
        columns = [text, ids, labels, addresses, languages, days, kinds, names if origins else ids]
        arrays = [pa.array(column, type=field.type) for column, field in zip(columns, SCHEMA, strict=True)]
        return cls(pa.RecordBatch.from_arrays(arrays, schema=SCHEMA), tuple(rejects))

    def __len__(self) -> int:
        return self.records.num_rows

    @property
    def buffers(self) -> tuple[np.ndarray, np.ndarray]:
        """The text as uint8 bytes and int64 [D+1] offsets: views, nothing is copied."""
        return text_buffers(self.records.column("text"))

    @property
    def texts(self) -> list[str]:
        return self.column("text")

    @property
    def bytes_D(self) -> np.ndarray:
        """Bytes of each document, int64 [D]."""
        return np.diff(self.buffers[1])

    def column(self, name: str) -> list[str]:
        """A column as Python values."""
        return self.records.column(name).to_pylist()

    def take(self, keep_D: np.ndarray) -> DocumentBatch:
        """The documents where the mask is true, with all that is known of them."""
        features = {name: values[keep_D] for name, values in self.features.items()}
        lines = dict(self.lines)
        if lines:
            kept_L = keep_D[lines["document"]]
            lines = {name: column[kept_L] for name, column in lines.items()}
            lines["document"] = (np.cumsum(keep_D) - 1)[lines["document"]]
        return replace(self, records=self.records.filter(pa.array(keep_D)), features=features, lines=lines)

    def with_text(self, data: np.ndarray, offsets: np.ndarray) -> DocumentBatch:
        """The same documents with other text (uint8 bytes, int64 offsets); ids stay those of the original."""
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data)]
        text = pa.Array.from_buffers(pa.large_string(), len(offsets) - 1, buffers)
        place = self.records.schema.get_field_index("text")
        return replace(self, records=self.records.set_column(place, "text", text), features={}, lines={})

    def edited(self, edits: Edits) -> DocumentBatch:
        """The same documents with parts of their text replaced; of parts that overlap the first is, then the longest.

        Raises ValueError for a part that is not whole characters of its document."""
        if not len(edits):
            return self
        _, offsets = self.buffers
        start_E, end_E = (offsets[edits.document_E] + place_E for place_E in (edits.start_E, edits.end_E))
        spans_E3 = np.stack([edits.document_E, start_E, end_E], axis=1)
        return self.with_text(*_core.replace_spans(*self.buffers, spans_E3, list(edits.text_E)))

    def with_column(self, name: str, values: pa.Array) -> DocumentBatch:
        return replace(self, records=self.records.append_column(name, values))

    def with_measures(self, columns: Mapping[str, np.ndarray]) -> DocumentBatch:
        """The same documents with more numbers beside those they have."""
        return replace(self, features={**self.features, **columns})

    def with_features(self) -> DocumentBatch:
        """The same documents with all FEATURES and lines, from one pass over the text."""
        table, numbers, flags = _core.analyse(*self.buffers)
        lines = dict(zip((*_core.LINE_NUMBERS, *_core.LINE_FLAGS), (*numbers, *flags), strict=True))
        return replace(self, features=dict(zip(FEATURES, table.T, strict=True)), lines=lines)


@dataclass(frozen=True)
class Edits:
    """E parts of the texts of a batch, and what stands there instead."""

    document_E: np.ndarray
    """int64 [E], the number of each one's document in the batch."""
    start_E: np.ndarray
    """int64 [E], bytes from the start of the document."""
    end_E: np.ndarray
    kind_E: Sequence[str]
    """What it was, for the record."""
    text_E: Sequence[str]

    def __len__(self) -> int:
        return len(self.document_E)

    @classmethod
    def none(cls) -> Edits:
        places = np.empty(0, np.int64)
        return cls(places, places, places, (), ())

    @classmethod
    def all(cls, edits: Sequence[Edits]) -> Edits:
        """Those of several rules, one after another."""
        if not edits:
            return cls.none()
        document_E, start_E, end_E = (
            np.concatenate([getattr(some, name) for some in edits]) for name in ("document_E", "start_E", "end_E")
        )
        kinds, texts = ([value for some in edits for value in getattr(some, name)] for name in ("kind_E", "text_E"))
        return cls(document_E, start_E, end_E, kinds, texts)


def _broken(texts: Sequence[str] | pa.Array) -> dict[int, tuple[str, str]]:
    """Numbers of the texts that are none, each with a reason and what it means."""
    broken: dict[int, tuple[str, str]] = {}
    for n, text in enumerate(() if isinstance(texts, pa.Array | pa.ChunkedArray) else texts):
        if not text.isascii() and SURROGATE.search(text):
            broken[n] = "not_utf8", HALF_A_PAIR
        elif "\0" in text:
            broken[n] = "binary", HAS_NUL
    return broken


def text_buffers(text: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """A large_string array as (uint8 bytes, int64 offsets), both views of Arrow's memory."""
    _, offsets, data = text.buffers()
    if offsets is None or offsets.size == 0:
        return np.empty(0, np.uint8), np.zeros(1, np.int64)
    offsets_D1 = np.frombuffer(offsets, np.int64)[text.offset : text.offset + len(text) + 1]
    return np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8), offsets_D1


def hex_ids(ids: np.ndarray) -> list[str]:
    """uint8 [D, 16] as D strings of 32 hex digits."""
    digits = np.ascontiguousarray(ids).tobytes().hex()
    return [digits[at : at + 32] for at in range(0, len(digits), 32)]


def id_bytes(ids: Iterable[str]) -> np.ndarray:
    """D strings of 32 hex digits as uint8 [D, 16]. Raises ValueError for others."""
    listed = list(ids)
    if any(len(id) != 32 for id in listed):
        raise ValueError("an id is not 32 hex digits")
    return np.frombuffer(bytes.fromhex("".join(listed)), np.uint8).reshape(-1, 16)


@dataclass(frozen=True, slots=True)
class ShardFile:
    """A file as it was when the shards were listed."""

    path: str
    bytes: int
    blake3: str
    """Hash of its content; "" where that is not read."""
    seen: tuple[int, ...] = field(default=(), repr=False, compare=False)
    """Marks of the file system that stay while nobody writes to it."""


@dataclass(frozen=True, slots=True)
class ShardRef:
    """A piece of a source that is read, or fails, as a whole."""

    source: str
    """Label of its documents."""
    location: str
    """The file or folder it lies in; shown when the shard fails."""
    part: int = 0
    """Which piece, where one location gives several."""
    bytes: int = 0
    """Size for the progress bar."""
    stamp: str = ""
    """Changes when what lies there changes (llama3.data.reading.shard_of makes it for files)."""
    files: tuple[ShardFile, ...] = ()
    """What `read` reads, so that a folder that changes meanwhile does not change the shard."""
    unread: tuple[Reject, ...] = ()
    """What lies there too and is not read, each with the reason."""
    span: tuple[int, ...] = ()
    """What of one large file is read, in numbers that its source knows; empty: all (llama3.sources.pieces_of)."""


@runtime_checkable
class Source(Protocol):
    """Reads raw documents. The same shard gives the same documents every time; several may be read at once, on threads
    or in other processes."""

    def shards(self) -> list[ShardRef]:
        """All pieces, in order. Raises ConfigError, naming the path, where there is nothing to read."""
        ...

    def read(self, shard: ShardRef) -> Iterator[DocumentBatch]:
        """The documents of a shard. A record that cannot be read becomes a Reject of its batch; DataError where
        the shard as a whole cannot (it is then quarantined: named, and none of it used)."""
        ...


@dataclass(frozen=True)
class Judgement:
    """What a filter thinks of D documents. Scores are kept, so that thresholds can be changed without a scan."""

    score_D: np.ndarray
    """float64 [D], all finite."""
    keep_D: np.ndarray
    """bool [D]."""
    reason_D: Sequence[str]
    """Why not, for documents that are not kept, in a word at least; "" for the others."""


@runtime_checkable
class Filter(Protocol):
    """Scores documents and says which to keep. Where it has an attribute `private` that is true, what it finds is shown
    to nobody: the samples of a corpus leave out the documents that it took out or changed."""

    features: frozenset[str]
    """The FEATURES it reads: they are recorded beside its score."""

    def judge(self, batch: DocumentBatch) -> Judgement: ...


@runtime_checkable
class ModelFilter(Filter, Protocol):
    """A filter that judges by a model, whose content `stamp` tells (see `FileReading`). Optional."""

    has_model: bool
    """Where it has none it keeps every document, and the corpus says that it judged nothing."""


@runtime_checkable
class Surveying(Protocol):
    """A filter that looks at all documents before it judges the first. They are shown to several copies of it, in any
    order, each document to one of them; then every copy is given what all have found."""

    def survey(self, batch: DocumentBatch) -> None:
        """Is given documents that are left after deduplication, frequent lines included."""
        ...

    def surveyed(self) -> Mapping[str, np.ndarray]:
        """What this copy has found in the documents that it was shown, for `join`."""
        ...

    def join(self, surveyed: Mapping[str, np.ndarray]) -> None:
        """Takes up what another copy has found. The order in which copies are joined must not matter."""
        ...


@runtime_checkable
class Labelling(Protocol):
    """A filter that measures documents before duplicates are looked for, and then tells in which language each is. What
    it measures there is not measured again."""

    measures: tuple[str, ...]

    def measure(self, batch: DocumentBatch) -> Mapping[str, np.ndarray]: ...

    def languages(self, batch: DocumentBatch) -> Sequence[str]:
        """The language of each document, by what was measured of it (in `batch.features`)."""
        ...


@runtime_checkable
class Measuring(Protocol):
    """A filter with numbers of its own. They are recorded, and `judge` finds them in `batch.features` as
    "<name of the filter>.<name>": so a cut by other limits needs no text."""

    measures: tuple[str, ...]

    def measure(self, batch: DocumentBatch) -> Mapping[str, np.ndarray]:
        """Each of `measures` to float64 [D]. The batch has all FEATURES."""
        ...


@runtime_checkable
class Editing(Protocol):
    """A filter that replaces parts of documents, once all filters have judged them."""

    def edits(self, batch: DocumentBatch) -> Edits:
        """Of documents that stay; the batch has the features with which they were judged."""
        ...


@runtime_checkable
class FileReading(Protocol):
    """A filter that has read files, such as lists or a model: other contents make another corpus."""

    stamp: str
    """Hash of what it has read."""
