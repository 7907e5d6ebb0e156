"""The stage `release`: one directory with everything that a user of the model needs, and the proof of where it is from.

config.json model.safetensors tokenizer.json ...   the first export (as a rule Hugging Face's layout)
README.md            the model card, written from manifests
LICENSE NOTICE ...   the terms of the released model that it was made from, if any
policy.json          the guard policy that belongs in front of the model
guards/              the models that its guards name, if any
lineage.json         every artifact behind the weights, up to the corpus and its sources
probe.safetensors    log-probabilities to check any implementation against
<role>/              further checkpoints (quantized ones), whole
<export>/            further exports
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from llama3 import _core
from llama3.artifacts import Artifact, Checkpoint, Report, StageOutput, stage
from llama3.artifacts.artifact import COMMIT, MANIFEST
from llama3.artifacts.files import write_bytes_atomic, write_json_atomic
from llama3.artifacts.lineage import LineageNode, trace
from llama3.checkpoints.companions import carry
from llama3.checkpoints.license import copy_terms
from llama3.checkpoints.load import read_config
from llama3.config.schema import Config
from llama3.config.slot_types import ExporterSlot, GuardPolicy, Slot
from llama3.errors import ArtifactError, ConfigError
from llama3.evaluation.audit import require_passed
from llama3.evaluation.contamination import require_clean
from llama3.evaluation.stages import SAFETY_MARK
from llama3.foreign import read_json
from llama3.plugins.registry import discover
from llama3.plugins.specs import EvaluatorSpec
from llama3.release.card import Card, model_card
from llama3.release.carried_guards import CarriedGuard, guards_of
from llama3.release.export import write_and_verify
from llama3.release.safety_card import SafetyFacts
from llama3.tasks.named_files import guard_slots, named_files

SAME_EXPORT = ConfigError.declare(
    "L3-REL-003", "{name!r} is there twice", fix="name each export once under release.exports"
)
SAME_FOLDER = ConfigError.declare(
    "L3-REL-005", "the release has such a folder already", fix="give the input another role"
)

NO_RED_TEAM = ArtifactError.declare(
    "L3-REL-011", "{folder} has no {file}", fix="name a folder that llama3 redteam --out has finished"
)
RED_TEAM_FILE = "report.json"


class RedTeamReport(BaseModel):
    """What a red team wrote into its folder. The same report elsewhere is the same."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(exclude=True)
    blake3: str

    @classmethod
    def at(cls, folder: str) -> RedTeamReport:
        """Raises ArtifactError where the folder has none."""
        path = Path(folder) / RED_TEAM_FILE
        if not path.is_file():
            raise NO_RED_TEAM("release.red_team", folder=folder, file=RED_TEAM_FILE)
        return cls(path=str(path), blake3=_core.blake3_file(str(path)))

    def read(self) -> dict[str, Any]:
        """The report."""
        found: dict[str, Any] = read_json(Path(self.path))
        return found


class ReleaseOptions(BaseModel):
    """Options of the stage."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    license: str | None
    exports: list[ExporterSlot]
    policy: GuardPolicy
    guards: dict[str, str] = Field({}, description="contents of the models that the guards of the policy open")
    red_team: RedTeamReport | None = None

    @classmethod
    def of(cls, config: Config) -> ReleaseOptions:
        """From the whole config."""
        section, policy = config.release, config.safety.policy
        return cls(
            name=section.name,
            license=section.license,
            exports=section.exports,
            policy=policy,
            guards=named_files(guard_slots(policy)),
            red_team=None if section.red_team is None else RedTeamReport.at(section.red_team),
        )


@stage(output="release")
def release(
    checkpoint: Checkpoint,
    contamination: Report | None = None,
    audit: Report | None = None,
    adopted: Checkpoint | None = None,
    *,
    options: ReleaseOptions,
    out: StageOutput,
    **others: Artifact,
) -> None:
    """Put the checkpoint and what is known of it into a release directory.

    `adopted` is the model of somebody else that it was made from: its terms stand in the release too. Every checkpoint
    among the `others` goes whole into a folder named after its role; every report's metrics go onto the card under its
    role. Raises GateFailed when an export does not compute what the checkpoint computes, when `contamination` names
    held-out tasks that were trained on, and when `audit` is not a passed audit of this checkpoint.
    """
    if contamination is not None:
        require_clean(contamination)
        others["contamination"] = contamination
    if audit is not None:
        require_passed(audit, checkpoint)
    folder = checkpoint.path
    exported = [_export(slot, folder, _place(out.path, index, slot)) for index, slot in enumerate(options.exports)]
    if adopted is not None:
        copy_terms(adopted.path, out.path)
    checkpoints = {role: artifact for role, artifact in others.items() if artifact.type == "checkpoint"}
    for role, artifact in checkpoints.items():
        _copy(artifact.path, out.path / role)
    lineage = _lineage(checkpoint)
    policy = carry(options.policy, out.path)
    card = Card(
        name=options.name,
        license=options.license or _license(adopted),
        made_from=None if adopted is None else adopted.metrics["name"],
        model=read_config(folder),
        exports=exported,
        policy=policy,
        lineage=lineage,
        reports={role: artifact.metrics for role, artifact in others.items() if artifact.type == "report"},
        audit=None if audit is None else audit.metrics,
        checkpoints={role: artifact.metrics for role, artifact in checkpoints.items()},
        safety=_safety(options, others.get("evaluation"), guards_of(policy, out.path)),
    )
    write_json_atomic(out.path / "lineage.json", lineage)
    write_bytes_atomic(out.path / "README.md", model_card(card).encode())
    out.metrics |= {"name": options.name, "exports": exported, "checkpoints": sorted(checkpoints)}


def _safety(options: ReleaseOptions, evaluation: Artifact | None, guards: Sequence[CarriedGuard]) -> SafetyFacts:
    """What is known of safety, and which evaluators of it were not asked."""
    results = {} if evaluation is None else evaluation.metrics
    asked = {row.get(SAFETY_MARK) for row in results.values() if isinstance(row, Mapping)}
    specs = [offer.spec for offer in discover().offers]
    known = sorted({spec.name for spec in specs if isinstance(spec, EvaluatorSpec) and spec.about_safety})
    return SafetyFacts(
        guards=guards,
        results=results,
        unasked=[name for name in known if name not in asked],
        red_team=None if options.red_team is None else options.red_team.read(),
    )


def _license(adopted: Artifact | None) -> str:
    """Own weights are Apache-2.0 unless the config says otherwise; another model's terms go on."""
    return "apache-2.0" if adopted is None else adopted.metrics["license"] or "unknown"


def _place(folder: Path, index: int, slot: Slot) -> Path:
    """The first export is the release itself, further ones lie in folders of their name."""
    place = folder if index == 0 else folder / slot.name
    if index and place.exists():
        raise SAME_EXPORT("release.exports", name=slot.name)
    place.mkdir(parents=True, exist_ok=True)
    return place


def _export(slot: Slot, checkpoint: Path, folder: Path) -> dict[str, Any]:
    """Export, read back, compare; the facts of both."""
    exporter = discover().build("exporters", slot.name, slot.options)
    made, report = write_and_verify(exporter, slot.name, checkpoint, folder)
    return {
        "name": slot.name,
        "layout": made.layout,
        "dtype": made.dtype,
        "parameters": made.parameters,
        "verified": report.log_probs,
        "difference": report.difference,
    }


def _copy(source: Path, target: Path) -> None:
    """An artifact's payload without its manifest and seal: in the release it is a plain folder."""
    if target.exists():
        raise SAME_FOLDER(target.name)
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(MANIFEST, COMMIT))


def _lineage(checkpoint: Artifact) -> list[dict[str, Any]]:
    """Everything behind a checkpoint, each artifact once, without what differs between equal runs (paths, times)."""
    rows: dict[str, dict[str, Any]] = {}
    for root in trace(checkpoint.location):
        for node in root.walk():
            rows.setdefault(node.hash, _row(node))
    return list(rows.values())


def _row(node: LineageNode) -> dict[str, Any]:
    made = node.manifest
    if made is None:
        return {"hash": node.hash, "missing": True, "parents": []}
    return {
        "hash": node.hash,
        "type": made.type,
        "stage": made.stage,
        "config_hash": made.config_hash,
        "code": made.code.model_dump(),
        "plugins": [use.model_dump() for use in made.plugins],
        "metrics": made.metrics,
        "parents": [parent.model_dump() for parent in made.parents],
    }
