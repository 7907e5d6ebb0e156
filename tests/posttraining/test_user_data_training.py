"""Every kind of a user's rows trains a tiny model, from the file to the checkpoint."""

from __future__ import annotations

import json

import pytest
from tiny import put_checkpoint, tiny_model

from llama3.config.schema import PreferSection, SFTSection
from llama3.config.slot_types import Slot
from llama3.posttraining.finetune import PreferOptions, SFTOptions, prefer, sft
from llama3.preflight import load_config
from llama3.tasks.user_data import UserDataOptions, own_data

SMALL = {"lr": 1e-3, "batch": 4, "precision": "fp32", "warmup": 1, "log_every": 100}
PROMPTS = [f"What is {i} plus 1?" for i in range(8)]
ROWS = {
    "sft": [{"prompt": prompt, "completion": str(i + 1)} for i, prompt in enumerate(PROMPTS)],
    "dpo": [{"prompt": prompt, "chosen": str(i + 1), "rejected": "none"} for i, prompt in enumerate(PROMPTS)],
    "kto": [{"prompt": prompt, "completion": str(i), "label": i % 2 == 0} for i, prompt in enumerate(PROMPTS)],
    "grpo": [{"prompt": prompt, "answer": i + 1} for i, prompt in enumerate(PROMPTS)],
}


@pytest.mark.parametrize("name", ROWS)
def test_a_users_rows_train_the_algorithm_that_they_suit(run, tokenizer, tmp_path, name):
    path = tmp_path / "my.jsonl"
    path.write_text("".join(json.dumps({"split": "train", **row}) + "\n" for row in ROWS[name]))
    algorithm = {} if name == "sft" else {"algorithm": name}
    config = load_config({"post_training": {"data": str(path), **algorithm}}).config
    given = run.execute(own_data(UserDataOptions.of(config)), {}, UserDataOptions.of(config))
    base = put_checkpoint(run, tiny_model(tokenizer), tokenizer)
    if given.type == "dialogs":
        options = SFTOptions(sft=SFTSection(**SMALL, epochs=1), seed=1)
        trained = run.execute(sft, {"checkpoint": base, "dialogs": given}, options)
    else:
        rewards = (Slot.model_validate({"name": "jsonl_tasks", "path": str(path)}),) if name == "grpo" else ()
        section = PreferSection(**SMALL, epochs=1, max_tokens=6)
        options = PreferOptions(prefer=section, algorithm=config.post_training.algorithm, rewards=rewards, seed=1)
        trained = run.execute(prefer, {"checkpoint": base, "preferences": given}, options)
    assert trained.metrics["examples"] == 8
    assert trained.metrics["steps"] == 2
