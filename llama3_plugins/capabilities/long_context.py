"""Long context (paper 4.3.4): questions about a part of a long document, its summary, and a repository of which one
file is missing. What is learnt has the whole document in it.

Lengths fall into buckets: a document that is long enough for several is cut for the largest. So few of these dialogs
do, that people are not asked for them: one in a thousand of all that is learnt keeps both, long and short.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from llama3.capabilities import PAIR, Made, Passage, Workshop, asked, judge, passages, verdict
from llama3_plugins.capabilities.imports import bound, dependents
from llama3_plugins.capabilities.options import LongContextOptions
from llama3_plugins.capabilities.turns import assistant, fenced, firsts, user

_ANSWER = "{text}\n\n{question}\nAnswer in as few words as you can."
_PART = "Sum up the text below in a few sentences, in its language. Write only the summary.\n\nText:\n{text}"
_WHOLE = (
    "Below are summaries of the parts of one document, in order. Write one summary of the whole document from them, in"
    " its language. Write only the summary.\n\n{text}"
)
_FAITHFUL = (
    "Text:\n{text}\n\nSummary:\n{summary}\n\nDoes the text say everything that the summary says? Answer yes or no."
)
_SUM_UP = "{text}\n\nSum up the whole text above in one paragraph."
_WHICH = (
    "{files}\nOf this repository the file {path} is missing. Which of the files above depend on it? Write their paths,"
    " one a line, sorted, and nothing else."
)
_WRITE = "{files}\nOf this repository the file {path} is missing. Write it, so that the files above that need it work."
_NAME = re.compile(r"(?<=[\w,;] )[^\W\d_][\w-]{2,}|\d[\d.,]*\d|\d")
"""Numbers, and words that begin no sentence: those with a capital are names, which a summary must not make up."""
AROUND = 5
"""Words that one of two equal answers may have more than the other."""


@dataclass(frozen=True, slots=True)
class _Document:
    text: str
    bucket: int
    chunks: list[str]


class LongContext:
    """A recipe: dialogs that only who reads all of a long text can hold."""

    def __init__(self, options: LongContextOptions) -> None:
        self.options = options

    def dialogs(self, shop: Workshop, count: int, seed: int) -> Iterator[Made]:
        kinds = self.options.kinds
        buckets = [bucket for bucket in self.options.buckets if bucket <= shop.room]
        if not buckets:
            yield Made([], False, "no_room", "long_context")
            return
        shares = {kind: len(range(place, count, len(kinds))) for place, kind in enumerate(kinds)}
        for kind, share in shares.items():
            rng = random.Random(f"long_context/{seed}/{kind}")
            if kind == "repository":
                yield from self._repositories(shop, buckets, share, rng)
            elif documents := self._long(shop, buckets, share, rng):
                yield from (_asked if kind == "questions" else _summed_up)(shop, documents, rng)

    def _long(self, shop: Workshop, buckets: Sequence[int], count: int, rng: random.Random) -> list[_Document]:
        """Documents that are long enough, bucket by bucket in turn, each cut for the largest that it fills."""
        least = buckets[0] // 2
        drawn = shop.documents(8 * count, rng.randrange(1 << 30), kind="prose", least=least)
        by_bucket: dict[int, list[_Document]] = {bucket: [] for bucket in buckets}
        for one in drawn:
            if found := self._cut(shop, buckets, one.text):
                by_bucket[found.bucket].append(found)
        turns = [row[place] for place in range(count) for row in by_bucket.values() if place < len(row)]
        return turns[:count]

    def _cut(self, shop: Workshop, buckets: Sequence[int], text: str) -> _Document | None:
        """A document as it is learnt: whole, or its beginning; None where it is too short for any bucket."""
        tokens = shop.tokens(text)
        fits = [bucket for bucket in buckets if tokens > bucket // 2]
        if not fits:
            return None
        signs = len(text) / tokens  # in a token
        most = _for_text(fits[-1])
        text = next(passages(text, int(most * signs))) if tokens > most else text
        return _Document(text, fits[-1], list(passages(text, int(self.options.chunk * signs))))

    def _repositories(self, shop: Workshop, buckets: Sequence[int], count: int, rng: random.Random) -> Iterator[Made]:
        drawn = shop.documents(self.options.files, rng.randrange(1 << 30), kind="code", language="python")
        found = [
            (files, path, needed)
            for files in _by_source(drawn)
            for path, needed in dependents(files).items()
            if len(needed) >= self.options.dependents
        ]
        rng.shuffle(found)
        for number, (files, path, needed) in enumerate(found[:count]):
            room = _for_text(buckets[number // 2 % len(buckets)]) - shop.tokens(files[path])
            told = _told(shop, files, path, [one.path for one in needed], room, rng)
            category = "long_context/repository"
            if told is None:
                yield Made([], False, "too_long", category)
            elif number % 2 == 0:
                answer = "\n".join(one.path for one in needed)
                yield Made([user(_WHICH.format(files=told, path=path)), assistant(answer)], True, "imports", category)
            elif {name for one in needed for name in one.names} <= bound(files[path]):
                code = fenced(files[path].strip())
                yield Made([user(_WRITE.format(files=told, path=path)), assistant(code)], True, "defines_all", category)
            else:
                yield Made([], False, "lacks_names", category)


def _for_text(bucket: int) -> int:
    """Tokens of a bucket for the text itself; the rest is for the question and the answer."""
    return bucket - bucket // 16


def _told(
    shop: Workshop, files: Mapping[str, str], path: str, needed: Sequence[str], room: int, rng: random.Random
) -> str | None:
    """A repository without a file, in `room` tokens: those that depend on it, and others while there is room. None
    where there is too little for the first."""
    others = [name for name in files if name != path and name not in needed]
    rng.shuffle(others)
    told: dict[str, str] = {}
    for name in [*needed, *others]:
        text = f"# file: {name}\n{files[name].strip()}\n"
        room -= shop.tokens(text)
        if room < 0:
            break
        told[name] = text
    return "\n".join(told[name] for name in sorted(told)) if len(told) >= len(needed) else None


def _asked(shop: Workshop, documents: Sequence[_Document], rng: random.Random) -> Iterator[Made]:
    """A question about one chunk. It is kept where the judge, who sees the chunk alone, gives the same answer."""
    chunks = [rng.choice(one.chunks) for one in documents]
    written = firsts(shop.ask([[user(asked("questions", chunk))] for chunk in chunks]))
    pairs = [_pair(text, rng) for text in written]
    tried = [(chunk, pair) for chunk, pair in zip(chunks, pairs, strict=True) if pair]
    again = iter(shop.judge([[user(_ANSWER.format(text=chunk, question=question))] for chunk, (question, _) in tried]))
    for document, pair in zip(documents, pairs, strict=True):
        if pair is None:
            yield Made([], False, "no_question", "long_context/questions")
            continue
        question, answer = pair
        dialog = [user(f"{document.text}\n\n{question}"), assistant(answer)]
        agrees = _agree(answer, next(again))
        yield Made(dialog, agrees, "same_answer" if agrees else "other_answer", "long_context/questions")


def _pair(text: str, rng: random.Random) -> tuple[str, str] | None:
    found = PAIR.findall(text)
    if not found:
        return None
    question, answer = rng.choice(found)
    return question.strip(), answer.strip()


def _agree(one: str, other: str) -> bool:
    """Whether two answers say the same, whatever their case and signs: one may have a few words around the other."""
    first, second = (" ".join(re.findall(r"[^\W_]+", text.casefold())) for text in (one, other))
    short, long = sorted((first, second), key=len)
    return bool(short) and f" {short} " in f" {long} " and len(long.split()) <= len(short.split()) + AROUND


def _summed_up(shop: Workshop, documents: Sequence[_Document], rng: random.Random) -> Iterator[Made]:
    """A summary of the summaries of all chunks. It is kept where it has no name and no number that the document lacks,
    and the judge finds all of it in the summaries."""
    parts = iter(firsts(shop.ask([[user(_PART.format(text=chunk))] for one in documents for chunk in one.chunks])))
    told = ["\n\n".join(next(parts) for _ in one.chunks) for one in documents]
    wholes = firsts(shop.ask([[user(_WHOLE.format(text=text))] for text in told]))
    judged = shop.judge([[user(_FAITHFUL.format(text=t, summary=s))] for t, s in zip(told, wholes, strict=True)])
    for document, summary, said in zip(documents, wholes, judged, strict=True):
        reason = _fault(document.text, summary) or ("faithful" if verdict(said) else "not_faithful")
        dialog = [user(_SUM_UP.format(text=document.text)), assistant(summary)]
        yield Made(dialog, reason == "faithful", reason, "long_context/summary")


def _fault(text: str, summary: str) -> str:
    """Why a summary is none; "" where it may be one."""
    if judge(summary) != "answered" or "\n\n" in summary:
        return "no_summary"
    if len(summary) > len(text) / 4:
        return "not_shorter"
    named = (word for word in _NAME.findall(summary) if word[0].isupper() or word[0].isdecimal())
    return "made_up" if any(word not in text for word in named) else ""


def _by_source(documents: Sequence[Passage]) -> Iterator[dict[str, str]]:
    """The Python files of every source, by their paths below the folder that holds all of them."""
    found: dict[str, dict[str, str]] = {}
    for one in sorted(documents, key=lambda one: (one.source, one.url)):
        path = one.url.split(":", 1)[-1]
        if path.endswith(".py"):
            found.setdefault(one.source, {})[path] = one.text
    for files in found.values():
        root = _root(list(files))
        yield {str(PurePosixPath(*PurePosixPath(path).parts[root:])): text for path, text in files.items()}


def _root(paths: Sequence[str]) -> int:
    """How many folders all paths share."""
    folders = [PurePosixPath(path).parts[:-1] for path in paths]
    first, last = min(folders), max(folders)
    return next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
