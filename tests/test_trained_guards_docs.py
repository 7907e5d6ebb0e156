"""docs/trained-guards.md is followed from top to bottom in a folder with `my-model`; its tables are generated.

Refresh them with: python tests/test_trained_guards_docs.py
"""

from __future__ import annotations

import importlib
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import test_post_training_docs as page
import yaml
from pydantic import BaseModel

sys.path.insert(0, str(Path(__file__).parent / "guarding"))
from rows_of_guards import base_model

from llama3.config import load
from llama3.config.slot_types import Slot

PAGE = page.ROOT / "docs" / "trained-guards.md"
TEXT = PAGE.read_text(encoding="utf-8")
OPTIONS = re.compile(r"(<!-- options: (\S+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Asked(page.Command):
    """A command of this page: what a trained guard says has figures of its own."""

    @property
    def trains(self) -> bool:
        return self.line.startswith("llama3 guard")


COMMANDS = [
    Asked(command.line, command.shown)
    for language, block in BLOCKS
    if language == "console"
    for command in page.commands(block)
    if not command.line.startswith("cat ")
]


def table(target: str) -> str:
    """The options of a class; of a section what it sets itself, of plugins their names."""
    module, _, name = target.partition(":")
    rows = ["| option | default | meaning |", "|---|---|---|"]
    for key, field in getattr(importlib.import_module(module), name).model_fields.items():
        value = field.get_default(call_default_factory=True)
        if isinstance(value, BaseModel):
            shown = f"`{yaml.safe_dump(value.model_dump(exclude_unset=True), default_flow_style=True).strip()}`"
        elif isinstance(value, list) and value and all(isinstance(item, Slot) for item in value):
            shown = f"`[{', '.join(item.name for item in value)}]`"
        else:
            shown = page.default(field)
        rows.append(f"| `{key}` | {shown} | {field.description} |")
    return "\n".join(rows) + "\n"


def refreshed(text: str) -> str:
    return OPTIONS.sub(lambda found: f"{found[1]}\n{table(found[2])}\n{found[4]}", text)


def test_the_tables_are_up_to_date():
    assert len(OPTIONS.findall(TEXT)) == 6
    assert refreshed(TEXT) == TEXT, "run: python tests/test_trained_guards_docs.py"


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> list[tuple[Asked, str, int]]:
    """Every command of the page with what it printed and its exit code."""
    results: list[tuple[Asked, str, int]] = []
    names: dict[str, object] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("page"))
        base_model(Path("my-model"))
        commands = iter(COMMANDS)
        for language, block in BLOCKS:
            if language == "python":
                exec(compile(block, str(PAGE), "exec"), names)
            elif language == "yaml":
                load(yaml.safe_load(block), environ={})
            elif language == "console":
                for command in page.commands(block):
                    if command.line.startswith("cat "):
                        Path(command.line.removeprefix("cat ")).write_text(command.shown)
                    else:
                        results.append((next(commands), *page.call(command.line, results[-1][2] if results else 0)))
    return results


@pytest.mark.parametrize("number", range(len(COMMANDS)), ids=[command.line for command in COMMANDS])
def test_a_command_does_what_the_page_shows(done, number):
    command, printed, code = done[number]
    assert page.matches(command, printed, code), f"exit code {code}, printed:\n{printed}"


if __name__ == "__main__":
    PAGE.write_text(refreshed(TEXT), encoding="utf-8")
