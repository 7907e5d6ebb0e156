"""The registry: by name, with near names, qualified names, options and builds."""

from __future__ import annotations

import logging
import sys

import pytest

from llama3.errors import ConfigError, PluginError
from llama3.plugins.targets import resolve


def code(caught):
    return [problem.code for problem in caught.value.problems]


def test_builds_with_checked_options(site, good):
    good("acme")
    registry = site.registry()
    built = registry.build("algorithms", "simpo", {"beta": 3})
    assert built["options"].beta == 3.0
    assert registry.build("algorithms", "acme:simpo")["options"].beta == 2.0
    model = registry.options_model("algorithms", "simpo")
    assert registry.build("algorithms", "simpo", model(beta=7))["options"].beta == 7.0


def test_unknown_name_offers_near_names_and_names_the_broken(site, good):
    good("acme")
    site.add("bad", "import nowhere_pkg")
    with pytest.raises(PluginError) as caught:
        site.registry().spec("algorithms", "simop")
    text = str(caught.value)
    assert "did you mean 'simpo'?" in text
    assert "bad 1.0 (main): import failed" in text
    with pytest.raises(PluginError, match="did you mean 'guards'"):
        site.registry().spec("guard", "x")


def test_bad_options_are_all_listed_with_near_names(site, good):
    good("acme", options="beta: float = 2.0\n    gamma: int = 1")
    with pytest.raises(ConfigError) as caught:
        site.registry().build("algorithms", "simpo", {"bta": 1, "gamma": "x"})
    text = str(caught.value)
    assert "algorithms.simpo.bta: unknown key. did you mean 'beta'?" in text
    assert "algorithms.simpo.gamma: input should be a valid integer" in text
    assert len(caught.value.problems) == 2


def test_a_clash_selects_neither_and_qualified_names_work(site, good):
    good("acme")
    good("beta-rl")
    registry = site.registry()
    assert [row.status for row in registry.list()] == ["clash", "clash"]
    assert registry.names("algorithms") == ["acme:simpo", "beta-rl:simpo"]
    with pytest.raises(PluginError, match="acme:simpo or beta-rl:simpo"):
        registry.build("algorithms", "simpo")
    assert registry.identity("algorithms", "beta-rl:simpo")["dist"] == "beta-rl"


def test_a_third_party_does_not_replace_a_built_in(site, good):
    good("llama3", "dpo")
    good("evil", "dpo")
    with pytest.raises(PluginError, match="evil:dpo or llama3:dpo"):
        site.registry().spec("algorithms", "dpo")


@pytest.mark.parametrize(
    ("field", "status", "number", "fix"),
    [
        ("api_version=1", "needs api 1", "L3-PLG-013", "docs/plugins.md"),
        ("requires=('no_such.sub',)", "needs no_such.sub", "L3-PLG-021", "pip install no-such"),
        ("requires=('no_such',), extra='x'", "needs no_such", "L3-PLG-021", "pip install 'new[x]'"),
    ],
)
def test_needs_are_reported_and_refused(site, field, status, number, fix):
    source = f"""
        from llama3.plugins import GuardSpec, hookimpl
        @hookimpl
        def llama3_guards():
            return [GuardSpec(name="g", factory="a:B", stages=frozenset({{"input"}}), {field})]
    """
    site.add("new", source)
    registry = site.registry()
    assert [row.status for row in registry.list("guards")] == [status]
    with pytest.raises(PluginError) as caught:
        registry.spec("guards", "g")
    assert code(caught) == [number]
    assert status in str(caught.value)
    assert fix in str(caught.value)


def test_a_factory_that_raises_is_named_with_its_distribution(site, good):
    good("acme", factory="raise KeyError('lost')")
    with pytest.raises(PluginError, match=r"acme:simpo 1\.0: acme_impl:Thing failed\. KeyError: 'lost'") as caught:
        site.registry().build("algorithms", "simpo")
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_factory_that_needs_a_missing_module_says_which(site, good):
    good("acme", factory="import no_such_thing")
    with pytest.raises(PluginError, match="pip install no-such-thing"):
        site.registry().build("algorithms", "simpo")


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("not a target", "L3-PLG-001"),
        ("no_such_module:X", "L3-PLG-002"),
        ("exits:X", "L3-PLG-002"),
        ("json:nothing", "L3-PLG-003"),
    ],
)
def test_resolve_isolates_errors(site, target, expected):
    (site.path / "exits.py").write_text("raise SystemExit(1)")
    with pytest.raises(PluginError) as caught:
        resolve(target, owner="acme 1.0")
    assert code(caught) == [expected]
    assert str(caught.value).startswith("acme 1.0")


def test_resolve_finds_attributes_and_modules():
    assert resolve("json.decoder:JSONDecoder.decode").__name__ == "decode"
    assert resolve("json.decoder").__name__ == "json.decoder"


OBSERVER = """
from llama3.plugins import hookimpl
heard = []

@hookimpl
def llama3_step_end(step, metrics):
    heard.append(step)
    metrics["loss"] = -1
    if step == FAIL:
        raise ValueError("cannot draw")
"""


def test_an_observer_that_raises_is_named_and_switched_off(site, caplog):
    site.add("loud", OBSERVER.replace("FAIL", "2"))
    site.add("calm", OBSERVER.replace("FAIL", "99"))
    observers = site.registry().observers
    metrics = {"loss": 1.0}
    with caplog.at_level(logging.WARNING):
        for step in (1, 2, 3):
            observers.notify("llama3_step_end", stage="sft", step=step, metrics=metrics)
    assert sys.modules["loud"].heard == [1, 2]
    assert sys.modules["calm"].heard == [1, 2, 3]
    assert metrics == {"loss": 1.0}
    (record,) = caplog.records
    assert "loud:main" in record.getMessage()
    assert "cannot draw" in record.getMessage()


def test_strict_observers_raise(site):
    site.add("loud", OBSERVER.replace("FAIL", "1"))
    with pytest.raises(ValueError, match="cannot draw"):
        site.registry(strict=True).observers.notify("llama3_step_end", stage="sft", step=1, metrics={})
    with pytest.raises(ValueError, match="no observer hook"):
        site.registry().observers.notify("llama3_stepp_end")


def test_fingerprint_follows_the_set(site, good):
    good("acme")
    first = site.registry().fingerprint()
    assert site.registry().fingerprint() == first
    good("beta")
    assert site.registry().fingerprint() != first
