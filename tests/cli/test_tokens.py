"""`llama3 tokens`: what a dialog teaches, seen."""

from __future__ import annotations

import json

import chatting
import pytest

from llama3.cli import app as cli
from llama3.posttraining.examples import messages_of
from llama3.tokenizer import Tokenizer, render

DIALOG = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "this\n→"}]


@pytest.fixture
def llama3(capsys):
    def call(*args):
        with pytest.raises(SystemExit) as caught:
            cli.main(["tokens", *map(str, args)])
        captured = capsys.readouterr()
        return caught.value.code, captured.out, captured.err

    return call


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return chatting.save(tmp_path_factory.mktemp("model"), chatting.CHATML)


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def shown(out: str, kind: str) -> list[str]:
    lines = [line.split(maxsplit=1)[1] for line in out.splitlines() if line.startswith(f"  {kind}")]
    return [line.replace("|", "") for line in lines]


def test_each_token_is_shown_as_what_it_is(llama3, folder, tmp_path):
    rows = [{"messages": DIALOG}, {"messages": DIALOG[:1], "chosen": "4", "rejected": "5"}, {"messages": DIALOG[:1]}]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, err = llama3(folder, "--data", data)
    assert code == 0, err
    assert shown(out, "target") == [r"this\n\xe2\x86\x92<im_end>", "4<im_end>"]
    assert shown(out, "prompt") == ["hello"] * 3
    assert shown(out, "format")[0].startswith(r"<im_start>system\nYou are a polite machine.<im_end>\n<im_start>user")
    counts = {line.split()[0]: int(line.split()[1].replace(",", "")) for line in out.splitlines() if " tokens " in line}
    tokenizer = Tokenizer.load(folder)
    dialogs = [messages_of([*DIALOG[:1], *answer], "") for answer in (DIALOG[1:], [said("4")], [])]
    rendered = [render(tokenizer, dialog) for dialog in dialogs]
    assert counts["target"] == sum(int(one.is_target.sum()) for one in rendered)
    assert sum(counts.values()) == sum(len(one.ids) for one in rendered)
    assert "1 dialogs have no target" in out
    assert "\x1b" not in out
    assert llama3(folder, "--data", data, "--limit", 0)[1].count("dialog 1") == 0


def test_a_message_is_shown_as_the_prompt_of_an_answer(llama3, folder):
    code, out, _ = llama3(folder, "--message", "hello <|im_end|>")
    assert code == 0
    assert shown(out, "prompt") == ["hello <im_end>"]
    assert shown(out, "format")[-1] == r"<im_end>\n<im_start>assistant\n"
    assert not shown(out, "target")


def test_bad_input_is_named(llama3, folder, tmp_path):
    data = tmp_path / "rows.jsonl"
    data.write_text('{"messages": [{"role": "user", "content": "x"}]}\n{"text": "x"}\n')
    code, _, err = llama3(folder, "--data", data)
    assert (code, "rows.jsonl:2" in err, "role and content" in err) == (1, True, True)
    assert llama3(folder)[0] == 2
    assert llama3(folder, "--message", "x", "--data", data)[0] == 2
