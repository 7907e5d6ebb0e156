"""docs/quantization.md is followed from top to bottom in a folder with `my-model`; its tables of options are generated.

Refresh them with: python tests/test_quantization_docs.py
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import test_post_training_docs as page
import yaml

from llama3.model.build import init_weights
from llama3.model.config import ModelConfig
from llama3.model.transformer import Transformer
from llama3.plugins.registry import discover
from llama3.preflight import load_config
from llama3.testing.toys import toy_tokenizer
from llama3.training.placed import PlacedModel
from llama3.training.stage import save_checkpoint

PAGE = page.ROOT / "docs" / "quantization.md"
TEXT = PAGE.read_text(encoding="utf-8")
OPTIONS = re.compile(r"(<!-- options: (\S+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
COMMANDS = [command for language, block in BLOCKS if language == "console" for command in page.commands(block)]


def refreshed(text: str) -> str:
    return OPTIONS.sub(lambda found: f"{found[1]}\n{page.options(found[2])}\n{found[4]}", text)


def test_the_tables_are_up_to_date():
    assert refreshed(TEXT) == TEXT, "run: python tests/test_quantization_docs.py"


def test_every_scheme_is_told_of_and_its_options_are():
    for name in discover().names("quantization"):
        spec = discover().spec("quantization", name)
        assert TEXT.count(f"\n| `{name}` |") >= 2, "a row of what it does, and one of its layout elsewhere"
        assert spec.options is None or f"<!-- options: {spec.options} -->" in TEXT


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> list[tuple[page.Command, str, int]]:
    """Every command of the page with what it printed and its exit code."""
    results: list[tuple[page.Command, str, int]] = []
    config = ModelConfig(128, 4, 4, 2, 256, toy_tokenizer().vocab_size, max_seq_len=256)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("page"))
        model = init_weights(Transformer(config), 1)
        save_checkpoint(Path("my-model"), PlacedModel(model), toy_tokenizer(), {"made": "here"})
        for language, block in BLOCKS:
            if language == "python":
                exec(compile(block, str(PAGE), "exec"), {})
            elif language == "yaml":
                load_config({"extends": "quickstart", **yaml.safe_load(block)})
            elif language == "console":
                for command in page.commands(block):
                    results.append((command, *page.call(command.line, results[-1][2] if results else 0)))
    return results


@pytest.mark.parametrize("number", range(len(COMMANDS)), ids=[command.line for command in COMMANDS])
def test_a_command_does_what_the_page_shows(done, number):
    command, printed, code = done[number]
    assert page.matches(command, printed, code), f"exit code {code}, printed:\n{printed}"


if __name__ == "__main__":
    PAGE.write_text(refreshed(TEXT), encoding="utf-8")
    print(f"{PAGE.relative_to(page.ROOT)}: {len(OPTIONS.findall(TEXT))} tables")
