"""What is judged: two answers to a dialog, whose models nobody is told, or a text that a model made.

An item's id is the hash of what is seen and of who made it, so that it is the same however often it is found. Which of
two answers stands on the left is a function of the seed, the annotator and the item.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llama3 import _core
from llama3.artifacts import Artifact
from llama3.artifacts.files import canonical_json
from llama3.artifacts.run import RunDir
from llama3.data.sampling import CHECKED, drawn_to_check
from llama3.errors import ArtifactError, DataError, Problem
from llama3.tasks.rows import read_rows
from llama3.tasks.user_files import rows_of
from llama3.tasks.user_rows import read_prompt

NO_RUN = ArtifactError.declare(
    "L3-ANN-030", "this is no run and no file of prompts", why="{why}", fix="name the folder of a run, or a .jsonl"
)
NOTHING = ArtifactError.declare(
    "L3-ANN-031",
    "this run has no answers to compare and no synthetic text to check",
    why="it has {keys}",
    fix="name a run that has made reject-1, preferences-1 or synthetic, or a .jsonl of prompts with two --model",
)
BAD_ITEM = DataError.declare("L3-ANN-032", "this is no item", why="{why}", fix="mend the line, or remove it")
OTHER_ITEM = DataError.declare(
    "L3-ANN-033", "the item is not what its id says", why="it was changed by hand", fix="put back what stood there"
)
NO_PROMPT = DataError.declare("L3-ANN-034", "the row has no column prompt", fix="write text or messages there")
NOT_A_USER = DataError.declare("L3-ANN-035", "the prompt ends with the {role}", fix="end it with what a user says")

SAMPLED = re.compile(r"(?:.+-)?(?:reject|preferences)-\d+")
"""Artifacts that hold every answer of a round."""
OWN = "demonstration"
"""Where a dialog comes from that no model wrote."""

Messages = tuple[Mapping[str, str], ...]


@dataclass(frozen=True, slots=True)
class ModelAnswer:
    """An answer and the model that gave it."""

    model: str
    text: str


@dataclass(frozen=True, slots=True)
class PairItem:
    """Two answers to a dialog. `follows` is the item whose better answer the dialog goes on with."""

    messages: Messages
    answers: tuple[ModelAnswer, ModelAnswer]
    category: str = ""
    follows: str = ""

    @property
    def id(self) -> str:
        """Hash of all that it is."""
        return _id(self.to_json())

    @property
    def texts(self) -> tuple[str, str]:
        """Of both answers."""
        return self.answers[0].text, self.answers[1].text

    def to_json(self) -> dict[str, Any]:
        """A line of the file, without its id."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class TextItem:
    """A text that a model made, what it was asked, and the artifact that holds it."""

    source: str
    messages: Messages
    text: str

    @property
    def id(self) -> str:
        """Hash of all that it is."""
        return _id(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """A line of the file, without its id."""
        return asdict(self)


def pair_item(row: Mapping[str, Any], where: str) -> PairItem:
    """A line of pairs.jsonl. Raises DataError."""
    try:
        first, second = (ModelAnswer(answer["model"], answer["text"]) for answer in row["answers"])
        item = PairItem(_messages(row), (first, second), row["category"], row["follows"])
    except (KeyError, TypeError, ValueError) as error:
        raise BAD_ITEM(where, why=f"{type(error).__name__}: {error}") from None
    return _as_it_was(item, row, where)


def text_item(row: Mapping[str, Any], where: str) -> TextItem:
    """A line of check.jsonl. Raises DataError."""
    try:
        item = TextItem(row["source"], _messages(row), row["text"])
    except (KeyError, TypeError, ValueError) as error:
        raise BAD_ITEM(where, why=f"{type(error).__name__}: {error}") from None
    return _as_it_was(item, row, where)


def is_left_first(seed: int, annotator: str, item: str) -> bool:
    """Whether this annotator sees the item's first answer on the left."""
    return int(_core.blake3_bytes(f"{seed} {annotator} {item}".encode())[:2], 16) % 2 == 0


def in_drawn_order(items: Iterable[PairItem], seed: int) -> list[PairItem]:
    """Each item once, in an order that says nothing of where it comes from and is the same for all annotators: they
    agree or not on the items that they all come to."""
    unique = {item.id: item for item in items}
    return [unique[name] for name in sorted(unique, key=lambda name: _core.blake3_bytes(f"{seed} {name}".encode()))]


def run_at(path: Path) -> RunDir:
    """The run in a folder. Raises ArtifactError."""
    if not path.is_dir():
        raise NO_RUN(path, why="there is no such folder")
    if not (path / "config.yaml").is_file():
        raise NO_RUN(path, why="the folder has no config.yaml")
    return RunDir(path)


def pairs_of_run(run: RunDir, seed: int) -> list[PairItem]:
    """Two answers to each prompt that a run has sampled, of two models where there are such; prompts with equal answers
    have none."""
    made = run.current()
    names = {artifact.hash: key for key, artifact in made.items()}
    found: dict[str, tuple[Messages, str, dict[str, str]]] = {}
    for artifact in (artifact for key, artifact in made.items() if SAMPLED.fullmatch(key)):
        model = _model_of(artifact, names)
        for row in _sampled(artifact):
            messages = (*row.get("context", ()), {"role": "user", "content": row["prompt"]})
            _, _, texts = found.setdefault(_id(messages), (messages, row["family"], {}))
            if row["answer"].strip():
                texts.setdefault(row["answer"], model)
    drawn = [_pair(messages, family, texts, seed) for messages, family, texts in found.values()]
    return in_drawn_order((item for item in drawn if item is not None), seed)


def texts_of_run(run: RunDir) -> dict[str, tuple[int, list[TextItem]]]:
    """By artifact of synthetic text how many texts it has, and the sample of them that people check: of what a model
    made of documents, and of the dialogs whose answers a model wrote."""
    found: dict[str, tuple[int, list[TextItem]]] = {}
    for key, artifact in run.current().items():
        files = {entry.path for entry in artifact.manifest.files}
        if artifact.type == "texts" and CHECKED in files:
            rows = list(read_rows(artifact.file(CHECKED)))
            items = [_text(key, [{"role": "user", "content": row["asked"]}], row["text"]) for row in rows]
            found[key] = sum(artifact.metrics["made"].values()), items
        elif SAMPLED.fullmatch(key) and artifact.type == "dialogs":
            found[key] = sample_of_dialogs(key, artifact)
    return {key: (count, items) for key, (count, items) in found.items() if items}


def sample_of_dialogs(key: str, artifact: Artifact) -> tuple[int, list[TextItem]]:
    """How many dialogs of an artifact end in an answer of a model, and the sample of them that people check."""
    dialogs = [row for row in read_rows(artifact.file("dialogs.jsonl")) if row.get("source") != OWN]
    drawn = drawn_to_check(dialogs, lambda row: str(row["id"]))
    return len(dialogs), [_text(key, row["messages"][:-1], row["messages"][-1]["content"]) for row in drawn]


def read_prompts(path: Path) -> list[tuple[Messages, str]]:
    """The prompts of a file with their `category`, each once. Raises DataError with all problems."""
    found: dict[str, tuple[Messages, str]] = {}
    problems: list[Problem] = []
    for number, row in rows_of(path):
        where = f"{path.name}:{number}"
        try:
            if isinstance(row, DataError):
                raise row
            if "prompt" not in row:
                raise NO_PROMPT(where)
            prompt = tuple(_plain(message) for message in read_prompt(row, where))
            if prompt[-1]["role"] != "user":
                raise NOT_A_USER(where, role=prompt[-1]["role"])
            found.setdefault(_id(prompt), (prompt, str(row.get("category") or "")))
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError.of(problems[:20])
    if not found:
        raise NO_PROMPT(path)
    return list(found.values())


def paired(messages: Messages, answers: Sequence[ModelAnswer], category: str, seed: int, follows: str = "") -> PairItem:
    """The item of two answers, whose order says nothing of their models."""
    first, second = sorted(answers, key=lambda answer: _core.blake3_bytes(f"{seed} {answer.text}".encode(*_ANY)))
    return PairItem(messages, (first, second), category, follows)


def _pair(messages: Messages, family: str, texts: Mapping[str, str], seed: int) -> PairItem | None:
    if len(texts) < 2:
        return None
    drawn = sorted(texts, key=lambda text: _core.blake3_bytes(f"{seed} {text}".encode(*_ANY)))
    first = drawn[0]
    second = next((text for text in drawn if texts[text] != texts[first]), drawn[1])
    return paired(messages, [ModelAnswer(texts[text], text) for text in (first, second)], family, seed)


def _model_of(artifact: Artifact, names: Mapping[str, str]) -> str:
    parents = [parent.hash for parent in artifact.manifest.parents if parent.role == "checkpoint"]
    return names.get(parents[0], parents[0][:12]) if parents else ""


def _sampled(artifact: Artifact) -> Iterator[dict[str, Any]]:
    """Every answer of a round; none of one whose algorithm samples for itself."""
    if any(entry.path == "samples.jsonl" for entry in artifact.manifest.files):
        yield from read_rows(artifact.file("samples.jsonl"))


def _text(source: str, messages: Sequence[Mapping[str, Any]], text: str) -> TextItem:
    return TextItem(source, tuple(map(_plain, messages)), text)


def _plain(message: Mapping[str, Any]) -> dict[str, str]:
    return {"role": str(message["role"]), "content": str(message["content"])}


def _messages(row: Mapping[str, Any]) -> Messages:
    return tuple({"role": message["role"], "content": message["content"]} for message in row["messages"])


def _as_it_was(item: Any, row: Mapping[str, Any], where: str) -> Any:
    if row.get("id") != item.id:
        raise OTHER_ITEM(where)
    return item


_ANY = ("utf-8", "backslashreplace")


def _id(value: Any) -> str:
    return _core.blake3_bytes(canonical_json(value))[:16]
