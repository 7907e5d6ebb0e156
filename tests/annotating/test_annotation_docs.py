"""docs/annotation.md: its commands do what the page shows, in its order, on two small models and a run of small sums. A
page is served until the next command; the program is followed meanwhile."""

from __future__ import annotations

import json
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import started
from annotated_run import write_run
from pages import Done, Page, call, commands, write_model
from test_recipe import write_text

from llama3.annotating.folder import Opened
from llama3.annotating.items import pairs_of_run, texts_of_run
from llama3.annotating.judgements import STRENGTHS, Annotation
from llama3.artifacts.run import RunDir
from llama3.tokenizer import Tokenizer

PAGE = Page("annotation.md")
PORT = "8100"
TEMPLATE = Path("llama3/serving/annotation.html.jinja")


def annotate(run):
    """ada judges by length, now so, now so, and ben as she does, but for two; ada checks all texts, one is wrong."""
    folder = run / "annotations"
    folder.mkdir()
    opened = Opened(folder, "pairs", ["ada", "ben"], pairs_of_run(RunDir(run), 0))
    for number, item in enumerate(opened.items.values()):
        longer = max((0, 1), key=lambda index: len(item.texts[index]))
        by = {"ada": longer if number % 3 == 0 else 1 - longer}
        by["ben"] = by["ada"] if number not in (2, 5) else 1 - by["ada"]
        for name, chosen in by.items():
            opened.say(name, Annotation(item.id, 0, STRENGTHS[number % 4], "now", left=0, chosen=chosen))
    opened.close()
    texts = [item for _, items in texts_of_run(RunDir(run)).values() for item in items]
    checked = Opened(folder, "check", ["ada"], texts)
    for number, item in enumerate(checked.items.values()):
        wrong = {"verdict": "reject", "reason": "not true"} if number == 2 else {"verdict": "keep"}
        checked.say("ada", Annotation(item.id, 0, at="now", **wrong))
    checked.close()


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("page"))
        write_text(Path("notes"))
        tokenizer = Tokenizer.train([path.read_text() for path in sorted(Path("notes").iterdir())], 400, 16)
        write_model("my-model", tokenizer)
        write_model("other-model", tokenizer, dim=64)
        Path("runs").mkdir()
        annotate(write_run(Path("runs/mine")))
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = str(free.getsockname()[1])
        return list(follow(port))


def follow(port):
    """What every command did. Another port is used than the page shows."""
    served, names, code = None, {}, 0
    for language, block in PAGE.all_blocks:
        if language == "yaml":
            PAGE.read_yaml(block)
        elif language == "python":
            exec(compile(block.replace(PORT, port), PAGE.name, "exec"), names)
            judged = [json.loads(line) for line in Path("prompts.annotations/pairs-ada.jsonl").read_text().splitlines()]
            assert [line.get("edited", "")[-1:] for line in judged] == ["!", ""]
        for command in commands(block) if language == "console" else ():
            if served is not None:
                served.terminate()
                assert served.wait(30) == 0
                served = None
            if command.line.startswith("cat "):
                Path(command.line.removeprefix("cat ")).write_text(command.shown)
            elif "--as" in command.line:
                served, told = start(command.line, port)
                code = 0
                yield Done(command, told.replace(port, PORT), code)
            else:
                printed, code = call(command.line, code)
                yield Done(command, printed, code)


def start(line, port):
    """The process of a command that serves, and what it tells until it does."""
    arguments = [*shlex.split(line)[1:], "--port", port]
    process = started.Popen([sys.executable, "-m", "llama3", *arguments], stderr=subprocess.PIPE, text=True)
    told = ""
    for said in process.stderr:
        told += said
        if said.startswith("annotate at"):
            break
    return process, told


@PAGE.cases()
def test_a_command_does_what_the_page_shows(done, number):
    done[number].check()


def test_the_page_tells_every_key():
    told = {
        key
        for row in re.findall(r"^\| `.*", PAGE.text, re.MULTILINE)
        for key in re.findall(r"`(\w+)`", row.rpartition("|")[0])
    }
    template = (Path(__file__).parents[2] / TEMPLATE).read_text()
    keys = set(re.findall(r'data-key="(\w+)"', template)) | set(
        re.findall(r'choice\("\w+", "[^"]*", "?(\w+)"?,', template)
    )
    keys |= set(re.findall(r'form\.\w+, \d+, "(\w)"\)', template))
    assert keys == {"0", "s", "k", "r", "e", "t", "w", "n", "Enter", "u"}
    assert keys | {"1", "4", "5", "8"} == told
