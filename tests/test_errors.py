"""An error is declared once and raised through its declaration; docs/errors.md is made of the declarations.

Refresh the page with: python tests/test_errors.py
"""

from __future__ import annotations

import ast
import copy
import importlib
import pkgutil
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import llama3
import llama3_plugins
from llama3 import errors
from llama3.errors import ConfigError, DataError, Declaration, LlamaError, PluginError, Problem, did_you_mean
from llama3.tasks.task import NotEnoughTasks

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "errors.md"
CODE = re.compile(r"L3-[A-Z]+-\d{3}")
HEAD = """# Errors

Every problem that this project reports carries one of these codes, the same on the command line, in Python and in the
server. Python users catch the class; the program returns the exit code. Problems of several classes that the check of
a config finds together are one ConfigError (2). A word in braces stands for a value. The page is generated from the
declarations in the source (`make format`).

| code | class | exit code | what | fix |
|---|---|---|---|---|
"""


def sources():
    """(module's name, path) of all modules."""
    for package in (llama3, llama3_plugins):
        found = pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
        for name in (package.__name__, *(info.name for info in found if not info.name.endswith("__main__"))):
            spec = importlib.util.find_spec(name)
            yield name, Path(spec.origin)


MODULES = {name: path for name, path in sources() if path.suffix == ".py"}
for name in MODULES:
    importlib.import_module(name)
OURS = {code: declaration for code, declaration in errors.DECLARED.items() if CODE.fullmatch(code)}


def shown(template):
    """A template with its fields as a reader sees them."""
    return (
        re.sub(r"\{(?:\w+\.)*(\w+)[^{}.]*\}", r"{\1}", template.replace("{{", "\0"))
        .replace("\0", "{")
        .replace("}}", "}")
    )


def page():
    rows = {}
    for code, declared in OURS.items():
        words = (shown(declared.what), shown(declared.fix))
        rows[code] = (code, declared.error.__name__, str(declared.error.exit_code), *words)
    lines = (" | ".join(cell.replace("|", "\\|") or "-" for cell in rows[code]) for code in sorted(rows))
    return HEAD + "".join(f"| {line} |\n" for line in lines)


def test_the_page_is_up_to_date():
    assert PAGE.read_text("utf-8") == page(), "run: python tests/test_errors.py"


# -- the source ------------------------------------------------------------------------------------


def classes(of=LlamaError):
    return {of.__name__}.union(*(classes(below) for below in of.__subclasses__()))


class Source:
    """A module's tree, and what the names in it stand for, imports inside functions included."""

    def __init__(self, name, path):
        self.path = path.relative_to(ROOT)
        self.tree = ast.parse(path.read_text("utf-8"))
        self.names = dict(vars(importlib.import_module(name)))
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ImportFrom) and node.module in MODULES:
                for alias in node.names:
                    found = getattr(importlib.import_module(node.module), alias.name, None)
                    self.names.setdefault(alias.asname or alias.name, found)

    def value(self, node):
        """What a name or a dotted name stands for."""
        if isinstance(node, ast.Attribute):
            return getattr(self.value(node.value), node.attr, None)
        return self.names.get(node.id) if isinstance(node, ast.Name) else None

    def declaration(self, call):
        """The declaration that a call raises or makes a problem of."""
        function = call.func
        if isinstance(function, ast.Attribute) and function.attr == "problem":
            function = function.value
        found = self.value(function)
        return found if isinstance(found, Declaration) else None

    def calls(self):
        return [node for node in ast.walk(self.tree) if isinstance(node, ast.Call)]

    def at(self, node):
        return f"{self.path}:{node.lineno}"


@cache
def all_sources():
    return [Source(name, path) for name, path in MODULES.items() if name != "llama3.errors"]


def test_problems_are_made_by_declarations_only():
    # A subclass elsewhere makes its problem of a declaration in its constructor.
    made = {"Problem"} | {name for name in classes() if hasattr(errors, name)}
    found = [
        source.at(call)
        for source in all_sources()
        for call in source.calls()
        if getattr(call.func, "id", getattr(call.func, "attr", "")) in made
    ]
    assert found == [], "declare the error, and raise it through the declaration"


def test_every_use_gives_the_fields_of_its_template():
    wrong = []
    for source in all_sources():
        for call in source.calls():
            if (declared := source.declaration(call)) is None:
                continue
            given = [keyword.arg for keyword in call.keywords]
            if set(given) != declared.fields or len(call.args) > 1:
                wrong.append(f"{source.at(call)}: {declared.code} takes {sorted(declared.fields)}, gets {given}")
    assert wrong == []


def codes_of_the_core():
    return {code for file in (ROOT / "core-rs" / "src").rglob("*.rs") for code in CODE.findall(file.read_text("utf-8"))}


def test_every_declaration_is_used():
    used = {
        value.code
        for source in all_sources()
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load)
        if isinstance(value := source.value(node), Declaration)
    }
    assert OURS.keys() - used - codes_of_the_core() == set()
    assert codes_of_the_core() - OURS.keys() == set()


def test_a_code_stands_in_its_declaration_only():
    declared, elsewhere = Counter(), []
    for source in all_sources():
        own = set()
        for call in source.calls():
            if isinstance(call.func, ast.Attribute) and call.func.attr == "declare":
                declared[call.args[0].value] += 1
                own.add(call.args[0])
        for node in ast.walk(source.tree):
            is_code = isinstance(node, ast.Constant) and isinstance(node.value, str) and CODE.fullmatch(node.value)
            if is_code and node not in own:
                elsewhere.append(source.at(node))
    assert [code for code, count in declared.items() if count > 1] == []
    assert elsewhere == []


# -- what users meet -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        ("L3-CFG-020", ["config", "validate", "quickstart", "--set", "post_training.algorithm=sft"]),
        ("L3-CFG-010", ["config", "validate", "quickstart", "--set", "run.sed=1"]),
        ("L3-PLG-011", ["config", "validate", "quickstart", "--set", "post_training.algorithm=dbo"]),
        ("L3-CLI-010", ["plugins", "show", "dbo"]),
        ("L3-CLI-020", ["generate", "no-model"]),
        ("L3-ART-001", ["lineage", "no-run"]),
        ("L3-CKP-002", ["show", "model"]),
    ],
)
def test_the_program_returns_the_exit_code_of_the_page(code, arguments, tmp_path, monkeypatch, capsys):
    from llama3.cli.app import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", [])
    Path("model").mkdir()
    Path("model", "config.json").write_text("[]")
    Path("model", "model.safetensors").write_bytes(b"")
    with pytest.raises(SystemExit) as left:
        main(arguments)
    said = capsys.readouterr().err
    assert f"[{code}]" in said
    row = next(line for line in PAGE.read_text("utf-8").splitlines() if line.startswith(f"| {code} |"))
    assert row.split(" | ")[2] == str(left.value.code), said


DOUBLED = re.compile(r"[.,;:?!]\s*[.,;:?!]")


class Anything:
    """A value for every field: it has every attribute."""

    def __getattr__(self, name):
        return self

    def __str__(self):
        return "anything"

    __repr__ = __str__


@pytest.mark.parametrize("code", sorted(OURS))
def test_declared_sentences_are_plain(code):
    declared = OURS[code]
    for value in (Anything(), ["one", "two"], ValueError("it broke.")):
        words = declared.what + declared.why + declared.fix
        values = {name: Anything() if f"{{{name}." in words else value for name in declared.fields}
        text = str(declared.problem("run.yaml:3:5", **values))
        assert not DOUBLED.search(text.replace("...", "")), text
        assert "unexpected" not in text


sentences = st.from_regex(r"([a-z]+( [a-z]+){0,3}[.,;:?!]? ?)?", fullmatch=True)


@given(where=st.from_regex(r"[a-z]*:? ?", fullmatch=True), what=sentences, why=sentences, fix=sentences)
def test_no_punctuation_is_doubled(where, what, why, fix):
    text = str(Problem("L3-AAA-001", where, what, why, fix)).removesuffix("[L3-AAA-001]")
    assert not DOUBLED.search(text)
    assert [word.strip(".,;:?!") for part in (where, what, why, fix) for word in part.split() if word.strip(":")] == [
        word for word in re.findall(r"\w+", text) if word != "Fix"
    ]


# -- declarations ----------------------------------------------------------------------------------


@pytest.fixture
def registry(monkeypatch):
    monkeypatch.setattr(errors, "DECLARED", dict(errors.DECLARED))


@pytest.fixture
def full(registry):
    return DataError.declare("ACME-AAA-001", "{name!r} holds {rows} rows", why="{error}", fix="keep {fewer}")


def test_a_declaration_is_raised_in_one_line(full):
    with pytest.raises(DataError) as caught:
        raise full("mine.jsonl", name="x", rows=3, error=ValueError("it\nbroke."), fewer=["a", "b"])
    assert str(caught.value) == "mine.jsonl: 'x' holds 3 rows. it broke. Fix: keep a, b [ACME-AAA-001]"
    (problem,) = caught.value.problems
    assert problem == Problem("ACME-AAA-001", "mine.jsonl", "'x' holds 3 rows", "it broke", "keep a, b")


def test_what_the_system_says_is_told_without_its_number(full):
    error = FileNotFoundError(2, "No such file or directory", "mine.jsonl")
    assert full.problem(name="x", rows=0, error=error, fewer="1").why == "No such file or directory"


@pytest.mark.parametrize("fields", [{}, {"name": 1, "rows": 2, "error": 3, "fewer": 4, "extra": 5}])
def test_other_fields_are_a_mistake_of_the_caller(full, fields):
    with pytest.raises(TypeError, match="ACME-AAA-001 takes the fields"):
        full("", **fields)


def test_a_code_is_declared_once(full):
    assert DataError.declare(full.code, full.what, why=full.why, fix=full.fix) == full, "a module loaded again"
    with pytest.raises(ValueError, match="ACME-AAA-001 is declared already"):
        ConfigError.declare(full.code, full.what, why=full.why, fix=full.fix)
    with pytest.raises(ValueError, match="is declared already"):
        DataError.declare(full.code, "another sentence")


@pytest.mark.parametrize(
    ("code", "what"), [("ACME-1", "x"), ("x", "x"), ("ACME-AAA-002", "{}"), ("ACME-AAA-002", "{0}"), ("A-B-003", "{")]
)
def test_malformed_declarations_are_refused(registry, code, what):
    with pytest.raises(ValueError, match=r"is no code|needs a name|expected '}'|Single '{'"):
        DataError.declare(code, what)


def test_problems_together_are_of_the_class_that_they_were_declared_with(registry):
    data, more = DataError.declare("ACME-AAA-003", "x"), DataError.declare("ACME-AAA-004", "y")
    plugin = PluginError.declare("ACME-AAA-005", "z")
    assert type(ConfigError.of([data.problem(), more.problem()])) is DataError
    assert type(ConfigError.of([data.problem(), plugin.problem()])) is ConfigError
    assert type(PluginError.of([Problem("ACME-AAA-006", "", "never declared")])) is PluginError


@pytest.mark.parametrize("problems", ["of no rows", ["of", "no"], [Problem("ACME-X-001", "a", "b"), "c"]])
def test_an_error_of_something_else_than_problems_is_refused(problems):
    with pytest.raises(TypeError, match=r"DataError takes Problems, not .*DataError\.declare\(CODE, WHAT\)"):
        DataError(problems)


def test_a_copy_of_an_error_says_the_same():
    error = NotEnoughTasks("tasks", "train", 3, 5)
    error.name_plugin("rewards.acme")
    error.name_plugin("another")
    again = copy.copy(error)
    assert (type(again), str(again), again.available) == (NotEnoughTasks, str(error), 3)
    assert str(again).startswith("rewards.acme: tasks: ")


def test_an_error_of_the_core_is_the_declared_one():
    from llama3.tokenizer import Tokenizer

    with pytest.raises(DataError) as caught:
        Tokenizer.train(["a"], 5000)
    assert caught.value.problems[0].code == "L3-TOK-005"
    assert str(caught.value).startswith("tokenizer training: the text yields a vocabulary of 256 tokens at most, ")


NAMES = ("dpo", "ppo", "grpo", "rloo", "sft", "online_dpo", "rejection_sampling", "reward_model", "learning_rate")


@pytest.mark.parametrize(
    ("word", "near"),
    [
        ("dop", ["dpo"]),
        ("DPO", ["dpo"]),
        ("online-dpo", ["online_dpo"]),
        ("rejection", ["rejection_sampling"]),
        ("rewrad_model", ["reward_model"]),
        ("learning_rat", ["learning_rate"]),
        ("gppo", ["grpo", "ppo"]),
        # These only look somewhat alike.
        ("simpo", []),
        ("gptq", []),
        ("kto", []),
        ("lr", []),
        ("x", []),
        ("training_date", []),
        ("", []),
    ],
)
def test_a_guess_is_a_slip_away(word, near):
    said = did_you_mean(word, NAMES)
    assert re.findall("'(.*?)'", said) == near
    assert bool(said) == bool(near)


@given(st.sampled_from(NAMES), st.integers(0, 40), st.characters(codec="ascii", categories=["Ll"]))
def test_one_slip_in_a_long_name_is_found(name, place, letter):
    place %= len(name)
    for word in (name[:place] + name[place + 1 :], name[:place] + letter + name[place:]):
        if len(name) > 4:
            assert repr(name) in did_you_mean(word, NAMES)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)}: {len(OURS)} codes")
