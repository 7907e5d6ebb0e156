"""A checkpoint to export, and what every runtime of a decoder step must do."""

from __future__ import annotations

import numpy as np
import torch
from model_files import logits_of, random_model

from llama3.checkpoints.weights import save_model
from llama3.inference.engine import Engine
from llama3.inference.sampling import Sampling
from llama3.model.config import ModelConfig
from llama3.release.decoder_step import empty_cache, step_inputs
from llama3.tokenizer import Tokenizer

TEXTS = [f"line {n}: the quick brown fox jumps over the lazy dog; 'tis {n * n} times" for n in range(100)]
CONFIG = ModelConfig(64, 2, 4, 2, 96, 320, max_seq_len=128)


def write_checkpoint(folder, config=CONFIG):
    """A random model with a tokenizer of 320 tokens in `folder`; the model."""
    model = random_model(config).requires_grad_(False)
    save_model(model, folder)
    Tokenizer.train(TEXTS, 320, 16).save(folder)
    return model


def assert_draws_the_engine_s_tokens(run, model):
    """Freely: each token after the runtime's own one before."""
    prompt = np.arange(3, 60, 5)
    ((answer,),) = Engine(model).generate([prompt], Sampling(max_tokens=40, temperature=0))
    cache, new, drawn = empty_cache(model.config, torch.float32), torch.from_numpy(prompt)[None], []
    while len(drawn) < 40:
        logits, *cache = run(step_inputs(new, cache))
        new = logits[:, -1].argmax(-1, keepdim=True)
        drawn.append(int(new))
    assert drawn == answer.ids


def assert_computes_many_sequences_at_once(run, model):
    rows = torch.arange(45).view(3, 15) * 11 % 320
    first, *cache = run(step_inputs(rows[:, :8], empty_cache(model.config, torch.float32, batch=3)))
    rest, *_ = run(step_inputs(rows[:, 8:], cache))
    for row, got in zip(rows, torch.cat([first, rest], 1), strict=True):
        torch.testing.assert_close(got, logits_of(model, row), atol=1e-4, rtol=1e-4)
