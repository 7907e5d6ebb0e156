"""Architecture values: presets, exact parameter counts, sections, refusals."""

import subprocess
import sys

import pytest

from llama3.config.schema import ModelSection, RopeScalingSection
from llama3.errors import CheckpointError, ConfigError
from llama3.model.config import PRESETS, ModelConfig, RopeScaling
from llama3.model.transformer import Transformer, rope_frequencies

PUBLISHED = {
    "llama-3-8b": 8_030_261_248,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3-70b": 70_553_706_496,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.3-70b": 70_553_706_496,
    "llama-3.1-405b": 405_853_388_800,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_presets_have_the_published_parameter_counts(name) -> None:
    assert PRESETS[name].num_params() == PUBLISHED[name]


def test_counts_and_shapes_equal_the_built_model() -> None:
    config = PRESETS["tiny"]
    model = Transformer(config)
    assert sum(p.numel() for p in model.parameters()) == config.num_params()
    sizes = 0
    for shape in config.parameter_shapes().values():
        size = 1
        for length in shape:
            size *= length
        sizes += size
    assert sizes == config.num_params()


def test_flops_follow_the_stated_convention() -> None:
    # 8B at 8,192 tokens: 57.9 GFLOP per token in the full-square convention.
    assert PRESETS["llama-3-8b"].flops_per_token(8192) == pytest.approx(57.9e9, rel=2e-3)
    assert PRESETS["llama-3.2-1b"].flops_per_token(2048) == pytest.approx(8.22e9, rel=2e-3)


def test_scaled_rope_keeps_blends_and_divides() -> None:
    plain = rope_frequencies(PRESETS["llama-3-8b"])
    ratio = plain / rope_frequencies(PRESETS["llama-3.1-8b"])
    assert (ratio == 1).sum() == 29
    assert (ratio == 8).sum() == 29
    assert ((ratio > 1) & (ratio < 8)).sum() == 6


def test_sections_replace_values_of_a_preset() -> None:
    section = ModelSection(preset="tiny", dim=192, n_layers=3, rope_scaling=RopeScalingSection(factor=4.0))
    config = ModelConfig.from_section(section, vocab_size=777)
    assert (config.dim, config.n_layers, config.head_dim, config.vocab_size) == (192, 3, 96, 777)
    assert config.rope_scaling == RopeScaling(factor=4.0)
    assert ModelConfig.from_section(ModelSection(preset="llama-3.1-8b"), 128_256) == PRESETS["llama-3.1-8b"]


@pytest.mark.parametrize("preset", PRESETS)
def test_hf_config_round_trip(preset) -> None:
    assert ModelConfig.from_hf(PRESETS[preset].to_hf()) == PRESETS[preset]


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("L3-MDL-001", {"n_layers": 0}),
        ("L3-MDL-001", {"n_layers": 1 << 32}),
        ("L3-MDL-001", {"n_heads": (1 << 32) - 1}),
        ("L3-MDL-001", {"max_seq_len": 1 << 32}),
        ("L3-MDL-002", {"n_kv_heads": 3}),
        ("L3-MDL-003", {"dim": 30}),
        ("L3-MDL-004", {"dim": 20}),
        ("L3-MDL-005", {"rope_theta": 0.5}),
        ("L3-MDL-006", {"rope_scaling": RopeScaling(low_freq_factor=4.0)}),
    ],
)
def test_values_that_do_not_fit_are_refused(code, changes) -> None:
    good = {"dim": 32, "n_layers": 1, "n_heads": 4, "n_kv_heads": 2, "ffn_dim": 8, "vocab_size": 10}
    ModelConfig(**good)
    with pytest.raises(ConfigError, match=code):
        ModelConfig(**{**good, **changes})


def test_all_problems_come_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        ModelConfig(0, 0, 4, 2, 8, 10)
    assert {problem.where for problem in caught.value.problems} == {"model.dim", "model.n_layers", "model.head_dim"}


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("L3-MDL-007", None),
        ("L3-MDL-010", {"hidden_size": ...}),
        ("L3-MDL-011", {"model_type": "mistral"}),
        ("L3-MDL-012", {"attention_bias": True}),
        ("L3-MDL-012", {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}),
    ],
)
def test_foreign_configs_are_refused(code, changes) -> None:
    if changes is None:
        with pytest.raises(ConfigError, match=code):
            ModelConfig.from_section(ModelSection(preset="tyny"), 10)
        return
    raw = PRESETS["tiny"].to_hf() | changes
    with pytest.raises(CheckpointError, match=code):
        ModelConfig.from_hf({key: value for key, value in raw.items() if value is not ...})


def test_config_needs_no_torch() -> None:
    code = "import sys, llama3.model.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
