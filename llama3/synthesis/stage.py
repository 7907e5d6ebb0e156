"""The stage `synthesise`: a model makes text of documents of the sources, before curation reads both.

Which documents, passages and styles is a function of sources, options and seed. Every answer is written down when it is
there; a stage that was killed goes on with the first that is missing. Every row tells what it was made of, by which
model, how it was asked and with which seed, and falls on the side of the held-out split on which its document falls.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from llama3 import _core
from llama3.artifacts import StageOutput, stage
from llama3.artifacts.files import append_json_line, read_json_lines
from llama3.config.schema import Config
from llama3.config.slot_types import SourceSlot
from llama3.config.synthesis import SyntheticSection, Writing
from llama3.data.curating import all_shards, build_sources, guarded
from llama3.data.documents import ShardRef, Source
from llama3.data.made import ROWS
from llama3.data.sampling import CHECKED, DrawnRows, drawn_to_check
from llama3.errors import DataError
from llama3.model.device import device_of
from llama3.synthesis.collapse import collapse_figures, collapse_signs
from llama3.synthesis.tasks import asked, passages, style_of, text_of_answer
from llama3.synthesis.writers import is_served, writer_of

NOTHING_MADE = DataError.declare(
    "L3-SYN-001",
    "none of {count} answers is text that could be used",
    why="{reasons}",
    fix="ask another model, or raise data.synthetic.max_tokens",
)
NOTHING_TO_READ = DataError.declare(
    "L3-SYN-002",
    "no source has a document to make text of",
    why="{count} shards were read; prose of {labels} is asked for",
    fix="check data.synthetic.sources",
)
COLLAPSES = DataError.declare(
    "L3-SYN-003",
    "what the model made is too alike or too much",
    why="{signs}",
    fix="ask another model or for other tasks; with data.synthetic.collapse.action: warn the run goes on",
)
REJECTED = "rejected.jsonl"
ANSWERS = "answers.jsonl"

Row = dict[str, Any]


class SynthesisOptions(BaseModel):
    """The options of the stage together with what they point at."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    section: SyntheticSection
    parallel: int = Field(exclude=True, description="of the section, which has its default: it changes no text")
    sources: list[SourceSlot]
    found: str
    """Hash of the names and contents of everything that is read."""
    model: str
    """Hash of a model on this machine; "" for a served one, which is known by its address and name."""
    seed: int
    device: str

    @classmethod
    def of(cls, config: Config) -> Self:
        """From the whole config, which has `data.synthetic`. Raises ConfigError with the problems of all sources, and
        ArtifactError where there is no such model."""
        from llama3.evaluation.stages import OutsideModel

        section = config.data.synthetic
        assert section is not None
        facts = [
            (s.source, s.location, s.part, s.bytes, s.stamp) for _, s in all_shards(build_sources(config.data.sources))
        ]
        return cls(
            section=section.model_copy(update={"parallel": SyntheticSection.model_fields["parallel"].default}),
            parallel=section.parallel,
            sources=config.data.sources,
            found=_core.blake3_bytes(repr(facts).encode("utf-8", "surrogateescape")),
            model="" if is_served(section.model) else OutsideModel.at(section.model).blake3,
            seed=config.run.seed,
            device=str(device_of(config.run.device)),
        )


@stage(output="texts")
def synthesise(*, options: SynthesisOptions, out: StageOutput) -> None:
    """Writes rows.jsonl (text with its provenance; read by llama3.data.made), to_check.jsonl (the tenth of it that
    people check, with what was asked) and rejected.jsonl (answers that are none, with the reason). Memory holds the
    documents that are drawn and all answers.

    Raises DataError where there is nothing to make text of (L3-SYN-002), where no answer could be used (L3-SYN-001),
    and where the text collapses and that stops the run (L3-SYN-003).
    """
    section = options.section
    documents, read_bytes = _drawn(options, out)
    requests = [request for row in documents for request in _requests(row, section, options.seed)]
    answers, model = _answered(requests, options, out)
    rows: list[Row] = []
    rejected: list[Row] = []
    for request in requests:
        text, reason = text_of_answer(request.task, request.passage, answers[request.key])
        told = request.row | {"model": model, "seed": options.seed}
        if reason:
            rejected.append({**told, "reason": reason, "answer": answers[request.key]})
        else:
            rows.append({"text": text, **told})
    reasons = dict(sorted(Counter(f"{row['task']}.{row['reason']}" for row in rejected).items()))
    if not rows:
        raise NOTHING_MADE("synthesise", count=len(requests), reasons=reasons)
    prompts = {request.row["url"]: request.prompt for request in requests}
    checked = [{**row, "asked": prompts[row["url"]]} for row in drawn_to_check(rows, lambda row: str(row["url"]))]
    for name, written in ((ROWS, rows), (CHECKED, checked), (REJECTED, rejected)):
        with (out.path / name).open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in written)
    _keep_books(rows, requests, read_bytes, options, out)
    out.metrics |= {"documents": len(documents), "passages": len({(r.row["of"], r.row["passage"]) for r in requests})}
    out.metrics |= {"model": model, "made": dict(Counter(row["task"] for row in rows)), "rejected": reasons}
    if out.metrics["signs"] and section.collapse.action == "stop":
        raise COLLAPSES("synthesise", signs=out.metrics["signs"])


@dataclass(frozen=True, slots=True)
class _Request:
    """A passage that a model is asked about."""

    key: str
    task: Writing
    passage: str
    prompt: str
    row: Row
    """Its provenance."""


def _drawn(options: SynthesisOptions, out: StageOutput) -> tuple[list[Row], int]:
    """The documents that text is made of, and the bytes of all that were read. Of a shard that breaks off none is
    taken, as the curation quarantines it."""
    section = options.section
    drawing = DrawnRows(section.documents, options.seed)
    shards = all_shards(build_sources(options.sources))
    seen: set[str] = set()
    read = 0
    with out.progress("draw", sum(shard.bytes for _, shard in shards), unit="B") as task:
        for source, shard in shards:
            try:
                rows, size = _of_shard(source, shard, seen, options)
            except DataError as error:
                out.event("shard_left_out", source=shard.source, shard=shard.location, error=str(error))
                continue
            finally:
                task.advance(shard.bytes)
            read += size
            for row in rows:
                drawing.offer(row["id"], lambda row=row: row)  # type: ignore[misc]
            seen |= {row["id"] for row in rows}
    if not drawing.rows:
        labels = ", ".join(section.sources) or "any source"
        raise NOTHING_TO_READ("data.synthetic", count=len(shards), labels=labels)
    return drawing.rows, read


def _of_shard(source: Source, shard: ShardRef, seen: set[str], options: SynthesisOptions) -> tuple[list[Row], int]:
    """What may be drawn of a shard, each text once, and the bytes of all that it holds. Raises DataError where it
    cannot be read to its end."""
    section = options.section
    drawing, here, read = DrawnRows(section.documents, options.seed), set[str](), 0
    for row in _documents(source, shard):
        read += len(row["text"].encode())
        wanted = row["kind"] == "prose" and (not section.sources or row["source"] in section.sources)
        if wanted and not (row["id"] in seen or row["id"] in here) and row["text"].strip():
            here.add(row["id"])
            drawing.offer(row["id"], lambda row=row: row)  # type: ignore[misc]
    return drawing.rows, read


def _documents(source: Source, shard: ShardRef) -> Iterator[Row]:
    names = ("text", "id", "source", "url", "language", "kind", "origin")
    for batch in guarded(source, shard):
        yield from batch.records.select(names).to_pylist()


def _requests(document: Row, section: SyntheticSection, seed: int) -> Iterator[_Request]:
    for number, passage in enumerate(passages(document["text"], section.passage)):
        for task in section.tasks:
            key = f"{task}:{document['id']}:{number}"
            style = style_of(f"{seed} {key}", task)
            prompt = asked(task, passage, style)
            row = {
                "url": f"synthetic:{key}",
                "task": task,
                "style": style,
                "of": document["id"],
                "of_url": document["url"],
                "of_source": document["source"],
                "passage": number,
                "origin": document["origin"],
                "language": document["language"],
                "kind": document["kind"],
                "prompt": _core.blake3_bytes(prompt.encode()),
            }
            yield _Request(key, task, passage, prompt, row)


def _answered(requests: Sequence[_Request], options: SynthesisOptions, out: StageOutput) -> tuple[dict[str, str], str]:
    """The answer to each request, and the model's name. Those that an earlier process got are not asked for again."""
    section, journal = options.section, out.scratch / ANSWERS
    earlier = list(read_json_lines(journal))
    answers: dict[str, str] = {row["key"]: row["answer"] for row in earlier}
    missing = [request for request in requests if request.key not in answers]
    if not missing:
        return answers, str(earlier[0]["model"])
    writer = writer_of(
        section.model,
        section.served,
        max_tokens=section.max_tokens,
        temperature=section.temperature,
        parallel=options.parallel,
        device=options.device,
    )
    with out.progress("write", len(requests)) as task:
        task.advance(len(requests) - len(missing))
        for start in range(0, len(missing), writer.at_once):
            some = missing[start : start + writer.at_once]
            said = writer.write([request.prompt for request in some], options.seed)
            for request, raw in zip(some, said, strict=True):
                answer = raw.encode("utf-8", "replace").decode()  # half of a surrogate pair, which no file can hold
                append_json_line(journal, {"key": request.key, "answer": answer, "model": writer.name})
                answers[request.key] = answer
            task.advance(len(some))
    return answers, writer.name


def _keep_books(
    rows: Sequence[Row], requests: Sequence[_Request], read_bytes: int, options: SynthesisOptions, out: StageOutput
) -> None:
    """The figures of the guard against collapse, and what they show."""
    of_key = {request.row["url"]: request.passage for request in requests}
    made: dict[str, list[str]] = {}
    read: dict[str, list[str]] = {}
    for row in rows:
        made.setdefault(row["task"], []).append(row["text"])
        read.setdefault(row["task"], []).append(of_key[row["url"]])
    size = sum(len(row["text"].encode()) for row in rows)
    share = size / (size + read_bytes)
    figures = collapse_figures(made, read)
    signs = collapse_signs(figures, share, options.section.collapse)
    out.metrics |= {"bytes": size, "share": round(share, 6), "diversity": figures, "signs": signs}
    for sign in signs:
        out.event("collapse_sign", sign=sign)


def told_signs(metrics: dict[str, Any]) -> list[str]:
    """What a person is told of synthetic text that is too alike or too much, from the metrics of the artifact."""
    return [f"synthetic text: {sign}" for sign in metrics["signs"]]
