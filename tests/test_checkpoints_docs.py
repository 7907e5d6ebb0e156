"""docs/checkpoints.md: its files are those of a save, its codes and tests are there."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from llama3.errors import DECLARED
from llama3.training.checkpoint import CheckpointStore
from llama3.training.parallel import ParallelContext
from llama3.training.saving import MAX_FAILURES, CheckpointSaver

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "checkpoints.md").read_text(encoding="utf-8")


def test_the_files_are_those_of_a_save(tmp_path):
    saver = CheckpointSaver(CheckpointStore(tmp_path), ParallelContext(torch.device("cpu")))
    groups = {group: {"w": torch.ones(2)} for group in ("model", "optimizer", "average")}
    saver.save(200, groups, {}, last=True)
    (block,) = re.findall(r"^```text\n(.*?)^```", TEXT, re.DOTALL | re.M)
    named = set(re.findall(r"^  ([A-Za-z]+)", block, re.M))
    assert named == {re.match("[A-Za-z]+", path.name)[0] for path in (tmp_path / "step-200").iterdir()}


def test_codes_tests_and_numbers_are_there():
    assert set(re.findall(r"L3-[A-Z]+-\d{3}", TEXT)) <= DECLARED.keys()
    for name in re.findall(r"`(test_\w+\.py)`", TEXT):
        assert (ROOT / "tests" / "training" / name).exists(), name
    assert MAX_FAILURES == 2
    assert "second failure in a row" in TEXT
