"""What a stage's signature says of it."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from llama3.artifacts import Artifact, Checkpoint, Preferences, Report, Stage, StageOutput, stage


class Options(BaseModel):
    weight: float


def learn(
    checkpoint: Checkpoint,
    anything: Artifact,
    reward: Checkpoint | None = None,
    *,
    options: Options,
    out: StageOutput,
    **others: Artifact,
) -> None:
    """Writes down what it was given."""
    out.metrics["given"] = [checkpoint, anything, reward, options.weight, others]


def test_inputs_and_their_types_follow_from_the_signature():
    assert stage(output="checkpoint", every_rank=True)(learn) == Stage(
        name="learn",
        function=learn,
        output="checkpoint",
        required={"checkpoint": "checkpoint", "anything": None},
        optional={"reward": "checkpoint"},
        others=True,
        every_rank=True,
    )

    @stage(output="report")
    def compare(before: Report, preferences: Preferences = None, *, out: StageOutput) -> None: ...

    assert (compare.required, compare.optional) == ({"before": "report"}, {"preferences": "preferences"})
    assert (compare.others, compare.every_rank) == (False, False)


def test_a_stage_is_called_like_its_function(tmp_path):
    out = StageOutput(tmp_path, tmp_path)
    stage(output="checkpoint")(learn)(checkpoint=1, anything=2, other=3, options=Options(weight=0.5), out=out)
    assert out.metrics["given"] == [1, 2, None, 0.5, {"other": 3}]


def test_an_unknown_type_is_refused_where_the_stage_is_declared():
    with pytest.raises(ValueError, match=r"stage 'learn': unknown artifact types \['chekpoint'\]"):
        stage(output="chekpoint")(learn)
