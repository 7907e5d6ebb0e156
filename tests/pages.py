"""Pages of the documentation, followed from top to bottom in one folder as a reader would.

- YAML whose first line is a comment with a file's name, and `$ cat FILE`: the file is written as it is shown
- Python: executed, what a block defines is known to the next
- `$ llama3 ...`: called; `$ echo $?`: the last exit code

A line `...` of shown output stands for any lines. Of commands that measure or train, any number stands for any other.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from llama3.cli import main
from llama3.config.slot_types import Slot
from llama3.model.build import init_weights
from llama3.model.config import ModelConfig
from llama3.model.transformer import Transformer
from llama3.tokenizer import Tokenizer
from llama3.training.placed import PlacedModel
from llama3.training.stage import save_checkpoint

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
GENERATED = re.compile(r"(<!-- (\w+)(?:: (\S+))? -->\n)(.*?)(<!-- end -->)", re.DOTALL)
TRAINS = "^llama3 (run|audit|merge|quantize)"
"""Commands that train or measure, on most pages."""
NAMED = re.compile(r"# (\S+\.\w+)\n")
"""The first line of a block that is a file."""


@dataclass(frozen=True)
class Command:
    """A command of a page and what the page shows below it. `measures`: its numbers are those of one machine."""

    line: str
    shown: str
    measures: bool = False

    def matches(self, printed: str, code: int) -> bool:
        """Whether what was printed is what is shown. A command without shown output says nothing to compare, but
        works."""
        if not self.shown.strip():
            return code == 0
        numbers = self.measures and code in (0, 5)
        lines = [plain(line, numbers) for line in self.shown.strip().splitlines()]
        wanted = "".join(r"(?:.*\n)*?" if line == "..." else re.escape(line) + r"\n" for line in lines)
        printed = "".join(plain(line, numbers) + "\n" for line in printed.strip().splitlines())
        return re.fullmatch(wanted, printed) is not None


def plain(line: str, numbers: bool) -> str:
    """With one space for many; with one sign for any number or unit of time, and none for thousands of a unit."""
    if numbers:
        line = re.sub(r"\b[0-9a-f]{12}\b|[-+]?\d+(?:[.,:]\d+)*", "#", line)
        line = re.sub(r"# [kMGTP]?(?=B\b|FLOP/s)", "# ", line)
        line = re.sub(r"# (?:ms|s|seconds|minutes|hours|days)\b", "# of time", line)
    return " ".join(line.split())


def commands(block: str, measures: str = TRAINS) -> list[Command]:
    """The commands of a block of the console, without what their lines remark; `measures` finds those whose numbers are
    those of one machine."""
    pieces = (piece.partition("\n") for piece in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:])
    lines = ((head.split("  #")[0].strip(), shown) for head, _, shown in pieces)
    return [Command(line, shown, re.search(measures, line) is not None) for line, shown in lines]


def call(line: str, code: int) -> tuple[str, int]:
    """What a command prints, both streams in their order, and its exit code. `code` is that of the command before."""
    said, _, called = line.rpartition("| ")
    name, *arguments = shlex.split(called)
    if called == "echo $?":
        return f"{code}\n", 0
    assert name == "llama3", line
    printed = io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(printed),
    ):
        patch.setattr("sys.stdin", io.StringIO(" ".join(shlex.split(said)[1:]) + "\n"))
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
    return printed.getvalue(), int(stopped.value.code or 0)


class Done(NamedTuple):
    """A command that was followed, what it printed, and its exit code."""

    command: Command
    printed: str
    code: int

    def check(self) -> None:
        """Raises AssertionError where it did something else than the page shows."""
        assert self.command.matches(self.printed, self.code), f"exit code {self.code}, printed:\n{self.printed}"


def write_file(block: str) -> None:
    """A block of YAML is a file that its first line names."""
    named = NAMED.match(block)
    assert named, f"a block of YAML that is no file:\n{block}"
    Path(named[1]).write_text(block)


@dataclass
class Page:
    """A page of the docs. `measures`: what a command's line holds whose numbers are those of one machine. `skips`: how
    lines begin that no test runs. `read_yaml` is given every block of YAML."""

    name: str
    measures: str = TRAINS
    skips: tuple[str, ...] = ()
    read_yaml: Callable[[str], object] = write_file
    names: dict[str, object] = field(default_factory=dict)
    """What Python defined."""

    @property
    def path(self) -> Path:
        return DOCS / self.name

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def all_blocks(self) -> list[tuple[str, str]]:
        """Every block, as its language and its content."""
        return BLOCK.findall(self.text)

    def blocks(self, language: str) -> list[str]:
        """Those of a language."""
        return [block for name, block in self.all_blocks if name == language]

    @cached_property
    def commands(self) -> list[Command]:
        """Those that are run, in their order."""
        found = [command for block in self.blocks("console") for command in commands(block, self.measures)]
        return [command for command in found if self._runs(command)]

    def follow(self) -> list[Done]:
        """Do in the current folder what the page says; of every command what it did."""
        done: list[Done] = []
        for language, block in self.all_blocks:
            if language == "yaml":
                self.read_yaml(block)
            elif language == "python":
                exec(compile(block, self.name, "exec"), self.names)
            elif language == "console":
                for command in commands(block, self.measures):
                    if command.line.startswith("cat "):
                        Path(command.line.removeprefix("cat ")).write_text(command.shown)
                    elif self._runs(command):
                        done.append(Done(command, *call(command.line, done[-1].code if done else 0)))
        return done

    def refresh(self, **generators: Callable[[str], str]) -> None:
        """Write its generated parts as the code would."""
        self.path.write_text(refreshed(self.text, **generators), encoding="utf-8")
        print(f"docs/{self.name}: {len(GENERATED.findall(self.text))} generated parts")

    def cases(self) -> pytest.MarkDecorator:
        """A test for each command, by its number."""
        return pytest.mark.parametrize("number", range(len(self.commands)), ids=[c.line for c in self.commands])

    def _runs(self, command: Command) -> bool:
        return not command.line.startswith(("cat ", *self.skips))


# Generated parts ------------------------------------------------------------------------------------------------------


def refreshed(text: str, **generators: Callable[[str], str]) -> str:
    """A page with its generated parts, `<!-- NAME: ARGUMENT -->` to `<!-- end -->`, as the code would write them.
    `generators` write those that are no tables of options."""
    known = {"options": options, **generators}
    return GENERATED.sub(lambda found: f"{found[1]}\n{known[found[2]](found[3])}\n{found[5]}", text)


def options(target: str) -> str:
    """The options of a class: name, default, meaning."""
    module, _, name = target.partition(":")
    fields = getattr(importlib.import_module(module), name).model_fields
    rows = [f"| `{key}` | {default(field)} | {field.description} |" for key, field in fields.items()]
    return "\n".join(["| option | default | meaning |", "|---|---|---|", *rows]) + "\n"


def default(field) -> str:
    """How a field's default is written."""
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "required"
    if value is None:
        return "none"
    if isinstance(value, BaseModel):  # of a section what it sets itself
        value = value.model_dump(exclude_unset=True)
    elif isinstance(value, list | tuple):  # of plugins their names
        value = [item.name if isinstance(item, Slot) else item for item in value]
    return f"`{yaml.safe_dump(value, default_flow_style=True, width=1000).splitlines()[0]}`"


# What a reader has ----------------------------------------------------------------------------------------------------


def write_model(name: str, tokenizer: Tokenizer, **shape: int) -> None:
    """A small model, as stages write one."""
    given = {"dim": 32, "n_layers": 2, "n_heads": 2, "n_kv_heads": 1, "ffn_dim": 64, "max_seq_len": 256, **shape}
    model = Transformer(ModelConfig(vocab_size=tokenizer.vocab_size, **given))
    save_checkpoint(Path(name), PlacedModel(init_weights(model, 1)), tokenizer, {"made": "here"})
