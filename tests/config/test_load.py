"""Layers, origins, and the three passes."""

from __future__ import annotations

import pytest

from llama3.config import load
from llama3.config.schema import ParallelismSection
from llama3.errors import ConfigError, PluginError

pytestmark = pytest.mark.usefixtures("built_ins")


def refused(source, *overrides, **options):
    options.setdefault("environ", {})
    with pytest.raises((ConfigError, PluginError)) as caught:
        load(source, overrides, **options)
    return caught.value


def test_precedence_and_origins(write):
    file = write("extends: quickstart\npretrain: {steps: 7, batch: 3, seq_len: 32}\nmodel:\n  dim: 64\n")
    environ = {"LLAMA3__PRETRAIN__BATCH": "5", "LLAMA3__PRETRAIN__SEQ_LEN": "64"}
    loaded = load(file, ["pretrain.seq_len=128"], environ=environ)
    assert (loaded.config.pretrain.steps, loaded.config.pretrain.batch, loaded.config.pretrain.seq_len) == (7, 5, 128)
    assert loaded.config.run.name == "quickstart"
    assert str(loaded.origin("pretrain.steps")) == "run.yaml:2:12"
    assert str(loaded.origin("model.dim")) == "run.yaml:4:3"
    assert str(loaded.origin("pretrain.batch")) == "LLAMA3__PRETRAIN__BATCH"
    assert str(loaded.origin("pretrain.seq_len")) == "--set pretrain.seq_len=128"
    assert loaded.origin("run.name").kind == "preset"
    assert loaded.origin("run.name").where.startswith("quickstart.yaml:")
    assert loaded.origin("run.threads").kind == "default"
    assert loaded.origins_json()["pretrain.batch"] == {"kind": "env", "where": "LLAMA3__PRETRAIN__BATCH"}


def test_every_mistake_of_the_schema_at_once_with_place_and_near_names(write):
    file = write("pretrain:\n  stepz: 3\n  lr: fast\nmodle: {dim: 8}\nrun: {seed: -1}\n")
    text = str(refused(file, "pretrain.batch=0", "data.sauces=1"))
    assert "run.yaml:2:3: pretrain.stepz: unknown key. did you mean 'steps'?" in text
    assert "run.yaml:3:3: pretrain.lr: input should be a valid number" in text
    assert "run.yaml:4:1: modle: unknown key. did you mean 'model'" in text
    assert "run.yaml:5:7: run.seed: input should be greater than or equal to 0. got -1" in text
    assert "--set pretrain.batch=0: pretrain.batch: input should be greater" in text
    assert "--set data.sauces=1: data.sauces: unknown key. did you mean 'sources'?" in text
    assert len(text.splitlines()) == 6


def test_a_section_that_cannot_be_null_says_what_it_has(write):
    text = str(refused(write("data: {decontaminate: null}\npost_training: {audit: null}\n")))
    assert "data.decontaminate: this section cannot be null: leave it out, or give it of action, " in text
    assert len(text.splitlines()) == 1


def test_the_anneal_section_is_refused_with_the_phase_to_write(write):
    error = refused(write("pretrain:\n  anneal: {steps: 150, average_last: 2}\n"))
    assert "pretrain: the anneal is a phase like others: write `phases: [{}, {steps: 150," in str(error)
    assert error.exit_code == 2


def test_a_phase_has_steps_or_tokens(write):
    text = str(refused(write("pretrain:\n  phases:\n    - {steps: 3, tokens: 4096}\n")))
    assert "run.yaml:3:7: pretrain.phases.0: a phase has steps or tokens, not both" in text


def test_plugins_and_cross_checks_are_reported_together(write):
    file = write(
        "data:\n  sources:\n    - {name: files, pth: x}\ntokenizer: {vocab_size: 300, num_special: 100}\n"
        "post_training:\n  algorithm: {name: dpo, bta: 0.2}\n"
        "quantization: [int9]\n"
    )
    error = refused(file)
    text = str(error)
    assert isinstance(error, ConfigError)
    assert "run.yaml:3:21: data.sources.0.pth: unknown key. did you mean 'path'?" in text
    assert "run.yaml:6:26: post_training.algorithm.bta: unknown key. did you mean 'beta'?" in text
    assert "run.yaml:7:16: quantization.0: no plugin 'int9' in quantization. did you mean 'int8'?" in text
    assert "run.yaml:4:13: tokenizer.vocab_size: 300 is too small" in text


def test_an_unknown_plugin_alone_is_a_plugin_problem(write):
    error = refused(write("post_training: {algorithm: simpo}\n"))
    assert isinstance(error, PluginError)
    assert error.exit_code == 4
    assert "known: dpo, grpo, lost, next_token, ppo, process, reward_model, sft" in str(error)


def test_options_of_the_plugin_before_are_dropped_with_a_note(write):
    file = write("post_training:\n  algorithm: {name: dpo, beta: 0.3}\n")
    assert load(file, environ={}).config.post_training.algorithm.options == {"beta": 0.3}
    loaded = load(file, ["post_training.algorithm=grpo"], environ={})
    assert loaded.config.post_training.algorithm.options == {}
    (note,) = loaded.notes
    assert "post_training.algorithm is now 'grpo'; dropped beta, which belonged to 'dpo'" in note
    by_name = load(file, ["post_training.algorithm.name=grpo"], environ={})
    assert by_name.config.post_training.algorithm.options == {}
    assert len(by_name.notes) == 1


def test_options_merge_into_the_default_plugin_and_survive_the_same_name(write):
    loaded = load(write("post_training: {algorithm: {beta: 0.3}}\n"), environ={})
    assert loaded.config.post_training.algorithm.name == "dpo"
    again = load("run.yaml", ["post_training.algorithm=dpo"], environ={})
    assert again.config.post_training.algorithm.options == {"beta": 0.3}
    assert again.notes == ()


def test_the_size_of_an_axis_is_no_option_of_the_strategy(write):
    loaded = load(write("parallelism: {dp: {name: single, size: 2}}\n"), environ={})
    assert loaded.config.parallelism.dp.size == 2
    assert loaded.config.parallelism.dp.options == {}


def test_an_axis_is_a_name_a_size_or_both(write):
    file = write("parallelism: {tp: {name: megatron, size: 2}, pp: 1, dp: single}\n")
    loaded = load(file, environ={})
    assert loaded.config.parallelism.sizes(world=6) == {"tp": 2, "cp": 1, "pp": 1, "dp": 3}
    assert loaded.values["parallelism"]["pp"] == 1
    assert load(write(loaded.to_yaml()), environ={}).config == loaded.config
    other = load(write("parallelism: {tp: {name: megatron, size: 2}}\n"), ["parallelism.tp=4"], environ={})
    assert (other.config.parallelism.tp.name, other.config.parallelism.tp.size) == ("megatron", 4)


@pytest.mark.parametrize(("axis", "name"), [("tp", "tensor"), ("cp", "all_gather"), ("pp", "pipeline"), ("dp", "fsdp")])
def test_several_ranks_are_enough_to_name_a_strategy(axis, name):
    assert getattr(ParallelismSection.model_validate({axis: 2}), axis).name == name
    assert getattr(ParallelismSection.model_validate({axis: {"size": 2}}), axis).name == name
    assert getattr(ParallelismSection.model_validate({axis: 1}), axis).name == ""
    assert getattr(ParallelismSection.model_validate({axis: {"name": "acme", "size": 2}}), axis).name == "acme"


def test_workers_that_draw_answers_go_with_whole_models_on_the_cpu(write):
    """Every problem at once, before anything is loaded."""
    apart = "post_training: {rollouts: {where: processes}}\n"
    file = write(f"{apart}parallelism: {{tp: {{name: megatron, size: 2}}}}\nrun: {{device: cuda}}\n")
    told = str(refused(file))
    assert all(part in told for part in ("with tp: 2", "on cuda", "L3-ROL-001", "L3-ROL-002"))
    assert load(file, ["post_training.rollouts.where=here"], environ={}).config.post_training.rollouts.workers == 2
    assert load(write(f"{apart}parallelism: {{dp: {{name: single, size: 2}}}}\n"), environ={})


def test_without_ray_its_extra_is_named(write, monkeypatch):
    monkeypatch.setattr("llama3.config.rollouts.find_spec", lambda name: None)
    assert "llama3[ray]" in str(refused(write("post_training: {rollouts: {where: ray}}\n")))


def test_set_reaches_into_lists_and_free_mappings(write):
    file = write("data: {sources: [{name: files, path: a}, stdlib], mix: {files: 1}}\n")
    loaded = load(file, ["data.sources.0.path=b", "data.mix.prose=2", "data.sources.1.path=c"], environ={})
    assert [slot.options for slot in loaded.config.data.sources] == [{"path": "b"}, {"path": "c"}]
    assert loaded.config.data.mix == {"files": 1, "prose": 2}
    assert str(loaded.origin("data.sources[0].path")) == "--set data.sources.0.path=b"
    assert "has no item 7" in str(refused(file, "data.sources.7.path=b"))


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("steps", "not an override"),
        ("=3", "not an override"),
        ("a..b=3", "not an override"),
        ("run.seed.deep=3", "run.seed is a value, not a section"),
        ("run.seed=[1", "not valid YAML"),
        ("run.seed=1: 2", "run.seed"),
    ],
)
def test_bad_overrides(override, text):
    error = refused("quickstart", override)
    assert text in str(error)
    assert f"--set {override}" in str(error)


def test_lists_and_free_mappings_are_replaced_sections_merge(write):
    file = write("data: {sources: [files], mix: {files: 1}}\nevaluation: {tasks: [pass_rate]}\n")
    loaded = load(file, ["data.mix={}"], environ={})
    assert loaded.config.data.mix == {}
    assert [slot.name for slot in loaded.config.evaluation.tasks] == ["pass_rate"]
    assert loaded.config.evaluation.limit == 400


def test_extends_names_a_file_seen_from_the_one_that_says_so(write, tmp_path):
    (tmp_path / "team").mkdir()
    write("extends: ./base.yaml\npretrain: {lr: 0.5}\n", "team/mine.yaml")
    assert "team/mine.yaml:1:1: cannot extend ./base.yaml. there is no file team/base.yaml" in str(
        refused("team/mine.yaml")
    )
    write("pretrain: {steps: 7, lr: 0.1}\nrun: {name: ours}\n", "team/base.yaml")
    loaded = load("team/mine.yaml", environ={})
    assert (loaded.config.pretrain.steps, loaded.config.pretrain.lr) == (7, 0.5)
    assert loaded.place("run.name") == "team/base.yaml:2:7: run.name"
    assert load({"extends": "team/base.yaml"}, environ={}).config.run.name == "ours"
    assert load("quickstart", ["extends=team/base.yaml"], environ={}).config.run.name == "quickstart"
    write("pretrain: {stepz: 7}\n", "team/base.yaml")
    assert "team/base.yaml:1:12: pretrain.stepz" in str(refused("team/mine.yaml"))
    write("extends: quickstart\npretrain: {batch: 3}\n", "team/base.yaml")
    below = load("team/mine.yaml", environ={}).config
    assert (below.run.name, below.pretrain.batch, below.pretrain.lr) == ("quickstart", 3, 0.5)
    write("extends: lowest.yaml\n", "team/base.yaml")
    write("extends: quickstart\n", "team/lowest.yaml")
    assert "'lowest.yaml' extends another one" in str(refused("team/mine.yaml"))


def test_a_run_goes_on_in_its_own_folder(write, tmp_path, monkeypatch):
    (tmp_path / "runs" / "old").mkdir(parents=True)
    write("run: {name: old, dir: runs}\n", "runs/old/config.yaml")
    write("{}", "runs/old/origin.json")

    def run_of(source, *sets, environ=None):
        run = load(source, list(sets), environ=environ or {}).config.run
        return run.dir, run.name

    assert run_of("runs/old") == ("runs", "old")
    (tmp_path / "runs" / "old").rename(tmp_path / "runs" / "new")
    assert run_of("runs/new") == run_of("runs/new/") == ("runs", "new")
    assert load("runs/new", environ={}).place("run.name") == "runs/new: run.name"
    assert run_of("runs/new", "run.name=other") == ("runs", "other")
    assert run_of("runs/new", environ={"LLAMA3__RUN__DIR": "elsewhere"}) == ("elsewhere", "new")
    assert run_of("runs/new/config.yaml") == ("runs", "old")  # a config, from which another run may begin
    monkeypatch.chdir(tmp_path / "runs" / "new")
    assert run_of(".") == (str(tmp_path / "runs"), "new")
    assert run_of("../new") == ("..", "new")


def test_the_effective_config_loads_back_equal(write):
    loaded = load("quickstart", ["pretrain.lr=5e-7", "run.name='5e-7'", "post_training.algorithm=grpo"], environ={})
    again = load(write(loaded.to_yaml()), environ={})
    assert again.values == loaded.values
    assert again.config.run.name == "5e-7"


def test_run_directories_and_mappings_load_too(tmp_path):
    (tmp_path / "config.yaml").write_text("pretrain: {steps: 3}\n")
    assert load(tmp_path, environ={}).config.pretrain.steps == 3
    loaded = load({"pretrain": {"steps": 4}}, environ={})
    assert loaded.config.pretrain.steps == 4
    assert loaded.origin("pretrain.steps").kind == "python"
    assert "config: pretrain.stepz" in str(refused({"pretrain": {"stepz": 4}}))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"run: \xff\n", "run.yaml:1: cannot read the config. not UTF-8"),
        (b"- 1\n", "run.yaml:1:1: expected sections, got list"),
        (b"hello\n", "run.yaml:1:1: expected sections, got str"),
        (b"#" * 1_000_001, "larger than 1 MB"),
        (b"", "nothing in it"),
    ],
)
def test_files_that_are_no_configs(write, tmp_path, content, text):
    write("")
    (tmp_path / "run.yaml").write_bytes(content)
    assert text in str(refused("run.yaml"))


def test_missing_files_and_presets(write):
    assert "no preset 'quikstart'. did you mean 'quickstart'?" in str(refused("quikstart"))
    assert "nowhere.yaml: cannot read the config. No such file" in str(refused("nowhere.yaml"))
    assert "run.yaml:1:1: no preset 'quikstart'" in str(refused(write("extends: quikstart\n")))


def test_extends_goes_one_level(write, site, built_ins):
    package = site.path / "acme_presets"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "small.yaml").write_text("# A smaller one.\nextends: quickstart\n")
    (package / "flat.yaml").write_text("pretrain: {steps: 9}\n")
    site.add(
        "acme",
        "from llama3.plugins import PresetSpec, hookimpl\n@hookimpl\n"
        "def llama3_presets(): return [PresetSpec(name='acme', factory='acme_presets')]\n",
    )
    built_ins()
    assert load("acme:small", environ={}).config.run.name == "quickstart"
    assert load(write("extends: acme:flat\n"), environ={}).config.pretrain.steps == 9
    assert "'acme:small' extends another one" in str(refused(write("extends: acme:small\n")))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "post_training: {algorithm: reward_model}",
            "'reward_model' needs a score head, which this stage does not supply. Fix: choose one of dpo, grpo, "
            "ppo, process; 'reward_model' belongs to `post_training: {reward: {algorithm: reward_model}}`",
        ),
        ("post_training: {reward: {algorithm: sft}}", "'sft' learns from dialogs, this stage has labels or pairs"),
        ("post_training: {algorithm: grpo, rewards: []}", "add `post_training: {rewards: [verifiable]}`"),
        (
            "post_training: {algorithm: ppo, rewards: [words]}",
            "'ppo' needs prompts, and words has none of its own. Fix: add `post_training: {rewards: [verifiable]}` or "
            "`post_training: {data: prompts.jsonl}`",
        ),
        (
            "post_training: {algorithm: sft}",
            "choose one of dpo, grpo, ppo, process; 'sft' belongs to `post_training: {sft: {algorithm: sft}}`",
        ),
        (
            "post_training: {algorithm: sft}",
            "'sft' learns from dialogs, this stage has labels or pairs or prompts or steps",
        ),
        ("post_training: {sft: {algorithm: dpo}}", "'dpo' learns from pairs, this stage has dialogs"),
        ("pretrain: {algorithm: dpo}", "'dpo' learns from pairs, this stage has tokens. Fix: choose one of next_token"),
        (
            "post_training: {reward: {algorithm: dpo}}",
            "'dpo' makes no model that a reward scores with",
        ),
        (
            "post_training: {algorithm: process}",
            "'process' learns from steps, which no round makes. Fix: add `post_training: {data: steps.jsonl}`",
        ),
        (
            "post_training: {algorithm: lost}",
            "'lost' learns from 'step', a kind of data that no plugin brings. did you mean 'steps'?",
        ),
        ("post_training: {average: [0, 0]}", "no weights of the sft and the preference checkpoint"),
        ("parallelism: {tp: 2}", "parallelism.tp: no plugin 'tensor'"),
        ("parallelism: {dp: megatron}", "'megatron' is a strategy for tp, not dp"),
        ("parallelism: {cp: {name: megatron, size: 2}}", "'megatron' is a strategy for tp, not cp"),
        ("safety: {policy: {output: prompt_injection}}", "does not stand at 'output'"),
        (
            "post_training: {safety: {violates: {guard: prompt_injection}}}",
            "post_training.safety.violates.guard: guard 'prompt_injection' does not stand at 'output'. Fix: move it to "
            "input, or name a guard that stands at 'output'",
        ),
        ("safety: {policy: {input: {any: [no_guard]}}}", "safety.policy.input.any.0: no plugin 'no_guard'"),
        (
            "safety: {policy: {input: {guard: {name: prompt_injection, treshold: 1}}}}",
            "safety.policy.input.guard.treshold: unknown key. did you mean 'threshold'?",
        ),
        ("run: {device: cpu}\nquantization: [fp8]", "'fp8' does not run on cpu"),
        ("data: {sources: [files], mix: {files: -1}}", "a weight cannot be -1"),
        ("data: {sources: [files], mix: {files: 0}}", "all weights are 0"),
        (
            "pretrain: {phases: [{mix: {nope: 1}}]}",
            "pretrain.phases.0.mix.nope: no source has the label 'nope'. labels: prose, python",
        ),
        (
            "model: {max_seq_len: 512}\npretrain: {phases: [{}, {seq_len: 1024}]}",
            "run.yaml:2:26: pretrain.phases.1.seq_len: rows of 1024 tokens are longer than model.max_seq_len = 512",
        ),
        (
            "pretrain: {phases: [{}, {seq_len: 513}]}",
            "pretrain.phases.1: rows of 512, 513 tokens together fill only windows of 262656",
        ),
        ("pretrain: {phases: [{average_last: 2}, {}]}", "only the last phase ends in a mean of checkpoints"),
        (
            "pretrain: {phases: [{final_lr: 0}, {schedule: linear}]}",
            "pretrain.phases.1: the learning rate has reached 0 before this phase. Fix: give the phase an lr",
        ),
        ("tokenizer: {vocab_size: 300, num_special: 100}", "300 is too small"),
        ("evaluation: {tasks: [pass_rate, pass_rate]}", "the suite 'pass_rate' is there twice"),
        ("audit: {margins: {pas_rate: 0.1}}", "no suite 'pas_rate' is evaluated. did you mean 'pass_rate'?"),
        ("audit: {must_improve: [nothing]}", "suites of evaluation.tasks: bits_per_byte, pass_rate"),
        ("model: {max_seq_len: 16}", "rows of 512 tokens are longer than model.max_seq_len = 16"),
    ],
)
def test_cross_checks(write, text, expected):
    error = refused(write(text))
    assert expected in str(error)
    assert "run.yaml:" in str(error) or "default" in str(error)


def test_one_evaluator_stands_twice_under_two_names(write):
    text = "evaluation: {tasks: [pass_rate, {name: pass_rate, suite: others}]}\naudit: {must_improve: [others]}\n"
    tasks = load(write(text), environ={}).config.evaluation.tasks
    assert [(slot.name, slot.label, slot.options) for slot in tasks] == [
        ("pass_rate", "pass_rate", {}),
        ("pass_rate", "others", {}),
    ]


def test_a_source_is_mixed_under_its_label(write):
    loaded = load(
        write("data: {sources: [{name: files, source: books}, stdlib], mix: {books: 1, prose: 2}}\n"), environ={}
    )
    assert loaded.config.data.mix == {"books": 1, "prose": 2}


@pytest.mark.parametrize(("size", "world", "fits"), [(2, 2, True), (2, 4, False), ("null", 4, True), (1, 2, False)])
def test_the_mesh_uses_exactly_the_processes_that_were_started(write, size, world, fits):
    file = write(f"parallelism: {{dp: {{name: single, size: {size}}}}}\n")
    environ = {"WORLD_SIZE": str(world)}
    if fits:
        assert load(file, environ=environ)
    else:
        assert f"there are {world}" in str(refused(file, environ=environ))


@pytest.mark.parametrize(
    ("sizes", "world", "axis"),
    [
        ("tp: {name: megatron, size: 8}", 4, "tp"),
        ("tp: {name: megatron, size: 2}, cp: {name: single, size: 3}", 4, "cp"),
        ("tp: {name: megatron, size: 2}, pp: {name: single, size: 4}", 6, "pp"),
        ("tp: {name: megatron, size: 2}, dp: {name: single, size: 3}", 4, "dp"),
        ("tp: {name: megatron, size: 2}, dp: {name: single, size: 2}", 8, "dp"),
    ],
)
def test_the_axis_that_does_not_fit_is_named(write, sizes, world, axis):
    error = refused(write(f"parallelism: {{{sizes}}}\n"), environ={"WORLD_SIZE": str(world)})
    (problem,) = [problem for problem in error.problems if problem.code == "L3-CFG-025"]
    assert f": parallelism.{axis}" in problem.where
    assert problem.fix.endswith(f"or another size of {axis}")


MIXED_UP = """
model: {preset: tiny, max_seq_len: 16}
pretrain: {seq_len: 64, algorithm: dpo, phases: [{mix: {nope: 1, python: -1}}]}
post_training: {algorithm: ppo, rewards: []}
tokenizer: {vocab_size: 300, num_special: 100}
audit: {must_improve: [nothing]}
safety: {policy: {output: {guard: prompt_injection}}}
parallelism: {tp: {name: single, size: 2}}
quantization: [fp8]
"""
CROSSED = {
    "L3-CFG-020": {"pretrain"},
    "L3-CFG-021": {"post_training"},
    "L3-CFG-024": {"parallelism"},
    "L3-CFG-026": {"safety"},
    "L3-CFG-027": {"quantization", "run"},
    "L3-CFG-028": {"pretrain", "data"},
    "L3-CFG-029": {"pretrain"},
    "L3-CFG-030": {"tokenizer"},
    "L3-CFG-031": {"pretrain", "model"},
    "L3-CFG-043": {"pretrain"},
    "L3-CFG-061": {"audit", "evaluation"},
}
"""What is wrong with it: codes, and the sections that each check reads."""


@pytest.mark.parametrize(
    "wrong",
    ["", "pretrain.steps=few", "model.dim=wide", "tokenizer.num_special=-1", "data.sauces=1", "evaluation.limit=all",
     "run.seed=1e300", "run=", "quantization=5", "pretrain.phases.7.steps=3", "post_training.rounds=-2"],
)  # fmt: skip
def test_what_is_wrong_in_a_section_hides_no_check_of_others(write, wrong):
    error = refused(write(MIXED_UP), "run.device=cpu", *([wrong] if wrong else []))
    codes = [problem.code for problem in error.problems]
    section = wrong.partition(".")[0].partition("=")[0]
    assert set(codes) & CROSSED.keys() == {code for code, read in CROSSED.items() if section not in read}
    assert len(codes) == len(set(codes)), "each once"
    assert bool(set(codes) - CROSSED.keys()) == bool(wrong)


def test_a_misspelt_section_and_variable_hide_what_they_may_stand_for(write):
    text = str(
        refused(write(MIXED_UP + "modle: {max_seq_len: 128}\n"), environ={"LLAMA3_TOKENIZER__VOCAB_SIZE": "999"})
    )
    assert "L3-CFG-031" not in text
    assert "L3-CFG-030" not in text
    assert "L3-CFG-020" in text
    text = str(refused(write(MIXED_UP), "vocab_size"))
    assert "L3-CFG-005" in text
    assert "L3-CFG-020" not in text, "nobody knows what the override was for"


def test_further_checks_are_reported_with_the_last_pass(write):
    from llama3.errors import Problem

    file = write("data: {sources: [files], mix: {nope: 1}}\n")
    error = refused(file, checks=[lambda loaded: [Problem("L3-CFG-099", loaded.place("run.seed"), "extra")]])
    assert [problem.code for problem in error.problems] == ["L3-CFG-028", "L3-CFG-099"]


@pytest.mark.parametrize(("overrides", "environ"), [(["pretrain.steps=7"], {}), ([], {"LLAMA3__PRETRAIN__STEPS": "7"})])
def test_steps_that_reach_only_some_phases_are_told_of(write, overrides, environ):
    loaded = load(write("pretrain: {phases: [{}, {steps: 150}, {tokens: 4096}]}\n"), overrides, environ=environ)
    (told,) = loaded.notes
    assert "pretrain.steps is not the length of pretrain.phases.1, pretrain.phases.2" in told
    assert loaded.config.pretrain.steps == 7
    assert load(write("pretrain: {phases: [{}, {lr: 1.0e-4}]}\n"), overrides, environ=environ).notes == ()
    assert load(write("pretrain: {steps: 7, phases: [{}, {steps: 150}]}\n"), environ={}).notes == ()


def test_steps_of_a_file_that_are_the_length_of_no_phase_are_told_of(write):
    (told,) = load(write("pretrain: {steps: 10, phases: [{steps: 3}, {steps: 4}]}\n"), environ={}).notes
    assert told == "run.yaml:1:12: pretrain.steps is 10, every phase has its own length: 7 steps are trained"
    assert load(write("pretrain: {steps: 7, phases: [{steps: 3}, {steps: 4}]}\n"), environ={}).notes == ()
    assert load(write("pretrain: {phases: [{steps: 3}, {steps: 4}]}\n"), environ={}).notes == ()
