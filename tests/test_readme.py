"""README.md is followed from top to bottom in one folder: every command as it is printed, on small models.

What stands in for what a reader has:

- `PATH`, `BEFORE` and `IN` are one small model, `AFTER` is what `make adopt ALGORITHM=ppo` makes of it
- `my.jsonl` holds a few rows, `prompts.jsonl` two requests; what is typed into the chat is one question
- the presets get small sizes from the environment, which `--set` outranks
- `make TARGET` does what `make --dry-run TARGET` says of `llama3`; what it installs is here

Lines that README shows below a command are among those that it prints, in their order, whatever the numbers.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pages
import pytest
import yaml
from test_plugins_docs import Reader

import llama3
from llama3.model.build import init_weights
from llama3.model.config import ModelConfig
from llama3.model.transformer import Transformer
from llama3.plugins.registry import discover
from llama3.tokenizer import Tokenizer
from llama3.training.placed import PlacedModel
from llama3.training.stage import save_checkpoint

pytestmark = pytest.mark.timeout(900)  # README is one walk: the first test waits for all of it
ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
COMMANDS = [command for language, block in BLOCKS if language == "console" for command in pages.commands(block)]
NOT_RUN = {
    "make test": "it is what runs this test",
    "llama3 serve runs/quickstart": "it serves until it is stopped; tests/serving asks it",
}
RUN = [command for command in COMMANDS if command.line not in NOT_RUN]

FAMILIES = ["syllogism"]
"""Tasks of the adopted model: once an answer is Yes or No, every second one is right."""
PRECISE = {"precision": "fp32", "microbatch_tokens": 2048, "checkpoint_every": 1000}
SMALL = {
    "run.threads": 1,
    "data.sources.0.max_bytes": 100_000,
    "data.held_out": 0.2,
    "post_training.sft": {"epochs": 2, "batch": 16, "lr": 1e-2, **PRECISE},
}
QUICKSTART = {
    **SMALL,
    "tokenizer.vocab_size": 1024,
    "model": {"dim": 64, "n_layers": 2, "n_heads": 2, "n_kv_heads": 1, "ffn_dim": 128, "max_seq_len": 256},
    "pretrain": {"steps": 20, "batch": 2, "seq_len": 128, "warmup": 5, "phases": [{}], **PRECISE},
    "post_training.reject": {"prompts": 16, "samples": 2, "demonstrations": 600, "max_tokens": 16, "precision": "fp32"},
    "post_training.prefer": {"prompts": 64, "max_tokens": 16, "epochs": 1, "sampling_precision": "fp32", **PRECISE},
    "evaluation": {"limit": 20, "max_tokens": 16},
}
ADOPT = {
    **SMALL,
    "post_training.rewards.0.families": FAMILIES,
    "post_training.reject": {"demonstrations": 320, "max_tokens": 4, "rehearsal": 8, "rehearsal_tokens": 8,
                             "precision": "fp32"},
    "post_training.prefer": {"prompts": 16, "max_tokens": 4, "sampling_precision": "fp32", **PRECISE},
    "post_training.sft.lr": 3e-3,
    "evaluation": {"limit": 40, "max_tokens": 4},
    **{f"evaluation.tasks.{number}.max_tokens": 4 for number in (0, 1, 4, 5)},
    **{f"evaluation.tasks.{number}.limit": 20 for number in (1, 3, 4, 5)},
    "evaluation.tasks.2.max_bytes": 20_000,
    "evaluation.tasks.2.document_bytes": 1000,
    "pretrain.precision": "fp32",
    "audit": {"margin": 0.9, "relative_margin": 0.9},
}  # fmt: skip


def environment(sizes: Mapping[str, Any]) -> dict[str, str]:
    return {f"LLAMA3__{key.upper().replace('.', '__')}": json.dumps(value) for key, value in sizes.items()}


def write_what_a_reader_has() -> None:
    tasks = discover().build("rewards", "reasoning_gym", {"families": FAMILIES}).tasks("train", 200, seed=0)
    texts = [f"{task.prompt} {task.reference}" for task in tasks]
    config = ModelConfig(dim=64, n_layers=2, n_heads=2, n_kv_heads=1, ffn_dim=128, vocab_size=400, max_seq_len=512)
    model = PlacedModel(init_weights(Transformer(config), 1))
    for name in ("PATH", "BEFORE", "IN"):
        save_checkpoint(Path(name), model, Tokenizer.train(texts, 400, 16), {})
    Path("AFTER").symlink_to("runs/adopt-ppo")
    rows = [{"prompt": f"Is {n} even?", "completion": "no" if n % 2 else "yes"} for n in range(120)]
    Path("my.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    body = {"model": "quickstart", "prompt": "def main():", "max_tokens": 4}
    asked = [{"custom_id": id, "method": "POST", "url": "/v1/completions", "body": body} for id in ("a", "b")]
    Path("prompts.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in asked))


def commands_of(line: str) -> list[str]:
    """What a line of README has `llama3` do."""
    if not line.startswith("make "):
        return [line]
    options = ["--dry-run", "SMOLLM2=PATH"]
    done = subprocess.run([*shlex.split(line), *options], cwd=ROOT, capture_output=True, text=True, check=True)
    return re.findall(r"^\S*/bin/(llama3 .*)", done.stdout.replace("\\\n", ""), re.MULTILINE)


@dataclass
class Walk:
    """README, followed."""

    reader: Reader
    patch: pytest.MonkeyPatch
    done: dict[str, tuple[str, int]] = field(default_factory=dict)
    """What each line printed, and its exit code."""
    names: dict[str, Any] = field(default_factory=dict)
    """What the Python of README has left."""

    def follow(self) -> None:
        """Every block, in order."""
        for language, block in BLOCKS:
            if language == "console":
                for command in pages.commands(block):
                    self._do(command.line)
            elif language == "toml":
                Path("llama3-acme").mkdir()
                Path("llama3-acme", "pyproject.toml").write_text(block)
            elif language == "python" and block.startswith("# llama3_acme.py\n"):
                Path("llama3-acme", "llama3_acme.py").write_text(block)
                self.reader.do("pip install -e llama3-acme")
            elif language == "python":
                self._as_small(QUICKSTART)
                exec(compile(block, "README.md", "exec"), self.names)

    def _do(self, line: str) -> None:
        if line in NOT_RUN:
            return
        self._as_small(ADOPT if re.search(r"\b(adopt|audit)\b", line) else QUICKSTART)
        typed = "echo 'What is 2 + 2?' | " if line.startswith("llama3 chat ") else ""
        asked = commands_of(line)
        assert asked, f"{line}: nothing that could be run; say why under NOT_RUN"
        said = [self.reader.do(typed + command) for command in asked]
        self.done[line] = "".join(printed for printed, _ in said), max(code for _, code in said)

    def _as_small(self, sizes: Mapping[str, Any]) -> None:
        for name in [name for name in os.environ if name.startswith("LLAMA3__")]:
            self.patch.delenv(name)
        for name, value in environment(sizes).items():
            self.patch.setenv(name, value)


@pytest.fixture(scope="module")
def walk(tmp_path_factory) -> Iterator[Walk]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("readme"))
        write_what_a_reader_has()
        found = Walk(Reader(tmp_path_factory.mktemp("site"), patch), patch)
        found.follow()
        yield found
    discover.cache_clear()


def test_every_block_is_followed():
    assert {language for language, _ in BLOCKS} == {"console", "python", "toml", ""}
    for language, block in BLOCKS:
        assert language != "console" or block.startswith("$ ")
        assert language or "$ " not in block


def test_what_is_not_run_is_in_the_readme():
    assert NOT_RUN.keys() <= {command.line for command in COMMANDS}


@pytest.mark.parametrize("command", RUN, ids=[command.line for command in RUN])
def test_a_command_works_and_prints_what_is_shown(walk, command):
    printed, code = walk.done[command.line]
    assert code == 0, printed
    below = printed.replace(f"{Path.cwd()}/", "")
    lines = iter([pages.plain(line, numbers=True) for line in below.splitlines()])
    for line in command.shown.splitlines():
        assert line in ("...", "") or pages.plain(line, numbers=True) in lines, f"{line!r} is not in:\n{printed}"


def test_the_python_works(walk):
    assert list(walk.names["model"].chat("What is 2 + 2?", max_tokens=4, stream=True))
    assert "release" in walk.names["run"].artifacts


def test_the_plugin_is_found_and_scores(walk):
    row = next(row for row in discover().list("rewards") if row.name == "brief")
    assert (row.dist, row.version, row.status) == ("llama3-acme", "0.1", "ok")
    assert discover().build("rewards", "brief").score(["p", "p"], ["", "abc"], [{}, {}]) == [1.0, 0.25]


def test_a_run_with_the_plugin_ends_with_a_release(walk):
    chosen = yaml.safe_load(re.search(r"`(post_training: \{rewards: .*?\})` in a config selects it", TEXT)[1])
    assert chosen["post_training"]["rewards"][1] == "brief"
    run = llama3.run({"extends": "quickstart", **chosen})
    assert run.artifacts["release"].path.is_dir()
