"""docs/post-training.md: its tables are those of the code, and its blocks do on a small model what the page says.

YAML without a file's name is a config that extends `adopt` and must be valid; a target of make must exist.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from pages import GENERATED, NAMED, ROOT, Command, Page, refreshed, write_file, write_model
from test_recipe import write_text

from llama3.plugins.registry import discover
from llama3.preflight import load_config
from llama3.tasks.data_kind import written_kinds
from llama3.tokenizer import Tokenizer

SPECS = {name: discover().spec("algorithms", name) for name in discover().names("algorithms")}
ALGORITHMS = {name: spec for name, spec in SPECS.items() if spec.data != "tokens"}


def write_or_check(block: str) -> None:
    if NAMED.match(block):
        write_file(block)
    else:
        load_config({"extends": "adopt", "model": {"path": "my-model"}, **yaml.safe_load(block)})


PAGE = Page("post-training.md", skips=("make ",), read_yaml=write_or_check)


# Tables of the page ---------------------------------------------------------------------------------------------------


def losses(_: str) -> str:
    """The table of equations in the docstring of the losses."""
    source = (ROOT / "llama3_plugins" / "algorithms" / "preference_losses.py").read_text(encoding="utf-8")
    head = source.split('"""')[1]
    return "```text\n" + "\n".join(line[4:] for line in head.splitlines() if line.startswith("    ")) + "\n```\n"


def rows(_: str) -> str:
    """What columns a row may have, and who learns from it."""
    lines = ["| columns | rows | algorithms |", "|---|---|---|"]
    for kind, written in written_kinds().items():
        sets = [" and ".join(f"`{name}`" for name in columns) for columns in written.required]
        perhaps = "".join(f"; perhaps `{name}`" for name in sorted(written.optional or ()))
        more = ", and any columns that rewards read" if written.optional is None else perhaps
        names = [f"`{name}`" for name, spec in ALGORITHMS.items() if spec.data in written.stored]
        lines.append(f"| {', or '.join(sets)}{more} | {kind} | {', '.join(names)} |")
    return "\n".join(lines) + "\n"


GENERATORS = {"losses": losses, "rows": rows}


def test_the_tables_are_up_to_date():
    assert len(GENERATED.findall(PAGE.text)) > len(ALGORITHMS)
    assert refreshed(PAGE.text, **GENERATORS) == PAGE.text, "run: python tests/test_post_training_docs.py"


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_has_a_section_that_tells_its_data_needs_and_options(name):
    spec = ALGORITHMS[name]
    section = re.search(rf"^### {name}\n(.*?)(?=^##)", PAGE.text, re.MULTILINE | re.DOTALL)[1]
    needs = ", ".join(f"`{need}`" for need in sorted(spec.needs)) or "nothing"
    assert f"\n- Data: `{spec.data}`" in section
    assert f"\n- Needs: {needs}\n" in section
    assert "```text\n" in section
    assert re.search(r"\n- Paper: .*\b\d{4}\.\d{5}\b", section)
    assert f"<!-- options: {spec.options} -->" in section if spec.options else "no options of its own" in section


# Blocks of the page ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Every command of the page with what it did, in a folder with my-model and notes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("page"))
        write_text(Path("notes"))
        texts = [path.read_text() for path in sorted(Path("notes").iterdir())]
        write_model("my-model", Tokenizer.train(texts, 400, 16))
        return PAGE.follow()


@PAGE.cases()
def test_a_command_does_what_the_page_shows(done, number):
    done[number].check()


def test_targets_of_make_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^\$ make ([\w-]+)", PAGE.text, re.MULTILINE)
    assert targets
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)


def test_shown_output_is_compared():
    """The comparison itself."""
    command = Command("llama3 run my.yaml", "first  2.0 s\n...\nlast\n", measures=True)
    assert command.matches("first 13.5 s\nmiddle\nlast\n", 0)
    assert not command.matches("first 13.5 s\nmiddle\n", 0)
    assert not command.matches("first 13.5 s\nlast\n", 2)
    assert not Command("llama3 show x", "").matches("", 1)


if __name__ == "__main__":
    PAGE.refresh(**GENERATORS)
