"""docs/cost.md is followed from top to bottom in a folder with `my-model`. Where a command measures, any number stands
for any other; what is predicted of a GPU is compared to the digit.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from pages import Page, write_model

from llama3.cost.gpus import known_gpus
from llama3.testing.toys import toy_tokenizer

PAGE = Page("cost.md", measures="my-model", read_yaml=Path("mine.yaml").write_text)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("page"))
        write_model("my-model", toy_tokenizer(), dim=128, n_layers=4, n_heads=4, n_kv_heads=2, ffn_dim=256)
        return PAGE.follow()


@PAGE.cases()
def test_a_command_does_what_the_page_shows(done, number):
    done[number].check()


def test_the_page_says_which_gpus_have_a_price():
    priced = [name for name, gpu in known_gpus().items() if gpu.price is not None]
    assert len(priced) == 3
    assert "Three GPUs come with one provider's list price" in PAGE.text
