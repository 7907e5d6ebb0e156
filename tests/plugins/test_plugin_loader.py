"""The loader: sorted, isolated, rolled back, reported."""

from __future__ import annotations

import sys

import pytest

from llama3.errors import PluginError
from llama3.plugins import hookspecs

HEADER = "from llama3.plugins import AlgorithmSpec, GuardSpec, hookimpl\n"


def names(found):
    return [(offer.dist, offer.spec.name) for offer in found.offers]


def only_broken(found):
    (broken,) = found.broken
    return broken


def test_sound_plugins_are_sorted_by_distribution_and_import_no_implementation(site, good):
    for dist in ("zeta", "alpha", "Mid.Dle"):
        good(dist.replace(".", "-"), dist[0].lower())
    found = site.load()
    assert names(found) == [("alpha", "a"), ("mid-dle", "m"), ("zeta", "z")]
    assert found.broken == []
    assert "alpha" in sys.modules
    assert "alpha_impl" not in sys.modules
    assert "alpha_options" not in sys.modules


@pytest.mark.parametrize(
    ("source", "phase", "error", "fix"),
    [
        ("import nowhere_pkg\n", "import", "No module named 'nowhere_pkg'", "pip install nowhere-pkg"),
        ("raise SystemExit(3)\n", "import", "SystemExit: 3", "pip uninstall bad"),
        ("def broken(:\n", "import", "SyntaxError", "pip uninstall bad"),
        (None, "import", "No module named 'bad'", "pip uninstall bad"),
        ("@hookimpl\ndef llama3_algorithms(config): return []\n", "register", "config", "uninstall bad"),
        (
            "@hookimpl\ndef llama3_algoritms(): return []\n",
            "register",
            "did you mean 'llama3_algorithms'",
            "optionalhook",
        ),
        ("@hookimpl\ndef llama3_future(): return []\n", "register", "unknown hook", "optionalhook"),
        ("def llama3_guards(): return []\n", "register", "not marked", "@hookimpl"),
        ("@hookimpl(wrapper=True)\ndef llama3_guards(): return (yield)\n", "register", "wrapper", "instead"),
        (
            "@hookimpl\ndef llama3_algorithms(): raise RuntimeError('boom')\n",
            "hook",
            "RuntimeError: boom",
            "bad",
        ),
        ("@hookimpl\ndef llama3_algorithms(): raise SystemExit\n", "hook", "SystemExit", "bad"),
        ("@hookimpl\ndef llama3_algorithms(): return None\n", "hook", "NoneType", "list of AlgorithmSpec"),
        ("@hookimpl\ndef llama3_algorithms(): yield 1\n", "hook", "generator", "list of AlgorithmSpec"),
        (
            "@hookimpl\ndef llama3_algorithms(): return ['dpo']\n",
            "hook",
            "str in it",
            "list of AlgorithmSpec",
        ),
        (
            "@hookimpl\ndef llama3_algorithms():\n"
            "    return [GuardSpec(name='x', factory='a:B', stages=frozenset())]\n",
            "hook",
            "GuardSpec in it",
            "list of AlgorithmSpec",
        ),
        (
            "@hookimpl\ndef llama3_algorithms(): return [AlgorithmSpec(name='No Name', factory='a:B', data='pairs')]\n",
            "hook",
            "bad name 'No Name'",
            "a-z",
        ),
        (
            "@hookimpl\ndef llama3_algorithms(): return [AlgorithmSpec(name='x', factory='a/b.py', data='pairs')]\n",
            "hook",
            "bad target 'a/b.py'",
            "package.module:Class",
        ),
        (
            "@hookimpl\ndef llama3_algorithms(): return [AlgorithmSpec(name='x', factory='a:B', kind=1)]\n",
            "hook",
            "unexpected keyword argument 'kind'",
            "upgrade",
        ),
    ],
)
def test_a_broken_plugin_is_reported_and_stops_nobody(site, good, source, phase, error, fix):
    good("aaa")
    good("zzz", "other")
    site.add("bad", None if source is None else HEADER + source, version="0.3")
    found = site.load()
    assert names(found) == [("aaa", "simpo"), ("zzz", "other")]
    broken = only_broken(found)
    assert (broken.dist, broken.version, broken.entry, broken.phase) == ("bad", "0.3", "main", phase)
    assert error in broken.error
    assert fix in broken.fix


def test_a_plugin_that_fails_late_leaves_nothing_behind(site):
    source = """
        from llama3.plugins import AlgorithmSpec, hookimpl
        heard = []
        @hookimpl
        def llama3_algorithms(): return [AlgorithmSpec(name="x", factory="a:B", data="pairs")]
        @hookimpl
        def llama3_guards(): raise ValueError("late")
        @hookimpl
        def llama3_step_end(stage): heard.append(stage)
    """
    site.add("bad", source)
    registry = site.registry()
    assert registry.list() == []
    registry.observers.notify("llama3_step_end", stage="pretrain", step=1, metrics={})
    assert sys.modules["bad"].heard == []


def test_one_module_behind_two_entries_counts_once_and_the_first_one_stays(site, good):
    good("acme")
    site.add("other", module="acme")
    found = site.load()
    assert names(found) == [("acme", "simpo")]
    assert only_broken(found).dist == "other"
    assert len(found.manager.get_plugins()) == 1


def test_two_entries_of_one_name_are_reported_and_the_first_one_stays(site, good):
    good("acme")
    site.add("acme", HEADER, module="acme_two")
    found = site.load()
    assert names(found) == [("acme", "simpo")]
    assert only_broken(found).phase == "register"
    assert len(found.manager.get_plugins()) == 1


def test_damaged_metadata_does_not_hide_whose_plugin_it_is(site):
    site.add("bad", "raise ValueError('x')", metadata=False)
    broken = only_broken(site.load())
    assert broken.dist == "bad"


def test_optional_hooks_of_newer_versions_are_allowed(site):
    site.add("new", HEADER + "@hookimpl(optionalhook=True)\ndef llama3_future(): return []\n")
    assert site.load().broken == []


@pytest.mark.parametrize(
    ("allow", "expected"),
    [("", []), ("acme", ["acme"]), (" ACME , beta", ["acme", "beta"]), (None, ["acme", "beta", "c"])],
)
def test_allow_list(site, good, allow, expected):
    for dist in ("acme", "beta", "c"):
        good(dist, dist)
    found = site.load({} if allow is None else {"LLAMA3_PLUGINS": allow})
    assert [offer.dist for offer in found.offers] == expected
    assert found.broken == []


def test_allow_list_admits_built_ins_and_names_what_is_not_installed(site, good):
    good("llama3", "dpo")
    found = site.load({"LLAMA3_PLUGINS": "llama3-acme"})
    assert names(found) == [("llama3", "dpo")]
    broken = only_broken(found)
    assert (broken.dist, broken.phase) == ("llama3-acme", "find")
    assert "pip install llama3-acme" in broken.fix


def test_what_is_not_allowed_is_not_imported(site):
    site.add("bad", "raise ValueError('imported')")
    assert site.load({"LLAMA3_PLUGINS": ""}).broken == []


def test_strict_stops_at_a_broken_plugin(site):
    site.add("bad", "import nowhere_pkg")
    with pytest.raises(PluginError, match="nowhere_pkg") as caught:
        site.registry(strict=True)
    assert caught.value.exit_code == 4


def test_every_hook_is_documented_and_known():
    for name in [*hookspecs.REGISTRATION, *hookspecs.OBSERVERS]:
        assert getattr(hookspecs, name).__doc__
    specified = {name for name in vars(hookspecs) if name.startswith("llama3_")}
    assert specified == {*hookspecs.REGISTRATION, *hookspecs.OBSERVERS}
