"""A file that a reward or a suite reads counts by its content."""

from __future__ import annotations

import json

from llama3.config import load
from llama3.evaluation.stages import ContaminationOptions, EvaluateOptions
from llama3.posttraining.preferences import PreferencesOptions
from llama3.posttraining.reject import RejectOptions
from llama3.tasks.named_files import named_files


def test_another_content_is_another_request(tmp_path):
    path = tmp_path / "tasks.jsonl"
    reward = {"name": "jsonl_tasks", "path": str(path)}
    suite = {"name": "pass_rate", "suite": "own", "rewards": [reward]}

    def requests(answer):
        path.write_text(json.dumps({"prompt": "?", "answer": answer}))
        config = load({"post_training": {"rewards": [reward]}, "evaluation": {"tasks": [suite]}}).config
        made = [RejectOptions.of(config, 1), PreferencesOptions.of(config, 1), EvaluateOptions.of(config)]
        return [*made, ContaminationOptions.of(config)]

    first, same, other = requests("5"), requests("5"), requests("6")
    assert first == same
    assert all(a != b for a, b in zip(first, other, strict=True))
    config = load({"evaluation": {"tasks": [suite]}}).config
    assert list(named_files(config.evaluation.tasks)) == [str(path)]
    assert named_files(config.post_training.rewards) == {}
