"""What `post_training.quality` and `post_training.retune` would stumble over, found before a run starts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from llama3.config.data_quality import QualitySection
from llama3.config.schema import Config
from llama3.errors import ConfigError, LlamaError, Problem, did_you_mean
from llama3.synthesis.writers import is_served
from llama3.tasks.data_kind import data_kind
from llama3.tasks.user_data import read_lines

NO_MODEL = ConfigError.declare("L3-QUA-003", "there is no model at {path!r}", fix="name a folder or a file that is one")
NO_ENCODER = ConfigError.declare(
    "L3-QUA-004",
    "there is no sentence encoder at {path!r}",
    fix="name a folder with config.json, a tokenizer and model.safetensors, or leave it out",
)
NOT_DIALOGS = ConfigError.declare(
    "L3-QUA-005", "nothing would be chosen", why="{why}", fix="remove post_training.quality, or {fix}"
)
NO_SOURCE = ConfigError.declare(
    "L3-QUA-006", "no dialog is of the source {name!r}", why="{near}", fix="name sources that there are, or none"
)
ROUND_SOURCES = ("demonstration", "rehearsal", "rejection_sampling", "teacher")
"""What the dialogs of a round can be, before those about safety join them (llama3.posttraining)."""
NOT_RETUNED = ConfigError.declare(
    "L3-PST-201", "no mix would be re-tuned", why="{why}", fix="take post_training.retune out{instead}"
)
NO_LABELS = ConfigError.declare(
    "L3-PST-202",
    "nobody tells the {column} of a dialog",
    why="post_training.quality names no labeller",
    fix="add `post_training: {{quality: {{labeller: {{model: PATH}}}}}}`, or leave it out",
)


def retune_problems(config: Config) -> Iterator[Problem]:
    """A mix that no round follows, and columns that nobody fills. Torch-free."""
    post, where = config.post_training, "post_training.retune"
    if post.retune is None:
        return
    if post.data is not None:
        yield NOT_RETUNED.problem(where, why="what is learnt is post_training.data", instead="")
    elif post.rounds < 2:
        instead = ", or set post_training.rounds above 1"
        yield NOT_RETUNED.problem(where, why="no round has one before it", instead=instead)
    if post.quality is None or post.quality.labeller is None:
        for place, column in enumerate(post.retune.by):
            if column != "family":
                yield NO_LABELS.problem(f"{where}.by.{place}", column=column)


def quality_problems(config: Config) -> Iterator[Problem]:
    """A labeller, an encoder or sources that are not there, and a section that has no dialogs to choose from.
    Torch-free."""
    yield from retune_problems(config)
    section, where = config.post_training.quality, "post_training.quality"
    if section is None:
        return
    yield from _no_dialogs(config, where)
    yield from _no_sources(config, section, where)
    if section.labeller is not None:
        try:
            if not is_served(section.labeller.model) and not Path(section.labeller.model).exists():
                yield NO_MODEL.problem(f"{where}.labeller.model", path=section.labeller.model)
        except LlamaError as error:  # an address that is none
            yield from (replace(problem, where=f"{where}.labeller.model") for problem in error.problems)
    encoder = section.dedup.encoder if section.dedup else None
    if encoder is not None and not (Path(encoder) / "config.json").is_file():
        yield NO_ENCODER.problem(f"{where}.dedup.encoder", path=encoder)


def _no_dialogs(config: Config, where: str) -> Iterator[Problem]:
    post = config.post_training
    if post.data is None:
        if not post.rounds:
            yield NOT_DIALOGS.problem(where, why="there is no round", fix="set post_training.rounds above 0")
        return
    try:
        kind = read_lines(Path(post.data), most=1)[0].row.kind
    except LlamaError:
        return  # told by others
    if kind != "dialogs":
        yield NOT_DIALOGS.problem(where, why=f"rows of {kind} are not finetuned on", fix="give dialogs")


def _no_sources(config: Config, section: QualitySection, where: str) -> Iterator[Problem]:
    looked_in = section.dedup.sources if section.dedup else []
    named = [(f"{where}.dedup.sources[{n}]", name) for n, name in enumerate(looked_in)]
    known = _sources(config) if named else set()
    for place, name in named:
        if known and name not in known:
            near = did_you_mean(name, known) or f"sources: {', '.join(sorted(known))}"
            yield NO_SOURCE.problem(place, name=name, near=near)


def _sources(config: Config) -> set[str]:
    """Of the dialogs that are chosen from; empty where others tell that there are none."""
    if config.post_training.data is None:
        return {*ROUND_SOURCES, *(slot.name for slot in config.post_training.capabilities)}
    path = Path(config.post_training.data)
    try:
        rows = [line.row for line in read_lines(path)]
        writers = [write for name, write in data_kind(rows[0].kind).stored.items() if name == "dialogs"]
        return {str(row.get("source", "")) for write in writers for row in write(rows, path.stem)}
    except LlamaError:
        return set()


def try_labeller(config: Config, device: str) -> None:
    """Have the labeller label one dialog, where there is one. Raises as `Labeller` does, with the key."""
    from llama3.quality.dialogs import DialogRow
    from llama3.quality.labels import LABELS, Labeller

    section = config.post_training.quality
    if section is None or section.labeller is None:
        return
    messages = [{"role": "user", "content": "How are you?"}, {"role": "assistant", "content": "I am well."}]
    try:
        Labeller(section.labeller, section.topics, device).label(LABELS[-1], [DialogRow({"messages": messages})])
    except LlamaError as error:
        where = "post_training.quality.labeller"
        raise type(error).of([replace(told, where=f"{where}: {told.where}") for told in error.problems]) from error
