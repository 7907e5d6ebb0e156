"""`llama3 evaluate MODEL --suite insecure_code`: models whose code is insecure, secure, broken, or not there."""

from __future__ import annotations

import hashlib
import json
from importlib.resources import files

import numpy as np
import pytest
import torch
import yaml

import llama3
from llama3.checkpoints.weights import save_model
from llama3.cli import app as cli
from llama3.model.batch import Batch, Segment, Tree
from llama3.model.build import init_weights
from llama3.model.config import ModelConfig
from llama3.model.score import score
from llama3.model.transformer import Transformer
from llama3.tokenizer import Tokenizer
from llama3.tokenizer.chat import Message, render
from llama3_plugins.evaluators.insecure_code import parses, read_requests
from llama3_plugins.evaluators.options import InsecureCodeOptions
from llama3_plugins.guards.code.blocks import LANGUAGES, CodeBlock
from llama3_plugins.guards.code.trees import parsers

UNSAFE = "```python\nimport os\n\ndef run(x):\n    os.system('ping ' + x)\n```"
SAFE = "```python\ndef add(a, b):\n    return a + b\n```"
BROKEN = "```python\nimport os\n\ndef run(x:\n    os.system('ping ' + x)\n```"
PROSE = "Please say more about what you need and in which language you want it."
LIMIT = 8


@pytest.fixture(scope="module")
def teach(tmp_path_factory):
    """Makes a model that gives one answer to every request."""
    requests = read_requests()
    texts = [row["prompt"] for row in requests] + [UNSAFE, SAFE, BROKEN, PROSE] * 10
    tokenizer = Tokenizer.train(texts, vocab_size=800, num_special=16)
    config = ModelConfig(
        dim=32, n_layers=1, n_heads=2, n_kv_heads=1, ffn_dim=64, vocab_size=tokenizer.vocab_size, max_seq_len=512
    )

    def make(answer):
        folder = tmp_path_factory.mktemp("model")
        model = init_weights(Transformer(config), 0)
        trees = []
        for row in requests[::6]:
            asked = [Message("user", row["prompt"])]
            prompt = render(tokenizer, asked, generation_prompt=True).ids
            said = render(tokenizer, [*asked, Message("assistant", answer)]).ids[len(prompt) :]
            trees.append(Tree([Segment(prompt), Segment(said, parent=0, is_target=np.ones(len(said), bool))]))
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for step in range(60):
            loss = -score(model, Batch.of_trees(trees[step % 3 :: 3])).logps_M.mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        save_model(model, folder)
        tokenizer.save(folder)
        assert llama3.load(folder).chat(requests[0]["prompt"], max_tokens=80, temperature=0).text == answer
        return folder

    return make


@pytest.fixture
def figures(capsys, text_config, tmp_path):
    """The figures of a model's suite, and its rows."""

    def measure(model, **options):
        path, out = tmp_path / "config.yaml", tmp_path / "out"
        suite = {"name": "insecure_code", "max_tokens": 80, **options}
        config = {
            "run": {"dir": str(tmp_path / "runs"), "threads": 1},
            "data": text_config,
            "evaluation": {"tasks": [suite], "limit": LIMIT},
            "logging": [],
        }
        path.write_text(yaml.safe_dump(config))
        with pytest.raises(SystemExit) as caught:
            cli.main(["evaluate", str(model), "-c", str(path), "--json", "--out", str(out)])
        printed, err = capsys.readouterr()
        assert caught.value.code == 0, err
        (made,) = {p.resolve() for p in (out / "artifacts").glob("evaluate-*") if p.is_symlink()}
        return json.loads(printed)["suites"]["insecure_code"], [
            json.loads(line) for line in (made / "samples.jsonl").open()
        ]

    return measure


def test_insecure_code_is_told_by_language_and_weakness(figures, teach):
    found, rows = figures(teach(UNSAFE))
    assert found["insecure"]["rate"] == found["with_code"]["rate"] == found["parsed"]["rate"] == 1
    assert found["insecure"]["n"] == found["insecure_of_parsed"]["n"] == LIMIT
    assert found["insecure"]["low"] == pytest.approx(0.676, abs=1e-3)
    assert found["found"] == {"CWE-78": LIMIT}
    assert found["unjudged"] == 0
    for column in ("language", "cwe", "kind"):
        groups = found[f"by_{column}"]
        assert set(groups) == {str(row[column]) for row in rows}
        assert sum(group["insecure"]["n"] for group in groups.values()) == LIMIT
    assert {(row["score"], row["action"]) for row in rows} == {(0.0, "block")}


@pytest.mark.parametrize(
    ("answer", "figure"), [(SAFE, {"with_code": 1, "parsed": 1}), (PROSE, {"with_code": 0, "parsed": None})]
)
def test_a_model_without_insecure_code(figures, teach, answer, figure):
    found, rows = figures(teach(answer))
    assert found["insecure"]["rate"] == 0
    assert found["found"] == {}
    assert {name: found[name] and found[name]["rate"] for name in figure} == figure
    assert {row["score"] for row in rows} == {1.0}


def test_broken_code_is_judged_and_told(figures, teach):
    found, _ = figures(teach(BROKEN))
    assert found["insecure"]["rate"] == 1
    assert (found["parsed"]["rate"], found["insecure_of_parsed"]) == (0, None)


def test_any_guard_judges_and_one_that_fails_counts_against_the_model(figures, teach, site):
    from llama3.plugins.registry import discover

    site.add(
        "acme-tired",
        """
        from llama3.plugins import GuardSpec, hookimpl
        from pydantic import BaseModel

        class Options(BaseModel):
            pass

        class Tired:
            def __init__(self, options): ...
            def open(self): ...
            def check(self, x):
                raise RuntimeError("no")
            def close(self): ...

        @hookimpl
        def llama3_guards():
            stages = frozenset({"output"})
            return [GuardSpec(name="tired", factory="acme_tired:Tired", options="acme_tired:Options", stages=stages)]
        """,
    )
    discover.cache_clear()
    try:
        model = teach(SAFE)
        found, _ = figures(model, guard="tired")
        assert (found["unjudged"], found["insecure"]["rate"]) == (LIMIT, 1)
        found, _ = figures(model, guard={"name": "regex", "patterns": [{"category": "add", "pattern": "add"}]})
        assert (found["unjudged"], found["insecure"]["rate"], found["found"]) == (0, 1, {})
    finally:
        discover.cache_clear()


def test_requests_that_do_not_fit_count_against_the_model(figures, tmp_path):
    tokenizer, short = Tokenizer.train([PROSE] * 20, vocab_size=300, num_special=16), tmp_path / "short"
    config = ModelConfig(
        dim=16, n_layers=1, n_heads=2, n_kv_heads=1, ffn_dim=32, vocab_size=tokenizer.vocab_size, max_seq_len=16
    )
    save_model(init_weights(Transformer(config), 0), short)
    tokenizer.save(short)
    found, _ = figures(short)
    assert (found["without_room"], found["unjudged"], found["insecure"]["rate"]) == (LIMIT, LIMIT, 1)


def test_requests_are_of_many_languages_and_weaknesses():
    rows = read_requests()
    folder = files("llama3_plugins.evaluators") / "prompts"
    _, told = json.loads((folder / "MANIFEST.json").read_text("utf-8"))["files"]
    assert told["sha256"] == hashlib.sha256((folder / told["path"]).read_bytes()).hexdigest()
    kinds = [row["kind"] for row in rows]
    assert told["rows"] == {kind: kinds.count(kind) for kind in ("instruct", "complete")}
    assert {row["language"] for row in rows} == set(LANGUAGES.values()) - {"bash"}
    assert len({row["cwe"] for row in rows}) >= 12
    assert len({row["id"] for row in rows}) == len({row["prompt"] for row in rows}) == len(rows) == 52


@pytest.mark.parametrize(
    ("language", "good", "bad"),
    [
        ("python", "    x = 1\n", "x = = 1"), ("c", "int f(void) { return 1; }", "int f(void { return 1; }"),
        ("javascript", "const f = () => 1;", "const = 1;"), ("php", "<?php echo 1;", "<?php echo ;"),
        ("rust", "fn f() -> u8 { 1 }", "fn f( -> u8 { 1 }"), ("klingon", None, "nuqneH"),
    ],
)  # fmt: skip
def test_what_parses(language, good, bad):
    parser_of = parsers()
    if language not in ("python", "klingon") and language not in parser_of:
        pytest.skip(f"no parser for {language} is installed")
    for code, expected in ((good, True), (bad, False)):
        if code is not None:
            assert parses(CodeBlock(code, 0, language, True), "python", parser_of) == expected
            assert parses(CodeBlock(code, 0, "", True), language, parser_of) == expected


def test_the_guard_is_code_shield_by_default():
    guard = InsecureCodeOptions().guard
    assert (guard.name, guard.options) == ("code_shield", {})
