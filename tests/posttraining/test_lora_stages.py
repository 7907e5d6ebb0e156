"""Adapters through the stages: one option of every algorithm, the base as the reference, merged at the end."""

from __future__ import annotations

import json
import os
import signal

import pytest
import torch
from tiny import put, put_checkpoint, tiny_model

from llama3.artifacts.run import RunDir
from llama3.checkpoints.load import load_model
from llama3.checkpoints.peft_adapter import load_adapter
from llama3.cli import main
from llama3.config.schema import LoRASection, PreferSection, SFTSection
from llama3.config.slot_types import Slot
from llama3.errors import Interrupted
from llama3.model.lora import adapters
from llama3.posttraining.finetune import PreferOptions, SFTOptions, prefer, sft
from llama3.tasks.rows import write_rows
from llama3.training.loop import Trainer

FAST = {"precision": "fp32", "warmup": 1, "log_every": 2, "lora": LoRASection(rank=4), "weight_decay": 0.0}
LOGGING = (Slot(name="jsonl"),)
SFT = SFTOptions(sft=SFTSection(lr=1e-2, batch=8, epochs=4, checkpoint_every=2, **FAST), seed=1, logging=LOGGING)
DPO = PreferOptions(
    prefer=PreferSection(lr=1e-2, batch=8, epochs=2, **FAST),
    algorithm=Slot(name="dpo"),
    rewards=(Slot(name="verifiable"),),
    seed=1,
    logging=LOGGING,
)


@pytest.fixture
def base(run, tokenizer):
    return put_checkpoint(run, tiny_model(tokenizer), tokenizer)


@pytest.fixture
def dialogs(run):
    rows = [
        {"id": str(i), "messages": [{"role": "user", "content": f"say {i}"}, {"role": "assistant", "content": "yes"}]}
        for i in range(16)
    ]
    return put(run, "dialogs", "dialogs", lambda folder: write_rows(folder / "dialogs.jsonl", rows))


@pytest.fixture
def pairs(run):
    rows = [
        {"id": str(i), "messages": [{"role": "user", "content": f"say {i}"}], "chosen": "yes", "rejected": "no"}
        for i in range(16)
    ]
    return put(run, "preferences", "preferences", lambda folder: write_rows(folder / "preferences.jsonl", rows))


def assert_is_base_plus_adapter(artifact, base) -> None:
    model = load_model(base.path)
    load_adapter(model, artifact.path / "adapter")
    merged = load_model(artifact.path)
    for name, layer in adapters(model).items():
        torch.testing.assert_close(merged.get_submodule(name).weight, layer.weight, atol=1e-6, rtol=1e-5)
        assert not torch.equal(merged.get_submodule(name).weight, layer.base.weight)
    assert torch.equal(merged.embed.weight, model.embed.weight)


def test_sft_learns_through_an_adapter(run, base, dialogs) -> None:
    tuned = run.execute(sft, {"checkpoint": base, "dialogs": dialogs}, SFT)
    losses = [row["loss"] for row in run.rows("metrics")]
    assert losses[-1] < 0.5 * losses[0]
    assert_is_base_plus_adapter(tuned, base)
    assert tuned.metrics["lora"]["max_abs_error"] < 1e-6


def test_the_reference_of_dpo_is_the_base(run, base, pairs) -> None:
    tuned = run.execute(prefer, {"checkpoint": base, "preferences": pairs}, DPO)
    assert_is_base_plus_adapter(tuned, base)
    rows = [row for row in run.rows("metrics") if "rewards/margins" in row]
    assert rows[-1]["rewards/margins"] > 0


def test_a_stopped_run_goes_on_to_the_same_adapter(run, base, dialogs, monkeypatch, tmp_path) -> None:
    stopped = iter(range(100))

    def stop_after_three(self, *args, save=Trainer.save_if_due) -> None:
        if next(stopped) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        save(self, *args)

    inputs = {"checkpoint": base, "dialogs": dialogs}
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "save_if_due", stop_after_three)
        with pytest.raises(Interrupted):
            run.execute(sft, inputs, SFT)
    resumed = run.execute(sft, inputs, SFT)
    with RunDir(tmp_path / "straight") as other:
        straight = other.execute(sft, inputs, SFT)
    assert resumed.hash == straight.hash


def test_merge_on_request_reports_its_error(run, base, dialogs, tmp_path, capsys) -> None:
    tuned = run.execute(sft, {"checkpoint": base, "dialogs": dialogs}, SFT)
    arguments = [str(base.path), str(tuned.path / "adapter"), str(tmp_path / "merged")]
    with pytest.raises(SystemExit) as done:
        main(["merge", *arguments, "--json"])
    assert done.value.code == 0
    report = json.loads(capsys.readouterr().out)
    assert report["max_logp_error"] < 1e-4
    assert report["change"] > 0
    merged, expected = load_model(tmp_path / "merged"), load_model(tuned.path)
    assert all(torch.equal(a, b) for a, b in zip(merged.parameters(), expected.parameters(), strict=True))
    with pytest.raises(SystemExit) as done:
        main(["merge", *arguments])
    assert done.value.code == 1
    assert "L3-LRA-007" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["merge", str(tuned.path), str(tuned.path / "adapter"), str(tmp_path / "other")])
    assert "L3-LRA-002" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
