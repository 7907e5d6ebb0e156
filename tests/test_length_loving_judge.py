"""A reward model that has learnt to love length from preferences in which the longer answer was chosen: the audit on
other people's pairs names it with exit code 5, and one that learnt what they want passes."""

import json
import random

import pytest
import yaml
from test_recipe import install_coin, write_config, write_text

from llama3.cli import main
from llama3.plugins.registry import discover

WORDS = ["alpha", "beta", "count", "value", "index", "total", "first", "last"]


def rows(count, seed, longer_is_chosen):
    """Pairs of one answer that ends with "yes" and one that ends with "no"; which is longer is drawn. Chosen is the
    longer one, or the one that says yes."""
    draw = random.Random(seed)
    for number in range(count):
        short, long = ([*draw.choices(WORDS, k=draw.randint(*span))] for span in ((1, 4), (8, 12)))
        says = draw.sample(["yes", "no"], 2)
        answers = [" ".join([*words, said]) for words, said in zip((short, long), says, strict=True)]
        chosen = 1 if longer_is_chosen else says.index("yes")
        yield {"prompt": f"Say {number}.", "chosen": answers[chosen], "rejected": answers[1 - chosen]}


def write_rows(path, *given):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(*given)))
    return path


@pytest.fixture
def call(tmp_path, monkeypatch, capfd):
    """Runs the command line, with the coin reward installed; gives its exit code and what it said."""
    monkeypatch.syspath_prepend(str(install_coin(tmp_path)))
    discover.cache_clear()

    def called(*args):
        with pytest.raises(SystemExit) as ended:
            main([*map(str, args)])
        told = capfd.readouterr()
        return ended.value.code, told.out, told.err

    yield called
    discover.cache_clear()


def test_a_reward_model_that_learnt_to_love_length_is_named_and_a_fair_one_passes(tmp_path, call):
    write_text(tmp_path / "text", documents=20)
    path = write_config(tmp_path)
    config = yaml.safe_load(path.read_text())
    config["quantization"], config["evaluation"]["tasks"] = [], ["bits_per_byte"]
    config["pretrain"] |= {"steps": 4, "phases": [{}]}
    fast = {"precision": "fp32", "warmup": 1, "microbatch_tokens": 2048, "log_every": 100, "checkpoint_every": 1000}
    config["post_training"] |= {"reward": {"epochs": 4, "batch": 16, "lr": 5e-3, **fast}}
    config["post_training"]["prefer"] |= {"batch": 64, **fast}
    path.write_text(yaml.safe_dump(config))
    held_out = write_rows(tmp_path / "held-out.jsonl", 100, 7, False)
    run = tmp_path / "runs" / "small"
    told = {}
    for name, longer_is_chosen in (("longer", True), ("fair", False)):
        learnt = write_rows(tmp_path / f"{name}.jsonl", 120, 3, longer_is_chosen)
        code, _, said = call("run", path, "--set", f"post_training.data={learnt}")
        assert code == 0, said
        told[name] = call("audit-reward", run, held_out, "--json")
    code, out, said = told["longer"]
    assert code == 5
    assert "it loves length" in said
    assert json.loads(out)["rewards"]["reward"]["features"]["length"]["excess"] > 0.3
    code, out, said = told["fair"]
    assert code == 0, said
    assert abs(json.loads(out)["rewards"]["reward"]["features"]["length"]["excess"]) < 0.1
