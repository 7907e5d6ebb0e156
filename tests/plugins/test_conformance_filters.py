"""The built-in filters pass the conformance tests of their family; gopher does in test_conformance_families.py."""

from __future__ import annotations

from typing import ClassVar

import pytest

from llama3.testing import FilterConformance


@pytest.fixture(scope="module", autouse=True)
def files(tmp_path_factory):
    """Lists for the filters that read some."""
    words = tmp_path_factory.mktemp("lists") / "words.txt"
    words.write_text("the\nof\n")
    TestDirtyWords.options = {"lists": {"en": str(words)}}
    TestUrlLists.options = {"words": str(words)}


class TestC4(FilterConformance):
    plugin = "c4"


class TestDirtyWords(FilterConformance):
    plugin = "dirty_words"


class TestFineWeb(FilterConformance):
    plugin = "fineweb"


class TestLanguage(FilterConformance):
    """Without a model, which keeps everything; tests/data/test_text_models.py asks one."""

    plugin = "language"


class TestPersonalData(FilterConformance):
    plugin = "personal_data"


class TestQuality(FilterConformance):
    """Without a model too."""

    plugin = "quality"


class TestRepeatedLines(FilterConformance):
    plugin = "repeated_lines"


class TestTokenDistribution(FilterConformance):
    plugin = "token_distribution"
    options: ClassVar = {"least_words": 10}


class TestUrlLists(FilterConformance):
    plugin = "url_lists"
