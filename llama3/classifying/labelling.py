"""Labels for training classifiers, from a model that is served: is a document what a question asks for? (paper 3.1.1)

Documents are drawn from a corpus, the same ones for a seed. Rows that are there already are kept, so labelling that
was stopped goes on. Where the model answers with neither of the two words there is no row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from llama3.artifacts.files import append_json_line, read_json_lines
from llama3.data.sampling import draw_kept
from llama3.errors import DataError
from llama3.safety.guard import Turn

OTHER_QUESTION = DataError.declare(
    "L3-CLS-030",
    "holds rows of another question, model, length or pair of labels",
    why="this is {asked}, there are rows of {there}",
    fix="choose another --out",
)


class Asks(Protocol):
    """Who is asked: a served model."""

    identity: str

    def ask(self, turns: Sequence[Turn]) -> float | None:
        """The probability of the first word, None where the model says neither."""
        ...


def label_documents(
    corpus: Path,
    out: Path,
    model: Asks,
    *,
    count: int,
    seed: int = 1,
    characters: int = 4000,
    labels: tuple[str, str] = ("yes", "no"),
    source: str | None = None,
) -> Iterator[Mapping[str, Any]]:
    """Asks about `count` documents (of one source), appends their rows to `out` as they come, and gives each: {text,
    label, p, id, source, asked}, `p` the probability of the first word; without a label where the model did not tell.

    Raises DataError where `out` holds something else (L3-CLS-030), the corpus cannot be read, or the server does not
    answer.
    """
    asked = f"{model.identity}, {characters} characters, {labels[0]} or {labels[1]}"
    there = list(read_json_lines(out))
    if others := sorted({str(row.get("asked")) for row in there} - {asked}):
        raise OTHER_QUESTION(out, asked=asked, there=others[:3])
    done = {row["id"] for row in there}
    for row in draw_kept(corpus, count, seed, source=source, characters=characters):
        if row["id"] in done or not row["text"].strip():
            continue
        p = model.ask([Turn("user", row["text"])])
        found: dict[str, Any] = {"text": row["text"]}
        if p is not None:
            found |= {"label": labels[0] if p >= 0.5 else labels[1], "p": p, "id": row["id"], "source": row["source"]}
            append_json_line(out, found | {"asked": asked})
        yield found
