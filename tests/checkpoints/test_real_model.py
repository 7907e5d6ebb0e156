"""The real 135M model from its GGUF file: adopted, released layouts, and the same words as transformers."""

from __future__ import annotations

import json

import pytest
import torch
from model_files import QUESTIONS, logits_of, real_gguf

from llama3.artifacts.run import RunDir
from llama3.checkpoints.adopt import AdoptOptions, adopt
from llama3.checkpoints.convert import convert
from llama3.checkpoints.describe import describe
from llama3.checkpoints.load import load_model
from llama3.config.schema import Config
from llama3.inference import Llama, Sampling
from llama3.tokenizer import Message, Tokenizer, render

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def gguf_file():
    return real_gguf()


def test_facts_of_the_file(gguf_file):
    facts = describe(gguf_file)
    assert facts["parameters"] == 134_515_008
    assert facts["weights"]["types"] == {"Q4_1": 210, "F32": 61, "Q8_0": 1}
    assert facts["license"] == "apache-2.0"
    assert facts["tokenizer"]["vocab_size"] == 49_152
    assert facts["tokenizer"]["split"] == "digits one by one, then GPT-2's rule"
    assert facts["tokenizer"]["template"] == "ChatML"
    assert not facts["tokenizer"]["adds_bos"]


@pytest.mark.slow
def test_adopted_it_is_the_same_model(gguf_file, tmp_path):
    options = AdoptOptions.of(Config.model_validate({"model": {"path": str(gguf_file)}}))
    with RunDir(tmp_path / "run") as run:
        made = run.execute(adopt, {}, options)
    assert json.loads((made.path / "llama3.json").read_text())["license"] == "apache-2.0"
    tokenizer = Tokenizer.load(made.path)
    prompt = render(tokenizer, [Message("user", QUESTIONS[0])], generation_prompt=True)
    tokens = torch.from_numpy(prompt.ids.astype("int64"))
    expected = logits_of(load_model(gguf_file), tokens)
    assert torch.equal(logits_of(load_model(made.path), tokens), expected)
    meta = convert(gguf_file, tmp_path / "meta", "meta").folder
    assert torch.equal(logits_of(load_model(meta), tokens), expected)
    assert Tokenizer.load(meta).hash == tokenizer.hash


@pytest.mark.slow
def test_greedy_text_is_that_of_transformers(gguf_file):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    ours = Llama.load(gguf_file)
    theirs = AutoModelForCausalLM.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name).eval()
    hf_tokenizer = AutoTokenizer.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name)
    dialogs = [[{"role": "user", "content": question}] for question in QUESTIONS]
    prompts = [
        render(ours.tokenizer, [Message("user", question)], generation_prompt=True).ids for question in QUESTIONS
    ]
    their_prompts = hf_tokenizer.apply_chat_template(dialogs, add_generation_prompt=True)["input_ids"]
    assert [prompt.tolist() for prompt in prompts] == their_prompts

    sampling = Sampling(16, 0.0, stop_ids=ours.tokenizer.stop_ids)
    found = [
        ours.tokenizer.decode(answer.ids, skip_special=True) for (answer,) in ours.engine.generate(prompts, sampling)
    ]
    hf_tokenizer.padding_side = "left"
    batch = hf_tokenizer.pad({"input_ids": their_prompts}, return_tensors="pt")
    with torch.no_grad():
        rows = theirs.generate(**batch, max_new_tokens=16, do_sample=False, pad_token_id=2)
    expected = hf_tokenizer.batch_decode(rows[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    assert found == expected
