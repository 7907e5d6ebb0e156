"""The oracle of answers: `transformers` beside our engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from llama3.inference import Llama, Sampling
from llama3.tokenizer import Message, render, stop_ids


def answers_as_transformers(folder: Path, questions: Sequence[str], max_tokens: int) -> list[list[int]]:
    """Our greedy answers, checked to be those of `transformers`, prompts and all.

    In float32 on both sides: the next tokens of a hardly trained model are closer than bfloat16 tells apart.
    """
    transformers = pytest.importorskip("transformers")
    ours, tokens = Llama.load(folder), transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    load = transformers.AutoModelForCausalLM.from_pretrained
    theirs = load(folder, trust_remote_code=False, dtype=torch.float32).eval()
    dialogs = [[{"role": "user", "content": question}] for question in questions]
    prompts = tokens.apply_chat_template(dialogs, add_generation_prompt=True)["input_ids"]
    rendered = [render(ours.tokenizer, [Message("user", asked)], generation_prompt=True).ids for asked in questions]
    assert prompts == [ids.tolist() for ids in rendered]
    sampling = Sampling(max_tokens, 0.0, stop_ids=stop_ids(ours.tokenizer))
    answers = [answer.ids for (answer,) in ours.engine.generate(prompts, sampling)]
    for prompt, answer in zip(prompts, answers, strict=True):
        wrote = theirs.generate(torch.tensor([prompt]), max_new_tokens=max_tokens, do_sample=False)[0, len(prompt) :]
        assert answer == wrote.tolist()
    return answers
