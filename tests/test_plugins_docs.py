"""docs/plugins.md: its packages are installed as they are shown, its commands print what is shown, its tables are true.

Files are blocks whose first line is a comment with their path. A package is installed by laying its modules and the
entry points of its pyproject.toml on the path; `$ pip install` therefore needs no network.
"""

from __future__ import annotations

import ast
import importlib
import re
import tomllib
from pathlib import Path

import pytest
import test_post_training_docs as page
from test_recipe import write_text

from llama3.model.build import init_weights
from llama3.model.config import ModelConfig
from llama3.model.transformer import Transformer
from llama3.plugins.hookspecs import OBSERVERS, REGISTRATION
from llama3.plugins.registry import discover
from llama3.testing import conformance_of
from llama3.tokenizer import Tokenizer
from llama3.training.placed import PlacedModel
from llama3.training.stage import save_checkpoint

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "plugins.md"
TEXT = PAGE.read_text(encoding="utf-8")
INCLUDED = re.compile(r"(<!-- file: (\S+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
FILES = dict(re.findall(r"^```(?:toml|python)\n# (\S+)\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE))
CONSOLE = re.findall(r"^```console\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
COMMANDS = [command for block in CONSOLE for command in page.commands(block)]
RUN = [command for command in COMMANDS if not command.line.startswith("pip install ")]


def page_commands() -> list[page.Command]:
    return [command for block in page.blocks("console") for command in page.commands(block)]


def refreshed(text: str) -> str:
    """The page with the files that it includes as they are."""
    show = lambda path: f"```python\n{(ROOT / path).read_text(encoding='utf-8')}```\n"
    return INCLUDED.sub(lambda found: found[1] + show(found[2]) + found[4], text)


def test_included_files_are_up_to_date():
    assert INCLUDED.search(TEXT)
    assert refreshed(TEXT) == TEXT, "run: python tests/test_plugins_docs.py"


def test_every_block_is_run_or_compared():
    shown = re.findall(r"^```(\w+)\n", TEXT, re.MULTILINE)
    assert len(shown) == len(FILES) + len(CONSOLE) + len(INCLUDED.findall(TEXT)) + shown.count("text")


def install(package: str, site: Path) -> None:
    """What `pip install ./package` leaves: the modules and the metadata with its entry points."""
    project = tomllib.loads(FILES[f"{package}/pyproject.toml"])["project"]
    for path, text in FILES.items():
        if path.startswith(f"{package}/{package.replace('-', '_')}/"):
            file = site / path.removeprefix(f"{package}/")
            file.parent.mkdir(exist_ok=True)
            file.write_text(text)
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = [
        f"[{group}]\n" + "".join(f"{name} = {target}\n" for name, target in entries.items())
        for group, entries in project["entry-points"].items()
    ]
    (info / "entry_points.txt").write_text("".join(lines))


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The package of the page among the plugins."""
    site = tmp_path_factory.mktemp("site")
    install("llama3-distill", site)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        discover.cache_clear()
        yield
    discover.cache_clear()


@pytest.fixture(scope="module")
def done(installed, tmp_path_factory):
    """Every command with what it printed and its exit code, in a folder with my-model, my-teacher and notes."""
    folder = tmp_path_factory.mktemp("page")
    blocks = re.findall(r"^```(\w+)\n(.*?)^```", page.TEXT, re.DOTALL | re.MULTILINE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_text(Path("notes"))
        texts = [path.read_text() for path in sorted(Path("notes").iterdir())]
        tokenizer = Tokenizer.train(texts, 400, 16)
        for name, dim in (("my-model", 32), ("my-teacher", 64)):
            config = ModelConfig(
                dim=dim, n_layers=2, n_heads=2, n_kv_heads=1, ffn_dim=2 * dim, vocab_size=400, max_seq_len=256
            )
            model = PlacedModel(init_weights(Transformer(config), dim))
            save_checkpoint(Path(name), model, tokenizer, {"made": "here"})
        exec(compile(next(block for kind, block in blocks if kind == "python"), "tasks", "exec"), {})
        Path("my.yaml").write_text(next(block for kind, block in blocks if block.startswith("# my.yaml")))
        Path("my.jsonl").write_text(next(c.shown for c in page_commands() if c.line == "cat my.jsonl"))
        return [(command, *page.call(command.line, 0)) for command in RUN]


@pytest.mark.parametrize("number", range(len(RUN)), ids=[command.line for command in RUN])
def test_a_command_does_what_the_page_shows(done, number):
    command, printed, code = done[number]
    assert page.matches(command, printed, code), f"exit code {code}, printed:\n{printed}"


def test_the_test_file_of_the_page_is_the_kit(installed):
    scope: dict = {}
    exec(compile(FILES["llama3-distill/tests/test_distill.py"], "test_distill", "exec"), scope)
    case = scope["TestDistill"]()
    case.test_loss_falls_on_a_toy_task()
    case.test_accumulation_does_not_matter()


def test_tables_name_every_hook_and_what_exists():
    for hook, spec in REGISTRATION.items():
        row = re.search(rf"^\| `{hook}` \|.*$", TEXT, re.MULTILINE)
        assert row, hook
        kit = conformance_of(spec.family)
        assert (f"`{kit.__name__}`" in row[0]) if kit else row[0].endswith("| |"), row[0]
    assert all(f"`{hook}`" in TEXT for hook in OBSERVERS)
    for dotted in re.findall(r"`(llama3\.[a-z_.]+)\.([A-Z]\w+)`", TEXT):
        assert hasattr(importlib.import_module(dotted[0]), dotted[1]), dotted


def test_files_are_python():
    for path, text in FILES.items():
        if path.endswith(".py"):
            ast.parse(text)


if __name__ == "__main__":
    PAGE.write_text(refreshed(TEXT), encoding="utf-8")
