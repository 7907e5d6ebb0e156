"""What is refused before a run starts."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from llama3.errors import ConfigError
from llama3.preflight import load_config, ready

pytestmark = pytest.mark.usefixtures("built_ins")


@pytest.fixture(autouse=True)
def _one_process(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model: {preset: tinny}", "run.yaml:1:9: model.preset: "),
        ("model: {preset: tiny, n_heads: 3, n_kv_heads: 2}", "cannot share 2 key-value heads"),
        ("model: {path: nowhere}", "run.yaml:1:9: model.path: nowhere: no model is here. there is no such folder"),
        ("model: {path: nowhere, dim: 64}", "run.yaml:1:24: model.dim: cannot be set beside model.path (nowhere)"),
        ("model: {path: run.yaml}", "run.yaml:1:9: model.path: run.yaml: is no GGUF file"),
        ("tokenizer: {path: nowhere.model}", "run.yaml:1:13: tokenizer.path: nowhere.model does not exist"),
        ("safety: {policy: {entry: prompt_injection}}", "run.yaml:1:19: safety.policy.entry: unknown stage 'entry'"),
        ("safety: {policy: {input: {}}}", "run.yaml:1:19: safety.policy.input: the stage has no guard"),
        (
            "safety: {policy: {input: {any: [{guard: prompt_injection, on_error: allow}]}}}",
            "safety.policy.input.any.0: on_error: allow makes the guard fail open",
        ),
        (
            "safety: {policy: {input: {guard: prompt_injection, options: {threshold: 0.5}}}}",
            "unknown key 'options'. Fix: use advisory, guard, on_error, thresholds, timeout_ms; "
            "a guard's options stand beside its name: {guard: {name: NAME, option: value}}",
        ),
        ("safety: {policy: {input: {guard: 5}}}", "safety.policy.input.guard: 5 names no guard"),
    ],
)
def test_stages_refuse_through_their_own_readers(write, text, expected):
    with pytest.raises(ConfigError) as caught:
        load_config(write(text))
    assert expected in str(caught.value)


def test_every_answer_as_long_as_the_context_is_refused_at_once(write):
    text = """
model: {preset: tiny, max_seq_len: 64}
pretrain: {seq_len: 64}
post_training:
  reject: {max_tokens: 64}
  prefer: {max_tokens: 63}
  safety: {prompts: [x.jsonl], max_tokens: 100}
"""
    with pytest.raises(ConfigError) as caught:
        load_config(write(text))
    told = [problem for problem in caught.value.problems if problem.code == "L3-SMP-002"]
    assert [problem.where for problem in told] == [
        "run.yaml:5:12: post_training.reject.max_tokens",
        "run.yaml:7:32: post_training.safety.max_tokens",
    ]
    assert "answers of 100 tokens leave no room for a prompt. the model is made for 64 tokens" in str(told[1])
    with pytest.raises(ConfigError) as caught:
        load_config(write(text), ["post_training.rounds=0", "post_training.data=rows.jsonl"])
    assert [problem.where for problem in caught.value.problems if problem.code == "L3-SMP-002"] == [told[1].where]
    short = "model: {preset: tiny, max_seq_len: 64}\npretrain: {seq_len: 64}\npost_training: {rounds: 0}\n"
    assert load_config(write(short)).config.model.max_seq_len == 64


def test_answers_are_held_against_the_context_of_each_size(write):
    sizes = """
post_training: {reject: {max_tokens: 2000}}
sizes:
  large: {model: {preset: tiny, max_seq_len: 4096}}
  cut: {prune: {of: large, n_layers: 2}}
"""
    assert load_config(write(sizes)).config.sizes.keys() == {"large", "cut"}
    with pytest.raises(ConfigError) as caught:
        load_config(write(sizes + "  small: {model: {preset: tiny}}\n"))
    (told,) = caught.value.problems
    assert (told.code, "small" in told.where, "made for 1024 tokens" in told.why) == ("L3-SMP-002", True, True)


def test_a_mesh_without_its_processes_is_refused_when_a_run_starts_not_before(write, monkeypatch):
    file = write("parallelism: {dp: {name: single, size: 2}}")
    loaded = load_config(file)
    with pytest.raises(ConfigError, match="torchrun --nproc-per-node 2"):
        ready(loaded)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert ready(loaded) is loaded


def test_a_loaded_config_passes_through_and_takes_no_overrides(write):
    loaded = load_config(write("pretrain: {steps: 3}"))
    assert load_config(loaded) is loaded
    with pytest.raises(ConfigError, match="takes no overrides"):
        load_config(loaded, ["pretrain.steps=4"])


def test_run_refuses_a_bad_config_before_it_imports_torch(tmp_path):
    program = (
        "import sys, llama3\n"
        "try: llama3.run({'pretrain': {'stepz': 1}})\n"
        "except llama3.errors.ConfigError as error: print(error)\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, env=dict(os.environ), timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "did you mean 'steps'?" in done.stdout
    assert list(tmp_path.iterdir()) == []
