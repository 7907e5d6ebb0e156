"""The stage `score_dialogs`: everything that is known of each dialog before it is decided which are learnt.

Labels and embeddings cost, thresholds do not: so this stage decides nothing, and another threshold reads what it wrote.
Every answer of a labeller and every part of the embeddings is kept when it is there; a stage that was killed goes on
with the first that is missing. Equal dialogs are asked about once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from llama3.artifacts import Checkpoint, Dialogs, StageOutput, stage
from llama3.artifacts.files import append_json_line, read_json_lines
from llama3.config.data_quality import LabellerSection
from llama3.config.schema import Config
from llama3.config.slot_types import RewardSlot
from llama3.data.encoders import encoder_hash
from llama3.errors import DataError
from llama3.evaluation.stages import OutsideModel
from llama3.model.device import device_of
from llama3.posttraining.sampling import build_reward
from llama3.posttraining.services import chunks
from llama3.quality.dialogs import DialogRow, read_dialogs
from llama3.quality.embedding import Embedder, EncoderEmbedder, StateEmbedder, embedded
from llama3.quality.labels import LABELS, Labeller
from llama3.synthesis.writers import is_served
from llama3.tasks.named_files import named_files
from llama3.tasks.rows import write_rows

NO_DIALOGS = DataError.declare(
    "L3-QUA-001", "there are no dialogs", fix="raise the number of prompts, samples or demonstrations"
)
SCORES, EMBEDDINGS = "scores.jsonl", "embeddings.npy"
_CHUNK = 32
"""Dialogs that are labelled between two updates of the progress bar."""


class ScoreOptions(BaseModel):
    """Who is asked, with what its files hold."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    labeller: LabellerSection | None
    parallel: int = Field(exclude=True, description="of the labeller: it changes no label")
    labeller_hash: str = Field(description='of a model on this machine; "" for a served one, known by its address')
    topics: dict[str, list[str]]
    rewards: tuple[RewardSlot, ...]
    files: dict[str, str]
    embeds: bool
    encoder: str | None = Field(exclude=True)
    encoder_hash: str
    device: str

    @classmethod
    def of(cls, config: Config) -> Self:
        """From the whole config, which has `post_training.quality`. Raises ArtifactError where there is no labeller."""
        section = config.post_training.quality
        assert section is not None
        labeller, dedup = section.labeller, section.dedup
        here = labeller is not None and not is_served(labeller.model)
        encoder = None if dedup is None else dedup.encoder
        default = LabellerSection.model_fields["parallel"].default
        return cls(
            labeller=labeller and labeller.model_copy(update={"parallel": default}),
            parallel=labeller.parallel if labeller else default,
            labeller_hash=OutsideModel.at(labeller.model).blake3 if labeller and here else "",
            topics=section.topics if labeller else {},
            rewards=tuple(section.rewards),
            files=named_files(section.rewards),
            embeds=dedup is not None,
            encoder=encoder,
            encoder_hash="" if encoder is None else encoder_hash(encoder),
            device=str(device_of(config.run.device)),
        )


@stage(output="report")
def score_dialogs(
    dialogs: Dialogs,
    checkpoint: Checkpoint | None = None,
    reward: Checkpoint | None = None,
    *,
    options: ScoreOptions,
    out: StageOutput,
) -> None:
    """Write scores.jsonl (a row for each different dialog: labels and the reward, null where there is none) and, if
    dialogs are embedded, embeddings.npy (float32, rows of length 1, in the same order).

    `checkpoint` embeds where there is no encoder; `reward` is a reward model that joins those of the options. Metrics:
    by label who was asked, of how many dialogs, and how many of them were told. Raises DataError (L3-QUA-001) where
    there are no dialogs, and as the labeller does.
    """
    rows = [*{row.digest: row for row in read_dialogs(dialogs.path)}.values()]
    if not rows:
        raise NO_DIALOGS("dialogs")
    rows.sort(key=lambda row: row.digest)
    columns = _labels(rows, options, out)
    if options.rewards or reward is not None:
        combined = build_reward(options.rewards, reward, options.device)
        columns["reward"] = _rewards(rows, combined)
        _tell(out, "reward", ", ".join(combined.rewards), columns["reward"])
    write_rows(
        out.path / SCORES,
        [{"digest": row.digest, **{name: column[n] for name, column in columns.items()}} for n, row in enumerate(rows)],
    )
    if options.embeds:
        embedder = _embedder(options, checkpoint)
        parts = []
        with out.progress("embed", len(rows)) as progress:
            for part in embedded(embedder, [row.text for row in rows], out.scratch):
                parts.append(part)
                progress.advance(len(part))
        np.save(out.path / EMBEDDINGS, np.concatenate(parts), allow_pickle=False)
    out.metrics |= {"dialogs": len(rows)}


def _embedder(options: ScoreOptions, checkpoint: Any) -> Embedder:
    if options.encoder is not None:
        return EncoderEmbedder(options.encoder, options.device)
    return StateEmbedder(Path(checkpoint.path), options.device)


def _labels(rows: Sequence[DialogRow], options: ScoreOptions, out: StageOutput) -> dict[str, list[Any]]:
    """What the labeller says, by label; nothing where there is none."""
    section = options.labeller
    if section is None:
        return {}
    journal = out.scratch / "labels.jsonl"
    known = {(row["label"], row["digest"]): row for row in read_json_lines(journal)}
    labeller = Labeller(section.model_copy(update={"parallel": options.parallel}), options.topics, options.device)
    columns: dict[str, list[Any]] = {}
    for label in LABELS:
        missing = [row for row in rows if (label, row.digest) not in known]
        with out.progress(f"label: {label}", len(rows)) as progress:
            progress.advance(len(rows) - len(missing))
            for chunk in chunks(missing, _CHUNK):
                for row, said in zip(chunk, labeller.label(label, chunk), strict=True):
                    known[label, row.digest] = {"label": label, "digest": row.digest, "said": said}
                    append_json_line(journal, known[label, row.digest])
                progress.advance(len(chunk))
        columns[label] = [known[label, row.digest]["said"] for row in rows]
        _tell(out, label, labeller.name, columns[label])
    return columns


def _rewards(rows: Sequence[DialogRow], reward: Any) -> list[float | None]:
    """The score of each last answer; None where it is not scorable."""
    prompts = [row.last.question for row in rows]
    examples = [{"prompt": row.last.question, "context": list(row.messages[:-2])} for row in rows]
    scores = reward.score(prompts, [row.last.answer for row in rows], examples)
    return [None if math.isnan(total) else total for total in scores.total]


def _tell(out: StageOutput, label: str, who: str, said: Sequence[Any]) -> None:
    told = sum(value is not None for value in said)
    out.metrics.setdefault("asked", {})[label] = {"who": who, "of": len(said), "told": told}


def untold(asked: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What a person is told of a labeller or a reward that did not tell, from the metrics of the artifact."""
    return [
        f"quality: {row['who']} said nothing that can be read as {label} of {row['of'] - row['told']:,} "
        f"of {row['of']:,} dialogs"
        for label, row in asked.items()
        if row["told"] < row["of"]
    ]
