"""Values that would be fatal later, or silently do nothing, are refused or honoured when the config is loaded."""

from __future__ import annotations

import pytest

from llama3.config import load
from llama3.errors import ConfigError


def refused(data=None, sets=(), env=None) -> str:
    with pytest.raises(ConfigError) as caught:
        load(data or {}, sets, environ=env or {})
    text = str(caught.value)
    assert all(len(line) < 500 for line in text.splitlines())
    return text


@pytest.mark.parametrize(
    "override",
    [
        "pretrain.lr=.inf",
        "pretrain.lr=.nan",
        "pretrain.lr=1e300",
        "run.seed=99999999999999999999",
        "run.seed=" + "9" * 5000,
        "run.threads=1000000000",
        "pretrain.batch=1000000000000",
        "model.dim=1000000000000",
        "post_training.algorithm.beta=.inf",
        "data.mix={stdlib: .inf}",
        "audit.margins={bits_per_byte: .nan}",
        "pretrain.steps=true",
        "pretrain.lr=false",
        "run.name=" + "[" * 3000 + "]" * 3000,
        "run.name=" + "{a: " * 3000 + "}" * 3000,
    ],
    ids=lambda text: text[:40],
)
def test_numbers_that_nothing_can_be_done_with_are_refused_at_their_place(override):
    assert override.partition("=")[0] in refused(sets=[override])


@pytest.mark.parametrize("name", ["", ".", "..", "/elsewhere", "a/b", "a\nb", "\x1b[2J", " ", "x" * 300])
def test_a_run_stays_in_the_directory_of_runs(name):
    assert "run.name" in refused({"run": {"name": name}})


@pytest.mark.parametrize("name", ["quickstart", "my run 2", "läufe", ".hidden", "a..b"])
def test_ordinary_names_are_taken(name):
    assert load({"run": {"name": name}}, environ={}).config.run.name == name


def test_extends_is_honoured_wherever_it_is_written():
    steps = load("quickstart", environ={}).config.pretrain.steps
    assert steps != load({}, environ={}).config.pretrain.steps
    assert load({}, ["extends=quickstart"], environ={}).config.pretrain.steps == steps
    assert load({}, environ={"LLAMA3__EXTENDS": "quickstart"}).config.pretrain.steps == steps
    both = load({"extends": "quickstart", "run": {"name": "mine"}}, ["extends=adopt"], environ={})
    assert both.config.run.name == "mine"
    assert both.config.pretrain.steps != steps
    assert load({"extends": "quickstart"}, ["extends=null"], environ={}).config.pretrain.steps != steps
    assert "--set extends=quikstart" in refused(sets=["extends=quikstart"])


def test_a_variable_that_almost_names_a_value_is_refused():
    assert "LLAMA3__PRETRAIN__STEPS" in refused(env={"LLAMA3_PRETRAIN__STEPS": "7"})
    others = {"LLAMA3_PLUGINS": "", "LLAMA3_HOME__X": "1", "LLAMA3_PLUGINS_STRICT": "0"}
    assert load({}, environ=others).config == load({}, environ={}).config


def test_the_environment_can_name_what_has_capitals():
    source = {"data": {"sources": [{"name": "files", "path": "x", "source": "Wiki"}]}}
    assert load(source, environ={"LLAMA3__DATA__MIX__Wiki": "1"}).config.data.mix == {"Wiki": 1}
    small = {"data": {"sources": [{"name": "files", "path": "x", "source": "wiki"}]}}
    assert load(small, environ={"LLAMA3__DATA__MIX__WIKI": "1"}).config.data.mix == {"wiki": 1}


def test_items_are_written_as_explain_writes_them():
    source = {"data": {"sources": [{"name": "files", "path": "x"}]}}
    assert load(source, ["data.sources[0].path=/tmp"], environ={}).config.data.sources[0].options["path"] == "/tmp"


def test_what_an_override_makes_on_its_way_has_its_origin():
    assert "--set data.mix.a.b=1: data.mix.a" in refused(sets=["data.mix.a.b=1"])


SHAPE = ("dim", "n_layers", "n_heads", "n_kv_heads", "ffn_dim", "max_seq_len")


@pytest.mark.parametrize("how", ["set", "env", "file"])
def test_another_preset_of_the_model_takes_the_shape_of_the_one_before_with_it(how):
    arguments = {
        "set": ("quickstart", ["model.preset=llama-3-8b"], {}),
        "env": ("quickstart", [], {"LLAMA3__MODEL__PRESET": "llama-3-8b"}),
        "file": ({"extends": "quickstart", "model": {"preset": "llama-3-8b"}}, [], {}),
    }[how]
    loaded = load(arguments[0], arguments[1], environ=arguments[2])
    assert [getattr(loaded.config.model, name) for name in SHAPE] == [None] * len(SHAPE)
    (note,) = [note for note in loaded.notes if "model is now 'llama-3-8b'" in note]
    assert "dropped dim" in note


def test_what_stands_beside_a_preset_stays():
    data = {"extends": "quickstart", "model": {"dim": 64, "preset": "llama-3-8b"}}
    assert load(data, environ={}).config.model.dim == 64
    sets = ["model.n_layers=2", "model.preset=llama-3-8b", "model.ffn_dim=128"]
    model = load("quickstart", sets, environ={}).config.model
    assert (model.n_layers, model.ffn_dim, model.dim) == (2, 128, None)
    assert load("quickstart", ["model.preset=tiny"], environ={}).config.model.dim is not None


def test_a_filter_that_lets_nothing_through_is_refused():
    words = {"words": {"min": 500, "max": 5}}
    assert "at least 500" in refused({"data": {"filters": [{"name": "gopher", "prose": words}]}})
