"""Answers before the guards of their text and of their code: nothing is passed on unjudged, and a stream ends as the
whole answer does, wherever it is cut."""

from __future__ import annotations

import re

import pytest
from guarding import cut, engine, streamed
from hypothesis import given, settings
from hypothesis import strategies as st

from llama3.errors import GuardBlocked
from llama3.safety.calls import code_of_call
from llama3.safety.engine import PolicyEngine
from llama3.safety.fences import CodeFences
from llama3.safety.guard import Span, Verdict

PARTS = ["Text. ", "hide ", "bad ", "\n", "```\n", "```python\n", "~~~~js\n", "~~~~\n", "> ```\n", "- ```c\n",
         "x = 1\n", "hide = 2\n", "bad()\n", "y" * 230 + "\n", "``", " ```not a fence```\n"]  # fmt: skip


class InCode:
    """Blocks code that is bad, redacts what is to be hidden; keeps what it was shown."""

    def __init__(self):
        self.seen = []

    def open(self): ...

    def close(self): ...

    def check(self, x):
        self.seen.append((x.stage, x.text, x.language))
        if "bad" in x.text and x.stage == "code":
            return Verdict(action="block", reason="bad code")
        spans = tuple(Span(start=m.start(), end=m.end()) for m in re.finditer("hide", x.text))
        return Verdict(action="redact" if spans and x.stage == "code" else "allow", spans=spans)


def guarded(*stages):
    guard = InCode()
    return PolicyEngine(dict.fromkeys(stages, "g"), lambda name, options: guard), guard


def whole(guards, text):
    try:
        return guards.judge_answer(text)
    except GuardBlocked:
        return None


@settings(max_examples=120)
@given(st.lists(st.sampled_from(PARTS), max_size=25), st.lists(st.integers(1, 300), min_size=1, max_size=4))
@pytest.mark.parametrize("stages", [("code",), ("output", "code"), ("code", "stream")])
def test_a_stream_with_code_ends_as_the_whole_answer_does(stages, parts, sizes):
    text = "".join(parts)
    guards, _ = guarded(*stages)
    assert streamed(guards, cut(text, sizes)) == whole(guards, text)


@settings(max_examples=60)
@given(st.lists(st.sampled_from(PARTS), max_size=25), st.lists(st.integers(1, 300), min_size=1, max_size=4))
def test_no_code_is_passed_on_before_it_was_judged(parts, sizes):
    text = "".join(part.replace("bad", "fine").replace("hide", "seek") for part in parts)
    guards, guard = guarded("code")
    passed = ""
    for piece in guards.guard_stream(iter(cut(text, sizes))):
        passed += piece
        blocks = CodeFences().flush(text)
        judged = [code for _, code, _ in guard.seen]
        begun = [block for block in blocks if block.start < len(passed)]
        assert [block.code for block in begun] == judged[: len(begun)]
    assert passed == text
    assert [code for _, code, _ in guard.seen] == [block.code for block in CodeFences().flush(text)]


def test_code_is_shown_whole_with_its_language_however_long_it_is():
    code = "".join(f"line_{n} = {n}\n" for n in range(1000))
    guards, guard = guarded("output", "code")
    text = f"See:\n\n```Python\n{code}```\nand\n\n~~~\nopen at the end"
    assert streamed(guards, cut(text, [97])) == text
    shown = [(code, language) for stage, code, language in guard.seen if stage == "code"]
    assert shown == [(code, "python"), ("open at the end", None)]
    windows = [len(text) for stage, text, _ in guard.seen[:-3] if stage == "output"]
    assert max(windows) < 4800, "what waits for its fence is not scanned again and again"


def test_what_stands_before_bad_code_is_passed_on_and_nothing_of_the_code():
    guards, _ = guarded("code")
    passed = []
    text = "First.\n" * 60 + "```python\n" + "x = 1\n" * 90 + "bad()\n```\nbye"
    with pytest.raises(GuardBlocked, match="bad code"):
        passed.extend(guards.guard_stream(iter(cut(text, [11]))))
    assert "".join(passed) == text[: len("".join(passed))]
    assert "x = 1" not in "".join(passed)
    assert "First." in "".join(passed)


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("python", '{"input": "import os"}', [("python", "import os")]),
        ("tools.codeInterpreter", '{"a": [{"b": "x"}], "n": 3}', [("python", "x")]),
        ("run-command", '{"command": "ls", "cwd": "/"}', [("bash", "ls"), ("bash", "/")]),
        ("notes", '{"text": "plain"}', []),
        ("notes", '{"text": "```c\\ngets(a);\\n```"}', [("c", "gets(a);\n")]),
        ("notes", '{"script": {"line": "rm -r x"}}', [("", "rm -r x")]),
        ("notes", '{"sourceCode": "x", "cmd": "y", "blank": " "}', [("", "x"), ("bash", "y")]),
    ],
)  # fmt: skip
def test_the_code_of_a_call(name, arguments, expected):
    assert code_of_call(name, arguments) == expected


def test_a_guard_of_code_needs_no_fence_to_read_it():
    guards = engine("code_shield", stage="code")
    assert guards.decide("code", "import os\nos.system(x)", language="python").blocked
    assert not guards.decide("code", "import os\nos.getcwd()", language="python").blocked
