"""Recipes for code, asked of a model that answers by rule and fails in planned ways; what runs, runs in the sandbox."""

from __future__ import annotations

import re

import pytest
from skilled import made_by, made_in

from llama3.capabilities import Limits, Script, extract_code
from llama3.tasks.sandbox import run_scripts
from llama3.testing.capabilities import ToyShop
from llama3_plugins.capabilities.code_translation import is_balanced
from llama3_plugins.capabilities.python_source import faults, lone_functions
from llama3_plugins.capabilities.unit_tests import prove_something, test_runs, unsound

GOOD = "def double(x):\n    return x + x  # twice"
TESTS = """def test_small():
    assert double(2) == 4
    assert double(0) == 0

def test_text():
    assert double('a') == 'aa'"""


def block(code: str, language: str = "python") -> str:
    return f"Here:\n```{language}\n{code}\n```"


# Execution feedback ---------------------------------------------------------------------------------------------------

FIRST = {
    0: block(GOOD),
    1: block("def double(x):\n    return x * 3"),
    2: block("def double(x):\n    while True:\n        pass"),
    3: "I would rather not write a program.",
    4: block(f"{GOOD}\nimport sys\nsys.exit(0)"),
    5: block("def double(x):\n    return twice(x)"),
    6: block(GOOD),
    7: block(f"{GOOD}\nfor n in range(10 ** 9):\n    print('garbage' * 1000)"),
}
"""By the number of its problem, what the model says first: right, wrong, hanging, no program, leaving early, not
defined, right with tests that prove nothing, endless output."""
MENDED = {1: GOOD, 4: GOOD, 5: GOOD, 6: GOOD}


def coder(dialog) -> str:
    said, first = dialog[-1]["content"], dialog[0]["content"]
    if "Be inspired by it" in said:
        number = re.findall(r"# (\d+)", said)[-1]
        return f"Problem {number}: write double(x), which returns twice its argument. Example: double(2) is 4."
    number = int(re.search(r"Problem (\d+)", first)[1])
    if "Find out whether" in said:
        return block(MENDED.get(number, "def double(x):\n    return None")) + "\n" + block(TESTS)
    if "Write unit tests" in said:
        return block("assert True\nassert callable(double)" if number == 6 else TESTS)
    return FIRST[number]


@pytest.fixture(scope="module")
def solved():
    asked = []

    def rule(dialog):
        asked.append(dialog)
        return coder(dialog)

    with ToyShop(rule) as shop, pytest.MonkeyPatch.context() as patch:
        patch.setattr("llama3.making.workshop.LIMITS", Limits(cpu_seconds=0.3))
        made = made_in(shop, "code_feedback", 8, corrections=1)
    return {int(re.search(r"Problem (\d+)", one.messages[0]["content"])[1]): one for one in made}, asked


def test_what_fails_is_corrected_or_not_kept(solved):
    made, _ = solved
    assert {number: one.reason for number, one in made.items()} == {
        0: "passed", 1: "corrected", 2: "fails", 3: "no_code", 4: "corrected", 5: "corrected", 6: "passed", 7: "fails",
    }  # fmt: skip
    assert [number for number, one in made.items() if one.kept] == [0, 1, 4, 5, 6]


def test_every_kept_program_does_what_its_problem_asks(solved):
    made, _ = solved
    programs = [extract_code(one.messages[-1]["content"]) for one in made.values() if one.kept]
    ran = run_scripts([Script(f"{program}\nprint(double(21))") for program in programs])
    assert [one.stdout for one in ran] == ["42\n"] * 5


def test_the_model_is_shown_what_happened(solved):
    _, asked = solved
    shown = {number: dialog[-1]["content"] for dialog in asked if "Find out whether" in dialog[-1]["content"]
             for number in [int(re.search(r"Problem (\d+)", dialog[0]["content"])[1])]}  # fmt: skip
    assert "exit status: 1" in shown[1]
    assert "AssertionError" in shown[1]
    assert "did not come to its end" in shown[2]
    assert "left before all tests were run" in shown[4]
    assert "undefined name 'twice'" in shown[5]
    assert "prove nothing" in shown[6]


def test_what_failed_is_seen_and_not_learnt(solved):
    made, _ = solved
    _, failed, seen, mended = made[1].messages
    assert (failed["weight"], "x * 3" in failed["content"], "weight" in mended) == (0, True, False)
    assert "AssertionError" in seen["content"]
    assert len(made[6].messages) == 2, "the tests alone were wrong: the program was right at once"


def test_tests_must_assert_something_of_the_program():
    assert unsound(GOOD, TESTS) == ""
    assert "assert" in unsound(GOOD, "def test():\n    double(2)")
    assert "nothing that the solution defines" in unsound(GOOD, "assert 1\nassert 2")
    assert "syntax" in unsound(GOOD, "assert (")
    with ToyShop(lambda dialog: "") as shop:
        empty = "assert True\nassert callable(double)"
        pairs = [(GOOD, TESTS), (GOOD, empty), ("class A:\n    def f(self): return 1", "assert A().f() == 1")]
        assert [one.status for one in test_runs(shop, pairs)] == [0, 0, 0]
        assert prove_something(shop, pairs) == [True, False, True]


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("def f(:", "syntax error"),
        ("import math\nprint(math.pi, [n for n in range(3)])", ""),
        ("print(numpy.pi)", "undefined name 'numpy'"),
        ("def f(a=[]):\n    return a", "shared by all calls"),
        ("try:\n    pass\nexcept:\n    pass", "bare except"),
        ("from math import *", "import *"),
        ("match 3:\n    case [a, *b]:\n        print(a, b)\n    case {'k': c, **d}:\n        print(c, d)", ""),
        ("(" * 5000, "syntax error"),
        ("x = 1\0", "syntax error"),
    ],
)
def test_faults_that_need_no_run(code, told):
    found = "\n".join(faults(code))
    assert told in found
    assert bool(found) == bool(told)


# Translation and back-translation -------------------------------------------------------------------------------------

CLAMP = "def clamp(value, low, high):\n    if value < low:\n        return low\n    return min(value, high)"
CALLS = block("clamp(5, 0, 3)\nclamp(-1, 0, 3)\nclamp(2, 0, 3)\nclamp(__import__('os'), 0, 1)\nprint(1)")
JS = """function clamp(value, low, high) {
  if (value < low) { return low; } // "less
  return Math.min(value, high);
}"""


def shop_of(rule) -> ToyShop:
    """A workshop whose one document is a function and something that is not one."""
    shop = ToyShop(rule)
    one = shop.documents(1, 0, kind="code")[0]
    text = f"import os\n\n{CLAMP}\n\ndef lost(x):\n    return os.path.join(x, HERE)\n"
    shop.documents = lambda *_, **__: [type(one)(text, "d", "toy", "python", "code")]
    return shop


@pytest.mark.parametrize(
    ("forth", "back", "calls", "reason"),
    [
        (block(JS, "javascript"), block(CLAMP), CALLS, "round_trip"),
        (block(JS, "javascript"), block(CLAMP.replace("return low", "return value")), CALLS, "does_something_else"),
        (block(CLAMP), block(CLAMP), CALLS, "not_translated"),
        (block(JS + "}", "javascript"), block(CLAMP), CALLS, "unbalanced"),
        (block(JS, "javascript"), block("def clamp(:"), CALLS, "no_way_back"),
        (block(JS, "javascript"), block(CLAMP), block("clamp(1, 1, 1)"), "no_calls_that_tell"),
        ("No.", "No.", CALLS, "no_code"),
    ],
)
def test_a_translation_is_proved_by_its_way_back(forth, back, calls, reason):
    def rule(dialog):
        said = dialog[-1]["content"]
        return calls if "calls of this function" in said else back if "into Python" in said else forth

    with shop_of(rule) as shop:
        (made,) = made_in(shop, "code_translation", 1)
    assert (made.reason, made.kept) == (reason, reason == "round_trip")


def test_brackets_of_other_languages():
    assert is_balanced("fn f<'a>(x: &'a str) -> char { ')' } // (\n/* { */", "Rust")
    assert is_balanced("echo '(' . 'it\\'s [';", "PHP")
    assert not is_balanced("int f( { ) }", "C++")
    assert lone_functions(f"{CLAMP}\n\ndef lost(x):\n    return os.getcwd() + x\n\ndef g(x):\n    pass") == [CLAMP]


def test_the_explanation_that_comes_back_is_kept():
    """Of three explanations only the second gives the function again; where nothing can be run, a judge says."""
    texts = iter(["It does something.", "It keeps a value between two bounds.", "It adds."])

    class Drawing:
        at_once, asked = 8, 0

        def answer(self, dialogs, samples, temperature, max_tokens, seed):
            from llama3.capabilities import Reply

            return [[Reply(rule(dialog), True) for _ in range(samples)] for dialog in dialogs]

    def rule(dialog):
        said = dialog[-1]["content"]
        if "calls of this function" in said:
            return CALLS
        if "described here" in said:
            return block(CLAMP if "between two bounds" in said else CLAMP.replace("min", "max"))
        return next(texts)

    with shop_of(rule) as shop:
        shop.voice = Drawing()
        (made,) = made_in(shop, "code_backtranslation", 1)
    assert (made.kept, made.reason) == (True, "ran_the_same")
    assert "between two bounds" in made.messages[-1]["content"]


@pytest.mark.parametrize(
    ("said", "reason", "kept"),
    [("Alike.\n9", "judged", True), ("3", "judged_low", False), ("Hm, 10 or so, or 2", "judge_unreadable", False)],
)
def test_where_nothing_can_be_run_a_judge_compares(said, reason, kept):
    def rule(dialog):
        asked = dialog[-1]["content"]
        if "Two programs" in asked:
            return said
        return block(CLAMP) if "described here" in asked else "It clamps."

    with shop_of(rule) as shop:
        (made,) = made_in(shop, "code_backtranslation", 1)
    assert (made.reason, made.kept) == (reason, kept)


# The judge of correctness and style -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("points", "revised", "reasons"),
    [
        (("1", "1"), ("0", "0"), {"both_points"}),
        (("1", "0"), ("1", "1"), {"revised"}),
        (("1", "0"), ("1", "0"), {"too_few_points"}),
        (("perhaps", "1"), ("1", "1"), {"judge_unreadable"}),
    ],
)
def test_both_points_or_a_revision_that_has_them(points, revised, reasons):
    def rule(dialog):
        said = dialog[-1]["content"]
        if "holds only one number" in said:
            given = revised if "Better: rename" in said else points
            return f"So so.\n{given['readable' in said.splitlines()[0]]}"
        if "A reviewer says" in said:
            return "Better: rename `a` to `count`."
        return "Is `a` a good name here?" if "Write a question" in said else "It is fine."

    made = made_by("code_judged", rule, 2, samples=1)
    assert {one.reason for one in made} == reasons
    assert all(one.kept == (one.reason in ("both_points", "revised")) for one in made)
    assert all(one.rejected == ("It is fine." if one.reason == "revised" else "") for one in made)
