"""Phases that make the context longer: what they are, which rows they read, and that a run goes on within them."""

from __future__ import annotations

import os
import signal

import pytest
from forked import run_ranks
from hypothesis import given
from hypothesis import strategies as st
from test_pretrain import config, make_shards, make_tokenizer

from llama3.artifacts import StageOutput
from llama3.artifacts.run import RunDir
from llama3.checkpoints.load import read_config
from llama3.config import load
from llama3.config.phases import parts_of, phases_of, start_of, window_of
from llama3.config.schema import PretrainSection
from llama3.data.plan import TokenPlan
from llama3.errors import ConfigError, Interrupted
from llama3.model.build import init_weights
from llama3.model.config import ModelConfig
from llama3.model.transformer import Transformer
from llama3.preflight import load_config, ready
from llama3.testing.toys import toy_tokenizer
from llama3.training.placed import PlacedModel
from llama3.training.pretrain import PartOptions, PretrainOptions, TokenDataset, pretrain
from llama3.training.schedule import Schedule
from llama3.training.stage import save_checkpoint

K = 1024


def section(*phases: dict, **changes) -> PretrainSection:
    plain = {"steps": 10, "batch": 8, "seq_len": 8 * K, "lr": 1.0, "final_lr": 0.1, "warmup": 2}
    return PretrainSection.model_validate({**plain, **changes, "phases": list(phases)})


STAGES = {"tokens": 6_000_000, "extend": {"to": 128 * K}}
ANNEAL = {"tokens": 1_000_000, "schedule": "linear", "final_lr": 0, "average_last": 2}


def test_six_stages_to_128k_each_with_its_scaling_and_its_share_of_the_tokens():
    phases = phases_of(section({}, STAGES, ANNEAL))
    assert [phase.seq_len // K for phase in phases] == [8, 12, 24, 32, 48, 96, 128, 128]
    stages = phases[1:-1]
    assert all(phase.given.gated and phase.opens_part for phase in stages)
    assert [phase.given.rope_scaling.factor for phase in stages] == [1.5, 3, 4, 6, 12, 16]
    assert {phase.given.rope_scaling.original_max_position for phase in stages} == {8 * K}
    for phase in stages:
        assert 0 <= phase.steps * phase.batch * phase.seq_len - 1_000_000 < phase.batch * phase.seq_len
    assert {phase.batch * phase.seq_len for phase in (phases[0], *stages)} <= {64 * K, 60 * K, 48 * K, 96 * K, 128 * K}
    assert phases[-1].opens_part, "the optimizer of a stage is not that of the anneal"
    assert not phases[-1].given.gated


def test_the_lengths_of_the_stages_can_be_given_or_written_out():
    given = section({}, {"steps": 4, "extend": {"to": 32 * K, "lengths": [16 * K, 32 * K]}})
    assert [(phase.seq_len, phase.steps, phase.batch) for phase in phases_of(given)[1:]] == [
        (16 * K, 2, 4),
        (32 * K, 2, 2),
    ]
    out = section({}, {"seq_len": 16 * K, "rope_theta": 1e6, "gated": True}, {"seq_len": 32 * K, "rope_theta": 4e6})
    phases = phases_of(out)
    assert [phase.given.gated for phase in phases] == [False, True, False]
    assert [phase.batch for phase in phases] == [8, 4, 2]
    assert [len(part) for part in parts_of(out)] == [1, 1, 1]
    own = section({}, {"extend": {"to": 16 * K, "stages": 1}, "rope_theta": 3e6})
    assert (phases_of(own)[1].given.rope_theta, phases_of(own)[1].given.rope_scaling) == (3e6, None)


@given(start=st.integers(16, 500), times=st.floats(1.2, 40), stages=st.integers(1, 9))
def test_stages_rise_to_the_end_and_are_no_more_than_asked_for(start, times, stages):
    to = max(start + 1, round(start * times))
    phases = phases_of(section({}, {"extend": {"to": to, "stages": stages}}, seq_len=start))
    lengths = [phase.seq_len for phase in phases]
    assert lengths == sorted(set(lengths))
    assert (lengths[0], lengths[-1]) == (start, to)
    assert 1 <= len(lengths) - 1 <= stages


def test_what_is_spelt_out_says_the_same():
    written = section({"batch": 4}, STAGES, ANNEAL)
    phases = phases_of(written)
    again = phases_of(written.model_copy(update={"phases": [phase.spelt_out for phase in phases]}))
    seen = [(p.first_step, p.steps, p.first_row, p.batch, p.seq_len, p.opens_part, p.starts_curve) for p in phases]
    assert [
        (p.first_step, p.steps, p.first_row, p.batch, p.seq_len, p.opens_part, p.starts_curve) for p in again
    ] == seen


def test_a_stage_warms_up_from_0_and_holds_its_rate_and_the_anneal_ends_at_0():
    schedule = Schedule.of(section({}, {"steps": 8, "extend": {"to": 16 * K, "stages": 1}, "lr": 0.5}, ANNEAL))
    rates = [schedule.lr(step) for step in range(schedule.total)]
    assert rates[9] == pytest.approx(0.1)
    assert rates[10:18] == [0.25, *[0.5] * 7]
    assert rates[18] == pytest.approx(0.5, rel=0.1)
    assert rates[-1] == 0.0
    late = schedule.since(12)
    assert [late.lr(step) for step in range(late.total)] == rates[12:]


@pytest.mark.parametrize(
    ("phases", "said"),
    [
        ([{"extend": {"to": 1024}}], "no model yet.*L3-CTX-001"),
        ([{}, {"extend": {"to": 64}}], r"contexts 64 do not rise from 512.*L3-CTX-002"),
        ([{}, {"extend": {"to": 2048, "lengths": [1024, 1024]}}], "do not rise.*L3-CTX-002"),
        ([{}, {"extend": {"to": 2048, "lengths": [1024]}}], "do not rise.*L3-CTX-002"),
        ([{}, {"extend": {"to": 1024}, "seq_len": 64}], "says how long the rows are"),
        ([{}, {"extend": {"to": 1024}, "average_last": 2}], "ends in no mean"),
        (
            [{"seq_len": 499}, {"seq_len": 512}],
            r"rows of 499, 512 tokens together fill only windows of 255488.*L3-CFG-037",
        ),
        ([{}, {"seq_len": 2048}], "longer than model.max_seq_len = 1024.*L3-CFG-031"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(phases, said):
    with pytest.raises(ConfigError, match=said):
        load({"model": {"max_seq_len": 1024}, "pretrain": {"phases": phases}})


def test_stages_that_do_not_fit_the_base_are_refused():
    stages = {"pretrain": {"phases": [{}, {"extend": {"to": 1 << 20}}]}}
    with pytest.raises(ConfigError, match=r"already, by 8.0.*L3-CTX-004"):
        load_config(stages | {"model": {"preset": "llama-3.1-8b"}})
    stages["pretrain"]["phases"][1]["rope_theta"] = 8e6
    load_config(stages | {"model": {"preset": "llama-3.1-8b"}})
    stages["pretrain"]["seq_len"] = 2048
    with pytest.raises(ConfigError, match=r"begin at rows of 2048 tokens, the base is made for 1024.*L3-CTX-003"):
        load_config(stages)
    assert start_of(section({"seq_len": 64}, STAGES), 1) == 64


def test_stages_that_do_not_fit_an_adopted_base_are_refused_before_work(tmp_path):
    shape = ModelConfig(16, 1, 2, 1, 32, toy_tokenizer().vocab_size, tied=True, max_seq_len=256)
    save_checkpoint(tmp_path, PlacedModel(init_weights(Transformer(shape), 1)), toy_tokenizer(), {})
    given = {"model": {"path": str(tmp_path)}, "pretrain": {"phases": [{}, {"extend": {"to": 2048}}]}}
    with pytest.raises(ConfigError, match=r"begin at rows of 512 tokens, the base is made for 256.*L3-CTX-003"):
        ready(load_config(given))
    ready(load_config(given, ["pretrain.seq_len=256"]))


# -- the stage --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    run = RunDir(tmp_path_factory.mktemp("inputs"))
    tokenizer = run.execute(make_tokenizer, {})
    return {"tokenizer": tokenizer, "shards": run.execute(make_shards, {"tokenizer": tokenizer})}


LONGER = [
    {"steps": 3},
    {"steps": 4, "extend": {"to": 96, "stages": 2, "lengths": [48, 96]}},
    {"steps": 2, "schedule": "linear", "final_lr": 0, "average_last": 2},
]


def staged():
    return config(seq_len=32, phases=LONGER, checkpoint_every=1)


def part(number: int) -> PretrainOptions:
    """The options of part 1, 2 (the stages) or 3 (the anneal)."""
    parts = parts_of(staged().pretrain)
    phases = [phase.spelt_out for part in parts[: number + 1] for phase in part]
    window = window_of([phase for part in parts[1:] for phase in part])
    return PretrainOptions.of_part(staged(), phases, PartOptions(reads=1, trains=number, window=window))


def test_parts_go_on_from_each_other_and_the_context_grows(inputs, tmp_path):
    run = RunDir(tmp_path)
    made = run.execute(pretrain, inputs, PretrainOptions.of(staged()))
    assert (made.metrics["steps"], read_config(made.path).rope_scaling) == (3, None)
    for number, (context, steps) in enumerate([(1024, 2), (1024, 2), (1024, 2)], start=1):
        made = run.execute(pretrain, {**inputs, "checkpoint": made}, part(number), key=f"part-{number}")
        found = read_config(made.path)
        assert (made.metrics["steps"], found.max_seq_len) == (steps, context)
        assert found.rope_scaling.factor == (1.5 if number == 1 else 3.0)
        assert made.metrics["tokens"] == steps * (128 // (48 if number == 1 else 96)) * (48 if number == 1 else 96)
    assert made.metrics["lr"] == 0.0


def test_a_stage_that_is_stopped_goes_on_to_the_same_artifact(inputs, tmp_path, monkeypatch):
    run, read = RunDir(tmp_path), TokenDataset.examples
    base = run.execute(pretrain, inputs, PretrainOptions.of(staged()))
    first = run.execute(pretrain, {**inputs, "checkpoint": base}, part(1), key="part-1")
    whole = run.execute(pretrain, {**inputs, "checkpoint": first}, part(2), key="part-2")

    def examples(self, step):
        if step == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return read(self, step)

    again = RunDir(tmp_path / "again")
    with monkeypatch.context() as patch:
        patch.setattr(TokenDataset, "examples", examples)
        with pytest.raises(Interrupted, match="stopped after step 1 of 2"):
            again.execute(pretrain, {**inputs, "checkpoint": first}, part(2), key="part-2")
    assert again.execute(pretrain, {**inputs, "checkpoint": first}, part(2), key="part-2").hash == whole.hash


def test_parts_read_one_stream_whoever_shares_it(inputs):
    """The rows of all parts are those of one loader over all of their phases, on any number of ranks."""
    parts = parts_of(staged().pretrain)
    stream = [phase for part in parts[1:] for phase in part]
    rows = phases_of(staged().pretrain.model_copy(update={"phases": [phase.spelt_out for phase in stream]}))
    plan, window = TokenPlan.load(inputs["shards"].path), window_of(stream)
    whole = TokenDataset(plan, rows, 1, window=window)
    for number in range(3):
        own = TokenDataset(plan, rows[: number + 1], 1, first_step=rows[number].first_step, window=window)
        for step in range(rows[number].steps):
            got, wanted = own.examples(step), whole.examples(rows[number].first_step + step)
            assert [b.tokens_T.tolist() for b in got] == [b.tokens_T.tolist() for b in wanted]
            assert [b.tokens_T.tolist() for r in range(2) for b in got[r::2]] == [
                b.tokens_T.tolist() for r in range(2) for b in wanted[r::2]
            ]


def trained(inputs, folder) -> dict[str, float]:
    """What the first stage comes to in this process, alone or as one of several."""
    out = StageOutput(folder / "made", folder / "scratch")
    for path in (out.path, out.scratch):
        path.mkdir(parents=True, exist_ok=True)
    pretrain.run(inputs, part(1), out)
    return {name: float(out.metrics[name]) for name in ("loss", "steps", "tokens", "context")}


def test_two_ranks_share_a_stage_and_come_to_the_same(inputs, tmp_path):
    base = RunDir(tmp_path / "base").execute(pretrain, inputs, PretrainOptions.of(staged()))
    given = {**inputs, "checkpoint": base}
    one = trained(given, tmp_path / "one")
    for many in run_ranks(tmp_path / "ranks", 2, trained, given, tmp_path / "two"):
        assert many == pytest.approx(one, rel=1e-5)
    assert read_config(tmp_path / "two" / "made").rope_scaling.factor == 1.5
