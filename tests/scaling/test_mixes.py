"""`llama3 data mix`, `mix-search` and `probe`: small models on mixes of a run's sources, and what is said of them."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from llama3.artifacts import Artifact
from llama3.cli import app as cli
from llama3.data.plan import ShardEntry, SourceEntry, TokenPlan
from llama3.evaluation.intervals import way
from llama3.preflight import load_config
from llama3.scaling.mix_search import chosen, snippet
from llama3.scaling.paired import PairedScores, draw, gain_rows, luck
from llama3.scaling.shares import drawn_mixes, epochs_of, mix_key, shares_of

VOCABULARIES = {
    "tales": [
        "ship",
        "sea",
        "wind",
        "harbour",
        "captain",
        "letter",
        "morning",
        "island",
        "rope",
        "lantern",
        "storm",
        "sail",
    ],
    "code": ["def", "return", "value", "count", "index", "total", "first", "last", "read", "write", "item", "class"],
    "sums": [*map(str, range(60)), "plus", "minus", "times", "equals"],
}
CONFIG = {
    "run": {"name": "mixes", "threads": 1, "device": "cpu"},
    "data": {
        "sources": [{"name": "files", "path": name, "source": name} for name in VOCABULARIES],
        "filters": [],
        "lines": {"enabled": False},
        "minhash": {"enabled": False},
        "held_out": 0.2,
    },
    "tokenizer": {"vocab_size": 300, "num_special": 12},
    "model": {"dim": 16, "n_layers": 1, "n_heads": 2, "n_kv_heads": 2, "ffn_dim": 32, "max_seq_len": 32},
    "pretrain": {"steps": 40, "batch": 4, "seq_len": 32, "lr": 1e-2, "warmup": 4, "precision": "fp32"},
    "post_training": {"rounds": 0},
    "evaluation": {"tasks": [{"name": "bits_per_byte"}, {"name": "multiple_choice", "context": 40, "answer": 12}]},
    "logging": [],
}
SEARCH = ("mix-search", "mixes.yaml", "--mix", "tales=1", "--mix", "code=1,sums=3", "--candidates", "1", "--seeds", "2",
          "--proxy", "pretrain.steps=20", "--suite", "multiple_choice")  # fmt: skip
PROBE = ("probe", "mixes.yaml", "--source", "sums", "--steps", "10", "--seeds", "2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three sources, and a config."""
    place = tmp_path_factory.mktemp("mixes")
    rng = random.Random(0)
    for name, words in VOCABULARIES.items():
        (place / name).mkdir()
        for number in range(40):
            lines = (" ".join(rng.choices(words, k=10)) for _ in range(8))
            (place / name / f"{number}.txt").write_text("\n".join(lines))
    (place / "mixes.yaml").write_text(yaml.safe_dump(CONFIG))
    return place


@pytest.fixture
def llama3(folder, monkeypatch, capsys):
    """Runs `llama3 data ...` in the folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(folder)

    def call(*args):
        with pytest.raises(SystemExit) as ended:
            cli.main(["data", *map(str, args)])
        told = capsys.readouterr()
        return ended.value.code, told.out, told.err

    return call


def made(folder: Path, key: str) -> Artifact:
    return Artifact(folder / "runs" / "mixes" / "artifacts" / key)


def test_mixes_are_trained_by_the_product_ranked_and_found_again(llama3, folder):
    code, out, err = llama3(*SEARCH, "--json")
    assert code == 0, err
    told = json.loads(out)
    rows = {row["name"]: row for row in told["mixes"]}
    assert set(rows) == {"own", "given-1", "given-2", "drawn-1"}
    assert rows["given-1"]["mix"] == {"tales": 1}
    assert rows["given-2"]["mix"] == {"code": 0.25, "sums": 0.75}
    assert [row["rank"] for row in told["mixes"]] == [1, 2, 3, 4]
    values = [row["value"] for row in told["mixes"]]
    assert values == sorted(values)
    assert sum(row["best"] for row in told["mixes"]) == pytest.approx(1)
    assert told["objective"] == pytest.approx({f"bits_per_byte {name}": 1 / 3 for name in VOCABULARIES})

    # Each was trained by `pretrain` on its own mix, and measured as any model is.
    suites = {f"bits_per_byte {name}" for name in VOCABULARIES} | {"multiple_choice"}
    for name, seed in itertools.product(rows, (1, 2)):
        key = f"mix-{mix_key(rows[name]['mix'])}-{seed}"
        model, report = made(folder, key), made(folder, f"{key}-report")
        assert (model.manifest.stage, model.metrics["steps"]) == ("pretrain", 20)
        assert set(report.metrics) == suites
    key = f"mix-{mix_key(rows['given-2']['mix'])}"
    of_seeds = [made(folder, f"{key}-{seed}-report").metrics for seed in (1, 2)]
    for name in VOCABULARIES:
        suite = next(row for row in rows["given-2"]["suites"] if row["suite"] == f"bits_per_byte {name}")
        mean = np.mean([metrics[f"bits_per_byte {name}"]["bits_per_byte"] for metrics in of_seeds])
        assert suite["value"] == pytest.approx(mean)
    # A model that never saw tales is worse at them than one that saw nothing else.
    seen, unseen = (
        next(row for row in rows[name]["suites"] if row["suite"] == "bits_per_byte tales")["value"]
        for name in ("given-1", "given-2")
    )
    assert seen < unseen

    # The same command finds all of it; another mix adds its own trainings and leaves these.
    code, _, err = llama3(*SEARCH)
    assert code == 0
    assert err.count("nothing to do") == 3 + 2 * 8 + 1
    code, out, err = llama3(*SEARCH, "--mix", "sums=1,tales=1", "--by", "multiple_choice")
    assert code == 0
    assert "ranked by multiple_choice 100 %; higher is better" in out
    assert err.count("nothing to do") == 3 + 2 * 8
    assert "ranked by" in out


def test_the_config_that_comes_out_is_one(llama3, folder):
    assert llama3(*SEARCH)[0] == 0
    artifact = made(folder, "mix-search")
    told = json.loads(artifact.file("mixes.json").read_bytes())
    snippet_file = yaml.safe_load(artifact.file("mix.yaml").read_text())
    row = next(row for row in told["mixes"] if row["name"] == told["chosen"])
    assert snippet_file["data"]["mix"] == pytest.approx(row["mix"], abs=1e-6)
    merged = {**CONFIG, "data": {**CONFIG["data"], **snippet_file["data"]}}
    assert load_config(merged).config.data.mix == snippet_file["data"]["mix"]
    page = artifact.file("mixes.html").read_text()
    assert page.count("<table>") >= 3
    assert "<script" not in page


def test_a_budget_pays_for_so_many_mixes(llama3, folder):
    assert llama3(*SEARCH)[0] == 0
    flops = json.loads(made(folder, "mix-search").file("mixes.json").read_bytes())["proxy"]["flops"]
    code, _, err = llama3(*SEARCH, "--budget", 5 * flops)
    assert code == 2
    assert "pays for 5 trainings, the mixes that are given need 6" in err
    code, out, err = llama3(*SEARCH, "--candidates", "50", "--budget", 9.5 * flops, "--json")
    assert code == 0, err
    assert len(json.loads(out)["mixes"]) == 4, "two seeds of each"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (["--mix", "sums=1,code=1", "--epochs", "0.1"], "would be read"),
    ],
)
def test_what_cannot_be_searched_is_refused_before_training(llama3, folder, changed, words):
    code, _, err = llama3(*SEARCH, *changed, "--out", folder / "refused")
    assert (code, words in err) == (2, True), err
    assert not list((folder / "refused").glob("artifacts/mix-*"))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (["--mix", "tale=1"], "--mix: no source 'tale'. Fix: there are code, sums, tales"),
        (["--mix", "general=1"], "--mix: no source 'general'"),
        (["--by", "nothing"], "--by: no suite 'nothing'"),
        (["--proxy", "pretrain.stepz=20"], "--proxy pretrain.stepz=20: pretrain.stepz: unknown key"),
        (["--set", "model={path: .}"], "model.path"),
        (["--mix", "tales=x"], "are no shares of sources"),
        (["--mix", "tales=0"], "one of them above 0"),
        (["--mix", "tales=1,code=1,tales=3"], "named more than once: tales. Fix: write web=0.6,code=0.4, or llama3"),
        (["--target", "tales=1,tales=1"], "named more than once: tales. Fix: write web=0.6,code=0.4 [L3-SCL-039]"),
        (
            ["--mix", "llama3", "--set", "data.classes={tales: general, code: code, sums: reasoning}"],
            "--mix: no source 'multilingual'",
        ),
        (["--target", "nobody=1"], "no source 'nobody'"),
        (["--suite", "nothing"], "--suite: no suite 'nothing'"),
        (["--proxy", "data.held_out=0.3"], "data.held_out cannot be another for the small models"),
    ],
)
def test_what_is_wrong_in_itself_is_refused_before_any_work(llama3, folder, changed, words):
    code, _, err = llama3(*SEARCH, *changed, "--out", folder / "nothing")
    assert (code, words in err) == (2, True), err
    assert not (folder / "nothing").exists()


def test_nothing_to_compare_with_is_refused_before_any_work(llama3, folder):
    code, _, err = llama3("mix-search", "mixes.yaml", "--candidates", "0", "--out", folder / "nothing")
    assert (code, "there is one mix" in err) == (2, True), err
    assert not (folder / "nothing").exists()


def test_mixes_of_one_source_are_refused_before_any_work(llama3, folder):
    one = "data.sources=[{name: files, path: tales, source: tales}]"
    code, _, err = llama3("mix-search", "mixes.yaml", "--set", one, "--out", folder / "nothing")
    assert (code, "tales is all that is read" in err) == (2, True), err
    assert not (folder / "nothing").exists()


def test_a_mix_to_try_may_name_classes(llama3, folder):
    classes = ["--set", "data.classes={tales: prose, sums: prose}"]
    code, out, err = llama3(*SEARCH[:2], "--mix", "prose=1,code=1", "--candidates", "0", "--seeds", "2",
                            "--proxy", "pretrain.steps=5", *classes, "--json")  # fmt: skip
    assert code == 0, err
    plan = TokenPlan.load(folder / "runs" / "mixes")
    rows = {row["name"]: row["mix"] for row in json.loads(out)["mixes"]}
    sizes = {source.name: source.tokens for source in plan.sources}
    both = sizes["tales"] + sizes["sums"]
    wanted = {"code": 0.5, "tales": 0.5 * sizes["tales"] / both, "sums": 0.5 * sizes["sums"] / both}
    assert rows["given-1"] == pytest.approx(wanted)


def test_a_probe_anneals_one_model_with_and_without_the_source(llama3, folder):
    code, out, err = llama3(*PROBE, "--json")
    assert code == 0, err
    told = json.loads(out)
    assert told["control"].keys() == {"tales", "code"}
    assert told["probe"]["sums"] == pytest.approx(0.3)
    assert told["probe"]["tales"] == pytest.approx(0.7 * told["control"]["tales"])
    assert told["tokens"] == 10 * 4 * 32
    base = made(folder, f"probe-base-{mix_key(told['control'])}")
    assert base.metrics["steps"] == 20, "half of the run's"
    for mix, seed in itertools.product((told["control"], told["probe"]), (1, 2)):
        arm = made(folder, f"probe-{mix_key(mix)}-{seed}")
        assert (arm.manifest.stage, arm.metrics["steps"]) == ("pretrain", 10)
        assert [parent.hash for parent in arm.manifest.parents if parent.role == "checkpoint"] == [base.hash]
        assert arm.metrics["lr"] == 0, "in a line to a rate of 0"
    rows = {row["suite"]: row for row in told["suites"]}
    for row in rows.values():
        assert row["interval"][0] <= row["gain"] <= row["interval"][1]
        assert row["gain"] == pytest.approx(row["reference"] - row["value"])
        assert row["verdict"] == way(*row["interval"])
    assert rows["bits_per_byte sums"]["gain"] > 0, "the only arm that saw them"
    code, out, err = llama3(*PROBE)
    assert code == 0
    assert err.count("nothing to do") == 3 + 1 + 2 * 4 + 1
    assert "30 % of sums in the anneal" in out


def test_a_finished_model_is_probed(llama3, folder):
    assert llama3(*PROBE)[0] == 0
    told = json.loads(made(folder, "probe").file("probe.json").read_bytes())
    finished = made(folder, f"probe-base-{mix_key(told['control'])}").location
    config = {name: section for name, section in CONFIG.items() if name not in ("model", "tokenizer", "evaluation")}
    config |= {"model": {"path": str(finished)}, "run": {**CONFIG["run"], "name": "adopted"}}
    (folder / "adopted.yaml").write_text(yaml.safe_dump(config))
    code, out, err = llama3("probe", "adopted.yaml", *PROBE[2:], "--json")
    assert code == 0, err
    again = json.loads(out)
    assert (again["base"], again["lr"]) == (str(finished), CONFIG["pretrain"]["lr"])
    assert next(row for row in again["suites"] if row["suite"] == "bits_per_byte sums")["gain"] > 0
    code, _, err = llama3("mix-search", "adopted.yaml")
    assert (code, "small models are trained anew" in err) == (2, True)
    code, out, err = llama3("mix", "adopted.yaml")
    assert code == 0, err


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (["--source", "nobody"], "no source 'nobody'"),
        (["--epochs", "0.01"], "would be read"),
        (["--at", "0.001"], "is none, or all of them"),
        (["--set", "data.mix={sums: 1}"], "is all that the run would train on"),
    ],
)
def test_a_probe_that_tells_nothing_is_refused(llama3, tmp_path, changed, words):
    code, _, err = llama3(*PROBE, *changed, "--out", tmp_path / "untold")
    assert (code, words in err) == (2, True), err
    if "--epochs" not in changed:  # for which the source must be read
        assert not (tmp_path / "untold").exists()


def test_the_mix_is_a_schedule_over_tokens_of_classes(llama3, folder):
    classes = "{tales: general, code: code, sums: reasoning}"
    phases = "[{tokens: 2560, mix: {general: 1, code: 1}}, {steps: 10, mix: {tales: 3, reasoning: 1}}]"
    sets = ["--set", f"data.classes={classes}", "--set", f"pretrain.phases={phases}"]
    code, out, err = llama3("mix", "mixes.yaml", *sets, "--json")
    assert code == 0, err
    rows = json.loads(out)["phases"]
    assert [(row["phase"], row["from_token"], row["source"], row["share"], row["tokens"]) for row in rows] == [
        (1, 0, "code", 0.5, 1280),
        (1, 0, "tales", 0.5, 1280),
        (2, 2560, "sums", 0.25, 320),
        (2, 2560, "tales", 0.75, 960),
    ]
    sizes = {source.name: source.tokens for source in TokenPlan.load(folder / "runs" / "mixes").sources}
    assert rows[3]["epochs"] == pytest.approx((1280 + 960) / sizes["tales"])
    code, out, err = llama3("mix", "mixes.yaml", "--set", "data.mix=llama3", "--set", f"data.classes={classes}")
    assert code == 2
    assert "no source has the label 'multilingual'" in err


def plan_of(**sizes: int) -> TokenPlan:
    shard = lambda name, tokens: ShardEntry(path=f"{name}.tok", tokens=tokens, documents=1, root="00")
    sources = [SourceEntry(name=name, shards=[shard(name, tokens)]) for name, tokens in sizes.items()]
    return TokenPlan(tokenizer="ab", vocab_size=300, sources=sources)


def test_a_class_shares_its_weight_by_size():
    plan = plan_of(web=300, books=100, code=50)
    before = plan.hash
    classes = {"web": "general", "books": "general", "code": "code"}
    mixed = plan.with_mix({"general": 50, "code": 17}, classes)
    assert mixed.weights(8) == [37.5, 12.5, 17]
    assert plan.with_mix({"general": 4, "books": 1}, classes).weights(8) == [3, 2, 0]
    assert plan.with_mix({}, classes).weights(8) == [37, 12, 6], "by size, as without classes"
    assert (plan.hash, plan.with_mix({}, {}).hash) == (before, before)
    assert mixed.hash != plan.with_mix({"web": 37.5, "books": 12.5, "code": 17}).hash
    with pytest.raises(Exception, match="no source is called 'prose'"):
        plan.with_mix({"prose": 1}, classes)


def test_llama_3s_mix_is_short_for_its_four_classes(folder, monkeypatch):
    monkeypatch.chdir(folder)
    config = {**CONFIG, "data": {**CONFIG["data"], "mix": "llama3"}}
    config["data"]["classes"] = {"tales": "general", "code": "code", "sums": "reasoning"}
    config["data"]["sources"] = [*config["data"]["sources"], {"name": "files", "path": "tales", "source": "world"}]
    config["data"]["classes"] |= {"world": "multilingual"}
    assert load_config(config).config.data.mix == {"general": 50, "reasoning": 25, "code": 17, "multilingual": 8}
    config["data"]["classes"] |= {"world": "code"}
    with pytest.raises(Exception, match="is the label of a source and a class with other sources"):
        load_config(config)


@given(st.dictionaries(st.sampled_from("abcdef"), st.floats(0.01, 10), min_size=2), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_drawn_mixes_are_mixes(weights, seed):
    own = shares_of(weights)
    drawn = list(itertools.islice(drawn_mixes(own, seed), 20))
    assert drawn == list(itertools.islice(drawn_mixes(own, seed), 20))
    assert len({mix_key(mix) for mix in drawn}) == 20
    for mix in drawn:
        assert sum(mix.values()) == pytest.approx(1)
        assert set(mix) <= set(own)
        assert all(100 * share == pytest.approx(round(100 * share)) for share in mix.values())


def test_how_often_a_source_is_read():
    assert epochs_of({"web": 0.25, "code": 0.75}, plan_of(web=1000, code=100), 400) == {"web": 0.1, "code": 3}


def scores(rng, effects, *, seeds=3, items=40, luck=0.01, item=0.3, noise=0.05):
    """Costs of arms whose true differences are `effects`, with luck per training and noise per item."""
    arms, size = len(effects), rng.integers(20, 60, items).astype(float)
    base = 2 + rng.normal(0, item, items)
    each = base + np.array(effects)[:, None, None] + rng.normal(0, luck, (arms, seeds, 1))
    return PairedScores(True, (each + rng.normal(0, noise, (arms, seeds, items))) * size, size)


def test_intervals_hold_what_they_should():
    rng, inside, of_all = np.random.default_rng(1), 0, 0
    for trial in range(60):
        suites = {"x": scores(rng, [0, -0.03, 0.02], items=25)}
        drawn = draw(suites, {"x": 1.0}, trial)
        inside += drawn.gain(1, 0)[1][0] <= 0.03 <= drawn.gain(1, 0)[1][1]
        both = [drawn.gain(arm, 0, looks=2)[1] for arm in (1, 2)]
        of_all += all(low <= true <= high for (low, high), true in zip(both, (0.03, -0.02), strict=True))
    assert inside >= 53
    assert of_all >= 53


def test_luck_is_what_arms_and_seeds_leave():
    table_CS = np.add.outer([1.0, 2.0, 4.0], [0.1, 0.5])
    assert luck(table_CS).deviation == pytest.approx(0, abs=1e-12)
    table_CS[0, 0] += 0.6
    # One cell of a 3 x 2 table: the rest's sum of squares is 0.36 * (1 - 1/3) * (1 - 1/2), and 2 are free.
    assert luck(table_CS).free == 2
    assert luck(table_CS).deviation == pytest.approx((0.36 / 3 / 2) ** 0.5)


def test_what_is_better_of_shares_and_costs():
    rng = np.random.default_rng(0)
    costs = scores(rng, [0, -0.2], luck=0.001, noise=0.001)
    rates = PairedScores(False, costs.scores_CSN, costs.sizes_N)
    (cost,), (rate,) = (list(gain_rows({"x": suite}, 1, 0, 0)) for suite in (costs, rates))
    assert (cost["verdict"], rate["verdict"]) == ("better", "worse")
    assert cost["gain"] == pytest.approx(-rate["gain"])
    assert draw({"x": costs}, {"x": 1.0}, 0).best()[1] == 1
    assert way(-0.1, 0.1) == "not told apart"


def test_a_mix_that_is_not_told_apart_is_not_chosen():
    own = {"name": "own", "rank": 2, "mix": {"a": 1.0}, "interval": None}
    better = {"name": "drawn-1", "rank": 1, "mix": {"b": 1.0}, "interval": [0.01, 0.02]}
    unsure = {**better, "interval": [-0.01, 0.02]}
    assert chosen([better, own]) == "drawn-1"
    assert chosen([unsure, own]) == "own"
    told = {"mixes": [unsure, own], "chosen": "own", "seeds": 2}
    assert yaml.safe_load(snippet(told)) == {"data": {"mix": {"a": 1.0}}}
    assert "drawn-1 came first" in snippet(told)
