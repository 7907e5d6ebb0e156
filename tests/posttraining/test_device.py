"""The models that sample and are measured stand where `run.device` says."""

from __future__ import annotations

import pytest
import torch
from tiny import put, put_checkpoint, tiny_model

from llama3.config.schema import Config
from llama3.errors import DoesNotFit
from llama3.evaluation.stages import EvaluateOptions, evaluate
from llama3.model.device import device_of
from llama3.posttraining.finetune import PreferOptions, RewardOptions, SFTOptions
from llama3.posttraining.preferences import PreferencesOptions, preferences
from llama3.posttraining.reject import RejectOptions, reject
from llama3.training.pretrain import PretrainOptions

OPTIONS = {
    "pretrain": PretrainOptions.of,
    "sft": SFTOptions.of,
    "reward": RewardOptions.of,
    "prefer": PreferOptions.of,
    "evaluate": EvaluateOptions.of,
    "reject": lambda config: RejectOptions.of(config, 1),
    "preferences": lambda config: PreferencesOptions.of(config, 1),
}
STAGES = {"reject": reject, "preferences": preferences, "evaluate": evaluate}


@pytest.mark.parametrize("stage", OPTIONS)
def test_every_stage_follows_the_device_of_the_run(stage: str) -> None:
    asked = lambda device: OPTIONS[stage](Config.model_validate({"run": {"device": device}}))
    assert asked("cpu").device == "cpu"
    assert asked("auto").device == device_of("auto").type
    if not torch.cuda.is_available():
        with pytest.raises(DoesNotFit, match="L3-TRN-030"):
            asked("cuda")


@pytest.mark.parametrize("stage", STAGES)
def test_the_model_is_loaded_on_the_device(run, tokenizer, stage: str) -> None:
    """A device that holds no numbers is named by whoever meets it."""
    inputs = {"checkpoint": put_checkpoint(run, tiny_model(tokenizer), tokenizer)}
    if stage == "evaluate":
        inputs["corpus"] = put(run, "corpus", "corpus", lambda folder: (folder / "x").write_text(""))
    rewards = [{"name": "verifiable"}]
    options = OPTIONS[stage](Config.model_validate({"post_training": {"rewards": rewards}}))
    with pytest.raises(Exception, match="meta"):
        run.execute(STAGES[stage], inputs, options.model_copy(update={"device": "meta"}))
