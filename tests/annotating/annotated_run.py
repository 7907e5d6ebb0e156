"""A run with answers to compare and synthetic text to check, and `llama3 annotate` on it as a process."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import httpx
import pytest
import started

from llama3.artifacts import Stage
from llama3.artifacts.run import RunDir
from llama3.cli import main
from llama3.tasks.rows import write_rows

PROMPTS = [f"What is {i} plus 1?" for i in range(12)]
MARKUP = "<img src=x onerror=alert(1)></textarea><script>alert(2)</script>&amp;"


def put(run, kind, key, files, *, metrics=None, **parents):
    """An artifact of `kind` that holds rows."""

    def write(out, **inputs):
        for name, rows in files.items():
            write_rows(out.path / name, rows)
        out.metrics |= metrics or {}

    roles = {role: made.type for role, made in parents.items()}
    return run.execute(Stage(key, write, kind, roles), parents, key=key)


def samples(says):
    """Rows of samples.jsonl: what `says(i)` lists as answers to each prompt."""
    shared = {"family": "arithmetic.add", "reward": 0.0, "mean_logp": -1.0, "finish_reason": "stop"}
    return [
        {"id": f"add-{i}", "prompt": prompt, "answer": answer, **shared}
        for i, prompt in enumerate(PROMPTS)
        for answer in says(i)
    ]


def dialog(i, source):
    messages = [{"role": "user", "content": PROMPTS[i]}, {"role": "assistant", "content": str(i + 1)}]
    return {"id": f"add-{i}", "source": source, "messages": messages}


def write_run(folder, *, pairs=True, texts=True):
    """Twelve prompts: two models have answered each, but both alike the last one; twenty synthetic texts and twelve
    dialogs, two of them not a model's."""
    with RunDir(folder) as run:
        run.describe("run: {}\n", {}, [])
        base, tuned = (put(run, "checkpoint", key, {"weights.jsonl": [{"key": key}]}) for key in ("base", "sft-1"))
        if pairs:
            wrong = lambda i: [MARKUP if i == 0 else f"surely {i}"] if i < 11 else [str(i + 1)]
            dialogs = [dialog(i, "demonstration" if i < 2 else "rejection_sampling") for i in range(12)]
            files = {"samples.jsonl": samples(wrong), "dialogs.jsonl": dialogs}
            put(run, "dialogs", "reject-1", files, checkpoint=base)
            right = {"samples.jsonl": samples(lambda i: [str(i + 1)])}
            put(run, "preferences", "preferences-1", right, checkpoint=tuned)
        if texts:
            rows = [{"url": f"synthetic:{i}", "text": f"Text {i}.\nIt ends."} for i in range(20)]
            checked = [{**row, "asked": f"Rewrite: {row['text']}"} for row in rows[:2]]
            files = {"rows.jsonl": rows, "to_check.jsonl": checked}
            put(run, "texts", "synthetic", files, metrics={"made": {"rephrase": 20}})
    return folder


@contextmanager
def annotating(source, *names, options=(), code=0):
    """`llama3 annotate` as a process, with its address and a client that comes from its page."""
    given = [part for name in names for part in ("--as", name)]
    command = [sys.executable, "-m", "llama3", "annotate", str(source), *given, "--port", "0", *map(str, options)]
    process = started.Popen(command, stderr=subprocess.PIPE, text=True)
    told = []
    try:
        for line in process.stderr:
            told.append(line)
            if found := re.search(r"annotate at (http://\S+)/", line):
                break
        else:
            pytest.fail("".join(told))
        with httpx.Client(base_url=found[1], headers={"origin": found[1]}, timeout=60) as http:
            yield SimpleNamespace(run=source, url=found[1], http=http, process=process, told=told)
        if process.poll() is None:
            process.terminate()
            assert process.wait(30) == code
    finally:
        process.kill()
        process.wait()


def seen(site, name, kind="pairs", item=""):
    """What an annotator sees, as JSON."""
    answer = site.http.get(f"/ui/{kind}/{name}.json", params={"item": item} if item else {})
    assert answer.status_code == 200, answer.text
    return answer.json()


def say(site, name, verdict, *, kind="pairs", view=None, **fields):
    """Send the form of the page that is seen, with a verdict and other fields."""
    view = view or seen(site, name, kind)
    form = {**view["form"], "verdict": verdict, **fields}
    return site.http.post(f"/{kind}/{name}", params={"item": view["item"]["id"]}, data=form)


def lines(folder, name):
    """The rows of a file of annotations."""
    return [json.loads(line) for line in (folder / "annotations" / f"{name}.jsonl").read_text().splitlines()]


def called(capsys, *arguments):
    """Exit code, stdout and stderr of a command in this process."""
    with pytest.raises(SystemExit) as stopped:
        main(["annotate", *map(str, arguments)])
    return int(stopped.value.code or 0), *capsys.readouterr()
