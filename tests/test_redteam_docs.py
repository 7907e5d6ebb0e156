"""docs/redteam.md: its commands do on a small model what the page shows, in the order of the page; its attacker is one.

`...` in shown output stands for anything; where a model is measured, figures are those of the small model.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pages
import pytest
import test_plugins_docs as plugins
from test_recipe import write_text

from llama3.model.build import init_weights
from llama3.model.config import ModelConfig
from llama3.model.transformer import Transformer
from llama3.plugins.registry import discover
from llama3.tokenizer import Tokenizer
from llama3.training.placed import PlacedModel
from llama3.training.stage import save_checkpoint
from llama3_plugins.attackers.templates import Templates

TEXT = (pages.ROOT / "docs" / "redteam.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
COMMANDS = [command for language, block in BLOCKS if language == "console" for command in pages.commands(block)]
RUN = [command for command in COMMANDS if not command.line.startswith("cat ")]


def matches(command, printed):
    """Whether what is shown was printed, in this order."""
    said, place = " ".join(printed.split()), 0
    for part in " ".join(command.shown.split()).split("..."):
        found = said.find(part.strip(), place)
        if found < 0:
            return False
        place = found + len(part.strip())
    return True


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    results = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("page"))
        patch.setattr(sys, "dont_write_bytecode", True)
        write_text(Path("notes"))
        texts = [path.read_text() for path in sorted(Path("notes").iterdir())]
        config = ModelConfig(dim=32, n_layers=1, n_heads=2, n_kv_heads=1, ffn_dim=64, vocab_size=400, max_seq_len=1024)
        model = PlacedModel(init_weights(Transformer(config), 1))
        save_checkpoint(Path("my-model"), model, Tokenizer.train(texts, 400, 16), {"made": "here"})
        for language, block in BLOCKS:
            if language in ("yaml", "toml", "python"):
                path, _, content = block.removeprefix("# ").partition("\n")
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                Path(path).write_text(content)
        reader = plugins.Reader(tmp_path_factory.mktemp("site"), patch)
        for command in COMMANDS:
            if command.line.startswith("cat "):
                Path(command.line.removeprefix("cat ")).write_text(command.shown)
                continue
            if "finds.jsonl" in command.line:
                # The small model speaks noise, of which nothing is found: what is asked again are prompts at least.
                shutil.copy(pages.ROOT / "llama3_plugins" / "evaluators" / "prompts" / "safety.jsonl", "finds.jsonl")
            results.append((command, *reader.do(command.line)))
    discover.cache_clear()
    return results


@pytest.mark.parametrize("number", range(len(RUN)), ids=[command.line for command in RUN])
def test_a_command_does_what_the_page_shows(done, number):
    command, printed, code = done[number]
    assert code == 0, printed
    assert matches(command, printed), printed


def test_what_is_not_shown_is_told_apart(done):
    command, printed, _ = done[0]
    assert matches(command, printed)
    assert not matches(command, printed.replace("BLOCKED", "PASSED"))


def test_the_page_tells_every_style_and_no_other():
    table = TEXT.partition("| style |")[2].partition("\n\n")[0]
    told = [name for row in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(told) == sorted(Templates.styles)


def test_blocks_are_files_or_commands():
    assert {language for language, _ in BLOCKS} == {"console", "yaml", "toml", "python"}
    assert len(RUN) == 8
