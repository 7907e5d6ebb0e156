"""The policy engine: parsing, composition laws, failing closed, streams."""

import asyncio
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama3.errors import ConfigError, GuardBlocked, PluginError
from llama3.safety.audit import AuditLog
from llama3.safety.engine import PolicyEngine
from llama3.safety.guard import ACTIONS, GuardInput, Turn, Verdict, severity
from llama3.safety.policy import parse_policy


class Scripted:
    """A guard that answers, fails or hangs as told by its name."""

    def __init__(self, behaviour):
        self.behaviour = behaviour
        self.calls = 0

    async def open(self):
        if self.behaviour == "bad_open":
            raise OSError("weights are missing")

    async def close(self):
        pass

    async def check(self, x: GuardInput):
        self.calls += 1
        match self.behaviour:
            case "raise":
                raise RuntimeError("boom")
            case "hang":
                await asyncio.sleep(60)
            case "nan":
                return Verdict(action="allow", p=math.nan)
            case "garbage":
                return {"action": "allow"}
            case "unknown":
                return Verdict(action="fine")  # type: ignore[arg-type]
            case "skipped":
                return Verdict(action="allow", status="skipped")
            case "needle":
                return Verdict(action="block" if "needle" in x.text else "allow", reason="needle")
            case "hate":
                return Verdict(action="allow", categories={"hate": 0.6})
        return Verdict(action=self.behaviour)


def engine(policy, **options):
    return PolicyEngine(policy, lambda name, _: Scripted(name), **options)


def action(tree):
    return engine({"input": tree}).decide("input", "text").action


actions = st.sampled_from(ACTIONS)
FAULTS = ["raise", "nan", "garbage", "unknown", "skipped"]


@given(st.lists(actions, min_size=1, max_size=5))
def test_any_is_the_maximum_and_all_the_minimum(children):
    assert action({"any": children}) == max(children, key=severity)
    assert action({"all": children}) == min(children, key=severity)


@given(st.lists(actions, min_size=1, max_size=5), st.data())
def test_k_of_is_the_kth_most_severe_whatever_the_order(children, data):
    k = data.draw(st.integers(1, len(children)))
    expected = sorted(children, key=severity, reverse=True)[k - 1]
    assert action({"k_of": {"k": k, "of": children}}) == expected
    shuffled = data.draw(st.permutations(children))
    assert action({"k_of": {"k": k, "of": shuffled}}) == expected


@given(st.lists(actions, min_size=1, max_size=4), st.sampled_from(FAULTS), st.data())
def test_a_failing_guard_never_lowers_the_action(children, fault, data):
    position = data.draw(st.integers(0, len(children) - 1))
    broken = [*children[:position], fault, *children[position + 1 :]]
    for kind in ("any", "all"):
        assert severity(action({kind: broken})) >= severity(action({kind: children}))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_failing_guard_blocks_by_default_and_says_so(fault):
    decision = engine({"input": fault}).decide("input", "x")
    assert decision.action == "block"
    assert decision.verdicts[0].status == "error"
    with pytest.raises(GuardBlocked, match="L3-SAF-020"):
        decision.raise_if_blocked()


def test_a_hanging_guard_times_out_and_blocks():
    decision = engine({"input": {"guard": "hang", "timeout_ms": 20}}).decide("input", "x")
    assert (decision.action, decision.verdicts[0].status) == ("block", "timeout")


def test_only_an_advisory_guard_may_fail_open():
    with pytest.raises(ConfigError, match="L3-SAF-008"):
        parse_policy({"input": {"guard": "raise", "on_error": "allow"}})
    assert action({"guard": "raise", "on_error": "allow", "advisory": True}) == "allow"
    assert action({"guard": "raise", "on_error": "review"}) == "review"


def test_first_stops_at_the_first_objection():
    built = {}
    engine_ = PolicyEngine(
        {"input": {"first": ["allow", "flag", "block"]}},
        lambda name, _: built.setdefault(name, Scripted(name)),
    )
    assert engine_.decide("input", "x").action == "flag"
    assert [built[name].calls for name in ("allow", "flag", "block")] == [1, 1, 0]


def test_a_failure_keeps_nobody_behind_it_from_being_asked():
    """Of `all` a failing guard leaves what the others say: that is no reason to stop at it."""
    broken = {"all": ["raise", "flag"]}
    assert action({"first": [{"all": ["allow", "flag"]}, "block"]}) == "block"
    assert action({"first": [broken, "block"]}) == "block"
    assert action({"first": [broken, "redact"]}) == "redact"
    assert action({"first": [{"first": [broken]}, "allow", "review", "block"]}) == "review"
    assert action({"first": [{"guard": "raise", "on_error": "review"}, "block"]}) == "block"
    assert action({"first": [broken, "allow"]}) == "flag"


def test_thresholds_decide_and_a_missing_score_is_an_error():
    leaf = {"guard": "hate", "thresholds": {"hate": {"flag": 0.5, "block": 0.9}}}
    assert action(leaf) == "flag"
    assert action({"guard": "hate", "thresholds": {"hate": {"block": 0.6}}}) == "block"
    assert action({"guard": "hate", "thresholds": {"violence": {"block": 0.6}}}) == "block"


def test_nested_trees_compose():
    assert action({"all": [{"any": ["allow", "block"]}, "flag"]}) == "flag"


def test_a_guard_that_cannot_open_refuses_to_start():
    refusal = pytest.raises(PluginError, match=r"'bad_open' could not be opened.*weights are missing.*L3-SAF-022")
    with refusal, engine({"input": "bad_open"}):
        pass


def test_a_guard_that_hangs_as_it_opens_is_named_and_those_before_it_are_closed(monkeypatch, caplog):
    monkeypatch.setattr("llama3.safety.engine.OPENING_SECONDS", 1.0)
    monkeypatch.setattr("llama3.safety.engine.TELLING_SECONDS", 0.05)
    events = []

    class Opening(Scripted):
        async def open(self):
            await asyncio.sleep(3600 if self.behaviour == "hang" else 0)
            events.append(f"open {self.behaviour}")

        async def close(self):
            events.append(f"close {self.behaviour}")

    guarded = PolicyEngine({"input": {"any": ["allow", "hang", "flag"]}}, lambda name, _: Opening(name))
    with pytest.raises(PluginError, match=r"'hang' could not be opened.*longer than 1 s"):
        guarded.open()
    assert "guard hang is not open after 0.05 s" in caplog.text
    assert events == ["open allow", "close allow"]


def test_a_stage_without_guards_must_say_so():
    with pytest.raises(ConfigError, match="L3-SAF-002"):
        parse_policy({"input": {}})
    assert engine({"input": {"unguarded": True}}).decide("input", "x").action == "allow"
    assert engine({}).decide("output", "x").action == "allow"


def test_all_mistakes_of_a_policy_are_reported_at_once():
    with pytest.raises(ConfigError) as error:
        parse_policy(
            {
                "inptu": "a",
                "input": {"any": []},
                "output": {"guard": "a", "on_eror": "block", "thresholds": {"x": {"block": 2}}},
                "code": {"k_of": {"k": 3, "of": ["a", "b"]}},
            }
        )
    codes = {problem.code for problem in error.value.problems}
    assert codes == {"L3-SAF-001", "L3-SAF-004", "L3-SAF-006", "L3-SAF-009", "L3-SAF-005"}


def test_works_inside_a_running_event_loop():
    async def caller():
        return engine({"input": "block"}).decide("input", "x").action

    assert asyncio.run(caller()) == "block"


def test_the_audit_holds_the_hash_and_not_the_text(tmp_path):
    path = tmp_path / "audit.jsonl"
    with engine({"input": "block"}, audit=AuditLog(path)) as guarded:
        guarded.decide("input", "my secret", request_id="r1")
    told = path.read_text()
    _, row = map(json.loads, told.splitlines())
    assert "secret" not in told
    assert (row["request"], row["action"], len(row["text_sha256"])) == ("r1", "block", 64)


@given(st.lists(st.text(max_size=150), max_size=12))
def test_an_allowed_stream_is_released_whole(pieces):
    assert "".join(engine({"output": "allow"}).guard_stream(pieces)) == "".join(pieces)


@given(st.integers(0, 1500), st.integers(1, 97))
def test_nothing_of_a_blocked_stream_escapes_once_the_needle_was_seen(position, size):
    text = "x" * position + "needle" + "y" * 300
    released: list[str] = []
    stream = engine({"output": "needle"}).guard_stream(text[i : i + size] for i in range(0, len(text), size))
    with pytest.raises(GuardBlocked):
        released.extend(stream)
    released_text = "".join(released)
    assert text.startswith(released_text)
    assert "needle" not in released_text
    assert len(released_text) <= max(0, position + 6 - 1)


@given(st.lists(st.text(max_size=150), max_size=12), st.sampled_from(["allow", "needle", None]))
def test_the_asynchronous_stream_releases_the_same_pieces(pieces, guard):
    guarded = engine({} if guard is None else {"output": guard})

    async def source():
        for piece in pieces:
            await asyncio.sleep(0)
            yield piece

    async def collect():
        return [piece async for piece in guarded.aguard_stream(source())]

    assert asyncio.run(collect()) == list(guarded.guard_stream(pieces))


def test_an_asynchronous_stream_ends_where_a_guard_blocks():
    released = []

    async def source():
        for _ in range(9):
            yield "x" * 100
        yield "needle" + "y" * 300
        raise AssertionError("nothing is drawn after a refusal")

    async def read():
        async for piece in engine({"output": "needle"}).aguard_stream(source()):
            released.append(piece)

    with pytest.raises(GuardBlocked):
        asyncio.run(read())
    assert set("".join(released)) == {"x"}


def test_guards_of_a_stream_see_the_conversation():
    seen = []

    class Seeing(Scripted):
        async def check(self, x):
            seen.append(x.trace)
            return Verdict(action="allow")

    guarded = PolicyEngine({"output": "seeing"}, lambda name, _: Seeing(name))
    trace = [Turn("user", "hello")]
    assert "".join(guarded.guard_stream(["x" * 250, "y"], trace=iter(trace))) == "x" * 250 + "y"
    assert seen == [tuple(trace)] * 2
