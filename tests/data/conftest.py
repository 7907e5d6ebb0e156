"""Texts and stage outputs for the data tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from llama3.artifacts import StageOutput
from llama3.config.schema import Config
from llama3.data.corpus import Corpus
from llama3.data.curate import CurateOptions, curate


@pytest.fixture
def new_output(tmp_path: Path) -> Callable[[], StageOutput]:
    """Makes empty stage outputs."""
    made = iter(range(1000))

    def new() -> StageOutput:
        folder = tmp_path / f"stage{next(made)}"
        (folder / "out").mkdir(parents=True)
        (folder / "scratch").mkdir()
        return StageOutput(path=folder / "out", scratch=folder / "scratch")

    return new


@pytest.fixture
def curated(new_output: Callable[[], StageOutput]) -> Callable[..., tuple[Corpus, StageOutput]]:
    """Runs `curate` with the given keys of the data section."""

    def run(**section: object) -> tuple[Corpus, StageOutput]:
        out = new_output()
        curate(options=CurateOptions.of(Config.model_validate({"data": section})), out=out)
        return Corpus(out.path), out

    return run
