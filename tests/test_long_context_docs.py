"""docs/long-context.md: its configs are valid and its commands start, and its stages are those that the page tells."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from llama3.config.phases import phases_of
from llama3.model.build import init_weights
from llama3.model.config import ModelConfig
from llama3.model.transformer import Transformer
from llama3.preflight import load_config
from llama3.testing.toys import toy_tokenizer
from llama3.training.placed import PlacedModel
from llama3.training.stage import save_checkpoint

TEXT = (Path(__file__).parents[1] / "docs" / "long-context.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.DOTALL | re.M)


CONFIGS = [yaml.safe_load(block) for block in blocks("yaml")]


@pytest.mark.parametrize("config", CONFIGS, ids=range(len(CONFIGS)))
def test_a_config_of_the_page_is_valid(config):
    shape = {"model": {"preset": "llama-3-8b"}} if "model" not in config else {}
    load_config({**shape, **config})


def test_the_first_command_extends_a_released_model_in_the_stages_of_the_table(tmp_path):
    config = ModelConfig(16, 1, 2, 1, 32, toy_tokenizer().vocab_size, tied=True)
    save_checkpoint(tmp_path, PlacedModel(init_weights(Transformer(config), 1)), toy_tokenizer(), {})
    command, *rest = (shlex.split(block.replace("PATH", str(tmp_path))) for block in blocks("bash"))
    assert command[:3] == ["llama3", "run", "long-context"]
    pretrain = load_config("long-context", [command[command.index("--set") + 1]]).config.pretrain
    (told,) = re.findall(r"((?:\d+K, )+\d+K) from 8K", TEXT)
    stages = [phase for phase in phases_of(pretrain) if phase.given.gated]
    assert [f"{phase.seq_len // 1024}K" for phase in stages] == told.split(", ")
    assert len(stages) == 6
    assert not rest


def test_what_is_written_out_is_gated_with_its_own_frequencies_and_mix():
    written = next(config for config in CONFIGS if "rope_theta" in str(config))
    phases = phases_of(load_config({"model": {"preset": "llama-3-8b"}, **written}).config.pretrain)
    assert [phase.seq_len for phase in phases] == [8192, 16384, 65536, 65536]
    assert [phase.opens_part for phase in phases] == [False, True, True, True]
