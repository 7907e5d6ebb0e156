"""The guard tool_calls: calls by name, by JSON schema and by rules for arguments; all faults told, and none passes."""

from __future__ import annotations

import json
import os
import signal

import jsonschema
import pytest
from guarding import Asked, engine
from hypothesis import given, settings
from hypothesis import strategies as st

from llama3.errors import LlamaError
from llama3.plugins.registry import discover

WEATHER = {
    "type": "object",
    "properties": {"city": {"enum": ["Oslo", "Rome"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS = {"weather": WEATHER, "read": {"type": "object"}, "clock": {}}


def call(tool, **arguments):
    return json.dumps({"name": tool, "parameters": arguments})


@pytest.fixture(scope="module")
def plain():
    guard = Asked("tool_calls")
    yield lambda text, tools=TOOLS: guard(text, "tool_call", tools=tools)
    guard.close()


def ruled(rule, value, tool="read"):
    guard = Asked("tool_calls", {"arguments": [{"argument": "a", **rule}]})
    try:
        return guard(call(tool, a=value), "tool_call", tools=TOOLS)
    finally:
        guard.close()


def test_every_fault_is_told_and_no_value(plain):
    verdict = plain(call("weather", city="secret town", days=12, more=1))
    assert verdict.action == "block"
    assert verdict.categories == {"call": 0.0, "tool": 0.0, "schema": 1.0, "argument": 0.0}
    assert [fault.partition(" breaks ")[0] for fault in verdict.reason.split("; ")] == ["$.city", "$.days", "$"]
    assert "secret" not in verdict.reason
    assert plain(call("weather", city="Oslo", days=2)).action == "allow"


@pytest.mark.parametrize(
    "text",
    [
        "", "What is it?", "[]", '"weather"', "{}", '{"name": "weather"}', '{"name": 1, "parameters": {}}',
        '{"name": "weather", "parameters": [1]}', '{"name": "weather", "parameters": "{}"}',
        '{"name": "weather", "parameters": {"city": "Oslo"}, "more": 1}', call("weather", city="Oslo")[:-1],
        '{"type": "shell", "name": "weather", "parameters": {"city": "Oslo"}}',
        '{"name": "weather", "parameters": {"city": "Rome", "city": "Oslo"}}',
        '{"name": "weather", "parameters": {"city": NaN}}', '{"name": "a", "parameters": ' + "[" * 100_000,
        call("weather", city="Oslo") * 2, "\ud800", '{"name": "clock", "parameters": {"a": 1e999}}',
    ],
)  # fmt: skip
def test_what_is_no_call_is_blocked(plain, text):
    verdict = plain(text)
    assert (verdict.action, verdict.categories["call"]) == ("block", 1.0)


def test_only_tools_that_are_offered_and_allowed_are_called():
    assert not engine("tool_calls", stage="tool_call").decide("tool_call", call("clock"), tools=TOOLS).blocked
    for options, tool, tools, passes in [
        ({}, "clock", {}, False),
        ({}, "Clock", TOOLS, False),
        ({"deny": ["clock"]}, "clock", TOOLS, False),
        ({"deny": ["clock"]}, "read", TOOLS, True),
        ({"allow": ["read"]}, "clock", TOOLS, False),
        ({"allow": ["read"]}, "read", TOOLS, True),
        ({"allow": ["read"]}, "read", {}, False),
        ({"allow": ["read"], "schemas": False}, "read", {}, True),
        ({"schemas": False}, "read", {}, False),
    ]:
        with engine("tool_calls", options, "tool_call") as guards:
            assert guards.decide("tool_call", call(tool), tools=tools).blocked != passes, (options, tool, tools)


@settings(max_examples=40)
@given(
    st.fixed_dictionaries(
        {"city": st.sampled_from(["Oslo", "Paris", 3])},
        optional={"days": st.sampled_from([0, 1, 9, 10, 2.5, "2", True]), "more": st.none()},
    )
)
def test_schemas_are_held_to_as_jsonschema_does(plain, arguments):
    expected = jsonschema.Draft202012Validator(WEATHER).is_valid(arguments)
    assert (plain(call("weather", **arguments)).action == "allow") == expected


@pytest.mark.parametrize(
    "schema", [{"type": "no type"}, {"$ref": "http://127.0.0.1:9/x.json"}, {"$ref": "#/nowhere"}, {"properties": []},
               {"properties": {"a": {"pattern": "("}}}]
)  # fmt: skip
def test_a_schema_that_cannot_be_used_blocks(plain, schema):
    assert plain(call("odd", a="x"), {"odd": schema}).action == "block"


def test_a_pattern_without_end_blocks_and_the_next_call_is_judged():
    endless = {"odd": {"properties": {"a": {"pattern": "^(a*)*b$"}}}}
    with engine("tool_calls", stage="tool_call", timeout_ms=700) as guards:
        assert guards.decide("tool_call", call("odd", a="a" * 60), tools=endless).verdicts[0].status != "ok"
        assert not guards.decide("tool_call", call("odd", a="b"), tools=endless).blocked
        assert guards.down() == []


def test_a_process_that_was_killed_blocks_nothing_for_long():
    guard = discover().build("guards", "tool_calls", {})
    with engine("tool_calls", stage="tool_call") as guards:
        worker = next(iter(guards._workers.values()))
        os.kill(worker.guard._process._process.pid, signal.SIGKILL)
        worker.guard._process._process.wait()
        assert not guards.decide("tool_call", call("weather", city="Oslo"), tools=TOOLS).blocked
    guard.close()


PATHS = {
    "notes.txt": True, "/data": True, "/data/a/../b": True, "a/./b": True, "": False, "/data/../etc/passwd": False,
    "../etc/passwd": False, "/database/x": False, "~/x": False, "a\0b": False, "..\\x": False, "$HOME/x": False,
    "%2e%2e/etc": False, "%252e%252e%252fetc": False, "a%20b": True, "/etc": False, "a\nb": False,
    "%" + "25" * 30 + "2e": False,
}  # fmt: skip


@pytest.mark.parametrize(("path", "passes"), PATHS.items())
def test_paths_stay_under_their_folder(path, passes):
    verdict = ruled({"under": "/data"}, path)
    assert (verdict.action == "allow") == passes
    assert verdict.categories["argument"] == float(not passes)


URLS = {
    "https://example.org/a?b=c#d": True, "https://EXAMPLE.org:8443": True, "https://a.example.net/x": True,
    "https://example.net": False, "http://example.org": False, "example.org": False, "//example.org": False,
    "https://example.org.evil.com": False, "https://evil.com/example.org": False,
    "https://example.org@evil.com": False, "https://evil.com#@example.org": False,
    "https://evil.com\\@example.org": False, "https://example.org\n": False, "https://badexample.net": False,
    "https://[::1]": False, "https://example.org:x": False, "file:///etc/passwd": False,
    "https://ex\u0430mple.org": False, "https://": False, "javascript:alert(1)": False,
    "https://example.org%40evil.com": False,
}  # fmt: skip


@pytest.mark.parametrize(("url", "passes"), URLS.items())
def test_urls_name_hosts_that_are_listed(url, passes):
    assert (ruled({"hosts": ["example.org", "*.example.net"]}, url).action == "allow") == passes


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("http://example.org/", "a names a host by another scheme than https"),
        ("//example.org/", "a names a host by another scheme than https"),
        ("http://example.com/", "a names none of the hosts"),
        ("https://example.com/", "a names none of the hosts"),
    ],
)
def test_what_of_a_url_is_refused_is_told(url, fault):
    assert ruled({"hosts": ["example.org"]}, url).reason == fault


@pytest.mark.parametrize(
    ("rule", "value", "passes"),
    [
        ({"least": 0, "most": 100}, 50, True),
        ({"least": 0, "most": 100}, 100.5, False),
        ({"least": 0, "most": 100}, -1, False),
        ({"most": 100}, "50", False),
        ({"most": 1}, True, False),
        ({"most": 100}, None, False),
        ({"one_of": ["a", 1]}, "a", True),
        ({"one_of": ["a", 1]}, True, False),
        ({"one_of": ["a", 1]}, "A", False),
        ({"longest": 3}, "abcd", False),
        ({"longest": 3}, "abc", True),
        ({"pattern": "[a-z]+"}, "abc", True),
        ({"pattern": "[a-z]+"}, "abc\n", False),
        ({"pattern": "[a-z]+"}, 5, False),
        ({"pattern": "[a-z]+"}, ["a", ["B"]], False),
        ({"pattern": "[a-z]+"}, ["a", ["b"]], True),
        ({"pattern": "[a-z]+"}, {"a": "b"}, False),
        ({"longest": 3, "tool": "other"}, "abcd", True),
        ({"longest": 3, "argument": "b"}, {"b": "abcd"}, False),
    ],
)  # fmt: skip
def test_values_of_arguments(rule, value, passes):
    assert (ruled(rule, value).action == "allow") == passes


@pytest.mark.parametrize(
    "rule", [{}, {"pattern": "("}, {"under": "data"}, {"least": True}, {"longest": -1}, {"host": ["a"]}]
)
def test_rules_that_say_nothing_are_refused(rule):
    with pytest.raises(LlamaError):
        discover().options("guards", "tool_calls", {"arguments": [{"argument": "a", **rule}]})
