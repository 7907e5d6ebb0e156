"""The recipes for tools, long context, languages and steerability, in a run whose model is a server that answers by
rule and goes wrong where that is planted."""

from __future__ import annotations

import inspect
import json
import random
import re
from collections import Counter
from pathlib import Path

import pytest
import yaml
from pages import write_model
from ruled import (
    ANSWERS,
    DISOBEDIENT,
    IN_DEVANAGARI,
    IN_ENGLISH,
    Obedient,
    Polyglot,
    Reader,
    Restless,
    Stepwise,
    ToolUser,
    call,
    obeying,
)
from skilled import config_of, made_by, made_in, served
from test_capability_runs import exit_code

from llama3.config import load
from llama3.config.slot_types import CapabilitySlot
from llama3.data.corpus import split_of
from llama3.making.joining import within
from llama3.making.stage import CapabilityOptions
from llama3.testing import CapabilityConformance
from llama3.testing.capabilities import ToyShop
from llama3.tokenizer import Tokenizer
from llama3_plugins.capabilities.functions import OWN
from llama3_plugins.capabilities.imports import dependents
from llama3_plugins.capabilities.languages import FEW, language_of
from llama3_plugins.capabilities.rules import MAKERS, draw
from llama3_plugins.capabilities.tool_questions import says
from llama3_plugins.capabilities.toolbox import CORE, mined

WORDS = (
    "the of and to that with have ship sea wind harbour captain letter morning island rope storm voyage lantern anchor"
    " sailor compass thunder evening silver river garden window bridge winter summer candle"
)
HELD_OUT = 0.3
LANGUAGES = ["de", "fr", "th", "hi", "hi-Latn"]


class Everybody:
    """Each recipe's model, by what it is asked."""

    def __init__(self, marker: Path) -> None:
        self.tools = Restless(
            {
                "^Compute| times ": [
                    call("calculator", expression="9 ** 9 ** 9 ** 9"),
                    '{"name": "calculator", "parameters": {"expression": ',
                ],
                "squares": [call("python", code=f"open({str(marker)!r}, 'w').write('out')")],
                "uploaded": ["It is 12, I think."],
            }
        )
        self.obedient = Obedient({"librarian": 3, "gardener": 1})
        self.polyglot = Polyglot({"Pari": IN_DEVANAGARI, "Quel": IN_ENGLISH})
        self.reader = Reader()

    def __call__(self, dialog) -> str:
        first, said = dialog[0]["content"], dialog[-1]["content"]
        if "Write the one thing that you ask" in said or "(Remember: " in said:
            return self.obedient(dialog)
        if said.startswith(("Write one question about", "Translate the text", "Ist die Zahl", *ANSWERS)):
            return self.polyglot(dialog)
        if re.match("Sum up|Below are summaries|Text:", said) or said.endswith(("as you can.", "Answer yes or no.")):
            return self.reader(dialog)
        return self.tools([{"role": "system", "content": first}, *dialog])


@pytest.fixture(scope="module")
def raised(tmp_path_factory):
    """A run with all four recipes: its folder, and what must not be written."""
    folder = tmp_path_factory.mktemp("raised")
    (folder / "notes").mkdir()
    rng = random.Random(5)
    words = WORDS.split()
    for n in range(36):
        text = " ".join(rng.choice(words) for _ in range(260 + 200 * (n % 3)))
        (folder / "notes" / f"{n}.txt").write_text(f"voyage number {n} {text}.")
    write_repository(folder / "repo")
    texts = [path.read_text() for path in sorted((folder / "notes").iterdir())]
    write_model(str(folder / "my-model"), Tokenizer.train(texts, 340, 16), max_seq_len=4096)
    marker = folder / "escaped"
    with served(Everybody(marker)) as server:
        ours = {"model": server.url}
        recipes = [
            {"name": "tool_use", "prompts": 50, **ours},
            {"name": "long_context", "prompts": 6, "buckets": [800, 1600], "chunk": 300, "dependents": 3, **ours},
            {"name": "multilinguality", "prompts": 20, "languages": LANGUAGES, "samples": 2, **ours},
            {"name": "steerability", "prompts": 30, **ours},
        ]
        place = config_of(folder, folder, recipes)
        config = yaml.safe_load(place.read_text())
        config["data"]["sources"].append({"name": "files", "path": str(folder / "repo"), "source": "repo"})
        place.write_text(yaml.safe_dump(config))
        assert exit_code("run", place) == 0
        yield folder / "s", marker


def trained(names: str, folder: str = "") -> list[str]:
    """Those of the modules that are not held out."""
    return [name for name in names.split() if split_of(f"{folder}{name}.py", HELD_OUT) == "train"]


CORE_MODULE = trained("units scales lengths", "core/")[0]
DEPENDENTS = trained("walk ride sail climb swim row fly")[:4]


def write_repository(folder: Path) -> None:
    """Modules that need one of a package, and one that does not."""
    (folder / "core").mkdir(parents=True)
    code = "def metres(x):\n    return x\n\n\ndef feet(x):\n    return 3.28 * x\n"
    (folder / "core" / f"{CORE_MODULE}.py").write_text(code)
    for name in DEPENDENTS:
        text = f"from core.{CORE_MODULE} import metres\n\n{name.upper()} = metres({len(name)})\n"
        (folder / f"{name}.py").write_text(text)
    (folder / "alone.py").write_text("import math\n\nDEEP = math.pi\n")


def rows_of(run: Path, key: str, name: str = "dialogs") -> list[dict]:
    return [json.loads(line) for line in (run / "artifacts" / key / f"{name}.jsonl").read_text().splitlines()]


def all_made(run: Path, name: str) -> list[dict]:
    return rows_of(run, f"capability-{name}-1", "made")


def test_what_was_planted_is_dropped_by_its_name(raised):
    run, marker = raised
    rows = [row for row in all_made(run, "tool_use") if not row["kept"]]
    reasons = Counter((row["family"].split("/")[1], row["reason"]) for row in rows)
    wanted = {
        ("calculator", "malformed_call"), ("calculator", "call_hangs"), ("python", "call_fails"), ("files", "no_call"),
        ("easy", "needless_call"), ("off", "not_active"), ("multi_step", "not_multi_step"),
    }  # fmt: skip
    assert not wanted - reasons.keys(), reasons
    assert not marker.exists(), "a call wrote a file outside of the sandbox"


def test_a_kept_trajectory_is_right(raised):
    """Checked by nobody who made it: Python's own arithmetic, and the tools that the system prompt tells of."""
    run, _ = raised
    rows = rows_of(run, "capability-tool_use-1")
    kinds = Counter(row["family"].split("/")[1] for row in rows)
    assert kinds.keys() >= {"calculator", "python", "files", "search", "single", "nested", "parallel", "easy", "off"}
    for row in rows:
        system, user, *turns = row["messages"]
        told = re.findall(r'^\{"name": "(\w+)"', system["content"], re.MULTILINE)
        calls = [turn["content"] for turn in turns if turn["content"].startswith('{"name": ')]
        assert all(name in told for text in calls for name in re.findall(r'"name": "(\w+)"', text))
        assert "\n(" not in user["content"], "what was only said while it was drawn"
        kind = row["family"].split("/")[1]
        assert bool(calls) == (kind not in ("easy", "off"))
        roles = [turn["role"] for turn in turns]
        assert roles == ["assistant", *["tool"] * (2 if kind == "parallel" else 1), "assistant"] or not calls
        if kind == "calculator":
            ((a, b, c),) = [map(int, re.findall(r"\d+", user["content"]))]
            right = a * b + c if "times" in user["content"] else a * (b + c)
            assert f"{right:,}" in turns[-1]["content"]


def test_a_needless_call_is_the_worse_answer(raised):
    run, _ = raised
    pairs = rows_of(run, "capability-tool_use-1", "preferences")
    assert pairs
    for pair in pairs:
        assert pair["rejected"].startswith('{"name": "calculator"'), pair
        assert not pair["chosen"].startswith("{")


def test_answers_are_written_as_their_prompts_are(raised):
    run, _ = raised
    rows = all_made(run, "multilinguality")
    kept = {row["family"] for row in rows if row["kept"]}
    assert {f"multilinguality/{tag}" for tag in LANGUAGES} <= kept
    assert "multilinguality/de/reasoning" in kept
    assert {row["reason"] for row in rows if not row["kept"]} == {
        "made_twice", "prompt_in_other_language", "prompt_in_other_script",
    }  # fmt: skip
    pairs = {row["family"]: row for row in rows_of(run, "capability-multilinguality-1", "preferences")}
    assert pairs["multilinguality/hi-Latn"]["rejected"] == IN_DEVANAGARI
    assert pairs["multilinguality/hi-Latn"]["chosen"] == ANSWERS["Pari"]
    assert pairs["multilinguality/fr"]["rejected"] == IN_ENGLISH


def test_a_rule_that_is_broken_in_the_third_turn_drops_the_dialog(raised):
    run, _ = raised
    rows = all_made(run, "steerability")
    for role, turn in (("librarian", 3), ("gardener", 1)):
        theirs = [row for row in rows if role in row["messages"][0]["content"]]
        assert theirs
        assert all(re.fullmatch(rf"breaks_\w+_in_turn_{turn}", row["reason"]) for row in theirs), theirs
        assert all(DISOBEDIENT not in str(row["messages"]) for row in rows), "what broke a rule stays among the turns"
    kept = [row for row in rows if row["kept"]]
    assert kept
    assert all([m["role"] for m in row["messages"]] == ["system", *["user", "assistant"] * 3] for row in kept)
    assert all("Remember" not in str(row["messages"]) for row in kept)


def test_a_repository_without_a_file(raised):
    run, _ = raised
    rows = [row for row in all_made(run, "long_context") if row["family"] == "long_context/repository"]
    (row,) = [row for row in rows if row["kept"]]
    user, assistant = row["messages"]
    assert f"the file core/{CORE_MODULE}.py is missing" in user["content"]
    assert f"# file: core/{CORE_MODULE}.py" not in user["content"]
    assert assistant["content"].splitlines() == sorted(f"{name}.py" for name in DEPENDENTS)


def test_long_texts_are_asked_about_as_a_whole(raised):
    run, _ = raised
    rows = all_made(run, "long_context")
    assert {"same_answer", "faithful"} <= {row["reason"] for row in rows if row["kept"]}
    for row in rows:
        if row["reason"] == "same_answer":
            assert row["messages"][0]["content"].count(" ") > 40
            assert row["messages"][1]["content"] in row["messages"][0]["content"]


def test_long_context_is_a_thousandth_of_the_mix(raised):
    run, _ = raised
    assert len(rows_of(run, "capability-long_context-1")) > 1
    learnt = Counter(row["source"] for row in rows_of(run, "skills-1"))
    assert learnt["long_context"] == 1, "one dialog may always join"
    assert within({"long_context": 9}, {"long_context": 0.001}, 5000)["long_context"] == 5
    assert learnt["tool_use"] == len(rows_of(run, "capability-tool_use-1"))


# -- without a run ----------------------------------------------------------------------------------


@pytest.mark.parametrize("last", [False, True])
def test_the_last_round_is_cooler(last):
    with ToyShop(Polyglot()) as shop:
        shop.last, heats, answer = last, [], shop.voice.answer

        def noted(dialogs, samples, temperature, max_tokens, seed):
            heats.extend([temperature] * samples * dialogs[0][0]["content"].startswith(tuple(ANSWERS)))
            return answer(dialogs, samples, temperature, max_tokens, seed)

        shop.voice.answer = noted
        assert all(one.kept for one in made_in(shop, "multilinguality", 5, languages=LANGUAGES, kinds=["questions"]))
    assert set(heats) == {0.6} if last else len(set(heats)) == 4 and all(0.2 <= heat <= 1.0 for heat in heats)


def test_only_languages_are_asked_anew_where_a_last_round_is_added():
    slots = {name: CapabilitySlot(name=name) for name in ("multilinguality", "tool_use")}
    found = {
        (name, rounds): CapabilityOptions.of(load({"post_training": {"rounds": rounds}}).config, slot, 2)
        for name, slot in slots.items()
        for rounds in (2, 3)
    }
    assert [found["multilinguality", rounds].last for rounds in (2, 3)] == [True, False]
    assert found["tool_use", 2] == found["tool_use", 3]


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        (call("calculator", expression="7 // 0"), "call_fails"),
        (call("calculator", lambda_="7"), "call_fails"),
        (call("calculator", **{"a b": 7}), "malformed_call"),
        (call("calculator", expression="9 ** 9 ** 9 ** 9"), "call_hangs"),
        (call("calculator", expression="1 + 1"), "wrong_answer"),
        (f"{call('calculator', expression='1 + 1')} is what I call.", "malformed_call"),
        (f"I call {call('calculator', expression='1 + 1')}", "malformed_call"),
        ('{"name": "calculator", "parameters": {"expression": ', "malformed_call"),
        (call("abacus", beads=3), "unknown_function"),
        (call("seats_needed", guests=3, seats_per_table=2), "not_active"),
        ("It is 12, I think.", "no_call"),
    ],
)
def test_a_call_that_is_none(first, reason):
    (made,) = made_by("tool_use", _Calculating({"": [first]}), 1, kinds=["calculator"], samples=1)
    assert (made.kept, made.reason) == (False, reason)


class _Calculating(ToolUser):
    """Says whatever a call gave."""

    def tools(self, prompt, results):
        return f"It is {results[0]}."


def test_two_steps_are_learnt_where_two_steps_were_made():
    made = made_by("tool_use", Stepwise(), 3, kinds=["multi_step"])
    assert {one.reason for one in made} == {"passed"}
    assert [turn["role"] for turn in made[0].messages[2:]] == ["assistant", "tool", "assistant", "tool", "assistant"]
    assert {one.reason for one in made_by("tool_use", Stepwise(), 3, kinds=["nested"])} == {"not_nested"}


def test_another_answer_from_the_chunk_or_a_name_that_is_not_there():
    options = {"buckets": [100, 300], "chunk": 64, "kinds": ["questions", "summary"]}
    made = made_by("long_context", Reader("river"), 8, **options)
    assert {"other_answer", "made_up"} <= {one.reason for one in made if not one.kept}


def test_a_model_without_room_makes_nothing():
    (made,) = made_by("long_context", Reader(), 4, buckets=[1 << 20])
    assert (made.kept, made.reason) == (False, "no_room")


def test_any_rules_that_are_drawn_can_be_obeyed():
    rng = random.Random(1)
    for _ in range(300):
        rules = draw(list(MAKERS), 4, rng)
        system = "You are a guide. " + " ".join(rule.told for rule in rules)
        for rule in rules:
            assert rule.obeyed(obeying(system, 2)), (rule.told, obeying(system, 2))
            assert not rule.obeyed(DISOBEDIENT), rule.told


def test_a_tool_is_told_as_python_reads_it():
    for tool in (*CORE, *OWN):
        space: dict = {}
        exec(tool.source, space)
        signature, told = inspect.signature(space[tool.name]), tool.spec["function"]
        assert list(told["parameters"]["properties"]) == list(signature.parameters)
        needed = [name for name, one in signature.parameters.items() if one.default is one.empty]
        assert told["parameters"]["required"] == needed
        assert told["description"] == inspect.getdoc(space[tool.name])


def test_functions_of_the_corpus_come_with_a_call():
    code = '''
def fold(text, width=3):
    """Cut a text.

    >>> fold("abcdef", width=2)
    """
    return [text[n : n + width] for n in range(0, len(text), width)]


def twice(x):
    """Twice."""
    y = 2 * x
    return y


def hidden(x):
    return x


def sum(x):
    """Another sum."""
    return x


y, z = twice(21), twice(y) + hidden(3) + sum([1])
'''
    found = {tool.name: json.loads(made.arguments) for tool, made in mined(code)}
    assert found == {"fold": {"text": "abcdef", "width": 2}, "twice": {"x": 21}}
    assert list(mined("def f(:\n")) == []


def test_imports_of_a_repository(tmp_path):
    files = {
        "pkg/__init__.py": "from . import a\n",
        "pkg/a.py": "from .sub.deep import X, Y\nfrom ..other import nothing\n",
        "pkg/sub/__init__.py": "",
        "pkg/sub/deep.py": "import pkg.a\nfrom .. import a as again\n",
        "top.py": "import pkg.sub.deep as d\nfrom pkg import a, sub\nimport json\n",
        "broken.py": "import pkg.a (\n",
    }
    found = {path: {one.path: set(one.names) for one in needed} for path, needed in dependents(files).items()}
    assert found == {
        "pkg/a.py": {"pkg/__init__.py": set(), "pkg/sub/deep.py": set(), "top.py": set()},
        "pkg/sub/__init__.py": {"top.py": set()},
        "pkg/sub/deep.py": {"pkg/a.py": {"X", "Y"}, "top.py": set()},
    }


def test_numbers_are_said_in_many_ways():
    assert says("It is 1,234.50 in all.", "1234.5")
    assert says("Seven, I think", "7")
    assert says("**Paris**.", "Paris")
    assert not says("It is 12345", "1234")
    assert not says("Parisian", "Paris")


def test_languages_are_told_apart_in_translations_of_others():
    """Real sentences: Django's catalogues, whose translators are many people."""
    django = pytest.importorskip("django", reason="no catalogues of translations are here")
    right, wrong = 0, []
    for tag in ("de", "fr", "it", "pt", "es", "hi"):
        for path in sorted(Path(django.__file__).parent.rglob(f"locale/{tag}/LC_MESSAGES/django.po")):
            for text in re.findall(r'^msgstr "(.+)"$', path.read_text(encoding="utf-8"), re.MULTILINE):
                plain = re.sub(r"%\(\w+\)s|%s|\\n", " ", text)
                if len(plain.split()) >= FEW and (told := language_of(plain)):
                    right += told == tag
                    wrong += [(tag, told, plain)] * (told != tag)
    assert right > 350
    assert len(wrong) < 0.01 * right, wrong


TALKING = {
    "tool_use": (ToolUser(), {"kinds": ["calculator", "search", "off"], "samples": 1}),
    "long_context": (Reader(), {"buckets": [100, 300], "chunk": 64, "files": 20}),
    "multilinguality": (Polyglot(), {"languages": LANGUAGES, "kinds": ["questions"]}),
    "steerability": (Obedient(), {}),
}


@pytest.mark.parametrize("recipe", TALKING)
def test_a_recipe_makes_the_same_of_a_model_that_can_do_it(recipe):
    talk, options = TALKING[recipe]
    case = type("Case", (CapabilityConformance,), {"talk": staticmethod(talk)})()
    case.plugin, case.options = recipe, options
    case.test_a_model_that_can_do_it_is_learnt_from()
    case.test_the_same_again()
    case.test_what_was_answered_is_not_asked_again()
