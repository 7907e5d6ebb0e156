"""What people said on the page of `llama3 annotate` trains a reward model and DPO through the recipe's own stages, and
is what TRL's trainers read."""

from __future__ import annotations

import json

import pytest
import torch
from tiny import put_checkpoint, tiny_model

from llama3.annotating.exported import exported
from llama3.annotating.folder import Opened, read_items, read_judgements
from llama3.annotating.items import ModelAnswer, paired
from llama3.annotating.judgements import STRENGTHS, Annotation
from llama3.checkpoints.load import load_model
from llama3.config.schema import PreferSection, RewardSection
from llama3.model.score import score
from llama3.posttraining.finetune import PreferOptions, RewardOptions, prefer, reward
from llama3.posttraining.sampling import build_reward
from llama3.preflight import load_config
from llama3.tasks.data_kind import data_kind
from llama3.tasks.rows import read_rows, write_rows
from llama3.tasks.user_data import UserDataOptions, own_data

FAST = {"precision": "fp32", "warmup": 0, "log_every": 1000}
COUNT = 24


@pytest.fixture
def file(tmp_path):
    """Annotations of which answer says more: "yes" is right, however it stood, and every third one is edited."""
    items = [
        paired(
            ({"role": "user", "content": f"Is {i} a number?"},),
            [ModelAnswer("a", "yes"), ModelAnswer("b", "no idea")],
            "is",
            0,
        )
        for i in range(COUNT)
    ]
    folder = tmp_path / "annotations"
    folder.mkdir()
    opened = Opened(folder, "pairs", ["ada"], items)
    for number, item in enumerate(items):
        edited = "yes indeed" if number % 3 == 0 else None
        opened.say(
            "ada", Annotation(item.id, 0, STRENGTHS[number % 4], "now", edited, number % 2, item.texts.index("yes"))
        )
    opened.close()
    found = exported(read_items(folder, "pairs"), read_judgements(folder, "pairs"), least=STRENGTHS[-1], margins=True)
    write_rows(tmp_path / "preferences.jsonl", [row | {"split": "train"} for row in found.rows])
    return tmp_path / "preferences.jsonl"


def test_annotations_train_a_reward_model_and_dpo(run, tokenizer, file):
    config = load_config({"post_training": {"data": str(file), "reward": {}, "algorithm": "dpo"}}).config
    given = run.execute(own_data(UserDataOptions.of(config)), {}, UserDataOptions.of(config))
    rows = list(read_rows(given.file("preferences.jsonl")))
    assert (len(rows), sum("edited" in row for row in rows)) == (COUNT, COUNT // 3)
    assert {row["margin"] for row in rows} == {1.0, 2 / 3, 1 / 3, 0.0}
    base = put_checkpoint(run, tiny_model(tokenizer), tokenizer)
    options = RewardOptions(reward=RewardSection(**FAST, lr=3e-3, batch=8, epochs=4), seed=1)
    judge = run.execute(reward, {"checkpoint": base, "preferences": given}, options)
    prompt = "Is 77 a number?"
    scores = build_reward((), judge, "cpu").score(
        [prompt] * 3, ["yes indeed", "yes", "no idea"], [{"messages": [{"role": "user", "content": prompt}]}] * 3
    )
    edited, chosen, rejected = scores.total
    assert edited > rejected
    assert chosen > rejected
    section = PreferSection(**FAST, lr=1e-3, batch=8, epochs=4)
    options = PreferOptions(prefer=section, algorithm=config.post_training.algorithm, rewards=(), seed=1)
    tuned = run.execute(prefer, {"checkpoint": base, "preferences": given}, options)
    assert tuned.metrics["examples"] == COUNT
    before, after = (preferred(made, tokenizer, rows) for made in (base, tuned))
    assert (after - before > 0).all()


def preferred(checkpoint, tokenizer, rows):
    """By how many nats each chosen answer is likelier than the rejected one."""
    kind = data_kind("pairs")
    batch = kind.collate(kind.examples(tokenizer, rows))
    with torch.no_grad():
        scored = score(load_model(checkpoint.path, device="cpu"), batch)
    logp_S = batch.sum_by_segment(scored.logps_M)
    return logp_S[batch.child(0)] - logp_S[batch.child(1)]


def test_trl_reads_the_rows(file):
    from datasets import load_dataset
    from trl.data_utils import is_conversational, maybe_apply_chat_template

    rows = load_dataset("json", data_files=str(file), split="train")
    assert is_conversational(rows[0])
    template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"x": 0}, unk_token="x")), chat_template=template
    )
    row = json.loads(file.read_text().splitlines()[0])
    shown = maybe_apply_chat_template({name: rows[0][name] for name in ("prompt", "chosen", "rejected")}, tokenizer)
    assert shown["prompt"] == f"[user]{row['prompt'][0]['content']}"
    assert (shown["chosen"], shown["rejected"]) == ("[assistant]yes", "[assistant]no idea")
