"""How the answers of a model move: distances against scipy, and what is compared with what."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llama3.errors import DataError
from llama3.model.batch import Batch
from llama3.model.score import score
from llama3.release.fidelity import Fidelity, Shift
from llama3.tasks.rewards import CombinedReward
from llama3.testing.toys import toy_llama

DIALOGS = [[{"role": "user", "content": f"What is {n} plus {n}?"}] for n in range(6)]
VALUES = st.lists(st.floats(-5, 5), min_size=1, max_size=12)


@given(VALUES, VALUES)
@settings(max_examples=60, deadline=None)
def test_distances_are_scipys(before, after):
    found = Shift.of(before, after)
    assert found.ks == pytest.approx(scipy.stats.ks_2samp(before, after, method="exact").statistic)
    assert found.wasserstein == pytest.approx(scipy.stats.wasserstein_distance(before, after), abs=1e-12)
    assert found.n == len(before)
    assert (found.before, found.after) == pytest.approx((np.mean(before), np.mean(after)))


def test_what_is_no_number_is_left_out():
    assert Shift.of([1.0, float("nan")], [2.0, 4.0]) == Shift(n=1, before=1.0, after=3.0, ks=1.0, wasserstein=2.0)


class Length:
    """Longer is better, and scores with the messages before it are noted."""

    def __init__(self):
        self.examples = []

    def score(self, prompts, answers, examples):
        self.examples += examples
        return [float(len(answer)) for answer in answers]


def test_a_model_is_as_far_from_itself_as_nothing():
    model = toy_llama()
    found = Fidelity(model, DIALOGS, max_tokens=8, seed=1, reward=CombinedReward({"length": Length()})).compare(model)
    assert found["top1_agreement"] == 1.0
    for figure in ("logp", "reward"):
        assert found[figure]["ks"] == found[figure]["wasserstein"] == 0.0
        assert found[figure]["before"] == found[figure]["after"]
        assert found[figure]["n"] == len(DIALOGS)


def test_both_models_say_how_likely_the_answers_of_the_first_are():
    model, other = toy_llama(), toy_llama(seed=5)
    found = Fidelity(model, DIALOGS, max_tokens=8, seed=1, reward=None).compare(other)
    assert found.keys() == {"logp", "top1_agreement"}
    assert found["top1_agreement"] < 1.0
    means = {"before": [], "after": []}
    answers = Fidelity(model, DIALOGS, max_tokens=8, seed=1, reward=None)
    for prompt, answer in zip(answers._prompts, answers._answers(model), strict=True):
        whole = np.concatenate([prompt, answer])
        for key, one in (("before", model), ("after", other)):
            with torch.no_grad():
                logps = score(one.transformer, Batch.of_documents(whole)).logps_M
            means[key].append(float(logps[-len(answer) :].mean()))
    for key, values in means.items():
        assert found["logp"][key] == pytest.approx(np.mean(values), abs=1e-5)


def test_a_reward_sees_each_models_own_answers_and_the_messages_before():
    reward = Length()
    system = [{"role": "system", "content": "Be brief."}]
    answers = Fidelity(toy_llama(), [system + DIALOGS[0]], max_tokens=8, seed=1, reward=CombinedReward({"l": reward}))
    assert answers.compare(toy_llama(seed=5))["reward"]["n"] == 1
    assert [list(example["context"]) for example in reward.examples] == [system, system]


def test_a_model_that_cannot_chat_goes_on_from_the_text(monkeypatch):
    model = toy_llama()
    monkeypatch.setitem(vars(model.tokenizer), "chat_template", None)
    answers = Fidelity(model, DIALOGS, max_tokens=4, seed=1, reward=None)
    assert answers._prompts[0].tolist() == model.tokenizer.encode("What is 0 plus 0?", bos=True).tolist()
    assert answers.compare(model)["top1_agreement"] == 1.0


def test_prompts_without_room_are_left_out_or_refused():
    model = toy_llama()
    long = [{"role": "user", "content": "word " * 600}]
    found = Fidelity(model, [long, DIALOGS[0]], max_tokens=8, seed=1, reward=None).compare(model)
    assert found["logp"]["n"] == 1
    with pytest.raises(DataError, match=r"none of 1 prompts leaves room.*L3-REL-008"):
        Fidelity(model, [long], max_tokens=8, seed=1, reward=None)
