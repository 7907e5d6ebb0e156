"""`config explain` and `config schema`."""

from __future__ import annotations

import json

import pytest

from llama3.config import load
from llama3.config.explain import all_keys, explain
from llama3.config.json_schema import json_schema
from llama3.errors import ConfigError

pytestmark = pytest.mark.usefixtures("built_ins")


def test_every_key_of_the_schema_is_described():
    keys = list(all_keys())
    assert len(keys) > 80
    assert [key.key for key in keys if not key.doc] == []
    assert [key.key for key in keys if "none: " in key.doc] == [], "a config says null"
    for key in ("reward", "retune", "audit", "quality.labeller"):
        found = explain(f"post_training.{key}")
        assert (found.default, "; null: " in found.doc) == (None, True)


def test_a_value_with_its_origin(write):
    loaded = load(write("pretrain:\n  lr: 5e-4\n"), environ={})
    found = explain("pretrain.lr", loaded)
    assert (found.type, found.default, found.value, found.origin) == ("number", 3e-4, 5e-4, "run.yaml:2:3")
    assert "learning rate" in found.doc
    assert explain("run.device").type == "one of auto, cpu, cuda"
    assert explain("data.mix").type == "mapping of text to number"


def test_a_slot_lists_its_plugins_and_the_options_of_the_chosen_one(write):
    found = explain("post_training.algorithm")
    assert sorted(found.plugins) == ["dpo", "grpo", "lost", "next_token", "ppo", "process", "reward_model", "sft"]
    beta = next(child for child in found.children if child.key.endswith(".beta"))
    assert (beta.key, beta.default, beta.doc) == (
        "post_training.algorithm.beta",
        0.1,
        "strength of the pull to the reference",
    )
    loaded = load(write("post_training: {algorithm: {name: dpo, beta: 0.4}}\n"), environ={})
    below = explain("post_training.algorithm.beta", loaded)
    assert (below.value, below.origin) == (0.4, "run.yaml:1:40")
    assert explain("data.sources.0.path").type == "text"


def test_items_of_a_list_have_keys(write):
    loaded = load(write("pretrain: {phases: [{}, {steps: 7}]}\n"), environ={})
    second = explain("pretrain.phases.1.steps", loaded)
    assert (second.type, second.value, second.origin) == ("integer or null", 7, "run.yaml:1:26")
    assert explain("pretrain.phases.0.steps", loaded).value is None
    assert "steps" in explain("pretrain.phases.steps").key
    for key in ("pretrain.phases", "pretrain.phases.0"):
        assert "average_last" in [child.key.split(".")[-1] for child in explain(key).children]
    assert explain("data.sources.path").type == explain("data.sources.0.path").type == "text"
    with pytest.raises(ConfigError, match="did you mean 'steps'"):
        explain("pretrain.phases.0.step")


def test_sections_under_names_of_a_mapping_have_keys(write):
    text = "sizes: {big: {}, small: {teacher: big, control: true, prune: {of: big, n_layers: 3}}}\n"
    loaded = load(write(text), environ={})
    for key, value in (("teacher", "big"), ("control", True), ("prune.n_layers", 3)):
        assert explain(f"sizes.small.{key}", loaded).value == value
    assert explain("sizes.small.teacher", loaded).origin == "run.yaml:1:26"
    small = explain("sizes.small", loaded)
    assert (small.type, [child.value for child in small.children][:3]) == ("section", ["big", None, True])
    assert [child.key for child in explain("sizes").children][:2] == ["sizes.NAME.teacher", "sizes.NAME.judge"]
    assert explain("sizes.any.prune.of").type == "text"
    assert explain("data.decontaminate.benchmarks.gsm.keys").doc
    with pytest.raises(ConfigError, match="did you mean 'teacher'"):
        explain("sizes.small.techer")


def test_a_key_of_a_section_that_is_null_has_no_value(write):
    loaded = load(write("sizes: {big: {}}\npost_training: {audit: {most_drift: 0.4}}\n"), environ={})
    below = explain("post_training.quality.dedup.threshold", loaded)
    assert (below.off, below.value, below.default) == ("post_training.quality", None, 0.95)
    assert {child.off for child in explain("post_training.quality", loaded).children} == {"post_training.quality"}
    assert explain("sizes.big.prune.n_layers", loaded).off == "sizes.big.prune"
    on = explain("post_training.audit.most_drift", loaded)
    assert (on.off, on.value) == ("", 0.4)


def test_a_section_lists_its_keys_and_nothing_lists_the_sections():
    assert "steps" in [child.key.split(".")[-1] for child in explain("pretrain").children]
    assert [child.key for child in explain("").children][:2] == ["extends", "run"]


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("pretrian", "did you mean 'pretrain'?"),
        ("pretrain.stepz", "did you mean 'steps'"),
        ("pretrain.steps.x", "is a value"),
        ("post_training.algorithm.bta", "did you mean 'beta'?"),
        ("post_training.sft.algorithm.x", "has no options"),
    ],
)
def test_no_such_key(key, text):
    with pytest.raises(ConfigError) as caught:
        explain(key)
    assert text in str(caught.value)


def test_an_axis_tells_of_its_own_strategies(site, built_ins):
    assert list(explain("parallelism.dp").plugins) == ["single"]
    assert list(explain("parallelism.tp").plugins) == ["megatron"]


def test_the_schema_knows_the_installed_plugins(site, built_ins):
    jsonschema = pytest.importorskip("jsonschema")
    schema = json_schema()
    assert "x-llama3-family" not in json.dumps(schema)
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)

    def errors(config):
        return [error.json_path for error in validator.iter_errors(config)]

    assert errors({"post_training": {"algorithm": "dpo"}, "data": {"sources": ["stdlib", {"name": "files"}]}}) == []
    assert errors({"post_training": {"algorithm": {"name": "dpo", "beta": 0.2}}}) == []
    assert errors({"parallelism": {"dp": {"name": "single", "size": 2}, "tp": 1}}) == []
    assert errors({"parallelism": {"tp": 0}}) != []
    assert errors({"post_training": {"algorithm": {"name": "dpo", "clip_ratio": 0.2}}}) != []
    assert errors({"post_training": {"algorithm": {"name": "ppo", "clip_ratio": 0.2}}}) == []
    assert errors({"data": {"sources": ["dpo"]}}) != []
    assert errors({"pretrain": {"stepz": 1}}) != []
