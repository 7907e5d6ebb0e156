"""Distillation by the algorithm of docs/plugins.md: the dense forward KL in value and gradient, a teacher that is asked
once, one that is refused, and the student's own answers in the place of given ones."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from test_plugins_docs import STEPS, write_entry_points
from tiny import put, put_checkpoint, tiny_model
from trl_oracle import total

from llama3.config.schema import OptimizerSection, SFTSection
from llama3.config.slot_types import Slot
from llama3.errors import ConfigError, PluginError
from llama3.model.score import score
from llama3.plugins.registry import discover
from llama3.posttraining.finetune import SFTOptions, sft
from llama3.scaffold.package import new_package
from llama3.tasks.rows import write_rows
from llama3.testing.toys import TOY_SAMPLING, ToyData, ToyGenerator, ToyScorer, ToyServices, toy_examples, toy_model
from llama3.tokenizer import Tokenizer
from llama3.training.loop import train
from llama3.training.microbatch import count_units
from llama3.training.placed import PlacedModel
from llama3.training.rollouts import Rollouts
from llama3.training.schedule import Schedule
from llama3_plugins.data_kinds.dialogs import Dialogs
from llama3_plugins.data_kinds.prompts import Prompts


@pytest.fixture(scope="module", autouse=True)
def package(tmp_path_factory):
    """The package of the page, installed."""
    site = tmp_path_factory.mktemp("site")
    new_package("distill", "algorithms", site)
    folder = site / "llama3-distill"
    for step in STEPS:
        if isinstance(step, tuple) and step[0].startswith(f"{folder.name}/"):
            (site / step[0]).write_text(step[1])
    write_entry_points(folder, site)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        patch.syspath_prepend(str(folder))
        discover.cache_clear()
        yield
    discover.cache_clear()


def distill(k: int):
    return discover().build("algorithms", "distill", {"k": k})


@pytest.mark.parametrize("k", [1, 5, 48])
def test_loss_and_gradient_are_those_of_the_dense_forward_kl(k):
    teacher, student, dense = toy_model(1), toy_model(0), toy_model(0)
    algorithm, batch = distill(k), Dialogs().collate(toy_examples("dialogs"))
    batch = algorithm.prepare(batch, SimpleNamespace(teacher=ToyScorer(teacher)))
    loss = total(algorithm.loss(score(student, batch, {"soft"}), batch), count_units(batch))

    log_probs = lambda model: model.logits(model.hidden(batch))[batch.source_M].log_softmax(-1)
    with torch.no_grad():
        p_MV = log_probs(teacher).exp()
        p_MV[p_MV < p_MV.topk(k).values[:, -1:]] = 0
        p_MV /= p_MV.sum(-1, keepdim=True)
    kl_MV = p_MV * (p_MV.clamp(min=1e-30).log() - log_probs(dense))
    expected = kl_MV.sum() / batch.num_targets
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    loss.backward()
    expected.backward()
    for name, parameter in student.named_parameters():
        if "head" not in name or name == "lm_head.weight":
            torch.testing.assert_close(parameter.grad, dense.get_parameter(name).grad, atol=1e-6, rtol=1e-4)


def test_a_student_learns_on_its_own_answers_without_a_reward():
    """On-policy distillation (Agarwal et al. 2023): rollouts that nobody rewards."""
    student = toy_model(0)
    rollouts = Rollouts(ToyGenerator(ToyScorer(student)), TOY_SAMPLING, None)
    section = OptimizerSection(lr=1e-2, warmup=0, precision="fp32", microbatch_tokens=64, log_every=20)
    losses = []

    def run(steps: int) -> None:
        progress = train(
            PlacedModel(student), distill(8), ToyData(toy_examples("prompts")),
            collate=Prompts().collate, options=section,
            schedule=Schedule.cosine(section.lr, 1.0, 0, steps), seed=0, want=frozenset({"soft"}),
            services=ToyServices(student), rollouts=rollouts,
        )  # fmt: skip
        losses.append(progress.metrics["loss"])
        assert "reward" not in progress.metrics
        assert progress.metrics["completions/mean_length"] > 0

    run(1)
    run(20)
    assert losses[1] < losses[0] / 2


@pytest.fixture
def stage(run, tokenizer):
    """Runs the stage `sft` with a teacher."""
    ask = lambda n: [{"role": "user", "content": f"{n} + 1"}, {"role": "assistant", "content": str(n + 1)}]
    rows = [{"id": str(n), "messages": ask(n)} for n in range(24)]
    dialogs = put(run, "dialogs", "dialogs", lambda folder: write_rows(folder / "dialogs.jsonl", rows))
    student = put_checkpoint(run, tiny_model(tokenizer, dim=32), tokenizer, "student")
    section = SFTSection(
        algorithm=Slot(name="distill", k=8), lr=3e-3, epochs=4, batch=8, precision="fp32", warmup=0, log_every=1
    )

    def execute(teacher, key="sft"):
        return run.execute(
            sft,
            {"checkpoint": student, "dialogs": dialogs, "teacher": teacher},
            SFTOptions(sft=section, seed=1),
            key=key,
        )

    return execute


def test_a_killed_run_asks_the_teacher_only_for_what_it_has_not_said(run, tokenizer, stage, monkeypatch):
    from llama3.training.placed import ModelScorer

    teacher = put_checkpoint(run, tiny_model(tokenizer, dim=64, seed=5), tokenizer, "teacher")
    whole = stage(teacher, "whole")
    top, asked = ModelScorer.top, []

    def dies(self, batch, k):
        asked.append(batch.num_trees)
        if len(asked) == 3:
            raise RuntimeError("killed")
        return top(self, batch, k)

    monkeypatch.setattr(ModelScorer, "top", dies)
    with pytest.raises(PluginError, match="killed"):
        stage(teacher, "resumed")
    assert stage(teacher, "resumed").hash == whole.hash
    assert asked == [8, 8, 8, 8], "three steps of an epoch; the third is asked for again"


def test_a_teacher_with_other_tokens_is_refused(run, stage):
    other = Tokenizer.train([str(n) for n in range(5000)], 300, 16)
    teacher = put_checkpoint(run, tiny_model(other), other, "teacher")
    with pytest.raises(ConfigError, match=r"another tokenizer.*L3-FIN-003"):
        stage(teacher)
