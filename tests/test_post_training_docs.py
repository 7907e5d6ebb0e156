"""docs/post-training.md: its tables are those of the code, and its blocks do on a small model what the page says.

The blocks run in the order of the page, in one folder:

- `# my.yaml` as the first line of a block of YAML, and `$ cat FILE`: the file is written as it is shown
- other YAML: a config that extends `adopt` and must be valid
- Python: executed
- `$ llama3 ...`: called; `$ echo $?`: the last exit code; `$ make TARGET`: the target must exist

A line `...` of shown output stands for any lines. Where models are trained, any number stands for any other.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined
from test_recipe import write_text

from llama3.cli import main
from llama3.model.build import init_weights
from llama3.model.config import ModelConfig
from llama3.model.transformer import Transformer
from llama3.plugins.registry import discover
from llama3.preflight import load_config
from llama3.tasks.data_kind import written_kinds
from llama3.tokenizer import Tokenizer
from llama3.training.placed import PlacedModel
from llama3.training.stage import save_checkpoint

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "post-training.md"
TEXT = PAGE.read_text(encoding="utf-8")
GENERATED = re.compile(r"(<!-- (\w+)(?:: (\S+))? -->\n)(.*?)(<!-- end -->)", re.DOTALL)
SPECS = {name: discover().spec("algorithms", name) for name in discover().names("algorithms")}
ALGORITHMS = {name: spec for name, spec in SPECS.items() if spec.data != "tokens"}


# Tables of the page ---------------------------------------------------------------------------------------------------


def options(target: str) -> str:
    """The options of a class: name, default, meaning."""
    module, _, name = target.partition(":")
    fields = getattr(importlib.import_module(module), name).model_fields
    rows = [f"| `{key}` | {default(field)} | {field.description} |" for key, field in fields.items()]
    return "\n".join(["| option | default | meaning |", "|---|---|---|", *rows]) + "\n"


def default(field) -> str:
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "required"
    if value is None:
        return "none"
    if isinstance(value, BaseModel):
        return f"`{value.model_dump(exclude_defaults=True)}`"
    plain = list(value) if isinstance(value, tuple) else value
    return f"`{yaml.safe_dump(plain, default_flow_style=True, width=1000).splitlines()[0]}`"


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


GENERATORS = {"options": options, "losses": losses, "rows": rows}


def refreshed(text: str) -> str:
    return GENERATED.sub(lambda found: found[1] + "\n" + GENERATORS[found[2]](found[3]) + "\n" + found[5], text)


def test_the_tables_are_up_to_date():
    assert len(GENERATED.findall(TEXT)) > len(ALGORITHMS)
    assert refreshed(TEXT) == TEXT, "run: python tests/test_post_training_docs.py"


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_has_a_section_that_tells_its_data_needs_and_options(name):
    spec = ALGORITHMS[name]
    section = re.search(rf"^### {name}\n(.*?)(?=^##)", TEXT, re.MULTILINE | re.DOTALL)[1]
    needs = ", ".join(f"`{need}`" for need in sorted(spec.needs)) or "nothing"
    assert f"\n- Data: `{spec.data}`" in section
    assert f"\n- Needs: {needs}\n" in section
    assert "```text\n" in section
    assert re.search(r"\n- Paper: .*\b\d{4}\.\d{5}\b", section)
    assert f"<!-- options: {spec.options} -->" in section if spec.options else "no options of its own" in section


# Blocks of the page ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Command:
    """A command of the page and what the page shows below it."""

    line: str
    shown: str

    @property
    def trains(self) -> bool:
        return self.line.startswith(("llama3 run", "llama3 audit", "llama3 merge", "llama3 quantize"))


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


def commands(block: str) -> list[Command]:
    pieces = re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]
    return [Command(line.split("  #")[0].strip(), shown) for line, _, shown in (p.partition("\n") for p in pieces)]


def call(line: str, code: int) -> tuple[str, int]:
    """What a command prints, both streams in their order, and its exit code."""
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


def matches(command: Command, printed: str, code: int) -> bool:
    """Whether what was printed is what is shown. A command without shown output says nothing to compare, but works."""
    if not command.shown.strip():
        return code == 0
    numbers = command.trains and code in (0, 5)
    lines = [plain(line, numbers) for line in command.shown.strip().splitlines()]
    wanted = "".join(r"(?:.*\n)*?" if line == "..." else re.escape(line) + r"\n" for line in lines)
    printed = "".join(plain(line, numbers) + "\n" for line in printed.strip().splitlines())
    return re.fullmatch(wanted, printed) is not None


def plain(line: str, numbers: bool) -> str:
    """With one space for many; with one sign for any number, and none for thousands of its unit."""
    if numbers:
        line = re.sub(r"\b[0-9a-f]{12}\b|[-+]?\d+(?:[.,:]\d+)*", "#", line)
        line = re.sub(r"# [kMGTP]?(?=B\b|FLOP/s)", "# ", line)
    return " ".join(line.split())


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> list[tuple[Command, str, int]]:
    """Every command of the page with what it printed and its exit code, in a folder with my-model and notes."""
    folder = tmp_path_factory.mktemp("page")
    results: list[tuple[Command, str, int]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_text(Path("notes"))
        texts = [path.read_text() for path in sorted(Path("notes").iterdir())]
        config = ModelConfig(dim=32, n_layers=2, n_heads=2, n_kv_heads=1, ffn_dim=64, vocab_size=400, max_seq_len=256)
        save_checkpoint(
            Path("my-model"),
            PlacedModel(init_weights(Transformer(config), 1)),
            Tokenizer.train(texts, 400, 16),
            {"made": "here"},
        )
        for language, block in re.findall(r"^```(\w+)\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE):
            if language == "yaml" and (named := re.match(r"# (\w+\.yaml)\n", block)):
                Path(named[1]).write_text(block)
            elif language == "yaml":
                load_config({"extends": "adopt", "model": {"path": "my-model"}, **yaml.safe_load(block)})
            elif language == "python":
                exec(compile(block, str(PAGE), "exec"), {})
            elif language == "console":
                for command in commands(block):
                    if command.line.startswith("cat "):
                        Path(command.line.removeprefix("cat ")).write_text(command.shown)
                    elif not command.line.startswith("make "):
                        results.append((command, *call(command.line, results[-1][2] if results else 0)))
    return results


RUN = [
    command.line
    for block in blocks("console")
    for command in commands(block)
    if not command.line.startswith(("cat ", "make "))
]


@pytest.mark.parametrize("number", range(len(RUN)), ids=RUN)
def test_a_command_does_what_the_page_shows(done, number):
    command, printed, code = done[number]
    assert matches(command, printed, code), f"exit code {code}, printed:\n{printed}"


def test_targets_of_make_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^\$ make ([\w-]+)", TEXT, re.MULTILINE)
    assert targets
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)


def test_shown_output_is_compared():
    """The comparison itself."""
    command = Command("llama3 run my.yaml", "first  2.0 s\n...\nlast\n")
    assert matches(command, "first 13.5 s\nmiddle\nlast\n", 0)
    assert not matches(command, "first 13.5 s\nmiddle\n", 0)
    assert not matches(command, "first 13.5 s\nlast\n", 2)
    assert not matches(Command("llama3 show x", ""), "", 1)


if __name__ == "__main__":
    PAGE.write_text(refreshed(TEXT), encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)}: {len(GENERATED.findall(TEXT))} tables")
