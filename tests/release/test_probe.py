"""The probe: what lies beside exported weights notices another model, and leaves rounding its choice."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from model_files import CONFIG, logits_of, random_model

from llama3.inference.engine import Engine
from llama3.inference.sampling import Sampling
from llama3.model.config import ModelConfig
from llama3.release.probe import GREEDY_PROMPT, GREEDY_TOKENS, check_logps, check_probe, make_probe, write_probe


@pytest.fixture
def model():
    return random_model()


def logps_of(model, tokens_T):
    return logits_of(model, tokens_T).log_softmax(-1)


def test_the_greedy_tokens_are_the_engine_s(model, tmp_path):
    made = make_probe(model)
    prompt = made["tokens"][:GREEDY_PROMPT].numpy()
    ((answer,),) = Engine(model).generate([prompt], Sampling(GREEDY_TOKENS, temperature=0))
    assert made["greedy_ids"].tolist() == answer.ids
    write_probe(tmp_path, made)
    report = check_probe(tmp_path, model, 1e-3)
    assert report.passed
    assert report.same_tokens == report.tokens == GREEDY_TOKENS


def test_a_short_context_has_fewer_greedy_tokens():
    assert len(make_probe(random_model(ModelConfig(64, 1, 4, 2, 96, 160, max_seq_len=20)))["greedy_ids"]) == 4
    assert len(make_probe(random_model(ModelConfig(64, 1, 4, 2, 96, 160, max_seq_len=8)))["greedy_ids"]) == 0


def test_a_runtime_that_draws_another_token_is_noticed(model, tmp_path):
    write_probe(tmp_path, make_probe(model))

    def wrong_late(tokens_T):
        """Right on the probe, wrong at the end of what follows it greedily."""
        logps_TV = logps_of(model, tokens_T)
        if len(tokens_T) != len(make_probe(model)["tokens"]):
            logps_TV[-1] = logps_TV[-1].roll(1)
        return logps_TV

    report = check_logps(tmp_path, wrong_late, 1e-3, "another")
    assert report.runtime == "another"
    assert report.difference <= 1e-3
    assert report.same_tokens == report.tokens - 1
    assert not report.passed


def test_rounding_may_decide_between_two_equally_likely_tokens(model, tmp_path):
    write_probe(tmp_path, make_probe(model))
    greedy = make_probe(model)["greedy_ids"]

    def tied(tokens_T):
        logps_TV = logps_of(model, tokens_T)
        last = logps_TV[-1]
        if len(tokens_T) == GREEDY_PROMPT + len(greedy) - 1:
            other = int(last.topk(2).indices[1])
            last[other] = last[greedy[-1]] + 1e-4
        return logps_TV

    assert check_logps(tmp_path, tied, 1e-3).passed
    assert not check_logps(tmp_path, tied, 1e-5).passed


def test_other_weights_are_noticed(model, tmp_path):
    write_probe(tmp_path, make_probe(model))
    assert not check_probe(tmp_path, random_model(seed=1), 1e-3).passed
    assert np.isfinite(check_probe(tmp_path, random_model(CONFIG), 1e-3).difference)
    assert torch.equal(make_probe(model)["tokens"], make_probe(random_model(seed=1))["tokens"])
