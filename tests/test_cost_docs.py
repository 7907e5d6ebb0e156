"""docs/cost.md is followed from top to bottom in a folder with `my-model`. Where a command measures, any number stands
for any other; what is predicted of a GPU is compared to the digit.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import test_post_training_docs as page

from llama3.cost.gpus import known_gpus
from llama3.model.build import init_weights
from llama3.model.config import ModelConfig
from llama3.model.transformer import Transformer
from llama3.testing.toys import toy_tokenizer
from llama3.training.placed import PlacedModel
from llama3.training.stage import save_checkpoint

PAGE = page.ROOT / "docs" / "cost.md"
TEXT = PAGE.read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Asked(page.Command):
    """A command of this page."""

    @property
    def trains(self) -> bool:
        return "my-model" in self.line


COMMANDS = [
    Asked(command.line, command.shown)
    for language, block in BLOCKS
    if language == "console"
    for command in page.commands(block)
]


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> list[tuple[Asked, str, int]]:
    """Every command of the page with what it printed and its exit code."""
    results: list[tuple[Asked, str, int]] = []
    config = ModelConfig(128, 4, 4, 2, 256, toy_tokenizer().vocab_size, max_seq_len=256)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("page"))
        model = init_weights(Transformer(config), 1)
        save_checkpoint(Path("my-model"), PlacedModel(model), toy_tokenizer(), {"made": "here"})
        commands = iter(COMMANDS)
        for language, block in BLOCKS:
            if language == "python":
                exec(compile(block, str(PAGE), "exec"), {})
            elif language == "yaml":
                Path("mine.yaml").write_text(block)
            elif language == "console":
                for _, command in zip(page.commands(block), commands, strict=False):
                    results.append((command, *page.call(command.line, results[-1][2] if results else 0)))
    return results


@pytest.mark.parametrize("number", range(len(COMMANDS)), ids=[command.line for command in COMMANDS])
def test_a_command_does_what_the_page_shows(done, number):
    command, printed, code = done[number]
    assert page.matches(command, printed, code), f"exit code {code}, printed:\n{printed}"


def test_the_page_says_which_gpus_have_a_price():
    priced = [name for name, gpu in known_gpus().items() if gpu.price is not None]
    assert len(priced) == 3
    assert "Three GPUs come with one provider's list price" in TEXT
