"""Several sizes from one config, on a few kilobytes: what each has from the others, and what is measured of them."""

import json
import shutil

import pytest
import yaml
from test_recipe import hashes, install_coin, write_config, write_text

import llama3
from llama3.annotating.items import pairs_of_run, texts_of_run
from llama3.artifacts.logbook import rows_of
from llama3.artifacts.run import RunDir
from llama3.checkpoints.load import read_config
from llama3.cli import main
from llama3.errors import LlamaError
from llama3.evaluation.comparison import side_by_side
from llama3.plugins.registry import discover
from llama3.preflight import load_config
from llama3.tasks.rows import read_rows

SIZES = {
    "small": {"prune": {"of": "flagship", "n_layers": 1, "dim": 24, "ffn_dim": 40}, "teacher": "flagship",
              "judge": "flagship", "control": True, "pretrain": {"steps": 2, "phases": [{}]}},
    "flagship": {"post_training": {"reward": {"members": 2, "batch": 2, "warmup": 1, "precision": "fp32"}}},
    "medium": {"model": {"dim": 16}, "pretrain": {"steps": 3, "phases": [{}]},
               "post_training": {"algorithm": "grpo", "sft": {"members": 2}}},
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def coin(tmp_path_factory):
    """The coin reward, installed while these tests run."""
    folder = install_coin(tmp_path_factory.mktemp("site"))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        discover.cache_clear()
        yield
    discover.cache_clear()


def herd_config(folder, sizes=SIZES, **post):
    """A config of three sizes and two rounds."""
    path = write_config(folder)
    config = yaml.safe_load(path.read_text())
    config["sizes"], config["quantization"] = sizes, []
    config["post_training"] |= {"rounds": 2} | post
    config["post_training"]["reject"] |= {"rising": True, "earlier": True, "by_capability": 4}
    config["evaluation"]["tasks"] = ["pass_rate"]
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def herd(tmp_path_factory):
    """A finished herd: its config and its run."""
    folder = tmp_path_factory.mktemp("herd")
    write_text(folder / "text")
    return herd_config(folder), llama3.run(herd_config(folder))


def test_every_row_of_the_logs_says_whose_it_is(herd):
    _, made = herd
    run = made.path
    for name in ("metrics", "samples"):
        log = run / f"{name}.jsonl"
        rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        assert all((run / "artifacts" / row["artifact"]).is_dir() for row in rows)
        assert all(row["artifact"].startswith(f"{row['key']}-") for row in rows)
        told = [row["key"] for row in rows_of(run, name, made.artifacts)]
        assert told == [row["key"] for row in rows], "as the report has it, which goes by the places of rows"
    steps = [(row["key"], row["step"]) for row in map(json.loads, (run / "metrics.jsonl").open())]
    assert len(steps) == len(set(steps))
    assert {"small-sft-1", "small-sft-2", "small-alone-sft-1", "flagship-sft-2", "medium-prefer-1"} <= dict(
        steps
    ).keys()


def test_the_teacher_comes_first_and_every_size_has_a_release(herd):
    _, run = herd
    assert list(run.report["herd"]["sizes"]) == ["flagship", "small", "small-alone", "medium"]
    made = RunDir(run.path).current()
    assert {"curate", "flagship-release", "small-release", "medium-release"} <= made.keys()
    assert "small-alone-release" not in made, "a control is measured, not released"
    assert made.keys() == run.artifacts.keys()


def test_what_all_sizes_share_is_made_once(herd):
    _, run = herd
    stages = [artifact.manifest.stage for artifact in {a.hash: a for a in run.artifacts.values()}.values()]
    assert [stages.count(name) for name in ("curate", "tokenizer", "shard", "baselines")] == [1, 1, 1, 1]
    assert run.artifacts["small-curate"].hash == run.artifacts["medium-curate"].hash


def test_a_size_has_its_own_shape_and_budget(herd):
    _, run = herd
    shape = lambda key: read_config(run.artifacts[key].path)
    assert [shape(f"{size}-final").dim for size in ("flagship", "medium", "small")] == [32, 16, 24]
    assert (shape("small-final").n_layers, shape("small-final").ffn_dim) == (1, 40)
    steps = {size: run.artifacts[f"{size}-pretrain"].metrics["steps"] for size in ("flagship", "medium", "small")}
    assert steps == {"flagship": 8, "medium": 3, "small": 2}


def test_the_teachers_verified_answers_are_learnt_where_the_learner_has_none(herd):
    _, run = herd
    for n in (1, 2):
        taught = list(read_rows(run.artifacts[f"small-taught-{n}"].file("dialogs.jsonl")))
        shown = {
            row["id"]: row["messages"] for row in read_rows(run.artifacts[f"small-teach-{n}"].file("dialogs.jsonl"))
        }
        from_teacher = [row for row in taught if row["source"] == "teacher"]
        own = {row["id"] for row in taught if row["source"] != "teacher"}
        assert from_teacher or n == 2
        assert all(shown[row["id"]] == row["messages"] and row["id"] not in own for row in from_teacher if n == 1)


def test_the_control_learns_from_as_many_examples_without_a_teacher(herd):
    _, run = herd
    for n in (1, 2):
        taught = list(read_rows(run.artifacts[f"small-taught-{n}"].file("dialogs.jsonl")))
        alone = list(read_rows(run.artifacts[f"small-alone-paced-{n}"].file("dialogs.jsonl")))
        assert len(alone) >= len(taught)
        assert not any(row["source"] == "teacher" for row in alone)
        for twin in ("small", "small-alone"):
            parents = {p.role: p.hash for p in run.artifacts[f"{twin}-sft-{n}"].manifest.parents}
            assert parents["checkpoint"] == run.artifacts["small-pretrain"].hash


def test_a_flagships_reward_model_judges_its_siblings(herd):
    _, run = herd
    judge = run.artifacts["flagship-reward-2-mean2"].hash
    for key in ("small-reject-1", "small-preferences-1"):
        assert {"reward": judge}.items() <= {p.role: p.hash for p in run.artifacts[key].manifest.parents}.items()
    assert "small-reward-1" not in run.artifacts


def test_the_reward_model_begins_from_the_base_and_learns_from_all_preferences(herd):
    _, run = herd
    parents = lambda key: {p.role: p.hash for p in run.artifacts[key].manifest.parents}
    pairs = lambda key: len(list(read_rows(run.artifacts[key].file("preferences.jsonl"))))
    assert parents("flagship-reward-2")["checkpoint"] == run.artifacts["flagship-pretrain"].hash
    assert parents("flagship-reward-2")["preferences"] == run.artifacts["flagship-gathered-2"].hash
    assert pairs("flagship-gathered-2") == pairs("flagship-preferences-1") + pairs("flagship-preferences-2")
    assert parents("flagship-prefer-2")["preferences"] == run.artifacts["flagship-preferences-2"].hash
    assert parents("flagship-reject-2")["reward"] == run.artifacts["flagship-reward-1-mean2"].hash


def test_verified_answers_of_earlier_rounds_are_kept(herd):
    _, run = herd
    ids = lambda key: {row["id"] for row in read_rows(run.artifacts[key].file("dialogs.jsonl"))}
    verified = {
        row["id"]
        for row in read_rows(run.artifacts["flagship-reject-1"].file("dialogs.jsonl"))
        if row["source"] == "rejection_sampling"
    }
    assert verified | ids("flagship-reject-2") == ids("flagship-earlier-2")


def test_each_kind_of_task_is_answered_by_the_model_that_is_best_at_it(herd):
    _, run = herd
    found = run.artifacts["flagship-policies-2"].metrics
    for kind, rates in found["solved"].items():
        assert rates.keys() == {"checkpoint", "sft", "prefer"}
        assert rates[found["chosen"][kind]] == max(rates.values())
    assert run.artifacts["flagship-policies-2"].hash in [
        p.hash for p in run.artifacts["flagship-reject-2"].manifest.parents
    ]


def test_the_report_tells_every_round_and_what_each_step_added(herd):
    _, run = herd
    report = json.loads((run.path / "report.json").read_text())["herd"]
    stations = {(row["size"], row["round"], row["station"]) for row in report["rounds"]}
    assert {("small-alone", 2, "final"), ("medium", 1, "sft-mean"), ("flagship", 0, "base")} <= stations
    steps = {(row["size"], row["round"], row["step"]): row for row in report["steps"]}
    told = steps["flagship", 2, "preference"]
    named = {"a": run.artifacts["flagship-evaluate-sft-2"], "b": run.artifacts["flagship-evaluate-prefer-2"]}
    again = side_by_side(named)["suites"]["pass_rate"]["models"]["b"]
    assert (told["change"], told["low"], told["high"]) == (again["change"], again["paired_low"], again["paired_high"])
    assert {step for size, _, step in steps if size == "medium"} >= {"averaging of sft", "round", "averaging"}
    assert ("small", 2, "teacher") in steps
    assert ("medium", 1, "teacher") not in steps


def test_the_steps_of_a_round_add_up_to_it(herd):
    _, run = herd
    for n in (1, 2):
        rows = {r["step"]: r["change"] for r in run.report["herd"]["steps"] if (r["size"], r["round"]) == ("medium", n)}
        assert sum(change for step, change in rows.items() if step != "round") == pytest.approx(rows["round"])


def test_the_table_of_data_is_what_its_rows_say(herd):
    _, run = herd
    table = run.report["herd"]["data"]["flagship"][1]["dialogs"]
    rows = list(read_rows(run.artifacts["flagship-earlier-2"].file("dialogs.jsonl")))
    assert table["total"]["examples"] == len(rows)
    assert sum(row["percent"] for name, row in table.items() if name != "total") == pytest.approx(100, abs=0.1)
    assert table["total"]["turns"] == 2
    assert table["total"]["tokens"] == pytest.approx(table["total"]["context"] + table["total"]["answer"], abs=0.02)


def test_the_page_shows_every_size_and_no_script(herd):
    _, run = herd
    page = (run.path / "report.html").read_text()
    assert "<script" not in page
    assert all(size in page for size in run.report["herd"]["sizes"])
    assert (run.path / "report-small.html").exists()


def test_a_second_run_has_nothing_to_do(herd):
    config, run = herd
    before = hashes(run.path)
    llama3.run(config)
    assert hashes(run.path) == before
    events = [json.loads(line) for line in (run.path / "events.jsonl").read_text().splitlines()]
    last = len(events) - 1 - [event["kind"] for event in events][::-1].index("config")
    assert {event["kind"] for event in events[last + 1 :]} == {"stage_skipped"}


def test_what_a_kill_took_is_made_again_and_the_rest_is_kept(herd):
    """Stages that had not been published, in the midst of two sizes."""
    config, run = herd
    before = hashes(run.path)
    for key in ("small-taught-2", "small-sft-2", "small-alone-paced-1", "medium-prefer-1"):
        shutil.rmtree(run.artifacts[key].location)
    (run.path / "report.json").unlink()
    llama3.run(config)
    assert hashes(run.path) == before
    assert json.loads((run.path / "report.json").read_text())["herd"] == run.report["herd"]


def test_a_change_of_one_size_leaves_the_others(herd):
    config, run = herd
    before = hashes(run.path)
    llama3.run(config, ["sizes.medium.pretrain.steps=4"])
    after = hashes(run.path)
    llama3.run(config)
    assert {key.partition("-")[0] for key in before if before[key] != after[key]} == {"medium"}


def test_answers_of_all_sizes_can_be_annotated(herd):
    _, run = herd
    models = {answer.model for item in pairs_of_run(RunDir(run.path), 0) for answer in item.answers}
    assert len({model.partition("-")[0] for model in models}) > 1
    assert {"small-reject-1", "medium-reject-2"} <= texts_of_run(RunDir(run.path)).keys()


def test_the_tables_of_a_herd_tell_points(herd):
    _, run = herd
    page = (run.path / "report.html").read_text()
    for row in run.report["herd"]["steps"]:
        assert row["better"] == "higher"
        if row["change"] is not None:
            items = {told["figure"]["n"] for told in run.report["herd"]["rounds"] if told["suite"] == row["suite"]}
            assert items == {row["n"]}
            assert f"<td>{row['n']}</td><td>{100 * row['change']:+.1f} pt</td>" in page


def test_models_of_a_herd_are_compared_by_their_names(herd, capsys):
    _, run = herd
    with pytest.raises(SystemExit) as done:
        main(["compare", str(run.path), "--model", "small-alone-final-2", "--model", "small-final-2", "--json"])
    assert done.value.code == 0
    told = json.loads(capsys.readouterr().out)
    assert told["models"] == [
        "herd small-alone-final-2".replace("herd", run.path.name),
        f"{run.path.name} small-final-2",
    ]


@pytest.mark.parametrize(
    ("sizes", "code", "told"),
    [
        ({"small": {"teacher": "flagshp"}, "flagship": {}}, "L3-HRD-001", "flagship"),
        ({"a": {"teacher": "b"}, "b": {"judge": "a"}}, "L3-HRD-002", "wait for each other"),
        ({"a": {"judge": "b"}, "b": {}}, "L3-HRD-004", "reward"),
        ({"a": {"teacher": "b"}, "b": {"post_training": {"rounds": 0}}}, "L3-HRD-003", "'b' has no rounds"),
        ({"a": {"prune": {"of": "b"}, "model": {"dim": 16}}, "b": {}}, "L3-HRD-005", "prune"),
        ({"a b": {}}, "L3-HRD-006", "letters"),
        ({"small-alone": {}, "small": {}}, "L3-HRD-020", "the twin called that `control` raises of 'small'"),
        ({"a": {"teacher": "a"}}, "L3-HRD-021", "cannot learn from itself"),
        ({"a": {"prune": {"of": "b", "n_layers": 9}}, "b": {}}, "L3-HRD-022", "9 is more than the 2 of 'b'"),
        (
            {"a": {"prune": {"of": "b", "dim": 28}}, "b": {"prune": {"of": "c", "dim": 24}}, "c": {}},
            "L3-HRD-022",
            "28 is more than the 24 of 'b'",
        ),
        ({"a": {"post_training": {"sft": {"teacher": {"path": "nowhere"}}}}}, "L3-CFG-052", "nowhere"),
        ({"a": {"data": {"filters": []}}}, "L3-CFG-010", "known here: audit, control, judge, model"),
        ({"a": {}, "a-evaluate": {}}, "L3-HRD-007", "'a-evaluate'"),
        ({"a": {}, "A": {}}, "L3-HRD-007", "'A'"),
        ({"a": {"pretrain": {"stepz": 3}}}, "", "steps"),
        ({"a": {"post_training": {"algorithm": "ppoo"}}}, "", "ppo"),
        ({"a": {"control": True}}, "", "name one"),
    ],
)
def test_what_sizes_cannot_be_is_refused_before_any_work(tmp_path, sizes, code, told):
    write_text(tmp_path / "text", documents=2)
    with pytest.raises(LlamaError) as refused:
        load_config(str(herd_config(tmp_path, sizes)))
    problems = [problem for problem in refused.value.problems if code in ("", problem.code)]
    assert problems, [problem.code for problem in refused.value.problems]
    assert any(told in str(problem) for problem in problems)
    assert any("small.yaml:" in problem.where and "sizes" in problem.where for problem in problems)


def test_all_that_is_wrong_with_sizes_is_told_at_once(tmp_path, capsys):
    write_text(tmp_path / "text", documents=2)
    sizes = {
        "big": {},
        "medium": {"pretrain": {"steps": -4, "stepz": 3}, "teacher": "bigg"},
        "small": {"judge": "big", "post_training": {"rounds": 1}},
    }
    code, _, told = call(capsys, "config", "validate", herd_config(tmp_path, sizes, rounds=2))
    assert code == 2
    assert [told.count(f"[{wanted}]") for wanted in ("L3-HRD-001", "L3-CFG-011", "L3-HRD-004")] == [1, 1, 1], told
    assert "sizes.medium: pretrain.stepz: unknown key" in told
    # What all sizes have from the rest of the config is told once, without a size.
    code, _, told = call(capsys, "config", "validate", herd_config(tmp_path, sizes, algorithm="ppoo"))
    assert (code, told.count("'ppoo'"), told.count("got -4")) == (2, 1, 1), told


def test_a_wrong_value_is_told_once_and_as_what_it_is(tmp_path):
    write_text(tmp_path / "text", documents=2)
    with pytest.raises(LlamaError) as refused:
        load_config(str(herd_config(tmp_path, rounds="three")))
    assert [problem.code for problem in refused.value.problems] == ["L3-CFG-011"]


@pytest.fixture
def other(herd, tmp_path):
    """A copy of the run, whose names a test may change."""
    _, run = herd
    shutil.copytree(run.path, tmp_path / "other", symlinks=True)
    return tmp_path / "other"


def call(capsys, *args):
    with pytest.raises(SystemExit) as done:
        main([*map(str, args)])
    told = capsys.readouterr()
    return done.value.code, told.out, told.err


def test_a_herd_stands_beside_a_run_of_one_model(herd, other, capsys):
    _, run = herd
    with RunDir(other) as single:
        made = single.current()
        single.name("evaluate-final", made["medium-evaluate-final"])
        for key in made:
            if "-evaluate-" in key:
                single.withdraw(key)
    code, out, err = call(capsys, "compare", run.path, other, "--json")
    assert code == 0, err
    assert json.loads(out)["models"] == [run.path.name, "other"]
    assert (
        json.loads(out)["suites"]["pass_rate"]["models"][run.path.name]["figure"]
        == (
            side_by_side({"a": run.artifacts["flagship-evaluate-final"]})["suites"]["pass_rate"]["models"]["a"][
                "figure"
            ]
        )
    )
    code, out, err = call(capsys, "compare", run.path, other, "--model", "small-final", "--model", "final", "--json")
    assert code == 0, err
    assert json.loads(out)["models"] == [f"{run.path.name} small-final", f"{run.path.name} final", "other final"]
    assert "other small-final: not measured, left out" in err
    code, _, err = call(capsys, "compare", run.path, other, "--model", "small-final")
    assert (code, "L3-EVL-091" in err) == (1, True)


def test_the_reward_models_of_each_size_are_judged_on_their_own(other, tmp_path, capsys):
    with RunDir(other) as run:
        made = run.current()
        run.name("medium-reward-1", made["flagship-reward-1"])
        run.name("small-alone-reward-2", made["flagship-reward-2"])
    pairs = tmp_path / "pairs.jsonl"
    row = {"prompt": "Say one.", "chosen": "alpha beta", "rejected": "gamma"}
    pairs.write_text("".join(json.dumps(row | {"chosen": f"alpha {n}"}) + "\n" for n in range(4)))
    code, out, err = call(capsys, "audit-reward", other, pairs, "--least-accuracy", 0, "--most-excess", 1, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert list(found["rewards"]) == ["flagship-reward-1-mean2", "flagship-reward-2-mean2", "medium-reward-1"]
    assert {name: row["to"] for name, row in found["drift"].items()} == {
        "flagship-reward-1-mean2": "flagship-reward-2-mean2"
    }
    code, _, err = call(capsys, "audit-reward", other, pairs, "--least-accuracy", 1)
    assert (code, "flagship-reward-2-mean2" in err, "medium-reward-1" in err) == (5, True, True)
    code, _, err = call(capsys, "audit-reward", other, pairs, "--set", "path=x")
    assert (code, "L3-RWA-014" in err) == (2, True)
    code, _, err = call(capsys, "audit-reward", tmp_path / "nowhere", pairs)
    assert (code, "L3-RWA-013" in err, "there is no such folder" in err) == (2, True, True)
    pairs.write_text(json.dumps({"prompt": "Say one.", "answer": "one"}) + "\n")
    code, _, err = call(capsys, "audit-reward", other, pairs)
    assert (code, "L3-RWA-004" in err, "columns are prompt, answer" in err) == (1, True, True)


def test_the_plan_of_a_herd_tells_each_size_and_the_sums(herd, capsys):
    config, run = herd
    code, out, err = call(capsys, "plan", config, "--no-probe", "--json")
    assert code == 0, err
    told = json.loads(out)
    sizes = run.report["herd"]["sizes"]
    assert list(told["sizes"]) == ["flagship", "small", "medium"]
    for name, found in told["sizes"].items():
        assert found["model"]["parameters"] == sizes[name]["parameters"]
        assert (found["herd"]["rounds"], found["herd"]["algorithm"]) == (2, sizes[name]["algorithm"])
        assert found["steps"] == run.artifacts[f"{name}-pretrain"].metrics["steps"]
    assert told["sum"]["steps"] == sum(found["steps"] for found in told["sizes"].values())
    assert told["sum"]["seconds"] == pytest.approx(sum(f["seconds"]["training"] for f in told["sizes"].values()))
    code, out, err = call(capsys, "plan", config, "--no-probe")
    assert code == 0, err
    (row,) = [line for line in out.splitlines() if line.startswith("small ")]
    assert "flagship, pruned" in row
    assert "teacher flagship, judge flagship (and a twin without)" in row
    assert any(line.startswith("sum ") for line in out.splitlines())


def test_the_cost_of_a_herd_is_that_of_its_first_size_and_says_where_the_others_are(herd, capsys):
    _, run = herd
    code, _, err = call(capsys, "cost", run.path, "--seconds", 0, "--batch", 1, "--context", 16)
    assert code == 0, err
    assert "this is the first size of a herd" in err
    for size in ("small", "medium"):
        assert str(run.path / "artifacts" / f"{size}-release") in err.replace("\n", "")
    assert "flagship-release" not in err


def test_the_mix_of_a_herd_is_told_of_each_size_from_the_artifacts_of_its_run(herd, other, capsys):
    config, run = herd
    args = ("data", "mix", config, "--set", "sizes.medium.pretrain.steps=5", "--out", other)
    code, out, err = call(capsys, *args, "--json")
    assert code == 0, err
    told = json.loads(out)["sizes"]
    assert list(told) == ["flagship", "small", "medium"]
    read = {name: sum(row["tokens"] for row in found["phases"]) for name, found in told.items()}
    assert read["small"] / read["medium"] == pytest.approx(2 / 5, rel=0.01)
    assert read["flagship"] > read["medium"]
    made = RunDir(other).current()
    assert not {"tokenizer", "shard"} & made.keys()
    assert {key: artifact.hash for key, artifact in made.items()} == {
        key: artifact.hash for key, artifact in RunDir(run.path).current().items()
    }
    code, out, err = call(capsys, *args)
    assert [line for line in out.splitlines() if line.endswith(":")] == ["flagship:", "small:", "medium:"], err


def test_the_first_size_of_a_herd_is_meant_where_no_training_is_named(herd, capsys):
    _, run = herd
    told = [call(capsys, "data", "audit", run.path, "--step", 1, "--json", *more)
            for more in ((), ("--stage", "flagship-pretrain"))]  # fmt: skip
    assert told[0][0] == 0, told[0][2]
    assert told[0] == told[1]
    code, _, err = call(capsys, "data", "skip", run.path, "--steps", "1")
    assert (code, "L3-DAT-245" in err) == (2, True), err
    code, _, err = call(capsys, "audit-reward", run.path)
    assert (code, "flagship-audit-1" in err) == (2, True), err
