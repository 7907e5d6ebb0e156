"""docs/quantization.md is followed from top to bottom in a folder with `my-model`; its tables of options are generated.

Refresh them with: python tests/test_quantization_docs.py
"""

from __future__ import annotations

import pytest
import yaml
from pages import Page, refreshed, write_model

from llama3.plugins.registry import discover
from llama3.preflight import load_config
from llama3.testing.toys import toy_tokenizer

PAGE = Page("quantization.md", read_yaml=lambda block: load_config({"extends": "quickstart", **yaml.safe_load(block)}))


def test_the_tables_are_up_to_date():
    assert refreshed(PAGE.text) == PAGE.text, "run: python tests/test_quantization_docs.py"


def test_every_scheme_is_told_of_and_its_options_are():
    for name in discover().names("quantization"):
        spec = discover().spec("quantization", name)
        assert PAGE.text.count(f"\n| `{name}` |") >= 2, "a row of what it does, and one of its layout elsewhere"
        assert spec.options is None or f"<!-- options: {spec.options} -->" in PAGE.text


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("page"))
        write_model("my-model", toy_tokenizer(), dim=128, n_layers=4, n_heads=4, n_kv_heads=2, ffn_dim=256)
        return PAGE.follow()


@PAGE.cases()
def test_a_command_does_what_the_page_shows(done, number):
    done[number].check()


if __name__ == "__main__":
    PAGE.refresh()
